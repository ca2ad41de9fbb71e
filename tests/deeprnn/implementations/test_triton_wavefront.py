"""Which stacks are a wavefront, and which are refused."""

from dataclasses import replace

import pytest
import torch

from deeprnn import implementations
from deeprnn.implementations.triton_wavefront import (
    TritonWavefront,
    a_layer_behind_another,
    longest_run,
    neighbours,
)
from deeprnn.support import Request

TWO = Request(cell="rnn_tanh", hidden_size=16, input_size=5, num_layers=2, batch_size=2)


def test_runs_of_neighbours():
    assert neighbours((True, True, False, True)) == [
        (True, [0, 1]), (False, [2]), (True, [3]),
    ]  # fmt: skip
    assert longest_run(replace(TWO, num_layers=4, recurrent=(True, True, False, True))) == 2
    assert longest_run(replace(TWO, num_layers=3)) == 3
    assert longest_run(replace(TWO, recurrent=(False, False))) == 0


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, False),
        ({"num_layers": 1}, True),
        ({"recurrent": (True, False)}, True),
        ({"num_layers": 3, "recurrent": (False, True, True)}, False),
    ],
)
def test_it_takes_two_neighbours(changes, refused):
    reason = a_layer_behind_another(replace(TWO, **changes))
    assert ("two neighbouring recurrent layers" in (reason or "")) is refused


def test_the_reason_of_the_chip_is_passed_on(monkeypatch):
    monkeypatch.setattr("kernels.tiling.sequence_tiles", lambda *arguments: "too wide")
    assert "too wide" in TritonWavefront.support.refusal(TWO)


def test_layers_without_recurrence_divide_the_stack():
    if implementations.why_unsupported("triton_wavefront", TWO):
        pytest.skip(implementations.why_unsupported("triton_wavefront", TWO))
    recurrent = (False, True, True, False)
    torch.manual_seed(0)
    ours = TritonWavefront("rnn_tanh", 5, 16, 4, recurrent=recurrent)
    theirs = implementations.build("python_loop", "rnn_tanh", 5, 16, 4, recurrent=recurrent)
    theirs.load_state_dict(ours.state_dict())
    x, h = torch.randn(2, 2, 5), torch.randn(4, 2, 16)
    for a, b in zip(ours(x, h), theirs(x, h), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
