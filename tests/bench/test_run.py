"""Whole runs: a row for every planned case, whatever the implementations do."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench import custom, session
from bench.results import CURVES, ROUNDS, TRAINING, ResultsError
from bench.rows import run_command
from bench.runner import Runner
from bench.stored import load_environment
from bench.workloads import PROFILES

PROJECT = Path(__file__).resolve().parents[2]
TEXT = "the time traveller for so it will be convenient to speak of him was expounding " * 30

HEADER = """
import math, os, signal, time
import torch
from deeprnn.implementations.python_loop import PythonLoop

class Planted(PythonLoop):
    calls = 0
    def layer(self, layer, x, state):
        type(self).calls += 1
        y, final = super().layer(layer, x, state)
"""

# What each planted implementation does after it computed the right thing.
PLANTED = {
    "planted_raises": "        raise IndexError('planted\\nsecond line')",
    "planted_killed": "        os.kill(os.getpid(), signal.SIGKILL)",
    "planted_memory": "        raise MemoryError('planted')",
    "planted_hangs": "        time.sleep(1000)",
    "planted_wrong": "        return y * 1.001, final",
    "planted_nan": "        return y * math.nan, final",
    # Right while it is checked, NaN later: five calls by two layers come before the first epoch.
    "planted_diverges": "        return (y if self.calls < 16 else y * math.nan), final",
    "planted_package": "",
    "planted_syntax": "        return (",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the packages with one more file for each planted implementation."""
    root = tmp_path_factory.mktemp("project")
    for package in ("bench", "deeprnn", "kernels"):
        shutil.copytree(
            PROJECT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, behaviour in PLANTED.items():
        source = HEADER + (behaviour or "        return y, final") + "\n"
        if name == "planted_package":
            source = "import a_package_nobody_has\n" + source
        (root / "deeprnn" / "implementations" / f"{name}.py").write_text(source)
    (root / "text.txt").write_text(TEXT)
    return root


def command(project: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(project), "COLUMNS": "200"}


def bench(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, *words),
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def options(project: Path, output: Path, *only: str) -> list[str]:
    words = ["run", "--profile", "smoke", "--device", "cpu", "--output", str(output)]
    words += ["--corpus", str(project / "text.txt"), "--threads", "2"]
    for pattern in only:
        words += ["--only", pattern]
    return words


@pytest.fixture(scope="module")
def planted_run(project, tmp_path_factory):
    output = tmp_path_factory.mktemp("planted") / "report"
    only = ["rnn_tanh-*/planted_*", "rnn_tanh-*/torch_nn/*", "rnn_tanh-*/python_loop/*"]
    done = bench(project, *options(project, output, *only), "--case-seconds", "15")
    return done, output, TRAINING.load(output).set_index("implementation")


def test_every_planned_case_has_exactly_one_row(planted_run):
    _, output, rows = planted_run
    planned = [c["case_id"] for c in json.loads((output / "plan.json").read_text("utf-8"))["cases"]]
    assert sorted(rows["case_id"]) == sorted(planned)
    assert len(planned) == len(PLANTED) + 2


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("planted_raises", "crashed", "IndexError: planted"),
        ("planted_killed", "crashed", "SIGKILL"),
        ("planted_memory", "oom", "MemoryError: planted"),
        ("planted_hangs", "timeout", "longer than the 15 s"),
        ("planted_wrong", "incorrect", "is off by"),
        ("planted_nan", "incorrect", "is off by nan"),
        ("planted_diverges", "diverged", "perplexity became nan in epoch"),
        ("planted_syntax", "crashed", "planted_syntax.py cannot be imported: SyntaxError: "),
        ("planted_package", "unsupported", "needs the package a_package_nobody_has"),
    ],
)
def test_each_failure_is_a_row_with_its_status(planted_run, name, status, reason):
    row = planted_run[2].loc[name]
    assert row["status"] == status, row["reason"]
    assert reason in row["reason"]
    assert "\n" not in row["reason"]
    assert pd.isna(row["tokens_per_second"])
    assert pd.isna(row["train_perplexity"])


def test_the_report_says_where_the_rest_of_a_failure_stands(planted_run):
    _, output, rows = planted_run
    case_id = rows.loc["planted_raises", "case_id"]
    log = f"logs/{case_id.replace('/', '__')}.log"
    assert "second line" in (output / log).read_text("utf-8")
    for name in ("summary.md", "report.html"):
        assert log in (output / name).read_text("utf-8")


def test_the_others_go_on(planted_run):
    done, _, rows = planted_run
    assert done.returncode == 1, done.stdout + done.stderr
    for name in ("torch_nn", "python_loop"):
        row = rows.loc[name]
        assert row["status"] == "ok"
        assert row["tokens_per_second"] > 0
        assert row["gradient_error"] < 1e-5
        assert row["rounds"] == 2  # three epochs, the first warms up
    assert rows.loc["torch_nn", "speedup_over_torch_nn"] == 1
    perplexities = rows.loc[["torch_nn", "python_loop"], "train_perplexity"]
    assert perplexities.max() / perplexities.min() < 1.02


