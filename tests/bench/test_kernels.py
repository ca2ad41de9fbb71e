"""The tuning table without a GPU: its rows, what a failing one costs, its page, wrong use."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import typer
from typer.testing import CliRunner

from bench import kernel_runner, kernel_worker, kernels_command
from bench.kernel_rows import Row, request_of, rows_of
from bench.kernel_runner import KernelRun, PlanFailed
from bench.kernel_table import DEFAULT_SPECS, KERNELS, Spec, specs
from bench.kernel_timing import ResultDiffers, Timing
from bench.kernel_worker import Bench
from bench.kernels_command import kernels
from bench.results import ResultsError
from deeprnn import implementations
from deeprnn.kernel_floors import floors_of

ROOT = Path(__file__).parents[2]
TINY = Spec("gru", 1, 16, 2, 3, "ieee")


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


# A child that misbehaves

CHILD = """
import json, os, sys, time
sys.stdin.readline()
names = "good hang hang-again die bad last".split()
rows = [
    {"row_id": name, "kernel": name[:4], "status": "", "reason": ""} for name in names
]
rows.append({"row_id": "refused", "status": "unsupported", "reason": "not here"})
about = {"device": "d", "machine": "m", "commit": "c", "compile_at_once": 1}
print(json.dumps({"rows": rows, **about}), flush=True)
message = json.loads(sys.stdin.readline())
while "compile" in message:
    if message["compile"] == "hang":
        time.sleep(600)
    if message["compile"] == "die":
        os._exit(9)
    os.makedirs(os.path.join(os.environ["TRITON_CACHE_DIR"], message["compile"]), exist_ok=True)
    print(json.dumps({"compiled": message["compile"]}), flush=True)
    message = json.loads(sys.stdin.readline())
for name in message["fill"]:
    print(json.dumps({"doing": name}), flush=True)
    if name == "hang":
        time.sleep(600)
    if name == "die":
        os._exit(9)
    status = "crashed" if name == "bad" else "ok"
    print(json.dumps({"row": {"row_id": name, "status": status, "reason": "r"}}), flush=True)
    if name == "bad":
        sys.exit(3)
print(json.dumps({"done": True}), flush=True)
"""


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """start(seconds): a run whose children hang, die and crash at a row each."""
    (tmp_path / "misbehaving_child.py").write_text(CHILD, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runs = []

    def start(seconds):
        runs.append(
            KernelRun([TINY], "cpu", 1, time.monotonic() + seconds, tmp_path / "log",
                      module="misbehaving_child")
        )  # fmt: skip
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def test_compiled_kernels_stay_where_they_were_told_to(tmp_path, monkeypatch):
    child = CHILD.replace(
        "sys.stdin.readline()\nnames",
        """sys.stdin.readline()
