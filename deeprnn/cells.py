"""The equations: one time step of each cell, on products that were already made.

A cell sees ``gates_x = x_t W_ihᵀ + b_ih`` and ``gates_h = h_{t−1} W_hhᵀ + b_hh``, both
``(B, G·H)``, and the previous state. Keeping the products outside lets one definition serve the
plain loop, the hoisted input product and the compilers.

Sources: Elman 1990 (RNN); Cho et al. 2014, in the form of ``torch.nn.GRU`` where the reset gate
acts after the recurrent product (GRU); Hochreiter and Schmidhuber 1997 with the forget gate of
Gers et al. 2000 (LSTM). Gate order is torch's: ``r z n`` and ``i f g o``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""``(h,)``, or ``(h, c)`` for an LSTM; each ``(B, H)`` inside a layer."""


def rnn_tanh(gates_x: Tensor, gates_h: Tensor, state: list[Tensor]) -> list[Tensor]:
    """``h_t = tanh(gates_x + gates_h)``; all ``(B, H)``."""
    return [torch.tanh(gates_x + gates_h)]


def rnn_relu(gates_x: Tensor, gates_h: Tensor, state: list[Tensor]) -> list[Tensor]:
    """``h_t = max(0, gates_x + gates_h)``; all ``(B, H)``."""
    return [torch.relu(gates_x + gates_h)]


def gru(gates_x: Tensor, gates_h: Tensor, state: list[Tensor]) -> list[Tensor]:
    """``h_t = (1 − z) n + z h_{t−1}`` with ``n = tanh(x_n + r h_n)``; gates ``(B, 3H)``."""
    reset_x, update_x, new_x = gates_x.chunk(3, dim=1)  # (B, H) each
    reset_h, update_h, new_h = gates_h.chunk(3, dim=1)  # (B, H) each
    reset = torch.sigmoid(reset_x + reset_h)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return [new + update * (state[0] - new)]


def lstm(gates_x: Tensor, gates_h: Tensor, state: list[Tensor]) -> list[Tensor]:
    """``c_t = f c_{t−1} + i g``, ``h_t = o tanh(c_t)``; gates ``(B, 4H)``."""
    input_, forget, cell, output = (gates_x + gates_h).chunk(4, dim=1)  # (B, H) each
    c = torch.sigmoid(forget) * state[1] + torch.sigmoid(input_) * torch.tanh(cell)
    return [torch.sigmoid(output) * torch.tanh(c), c]


CellFunction = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]

CELLS: dict[str, CellFunction] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "gru": gru,
    "lstm": lstm,
}

GATES: dict[str, int] = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}
"""``G``, the number of gates of each cell."""

STATES: dict[str, int] = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 1, "lstm": 2}
"""How many tensors make up the state: ``h``, or ``h`` and ``c``."""
