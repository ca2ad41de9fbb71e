"""The tuning table without a GPU: which layers, which rows, how a row is filled."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from bench import kernel_worker
from bench.kernel_rows import Row, request_of, rows_of
from bench.kernel_table import DEFAULT_SPECS, KERNELS, Spec, specs
from bench.kernel_timing import ResultDiffers, Timing
from bench.kernel_worker import Bench
from deeprnn import implementations
from deeprnn.kernel_floors import floors_of

from .conftest import TINY

# Which layers


def test_the_default_set_holds_the_published_sizes_in_both_precisions_and_the_long_one():
    for cell, hidden_size in (("lstm", 256), ("gru", 256), ("rnn_tanh", 512)):
        for precision in ("ieee", "tf32"):
            assert Spec(cell, 2, hidden_size, 32, 35, precision) in DEFAULT_SPECS
    assert Spec("lstm", 1, 768, 16, 1024, "bfloat16") in DEFAULT_SPECS
    assert specs([], [], [], [], [], []) == list(DEFAULT_SPECS)
    assert len({spec.id for spec in DEFAULT_SPECS}) == len(DEFAULT_SPECS)


def test_what_is_given_is_combined_and_the_rest_is_the_published_layers():
    chosen = specs(["lstm", "rnn_tanh"], [], [16, 32], [], ["ieee"], [])
    assert chosen == [
        Spec(cell, 1, hidden_size, batch_size, 35, "ieee")
        for cell, hidden_size in (("lstm", 256), ("rnn_tanh", 512))
        for batch_size in (16, 32)
    ]
    assert [spec.cell for spec in specs([], [64], [], [], [], [])] == ["lstm", "gru", "rnn_tanh"]


# Rows


def fake_timer(call, execution, most_error):
    """Runs the call once, for real, and reports three milliseconds for every sample."""
    call()
    return Timing([3.0] * 7, 2, 1410.0, "contended")


@pytest.mark.parametrize("cell", ["lstm"])
def test_every_row_of_a_layer_is_filled(cell):
    spec = replace(TINY, cell=cell)
    bench = Bench("cpu", fake_timer)
    filled = [bench.fill(row) for row in rows_of(spec, "cpu") if row.refusal is None]
    found = {(row["part"], row["kernel"], row["mode"]) for row in filled}
    for part in ("stack", "recurrence"):
        for kernel in ("triton_step", "triton_sequence"):
            for mode in ("forward", "forward_backward"):
                assert (part, kernel, mode) in found
    assert ("stack", implementations.REFERENCE, "forward_backward") in found
    assert ("recurrence", implementations.REFERENCE, "forward") not in found
    assert {name for part, name, _ in found if part == "floor"} == {
        "barrier", "launch", "product", "traffic", "traffic_apart",
    }  # fmt: skip
    # The last one is the reference once more.
    assert [key for key in found if key[0] == "control"] == [
        ("control", implementations.REFERENCE, "forward_backward")
    ]
    assert filled[-1]["part"] == "control"
    for row in filled:
        assert row["status"] == "ok", row["reason"]
        assert row["microseconds_per_step"] == pytest.approx(3000 / spec.num_steps)
        assert (row["samples"], row["calls_per_sample"]) == (7, 2)
        assert (row["sm_clock_mhz"], row["mark"]) == (1410.0, "contended")
        if row["part"] != "floor":
            assert 0 < row["gradient_error"] <= 1e-5


def test_rows_have_the_tables_columns_and_ids_of_their_own(tmp_path):
    rows = list(rows_of(TINY, "cpu"))
    assert len({row.id for row in rows}) == len(rows)
    KERNELS.append(tmp_path, [row.columns() for row in rows])
    assert list(KERNELS.load(tmp_path)["row_id"]) == [row.id for row in rows]


@pytest.fixture
def choices(monkeypatch):
    """Tiles to choose from, which the interpreter has none of; returns those in use."""
    in_use = []

    @contextmanager
    def take(name):
        in_use.append(name)
        yield
        in_use.remove(name)

    names = ("forward 8x8", "forward 16x8", "backward 8x8, 8 warps")
    found = {name: partial(take, name) for name in names}
    kind = implementations.load("triton_sequence")
    monkeypatch.setattr(kind, "tile_choices", classmethod(lambda kind, request: found))
    return in_use


def test_every_tile_is_a_row_and_in_use_while_it_is_checked_and_timed(choices, monkeypatch):
    rows = [row for row in rows_of(TINY, "cpu", with_tiles=True) if row.part == "tile"]
    assert not any(row.part == "tile" for row in rows_of(TINY, "cpu"))
    assert [row.id for row in rows] == [
        f"{TINY.id}/tile/triton_sequence/eager/{mode}/{tile}"
        for mode, tile in (
            ("forward", "forward-8x8"), ("forward", "forward-16x8"),
            ("forward_backward", "backward-8x8-8-warps"),
        )
    ]  # fmt: skip
    seen, asked = [], []
    plain = kernel_worker.verification.verify

    def watching(*layer):
        seen.append(list(choices))
        return plain(*layer)

    def timing(call, execution, most_error):
        seen.append(list(choices))
        asked.append(most_error)
        return fake_timer(call, execution, most_error)

    monkeypatch.setattr(kernel_worker.verification, "verify", watching)
    bench = Bench("cpu", timing)
    filled = [bench.fill(row) for row in rows]
    assert [row["status"] for row in filled] == ["ok"] * 3
    assert [row["tile"] for row in filled] == [row.tile for row in rows]
    assert seen == [[row.tile] for row in rows for _ in range(2)]  # checked, timed
    assert asked == [0.0] * 3  # what lies inside of a layer repeats itself to the bit
    assert choices == []
    bench.compile(rows[0])
    assert seen[-1] == ["forward 8x8"]


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    monkeypatch.setattr(kernel_worker.verification, "bound_for", lambda *precision: 0.0)
    row = Bench("cpu", fake_timer).fill(Row(TINY, "stack", "python_loop", "eager", "forward"))
    assert row["status"] == "incorrect"
    assert "is off by" in row["reason"]
    assert "microseconds_per_step" not in row


def test_a_result_that_moves_is_not_published():
    """A recurrence may not change in one bit; around it are sums of other libraries."""
    asked = []

    def moving(call, execution, most_error):
        asked.append(most_error)
        raise ResultDiffers("a repeated call's result 0 is off by 0.1")

    for part in ("stack", "control", "recurrence", "floor"):
        kernel = "launch" if part == "floor" else "triton_step"
        row = Bench("cpu", moving).fill(Row(TINY, part, kernel, "eager", "forward"))
        assert (row["status"], row["reason"]) == (
            "incorrect", "a repeated call's result 0 is off by 0.1",
        )  # fmt: skip
        assert "microseconds_per_step" not in row
    assert asked == [0.05, 0.05, 0, 0.05]


def test_a_failure_is_a_row(monkeypatch):
    def broken(call, execution, most_error):
        raise RuntimeError("too many resources\nrequested")

    row = Bench("cpu", broken).fill(Row(TINY, "floor", "launch", "eager", "forward"))
    assert (row["status"], row["reason"]) == ("crashed", "RuntimeError: too many resources")


def test_a_floor_whose_grid_does_not_fit_has_a_reason(monkeypatch):
    monkeypatch.setattr("kernels.tiling.sequence_tiles", lambda *arguments, **options: "too wide")
    found = floors_of(request_of(TINY, "cpu"), torch.device("cpu"))
    refused = {floor.name for floor in found if floor.refusal == "too wide"}
    assert refused == {"barrier", "traffic", "traffic_apart"}


def test_predictions_are_the_recurrences():
    found = Row.predicted_of(DEFAULT_SPECS[0], "triton_sequence")
    assert [row.mode for row in found] == ["forward", "forward_backward"]
    assert 0 < found[0].predicted < found[1].predicted
    assert Row.predicted_of(DEFAULT_SPECS[0], "python_loop") == []
    assert Row.predicted_of(replace(DEFAULT_SPECS[0], hidden_size=4096), "triton_sequence") == []


def test_a_kernel_is_built_and_checked_when_it_is_compiled(monkeypatch):
    checked = []
    monkeypatch.setattr(kernel_worker, "_Checked", lambda *layer: checked.append(layer))
    bench = Bench("cpu", fake_timer)
    bench.compile(Row(TINY, "stack", "triton_step", "eager", "forward"))
    assert checked == [(TINY, "triton_step", torch.device("cpu"), False)]
    ran = []
    monkeypatch.setattr(bench, "_floor", lambda row: partial(ran.append, row.kernel))
    bench.compile(Row(TINY, "floor", "launch", "eager", "forward"))
    assert ran == ["launch"]
    monkeypatch.undo()
    nowhere = Row(TINY, "floor", "no such floor", "eager", "forward")
    bench.compile(nowhere)
    assert bench.fill(nowhere)["reason"] == "ValueError: there is no floor no such floor forward"


def test_what_lies_inside_a_stack_is_timed_as_a_graph_alone():
    """What is launched once costs as much from Python; many launches do not."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in rows_of(TINY, "cuda"):
        found.setdefault((row.part, row.kernel), set()).add(row.execution)
    both = {"eager", "cuda_graph"}
    for (part, kernel), executions in found.items():
        is_eager_too = part == "stack" or kernel in ("launch", "product")
        assert executions == (both if is_eager_too else {"cuda_graph"}), (part, kernel)
    assert {part for part, _ in found} == {"stack", "recurrence", "floor", "control"}
