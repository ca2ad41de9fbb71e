"""The parent of ``bench kernels``: what a failing row costs, and what is compiled beforehand."""

import time
from pathlib import Path

import psutil
import pytest

from bench import kernel_runner
from bench.kernel_runner import KernelRun, PlanFailed

from .conftest import CHILD, TINY


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


def test_a_row_that_hangs_or_dies_costs_itself_alone(misbehaving, hurried):
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
    about = {"device": "d", "machine": "m", "commit": "c", "environment": {"GPU": {"Name": "d"}}}
    assert run.about == about
    assert len(children()) == before


def test_kernels_are_compiled_side_by_side_and_one_that_hangs_is_not_run(misbehaving, hurried):
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