def test_rounds_and_curves_are_stored(planted_run):
    _, output, rows = planted_run
    case_id = rows.loc["torch_nn", "case_id"]
    rounds, curves = ROUNDS.load(output), CURVES.load(output)
    own = rounds[rounds["case_id"] == case_id]
    assert list(own["epoch"]) == [1, 2, 3]
    assert list(own["warm_up"]) == [True, False, False]
    last = curves[curves["case_id"] == case_id].iloc[-1]
    assert last["train_perplexity"] == rows.loc["torch_nn", "train_perplexity"]
    assert last["seconds"] == pytest.approx(own["seconds"].sum(), rel=1e-6)


def test_the_text_is_said_not_to_be_the_published_one(planted_run):
    done, output, rows = planted_run
    assert "not The Time Machine" in done.stdout
    assert "not The Time Machine" in (output / "report.html").read_text("utf-8")
    assert set(rows["corpus"]) != {"The Time Machine, by H. G. Wells"}


def test_a_second_run_does_not_overwrite_the_first(planted_run, project):
    _, output, _ = planted_run
    before = (output / "training.csv").read_bytes()
    done = bench(project, *options(project, output, "torch_nn"))
    assert done.returncode == 2
    assert "already holds a report" in done.stderr
    assert (output / "training.csv").read_bytes() == before


def test_another_plan_is_not_mixed_in(planted_run, project):
    _, output, _ = planted_run
    done = bench(project, *options(project, output, "torch_nn"), "--resume")
    assert done.returncode == 2
    assert "made by another plan, differing in only" in done.stderr


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda d: (d / "environment.json").unlink(), "environment.json is missing or empty"),
        (lambda d: (d / "environment.json").write_text('{"Run": 1}'), "Run is no object"),
        (lambda d: (d / "rounds.csv").unlink(), "rounds.csv holds 0 rounds that count of"),
    ],
    ids=["no environment", "another environment", "no rounds"],
)
def test_damage_is_found_before_anything_is_measured(harm, line, planted_run, tmp_path):
    """In order not to lose what would be measured until then."""
    directory = tmp_path / "report"
    shutil.copytree(planted_run[1], directory)
    TRAINING.keep(directory, list(TRAINING.load(directory)["case_id"])[1:])
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    answer = {"plan": plan, "text": TEXT, "peaks": plan["peaks"], "origin": "made up"}
    answer["environment"] = load_environment(directory)
    harm(directory)
    before = TRAINING.path(directory).read_bytes()
    with pytest.raises(ResultsError, match=line):
        session.run(
            answer, session.open_directory(answer, directory, resume=True), Console(quiet=True), 0.0
        )
    assert TRAINING.path(directory).read_bytes() == before


def test_another_installation_is_not_mixed_in(planted_run, tmp_path):
    directory = tmp_path / "report"
    shutil.copytree(planted_run[1], directory)
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    there = load_environment(directory)
    here = {**there, "Versions": {**there["Versions"], "torch": "9.9", "new": "1.0"}}
    answer = {"plan": plan, "peaks": {}, "environment": here}
    said = (
        rf"measured with another torch \({re.escape(there['Versions']['torch'])} there, 9.9 now\)"
    )
    with pytest.raises(ResultsError, match=said):
        session.open_directory(answer, directory, resume=True)
    answer["environment"] = {**there, "Machine": {"Frequency (MHz)": 1}, "Versions": {}}
    assert session.open_directory(answer, directory, resume=True) == directory


def test_what_was_compared_is_measured_again_together(planted_run, project, tmp_path):
    """Factors are paired by turn: one case alone would be paired with turns of another day."""
    directory = tmp_path / "report"
    shutil.copytree(planted_run[1], directory)
    rows = TRAINING.load(directory)
    lost = str(rows.loc[rows["implementation"] == "torch_nn", "case_id"].iloc[0])
    failed = set(rows["case_id"][rows["status"] != "ok"])
    assert failed
    TRAINING.keep(directory, set(rows["case_id"]) - {lost})
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    made = Runner(plan, custom.profile_of(plan), TEXT, plan["peaks"], directory, lambda s: None)
    again = {case["case_id"] for case in made.missing}
    assert again == set(rows["case_id"]) - failed
    assert made.done == failed
    assert ROUNDS.load(directory).empty or not set(ROUNDS.load(directory)["case_id"]) & again


