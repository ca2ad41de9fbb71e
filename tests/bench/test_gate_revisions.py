"""Whole gates over two commits of a copied project, with implementations planted in either."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import gate_revisions

PROJECT = Path(__file__).resolve().parents[2]
TEXT = "the time traveller for so it will be convenient to speak of him was expounding " * 30

PLANTED = """
import time
from deeprnn.implementations.python_loop import PythonLoop

class Planted(PythonLoop):
    def layer(self, layer, x, state):
        y, final = super().layer(layer, x, state)
        {then}
        return y, final
"""


def planted(then: str = "pass") -> str:
    return PLANTED.format(then=then)


BASE = {
    "planted_slows": planted(),
    "planted_breaks": planted(),
    "planted_goes": planted(),
}
HEAD = {
    "planted_slows": planted("time.sleep(0.001)"),
    "planted_breaks": planted("y = y * 1.001"),
    "planted_comes": planted(),
}


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(root), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, implementations: dict[str, str], tag: str) -> None:
    directory = root / "deeprnn" / "implementations"
    for old in directory.glob("planted_*.py"):
        old.unlink()
    for name, source in implementations.items():
        (directory / f"{name}.py").write_text(source)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", tag)
    git(root, "tag", tag)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for package in ("bench", "deeprnn", "kernels"):
        shutil.copytree(
            PROJECT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (root / "text.txt").write_text(TEXT)
    git(root, "init", "--quiet")
    commit(root, BASE, "before")
    commit(root, HEAD, "after")
    return root


def gate(project: Path, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "gate", *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def options(project: Path) -> list[str]:
    words = ["--profile", "smoke", "--device", "cpu", "--threads", "1"]
    return [*words, "--corpus", str(project / "text.txt")]


@pytest.mark.slow
def test_each_change_is_called_what_it_is(project, tmp_path):
    words = ["revisions", "--base", "before", "--head", "after", *options(project)]
    words += ["--only", "rnn_tanh-*/planted_*", "--output", str(tmp_path), "--max-minutes", "10"]
    done = gate(project, *words)
    assert done.returncode == 5, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text("utf-8"))
    cases = {case["case_id"].split("/")[1]: case for case in verdict["cases"]}
    assert {name: case["decision"] for name, case in cases.items()} == {
        "planted_slows": "slower",
        "planted_breaks": "invalid",
        "planted_goes": "invalid",
        "planted_comes": "new",
    }
    assert "head incorrect" in cases["planted_breaks"]["reason"]
    assert cases["planted_goes"]["reason"] == "head lacks it"
    assert "base lacks it" in cases["planted_comes"]["reason"]
    speed, memory, perplexity = cases["planted_slows"]["comparisons"]
    assert speed["cost_ratio"] > 1.5
    assert memory["decision"] != "bigger"
    assert perplexity["cost_ratio"] == 1  # same equations, same seeds
    assert git(project, "worktree", "list").count("\n") == 0
    assert git(project, "status", "--porcelain") == ""


def measuring(project: Path, scratch: Path) -> subprocess.Popen[str]:
    """A gate that has begun, with its temporary files below ``scratch`` and its verdict in out."""
    words = ["revisions", "--base", "before", "--head", "after", *options(project)]
    words += ["--only", "rnn_tanh-*/planted_slows/*", "--output", str(scratch / "out")]
    run = subprocess.Popen(
        [sys.executable, "-m", "bench", "gate", *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "case to pair" in run.stdout.readline()
    return run


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_gate_ends_at_once_and_leaves_nothing(project, tmp_path, how):
    run = measuring(project, tmp_path)
    run.send_signal(how)
    stopped = time.monotonic()
    printed = run.communicate(timeout=60)[0]
    assert time.monotonic() - stopped < 10, printed
    assert run.returncode == 130, printed
    assert "stopped; there is no verdict" in printed
    assert not (tmp_path / "out" / "verdict.json").exists()
    assert not list(tmp_path.glob("deeprnn-*"))
    assert git(project, "worktree", "list").count("\n") == 0


def test_a_killed_gate_does_not_go_on_measuring(project, tmp_path):
    """It can pass nothing on; what it started notices, and leaves a worktree's entry alone."""
    run = measuring(project, tmp_path)
    run.kill()
    run.communicate(timeout=60)  # the driver has the pipe, too: this ends when it does
    assert not (tmp_path / "out" / "verdict.json").exists()
    assert not list(tmp_path.glob("deeprnn-*"))
    git(project, "worktree", "prune")  # as git does by itself, later
    assert git(project, "worktree", "list").count("\n") == 0


BAD_INPUT = {
    "no such commit": (["revisions", "--base", "nowhere"], "--base 'nowhere' is no commit here"),
    "no effect": (
        ["revisions", "--base", "before", "--min-effect", "much"],
        "--min-effect 'much' is no effect; give a share such as 3% or 0.03",
    ),
    "unknown profile": (
        ["revisions", "--base", "before", "--profile", "fast"],
        "profile 'fast' is unknown; use one of",
    ),
    "unknown device": (
        ["revisions", "--base", "before", "--device", "tpu"],
        "--device 'tpu' is unknown; use auto, cpu or cuda",
    ),
    "output in the way": (
        ["revisions", "--base", "before", "--device", "cpu", "--output", "text.txt"],
        "give a directory that can be written",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_clear_line(project, words, message):
    done = gate(project, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_pattern_without_a_case(project, tmp_path):
    words = ["revisions", "--base", "before", *options(project), "--only", "tensorflow"]
    done = gate(project, *words, "--output", str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--only 'tensorflow' matches none of the" in done.stderr
    assert not (tmp_path / "verdict.json").exists()


def test_a_gate_that_cannot_run_leaves_no_earlier_verdict(project, tmp_path):
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    words = ["revisions", "--base", "before", *options(project), "--only", "tensorflow"]
    gate(project, *words, "--output", str(tmp_path))
    assert not (tmp_path / "verdict.json").exists()


@pytest.mark.parametrize("word", [["--threads", "-1"], ["--max-minutes", "abc"], ["--seed", "x"]])
def test_nor_does_one_with_an_option_that_is_wrong(project, tmp_path, word):
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    done = gate(project, "revisions", "--base", "before", *word, "--output", str(tmp_path))
    assert done.returncode == 2
    assert not (tmp_path / "verdict.json").exists()


def test_help_removes_nothing(project, tmp_path):
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    gate(project, "revisions", "--output", str(tmp_path), "--help")
    assert (tmp_path / "verdict.json").exists()


def test_a_hooks_variables_lead_to_no_other_index(project, tmp_path, monkeypatch):
    """As git sets them for a hook: what they name would be read, and written into."""
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "no-repository"))
    monkeypatch.setattr(gate_revisions, "PROJECT", project)
    assert len(gate_revisions.resolve("--base", "before")["commit"]) == 40
    with gate_revisions.worktrees(tmp_path, {"base": "before"}) as found:
        assert (Path(found["base"]) / "deeprnn").is_dir()
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("revision", ["^before", "", "--all", "before..before"])
def test_what_git_reads_as_more_or_less_than_a_commit_is_refused(project, monkeypatch, revision):
    monkeypatch.setattr(gate_revisions, "PROJECT", project)
    with pytest.raises(gate_revisions.GateError, match="is no commit here"):
        gate_revisions.resolve("--base", revision)


def test_exit_codes_are_in_the_help(project):
    for words in (["--help"], ["revisions", "--help"]):
        assert "3 regression; 4 ambiguous or unreliable" in " ".join(
            gate(project, *words).stdout.split()
        )
