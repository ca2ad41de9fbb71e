"""Which stacks are a wavefront, and which are refused."""

from dataclasses import replace

import pytest
import torch

from bench.verification import verify
from deeprnn import implementations, triton_runtime
from deeprnn.cells import CELLS
from deeprnn.implementations import triton_wavefront
from deeprnn.implementations.triton_wavefront import (
    TritonWavefront,
    a_layer_behind_another,
    longest_run,
    neighbours,
    room_for_all_layers,
)
from deeprnn.support import Request
from deeprnn.triton_runtime import a_way_to_run_triton, loops_in_the_interpreter
from kernels import chips, wavefront
from kernels.stack import takes_marks

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
    monkeypatch.setattr("kernels.tiling.sequence_tiles", lambda *arguments, **options: "too wide")
    assert "too wide" in room_for_all_layers(TWO)


def test_its_tiles_are_also_to_be_had_with_counters(monkeypatch):
    """Of two layers that rows with marks are for on an H100."""
    monkeypatch.setattr(chips, "chip_of", lambda device: chips.CHIPS["sm_90"])
    monkeypatch.setattr(triton_runtime, "chip_of", chips.chip_of)
    request = Request(cell="lstm", hidden_size=256, num_layers=2, matmul_precision="tf32")
    found = TritonWavefront.tile_choices(request)
    assert next(iter(found)) == "forward 16x8"
    assert {"backward 8x16", "backward 8x16, 8 warps", "backward 8x16, counters"} <= set(found)
    layers = ("lstm", 32, 256, 2, torch.float32, "tf32", torch.device("cpu"))
    usual = wavefront.tiles(32, 256, 2, "lstm", *layers[4:], marked=True)
    with found["backward 8x16, 8 warps, counters"]():
        assert not takes_marks(*layers)
        taken = wavefront.tiles(32, 256, 2, "lstm", *layers[4:], marked=False)
        assert (taken[0].num_warps, taken[1].num_warps) == (4, 8)
    assert takes_marks(*layers)
    assert wavefront.tiles(32, 256, 2, "lstm", *layers[4:], marked=True) == usual
    ieee = TritonWavefront.tile_choices(replace(request, matmul_precision="ieee"))
    assert ieee
    assert not any("counters" in name for name in ieee)  # there is nothing else
    assert TritonWavefront.tile_choices(replace(request, num_layers=1)) == {}


def test_it_does_not_train_in_an_interpreter():
    assert "needs a GPU" in implementations.why_unsupported("triton_wavefront", TWO)


def cannot_run():
    """Why the kernel cannot run in this process at all, GPU or interpreter."""
    return a_way_to_run_triton(TWO) or loops_in_the_interpreter(TWO)


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_states_and_every_gradient(cell):
    """What the contract asks of an implementation; the registry leaves it out on a CPU."""
    if cannot_run():
        pytest.skip(cannot_run())
    torch.manual_seed(0)
    stack = TritonWavefront(cell, 5, 16, 2)
    outcome = verify(stack, batch_size=2, num_steps=2, seed=1, bound=1e-5)
    assert outcome.passed, str(outcome)
    implementations.build("torch_nn", cell, 5, 16, 2).load_state_dict(stack.state_dict())


@pytest.mark.parametrize("fits", [True, False])
def test_rows_are_marked_where_that_fits_and_else_arrivals_are_counted(monkeypatch, fits):
    asked = []

    def stack(cell, gates_x, parameters, state, **options):
        asked.append(options)
        return gates_x[..., : state[0].shape[-1]], state

    monkeypatch.setattr(triton_wavefront, "takes_marks", lambda *layers: fits)
    monkeypatch.setattr(triton_wavefront, "why_no_wavefront", lambda *layers: None)
    monkeypatch.setattr(triton_wavefront, "wavefront_stack", stack)
    assert room_for_all_layers(TWO) is None
    monkeypatch.setattr(triton_wavefront, "describe_backend", lambda y: "Triton")
    ours = TritonWavefront("lstm", 5, 16, 2)
    y, _ = ours(torch.zeros(2, 2, 5))
    assert ours.backend(y) == ("Triton, marked rows" if fits else "Triton, counters")
    assert asked == [{"input_precision": "ieee", "marked": fits}]


def test_layers_without_recurrence_divide_the_stack():
    if cannot_run():
        pytest.skip(cannot_run())
    recurrent = (False, True, True, False)
    torch.manual_seed(0)
    ours = TritonWavefront("rnn_tanh", 5, 16, 4, recurrent=recurrent)
    theirs = implementations.build("python_loop", "rnn_tanh", 5, 16, 4, recurrent=recurrent)
    theirs.load_state_dict(ours.state_dict())
    x, h = torch.randn(2, 2, 5), torch.randn(4, 2, 16)
    for a, b in zip(ours(x, h), theirs(x, h), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
