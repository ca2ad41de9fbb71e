"""Each side's packages: shared where they are asked for alike, else built with the real pip.

No network is asked: pip's own settings point it at wheels that these tests make.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from bench import gate_environment
from bench.gate_environment import EnvironmentFailed, build, dependencies, provide

PROJECT = Path(__file__).resolve().parents[2]
TEXT = "the time traveller for so it will be convenient to speak of him was expounding " * 30

PLANTED = """
import only_in_head
from deeprnn.implementations.python_loop import PythonLoop

class Planted(PythonLoop):
    pass
"""


def make_wheel(directory: Path, name: str, version: str, files: dict[str, str]) -> None:
    information = f"{name}-{version}.dist-info"
    files = files | {
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{information}/RECORD"] = "".join(f"{path},,\n" for path in files)
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """Tiny packages. ``torch`` is one that leads to the packages of the Python that runs this."""
    directory = tmp_path_factory.mktemp("wheels")
    here = [path for path in sys.path if path.endswith("-packages")]
    make_wheel(directory, "torch", "2.12.5", {"torch_of_the_caller.pth": "\n".join(here) + "\n"})
    make_wheel(directory, "psutil", "1.0", {"psutil_stub.py": ""})
    make_wheel(directory, "nvidia_ml_py", "1.0", {"pynvml_stub.py": ""})
    for version in ("1.0", "2.0"):
        code = f"VERSION = {version!r}\n"
        make_wheel(directory, "only_in_head", version, {"only_in_head.py": code})
    return directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def offline(monkeypatch, wheels, cache):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # the machine may constrain versions
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def test_what_a_project_asks_for():
    asked = '[project]\ndependencies = ["torch>=2.11", "numpy"]\n'
    assert dependencies(asked, "base") == ["torch>=2.11", "numpy"]
    assert dependencies("", "base") == []
    with pytest.raises(EnvironmentFailed, match=r"pyproject\.toml of head cannot be read: .*line"):
        dependencies("[project\n", "head")


def test_those_who_ask_for_the_same_share_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    sides = {"base": ["b", "a >= 1"], "head": ["a>=1", "B"]}
    built, notes = provide("auto", ["a>=1", "b"], sides, said.append)
    assert {e.kind for e in built.values()} == {"shared"}
    assert {e.python for e in built.values()} == {sys.executable}
    assert built["base"].packages["torch"]
    assert notes == ["base and head run with the Python packages that are installed here"]
    assert not said
    assert not list(tmp_path.iterdir())


def test_to_share_what_is_asked_for_differently_is_said():
    sides = {"base": ["a"], "head": ["b"]}
    built, notes = provide("shared", ["a"], sides, pytest.fail)
    assert built["head"].kind == "shared"
    assert "head asks for other packages than those it was run with" in notes


def test_another_wish_is_built_once_with_nothing_of_the_callers(offline, monkeypatch, tmp_path):
    said: list[str] = []
    sides = {"base": ["only_in_head"], "head": ["only_in_head==1.0"]}
    built, notes = provide("auto", ["only_in_head"], sides, said.append)
    assert (built["base"].kind, built["head"].kind) == ("shared", "separate")
    assert any("installing 3 packages" in line for line in said)
    python = built["head"].python
    code = (
        "import importlib.util, only_in_head\n"
        "print(only_in_head.VERSION, importlib.util.find_spec('torch'))"
    )
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["1.0", "None"]
    assert "head runs in an environment of its own, with what it asks for" in notes
    assert any(note.startswith("torch is ") and "missing for head" in note for note in notes)

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # pip would find nothing any more
    said.clear()
    assert build("head", ["only_in_head == 1.0"], said.append) == python
    assert "from an earlier gate" in said[0]
    ((home, size, asked),) = gate_environment.kept()
    assert python.startswith(str(home))
    assert size > 1e6
    assert "only_in_head==1.0" in asked
    assert gate_environment.remove() == [home]  # a running gate's: this one's
    assert gate_environment.kept()
    (home / "complete.json").write_text("[torn", "utf-8")
    assert gate_environment.kept()[0][2] == ["what was asked for cannot be read"]
    while gate_environment.in_use:
        gate_environment.in_use.pop().close()
    half = home.with_name("half")  # of a gate that was killed
    half.mkdir()
    assert gate_environment.remove() == []
    assert gate_environment.kept() == []
    assert not half.exists()


def test_a_python_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "python").symlink_to(tmp_path / "gone")
    with pytest.raises(gate_environment.EnvironmentFailed, match=r"does not run: No such file"):
        gate_environment._versions(str(tmp_path / "python"), is_separate=True)


# A whole gate


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Head asks for one package more, and has an implementation that imports it."""
    root = tmp_path_factory.mktemp("project")
    for package in ("bench", "deeprnn", "kernels"):
        shutil.copytree(
            PROJECT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (root / "text.txt").write_text(TEXT)
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n')
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "base")
    git(root, "branch", "before")
    wishes = '["torch", "only_in_head>=2"]'
    (root / "pyproject.toml").write_text(f"[project]\ndependencies = {wishes}\n")
    (root / "deeprnn" / "implementations" / "planted_comes.py").write_text(PLANTED)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "head")
    git(root, "branch", "after")
    git(root, "checkout", "--quiet", "before")
    return root


