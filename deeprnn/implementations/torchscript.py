"""TorchScript: the textbook loop of ``python_loop``, compiled by ``torch.jit.script``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import CELLS, State
from deeprnn.stack import DeepRNN
from deeprnn.support import Request, Support

Loop = Callable[[Tensor, list[Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor]]]


def python_below_3_14(request: Request) -> str | None:
    """A Python that ``torch.jit.script`` still works on."""
    if sys.version_info >= (3, 14):
        return "TorchScript does not work on Python 3.14 and later"
    return None


class TorchScript(DeepRNN):
    """The same steps as the Python loop, a scripted function a layer.

    Nothing is hoisted or fused by hand, so that what differs from ``python_loop`` is TorchScript.
    """

    support = Support(requirements=(python_below_3_14,))

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, final = _scripted(self.cell)(x, list(state), *self.parameters_of(layer))
        return y, tuple(final)

    def backend(self, y: Tensor) -> str:
        return f"TorchScript, {super().backend(y)}"


@cache
def _scripted(cell_name: str) -> Loop:
    cell = CELLS[cell_name]

    def loop(
        x: Tensor,
        state: list[Tensor],
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        outputs = []
        for x_t in x:  # (B, I)
            gates_x = F.linear(x_t, weight_ih, bias_ih)  # (B, G·H)
            gates_h = F.linear(state[0], weight_hh, bias_hh)  # (B, G·H)
            state = cell(gates_x, gates_h, state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    with warnings.catch_warnings():
        # Deprecated since torch 2.9; it is here to be compared with what replaced it.
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", ".*torch.jit.script.*", category)
        return torch.jit.script(loop)
