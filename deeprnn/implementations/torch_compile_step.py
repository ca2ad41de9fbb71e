"""``torch.compile`` of one time step, called in a Python loop: little to compile, T calls."""

from __future__ import annotations

from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import CELLS, State
from deeprnn.compilation import Compiled, inductor, like_later_states
from deeprnn.stack import DeepRNN
from deeprnn.support import Support


class TorchCompileStep(DeepRNN):
    """The textbook loop of ``python_loop`` around a compiled step; layers alike share the code."""

    support = Support(requirements=(inductor,))

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._step = Compiled(_step_of(self.cell))

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        parameters = self.parameters_of(layer)
        now = like_later_states(state)
        step = self._step.variant(x[0], *parameters, *now)
        outputs = []
        for x_t in x:  # (B, I)
            now = step(x_t, *parameters, *now)
            outputs.append(now[0])
        return torch.stack(outputs), now

    def backend(self, y: Tensor) -> str:
        return self._step.backend(y)


def _step_of(cell_name: str) -> FunctionType:
    """One time step, both products included: ``x_t (B, I)``, parameters, state → next state."""
    cell = CELLS[cell_name]

    def step(
        x_t: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        *state: Tensor,
    ) -> State:
        gates_x = F.linear(x_t, weight_ih, bias_ih)  # (B, G·H)
        gates_h = F.linear(state[0], weight_hh, bias_hh)  # (B, G·H)
        return tuple(cell(gates_x, gates_h, list(state)))

    return cast(FunctionType, step)
