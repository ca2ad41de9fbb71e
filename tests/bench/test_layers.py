"""The layer benchmarks, run as the suite runs them: in a child, on layers of a few units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.layers_report import Choice, choose, rows, run_layers
from bench.results import LAYERS, TRAINING, ResultsError

TINY = ((8, 2, 3),)

PLUGIN = """
from pathlib import Path
from deeprnn import implementations
implementations.__path__.append(str(Path(__file__).with_name("planted")))
"""

VARIANT = """
import os, time
from deeprnn.implementations.python_loop import PythonLoop
from deeprnn.support import Support

class Variant(PythonLoop):
    support = Support({support})

    def layer(self, layer, x, state):
        {before}
        y, final = super().layer(layer, x, state)
        return y * {factor}, final
"""


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """plant(name, ...): one more implementation, seen by child processes alone."""
    folder = tmp_path / "plugin"
    (folder / "planted").mkdir(parents=True)
    (folder / "planting.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTEST_PLUGINS", "planting")

    def write(name, *, support="", before="pass", factor=1):
        code = VARIANT.format(support=support, before=before, factor=factor)
        (folder / "planted" / f"{name}.py").write_text(code)

    return write


def timed(directory, *implementations, cells=("lstm",), max_seconds=60.0):
    problem = run_layers(
        directory,
        "run-1",
        "cpu",
        1,
        max_seconds=max_seconds,
        choice=Choice(implementations, cells, TINY),
    )
    return problem, LAYERS.load(directory)


def test_every_layer_gives_a_full_row(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")  # the caller's settings stay outside
    problem, table = timed(tmp_path, "torch_nn", "python_loop", cells=("lstm", "rnn_relu"))
    assert problem is None
    wanted = {
        (name, cell, mode)
        for name in ("torch_nn", "python_loop")
        for cell in ("lstm", "rnn_relu")
        for mode in ("forward", "forward_backward")
    }
    assert len(table) == len(wanted)
    assert set(table[["implementation", "cell", "mode"]].itertuples(index=False, name=None)) == (
        wanted
    )
    assert not table.isna().any(axis=None)
    assert not table["interpreted"].any()
    assert (table["milliseconds"] > 0).all()
    assert (table["milliseconds_low"] <= table["milliseconds_high"]).all()
    assert table["microseconds_per_step"].tolist() == pytest.approx(
        (table["milliseconds"] * 1e3 / 3).tolist()
    )
    assert table["benchmark"][0] == "test_forward[lstm-H8-B2-T3-torch_nn]"
    assert {entry.name for entry in tmp_path.iterdir()} == {"layers.csv"}


@pytest.mark.slow
def test_an_interpreted_layer_is_marked_and_small(tmp_path):
    from deeprnn import implementations

    interpreted = [name for name in implementations.names() if _is_interpreted(name)]
    if not interpreted:
        pytest.skip("no implementation needs an interpreter on a CPU here")
    problem, table = timed(tmp_path, interpreted[0])
    assert problem is None
    assert table["interpreted"].all()
    assert table["hidden_size"].tolist() == [16, 16]


def _is_interpreted(name):
    from deeprnn import implementations
    from deeprnn.support import Request

    request = Request("rnn_tanh", hidden_size=16)
    runs = implementations.why_unsupported(name, request) is None
    return runs and implementations.interpreted(name, "cpu")


def test_a_wrong_layer_is_a_problem_and_an_unsupported_one_is_not(tmp_path, plant):
    plant("wrong", factor=1.01)
    plant("elsewhere", support="devices=('cuda',)")
    problem, table = timed(tmp_path, "torch_nn", "wrong", "elsewhere")
    assert "wrong]: not timed, for it is wrong: " in problem
    assert "is off by 0.01" in problem
    assert "and 1 more" in problem
    assert "elsewhere" not in problem
    assert set(table["implementation"]) == {"torch_nn"}
    log = (tmp_path / "logs" / "layers.log").read_text("utf-8")
    assert "device cpu is not implemented here, only cuda" in log


def test_a_crash_says_where(tmp_path, plant):
    plant("fatal", before="os.kill(os.getpid(), 9)")
    problem, table = timed(tmp_path, "torch_nn", "fatal")
    assert problem == "ended by SIGKILL during test_forward[lstm-H8-B2-T3-fatal]"
    assert table.empty


@pytest.mark.slow
def test_time_runs_out_and_what_is_measured_stays(tmp_path, plant):
    plant("endless", before="time.sleep(600)")
    problem, table = timed(tmp_path, "torch_nn", "endless", max_seconds=8.0)
    assert problem == "stopped during test_forward[lstm-H8-B2-T3-endless] after 12 s"
    assert table["implementation"].tolist() == ["torch_nn", "torch_nn"]


def test_what_does_not_begin_in_time_is_counted(tmp_path):
    problem, table = timed(tmp_path, "torch_nn", "python_loop", max_seconds=0.001)
    assert problem is not None  # how far it came in no time at all differs
    assert len(table) < 4


def test_a_wrong_size_is_named(tmp_path):
    choice = Choice(["torch_nn"], ["lstm"], [(0, 2, 3)])
    problem = run_layers(tmp_path, "run-1", "cpu", 1, max_seconds=60, choice=choice)
    assert problem.startswith("--layers-sizes 0:2:3: give hidden units")


def test_the_documented_command_works_from_a_checkout(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "bench/layers", "-k", "gru and torch_nn and forward"]
    command += ["--layers-sizes=8:2:3", "--layers-device=cpu", "--benchmark-disable", "-q"]
    command += ["-p", "no:cacheprovider", f"--benchmark-storage=file://{tmp_path}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_choice_follows_the_run(tmp_path):
    def row(name, cell, cold_start, status="ok", interpreted=False):
        return {
            "case_id": f"{cell}/{name}",
            "status": status,
            "implementation": name,
            "cell": cell,
            "hidden_size": 256,
            "batch_size": 32,
            "num_steps": 35,
            "interpreted": interpreted,
            "cold_start_seconds": cold_start,
        }

    TRAINING.append(
        tmp_path,
        [
            row("unrolled", "gru", 48.0),
            row("slow", "gru", 9.0),
            row("in_python", "gru", 0.1, interpreted=True),
            row("fast", "gru", 0.2),
            row("fast", "lstm", 0.3),
            row("wrong", "gru", 0.1, status="incorrect"),
        ],
    )
    choice, left_out = choose(tmp_path, 25.0)
    assert choice == Choice(["fast", "slow", "in_python"], ["gru", "lstm"], [(256, 32, 35)])
    assert left_out == [
        "unrolled, whose cold start of 48 s is too long for the 25 s that layers may take"
    ]


def test_nothing_ran_so_nothing_is_timed(tmp_path):
    assert run_layers(tmp_path, "run-1", "cpu", 1, max_seconds=1.0) == "no implementation ran"
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_from_pytest_benchmark_is_refused(tmp_path):
    stored = tmp_path / "layers.json"
    assert rows(stored, "run-1") == []
    stored.write_text('{"benchmarks": [{}]}')
    with pytest.raises(ResultsError, match="not what pytest-benchmark writes"):
        rows(stored, "run-1")