def gate(project: Path, *more: str, **options) -> subprocess.Popen[str]:
    words = ["--base", "before", "--head", "after", "--profile", "smoke", "--device", "cpu"]
    words += ["--threads", "1", "--corpus", "text.txt", "--only", "rnn_tanh-*/planted_comes/*"]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "gate", "revisions", *words, *more],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)} | options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_head_is_run_with_what_head_asks_for(offline, project, tmp_path):
    run = gate(project, "--output", str(tmp_path))
    printed, errors = run.communicate(timeout=300)
    assert run.returncode == 5, printed + errors  # a new case alone compares nothing
    verdict = json.loads((tmp_path / "verdict.json").read_text("utf-8"))
    (case,) = verdict["cases"]
    assert (case["decision"], case["reason"]) == ("new", "base lacks it")
    assert verdict["base"]["environment"]["kind"] == "shared"
    assert verdict["head"]["environment"]["kind"] == "separate"
    assert verdict["head"]["environment"]["packages"]["torch"] == "2.12.5"
    assert any("torch is" in note and "2.12.5 for head" in note for note in verdict["notes"])
    assert "environment of head: installing" in printed


@pytest.mark.slow
def test_a_gate_without_its_packages_fails_in_one_line(offline, project, tmp_path):
    cache = tmp_path / "cache"
    options = {"PIP_FIND_LINKS": str(tmp_path), "XDG_CACHE_HOME": str(cache)}
    run = gate(project, "--output", str(tmp_path), **options)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1, errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("bench: environment of head: ")
    assert "Could not find a version that satisfies the requirement" in line
    assert "--environment shared" in line
    environments = cache / "deeprnn" / "environments"
    assert [path for path in environments.iterdir() if path.is_dir()] == []
    assert not (tmp_path / "verdict.json").exists()


def test_stopped_while_it_installs_it_leaves_nothing(offline, project, tmp_path):
    cache = tmp_path / "cache"
    run = gate(
        project, "--output", str(tmp_path / "out"), XDG_CACHE_HOME=str(cache), PYTHONUNBUFFERED="1"
    )
    assert "environment of head: installing" in run.stdout.readline()
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    printed, errors = run.communicate(timeout=60)
    assert run.returncode == 130, printed + errors
    assert "stopped; there is no verdict" in errors
    assert not [path for path in cache.rglob("*") if path.name == "pyvenv.cfg"]


def test_an_unknown_choice_is_refused(project):
    run = gate(project, "--environment", "mine")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 2
    assert errors.strip() == "bench: --environment 'mine' is unknown; use auto, shared, separate"


def test_a_cache_that_others_can_write_is_refused(tmp_path, monkeypatch):
    """Programs would be run from it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = gate_environment.directory()
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(gate_environment.EnvironmentFailed, match="can be written by others"):
        gate_environment.build("head", ["numpy"], print)
    assert not any(directory.iterdir())
