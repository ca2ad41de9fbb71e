"""The equations against torch's own cells, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deeprnn.cells import CELLS, GATES, STATES

B, H = 3, 5
INPUTS = 4

TORCH_CELLS = {
    "rnn_tanh": lambda: nn.RNNCell(INPUTS, H),
    "rnn_relu": lambda: nn.RNNCell(INPUTS, H, nonlinearity="relu"),
    "gru": lambda: nn.GRUCell(INPUTS, H),
    "lstm": lambda: nn.LSTMCell(INPUTS, H),
}


def step(cell: str, module: nn.RNNCellBase, x: torch.Tensor, state: list[torch.Tensor]):
    gates_x = F.linear(x, module.weight_ih, module.bias_ih)
    gates_h = F.linear(state[0], module.weight_hh, module.bias_hh)
    return CELLS[cell](gates_x, gates_h, state)


def test_every_cell_has_its_gates_and_states():
    assert set(CELLS) == set(GATES) == set(STATES) == set(TORCH_CELLS)


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_torchs(cell):
    torch.manual_seed(0)
    module = TORCH_CELLS[cell]().double()
    x = torch.randn(B, INPUTS, dtype=torch.float64)
    state = [torch.randn(B, H, dtype=torch.float64) for _ in range(STATES[cell])]
    expected = module(x, tuple(state) if cell == "lstm" else state[0])
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(step(cell, module, x, state), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [50.0, -50.0, 1e4, -1e4])
def test_saturated_gates_stay_finite(cell, size):
    gates = torch.full((B, GATES[cell] * H), size, requires_grad=True)
    state = [torch.ones(B, H) for _ in range(STATES[cell])]
    new = CELLS[cell](gates, gates, state)
    (gradient,) = torch.autograd.grad(sum(s.sum() for s in new), gates)
    assert all(torch.isfinite(s).all() for s in new)
    assert torch.isfinite(gradient).all()
