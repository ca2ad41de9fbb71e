"""``torch.compile`` of the whole time loop, unrolled into one graph: long to compile, one call."""

from __future__ import annotations

from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import CELLS, STATES, State
from deeprnn.compilation import Compiled, inductor, like_later_states
from deeprnn.stack import DeepRNN
from deeprnn.support import Support


class TorchCompileUnrolled(DeepRNN):
    """The input product of all steps first, then T compiled steps in one graph.

    The input product stays outside the graph, so that the graph depends on neither I nor whether
    x needs a gradient: all layers share one compilation of T steps.
    """

    support = Support(requirements=(inductor,))

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unrolled = Compiled(_unrolled_of(self.cell))

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        weight_ih, weight_hh, bias_ih, bias_hh = self.parameters_of(layer)
        gates_x = F.linear(x, weight_ih, bias_ih)  # (T, B, G·H)
        # Verification gives a state that needs a gradient, training one that does not: one graph.
        # Steps go in and out one by one: sliced inside the graph, every step would have offsets of
        # its own in its generated code, and T kernels would be compiled where a few do.
        arguments = (weight_hh, bias_hh, *like_later_states(state), *gates_x.unbind())
        results = self._unrolled.variant(*arguments)(*arguments)
        num_steps = x.size(0)
        return torch.stack(results[:num_steps]), results[num_steps:]

    def backend(self, y: Tensor) -> str:
        return self._unrolled.backend(y)


def _unrolled_of(cell_name: str) -> FunctionType:
    """All time steps: recurrent parameters, state, T times ``gates_x (B, G·H)`` → T h and state."""
    cell, num_states = CELLS[cell_name], STATES[cell_name]

    def unrolled(weight_hh: Tensor, bias_hh: Tensor, *state_and_steps: Tensor) -> State:
        now = list(state_and_steps[:num_states])
        outputs = []
        for gates_x_t in state_and_steps[num_states:]:  # (B, G·H)
            now = cell(gates_x_t, F.linear(now[0], weight_hh, bias_hh), now)
            outputs.append(now[0])
        return *outputs, *now

    return cast(FunctionType, unrolled)