def test_stop_and_resume(project, tmp_path):
    output = tmp_path / "report"
    words = options(project, output, "/torch_nn/", "gru-*/python_loop/*")
    run = subprocess.Popen(
        command(project, *words),
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (output / "training.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    stopped = time.monotonic()
    printed = run.communicate(timeout=60)[0]
    assert time.monotonic() - stopped < 5, printed
    assert run.returncode == 130
    assert "Continue with: " in printed
    kept = TRAINING.load(output)
    assert 1 <= len(kept) < 5
    of_first = load_environment(output)["Run"]
    assert 0 < of_first["Wall time (s)"] < 120
    assert "Finished" not in of_first

    done = bench(project, *words, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = TRAINING.load(output)
    assert len(rows) == 5
    assert set(rows["status"]) == {"ok"}
    pd.testing.assert_frame_equal(rows.head(len(kept)), kept)
    of_both = load_environment(output)["Run"]
    assert of_both["Wall time (s)"] > of_first["Wall time (s)"]
    assert of_both["Finished"] > of_both["Started"] == of_first["Started"]
    rounds = ROUNDS.load(output)
    assert not rounds.duplicated(["case_id", "epoch"]).any()
    assert len(rounds) == 5 * 3


def test_a_command_that_goes_on_has_the_time_limit_that_was_given():
    plan = {"profile": "quick", "device": "cpu", "seed": 0, "threads": 1, "corpus": {"asked": "x"}}
    usual = PROFILES["quick"].case_seconds
    assert "--case-seconds" not in run_command({**plan, "case_seconds": usual}, [])
    words = run_command({**plan, "case_seconds": 3600.0}, [])
    assert words[words.index("--case-seconds") + 1] == "3600"


def test_two_runs_give_the_same_perplexities(project, planted_run, tmp_path):
    again = tmp_path / "again"
    assert bench(project, *options(project, again, "rnn_tanh-*/torch_nn/*")).returncode == 0
    first = planted_run[2].loc["torch_nn"]
    second = TRAINING.load(again).iloc[0]
    for column in ("train_perplexity", "validation_perplexity", "sample"):
        assert first[column] == second[column]


def test_the_version_comes_with_its_commit(project):
    done = bench(project, "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"deeprnn-bench \S+, commit \S+\n", done.stdout)


def test_a_dry_run_writes_nothing(project, tmp_path):
    output = tmp_path / "report"
    done = bench(project, *options(project, output, "torch_nn"), "--dry-run")
    assert done.returncode == 0
    assert "lstm-L2-H28-B4-T3-fp32/torch_nn/eager" in done.stdout
    assert not output.exists()


BAD_INPUT = {
    "unknown profile": (["run", "--profile", "fast"], "profile 'fast' is unknown; use one of"),
    "unknown implementation": (
        ["run", "--profile", "smoke", "--only", "tensorflow", "--device", "cpu"],
        "--only 'tensorflow' matches none",
    ),
    "missing text": (["run", "--corpus", "no/such/file.txt"], "no/such/file.txt"),
    "text that is not text": (["run", "--corpus", "binary.bin"], "binary.bin"),
    "text that is too short": (["run", "--corpus", "short.txt"], "needs 15,000"),
    "unknown device": (["run", "--device", "tpu"], "'tpu' is unknown; use auto, cpu or cuda"),
    "resume without a directory": (["run", "--resume"], "--output DIR"),
    "resume of nothing": (
        ["run", "--profile", "smoke", "--resume", "--output", "nothing"],
        "does not exist",
    ),
    "empty output": (["run", "--corpus", "no/such/file.txt", "--output", ""], "--output is empty"),
    "empty profile": (["run", "--profile", ""], "profile '' is unknown"),
    "a time that is no number": (
        ["run", "--profile", "smoke", "--case-seconds", "nan"],
        "--case-seconds nan is not accepted",
    ),
    "report of nothing": (["report", "nothing"], "plan.json does not exist"),
}


@pytest.mark.parametrize(("words", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_clear_line(project, words, message):
    (project / "binary.bin").write_bytes(bytes(range(256)) * 100)
    (project / "short.txt").write_text("time and again " * 20)
    if words[0] == "run" and "--corpus" not in words:
        words = [*words, "--corpus", str(project / "text.txt")]
    done = bench(project, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_cuda_where_there_is_none(project):
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    done = bench(project, "run", "--device", "cuda", "--corpus", str(project / "text.txt"))
    assert done.returncode == 2
    assert "PyTorch sees no CUDA device here; use --device cpu" in done.stderr


def test_an_output_that_cannot_be_written(project):
    (project / "a_file").write_text("in the way")
    done = bench(project, *options(project, project / "a_file" / "report", "torch_nn"))
    assert done.returncode == 2
    assert "give a directory that can be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_damaged_report(planted_run, project, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(planted_run[1], copy)
    with (copy / "training.csv").open("a") as file:
        file.write("half a row,ok\n")
    done = bench(project, "report", str(copy))
    assert done.returncode == 2
    assert "training.csv is damaged: line" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_doctor_and_help(project):
    done = bench(project, "doctor")
    assert done.returncode == 0
    assert "The Time Machine" in done.stdout
    assert "implementation torch_nn" in done.stdout
    assert re.search(r"planted_syntax +broken +planted_syntax.py cannot be imported", done.stdout)
    shown = bench(project, "--help")
    assert "Examples:" in shown.stdout
    assert "Exit codes:" in shown.stdout


def test_two_runs_in_one_directory_are_refused(tmp_path):
    from bench.results import ResultsError
    from bench.session import alone_in

    with (
        alone_in(tmp_path),
        pytest.raises(ResultsError, match="another run is writing"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):  # and is over
        pass