open(os.path.join(os.environ["TRITON_CACHE_DIR"], "..", "kernel"), "w").close()
names""",
    )
    (tmp_path / "writing_child.py").write_text(child, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cache = tmp_path / "kept"
    (cache / "triton").mkdir(parents=True)
    deadline = time.monotonic() + 60
    run = KernelRun([TINY], "cpu", 1, deadline, tmp_path / "log", "writing_child", cache)
    run.plan()
    run.close()
    assert (cache / "kernel").exists()


def children():
    return [child for child in psutil.Process().children() if child.status() != "zombie"]


def test_a_row_that_hangs_or_dies_costs_itself_alone(misbehaving, monkeypatch):
    monkeypatch.setattr(kernel_runner, "ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "FIRST_ROW_SECONDS", 1.0)
    before = len(children())
    run = misbehaving(60)
    run.plan()
    kept = []
    run.run(kept.append)
    run.close()
    assert [(row["row_id"], row["status"]) for row in kept] == [
        ("refused", "unsupported"),
        ("good", "ok"),
        ("hang", "timeout"),
        ("hang-again", "timeout"),
        ("die", "crashed"),
        ("bad", "crashed"),
        ("last", "ok"),
    ]
    reasons = {row["row_id"]: row["reason"] for row in kept}
    assert reasons["hang"] == "took longer than the 1 s a row may take"
    assert reasons["hang-again"] == "not tried: hang took too long"
    assert "exit code 9" in reasons["die"]
    assert run.about == {"device": "d", "machine": "m", "commit": "c"}
    assert len(children()) == before


def test_kernels_are_compiled_side_by_side_and_one_that_hangs_is_not_run(misbehaving, monkeypatch):
    monkeypatch.setattr(kernel_runner, "ROW_SECONDS", 5.0)
    monkeypatch.setattr(kernel_runner, "FIRST_ROW_SECONDS", 1.0)
    before = len(children())
    run = misbehaving(60)
    run.plan()
    assert run.kernels() == []  # one at a time is what the child that times them does by itself
    run._compile_at_once = 2
    assert run.kernels() == ["good", "hang", "die", "bad", "last"]  # one of each kernel
    done = []
    run.compile(lambda: done.append(len(children())))
    assert len(done) == 5
    compiled = {path.name for path in Path(run._cache, "triton").iterdir()}
    assert compiled == {"good", "bad", "last"}
    assert len(children()) == before + 1  # the one that said the rows
    kept = []
    run.run(kept.append)
    run.close()
    reasons = {row["row_id"]: (row["status"], row["reason"]) for row in kept}
    assert reasons["hang"] == ("timeout", "compiling and checking it took longer than 1 s")
    assert reasons["hang-again"] == ("timeout", "not tried: hang took too long")
    assert reasons["die"][0] == "crashed"  # when it was to be timed, it died again
    assert reasons["good"][0] == reasons["last"][0] == "ok"
    assert len(kept) == 7
    assert len(children()) == before


def test_stopped_while_compiling_no_child_is_left(misbehaving):
    before = len(children())
    run = misbehaving(60)
    run.plan()
    run._compile_at_once = 3

    def stop():
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.compile(stop)
    run.close()
    assert time.monotonic() - start < 10  # one of them hangs
    assert len(children()) == before


def test_a_kernel_is_built_and_checked_when_it_is_compiled(monkeypatch):
    checked = []
    monkeypatch.setattr(kernel_worker, "_Checked", lambda *layer: checked.append(layer))
    bench = Bench("cpu", fake_timer)
    bench.compile(Row(TINY, "stack", "triton_step", "eager", "forward"))
    assert checked == [(TINY, "triton_step", torch.device("cpu"), False)]
    bench.compile(Row(TINY, "floor", "launch", "eager", "forward"))
    bench.compile(Row(TINY, "floor", "no such floor", "eager", "forward"))  # its row will say so


def test_nothing_outlives_the_time_limit(misbehaving):
    before = len(children())
    run = misbehaving(3)
    run.plan()
    kept = []
    start = time.monotonic()
    run.run(kept.append)
    run.close()
    assert time.monotonic() - start < 10
    statuses = {row["row_id"]: row["status"] for row in kept}
    assert statuses == {
        "refused": "unsupported", "good": "ok", "hang": "timeout", "hang-again": "timeout",
        "die": "timeout", "bad": "timeout", "last": "timeout",
    }  # fmt: skip
    assert "--max-minutes" in kept[-1]["reason"]
    assert len(children()) == before


def test_a_child_that_plans_nothing_is_said_in_one_line(tmp_path):
    run = KernelRun([TINY], "cpu", 1, time.monotonic() + 30, tmp_path / "log", "no_such_module")
    with pytest.raises(PlanFailed, match="No module named no_such_module"):
        run.plan()
    run.close()


def test_the_real_child_plans_and_refuses_what_cannot_run_here(tmp_path):
    """Its rows, over the real protocol; without a GPU nothing here is timed by events."""
    run = KernelRun([TINY], "cpu", 1, time.monotonic() + 60, tmp_path / "log")
    try:
        run.plan()
        assert f"{TINY.id}/stack/triton_step/eager/forward" in run.rows
        run.rows = {key: row for key, row in run.rows.items() if "/floor/launch/" in key}
        run._compile_at_once = 2
        run.compile(lambda: None)
        assert run._idle.qsize() == 1  # a compiler that answered, and had no more to do
        kept = []
        run.run(kept.append)
    finally:
        run.close()
    # CUDA events need CUDA: the row says so, and the run ends.
    assert [row["status"] for row in kept] == ["crashed"]


# The command


def test_without_a_gpu_it_says_what_is_needed():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "kernels"],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"bench: .*CUDA device.*--predicted.*\n", done.stderr)


@pytest.fixture
def command():
    """The command alone, in this process."""
    app = typer.Typer()
    app.command()(kernels)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_predictions_need_no_gpu(command):
    done = command("--predicted", "--cell", "lstm")
    assert done.exit_code == 0, done.output
    assert "not measured" in done.output
    assert re.search(r"\| lstm-L1-H256-B32-T35-tf32 \| triton_sequence \| \d\.\d\d \|", done.output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cell", "elman"), "--cell 'elman' is unknown; use rnn_tanh, rnn_relu, gru, lstm"),
        (("--precision", "int8"), "--precision 'int8' is unknown; use ieee, tf32"),
        (("--hidden", "0"), "--hidden 0 is too small; give 1 or more"),
        (("--steps", "-3"), "--steps -3 is too small"),
    ],
)
def test_wrong_use_is_one_line(arguments, said, command):
    done = command(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_table_is_not_written_over(tmp_path):
    KERNELS.append(tmp_path, [])
    with pytest.raises(ResultsError, match=r"already holds kernels.csv; give another --output"):
        kernels_command._directory(tmp_path)


def test_a_second_table_is_written_beside_the_first(tmp_path):
    assert kernels_command._usual(tmp_path, "20260102-030405") == tmp_path / "kernels"
    (tmp_path / "kernels").mkdir()
    KERNELS.append(tmp_path / "kernels", [])
    beside = tmp_path / "kernels-20260102-030405"
    assert kernels_command._usual(tmp_path, "20260102-030405") == beside


def test_a_run_without_an_output_is_in_the_index(command, tmp_path, monkeypatch, misbehaving):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.kernels_command.cuda_is_present", lambda: True)
    monkeypatch.setattr(kernel_runner, "ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "FIRST_ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "MODULE", "misbehaving_child")
    for _ in range(2):
        assert command("--max-minutes", "1").exit_code == 1
    one, two = sorted(path.name for path in (tmp_path / "reports" / "m").iterdir())
    assert one == "kernels"
    assert re.fullmatch(r"kernels-\d{8}-\d{6}", two)
    index = (tmp_path / "reports" / "README.md").read_text("utf-8")
    for name in (one, two):
        assert f"- [m](m/{name}/kernels.md): 2 of 6 rows on d, commit c\n" in index


def test_a_whole_run_leaves_table_and_page(command, tmp_path, monkeypatch, misbehaving):
    """The command around a child that misbehaves: everything is stored, and the code says so."""
    monkeypatch.setattr("bench.kernels_command.cuda_is_present", lambda: True)
    monkeypatch.setattr(kernel_runner, "ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "FIRST_ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "MODULE", "misbehaving_child")
    done = command("--max-minutes", "1", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1, done.output
    assert "2 crashed, 2 ok, 2 timeout, 1 unsupported" in done.output
    table = KERNELS.load(tmp_path / "out")
    assert list(table["status"]).count("ok") == 2
    assert set(table["device"]) == {"d"}
    assert "took longer than" in (tmp_path / "out" / "kernels.md").read_text("utf-8")


def test_the_first_row_of_a_kernel_may_take_longer(tmp_path):
    """It is compiled and checked then; once one of its rows is there, the others have less."""
    run = KernelRun([TINY], "cpu", 1, time.monotonic() + 60, tmp_path / "log")
    row = dict.fromkeys(kernel_runner.SAME_KERNEL, "x")
    run.rows = {"a": row, "b": {**row, "mode": "backward"}, "c": {**row, "kernel": "another"}}
    assert run._seconds_for("b") == kernel_runner.FIRST_ROW_SECONDS
    run._seen.add(kernel_runner._kernel_of(row))
    assert run._seconds_for("b") == kernel_runner.ROW_SECONDS
    assert run._seconds_for("c") == kernel_runner.FIRST_ROW_SECONDS
    run.close()


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


def test_a_cache_that_cannot_be_had_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ResultsError, match=r"^--cache .*file: .*; give a directory"):
        kernels_command._time([], tmp_path / "k", 0.0, tmp_path / "file", False)


def test_what_many_rows_say_is_said_once(tmp_path, monkeypatch, capsys):
    class OutOfTime:
        def __init__(self, *arguments, **options):
            self.about = {"device": "d", "machine": "m", "commit": "c"}
            self.rows = {str(number): {"row_id": str(number), "status": ""} for number in range(5)}

        def plan(self):
            pass

        def kernels(self):
            return []

        def compile(self, done):
            pass

        def close(self):
            pass

        def run(self, keep, doing):
            for number, row in enumerate(self.rows.values()):
                reason = "no time" if number else "a fault"
                keep({**row, "status": "timeout", "reason": reason})

    monkeypatch.setattr(kernel_runner, "KernelRun", OutOfTime)
    assert kernels_command._time([], tmp_path / "k", 0.0, None, False)
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "timeout" in line][:3] == [
        "  0: timeout: a fault", "  1: timeout: no time", "  3 more: timeout: no time",
    ]  # fmt: skip
    assert "5 timeout. See" in said
