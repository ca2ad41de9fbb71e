"""The reference, as a textbook writes it: a Python loop over time, one step after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import CELLS, State
from deeprnn.stack import DeepRNN


class PythonLoop(DeepRNN):
    """Two matrix products and the cell for every time step; autograd does the rest."""

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        weight_ih, weight_hh, bias_ih, bias_hh = self.parameters_of(layer)
        cell = CELLS[self.cell]
        now = list(state)
        outputs = []
        for x_t in x:  # (B, I)
            gates_x = F.linear(x_t, weight_ih, bias_ih)  # (B, G·H)
            gates_h = F.linear(now[0], weight_hh, bias_hh)  # (B, G·H)
            now = cell(gates_x, gates_h, now)
            outputs.append(now[0])
        return torch.stack(outputs), tuple(now)
