"""The front door: ``nox -s bench`` runs the benchmark, ``nox -s tests`` the tests.

``nox -l`` lists all sessions.

All sessions share one environment, ``.nox/py3.x``: PyTorch alone can take gigabytes. It is
installed again when ``pyproject.toml`` changes; delete ``.nox`` to start afresh.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"  # the sessions find their environment below

ENVIRONMENT = Path(".nox") / f"py{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = str(ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def python(session: nox.Session, *arguments: str) -> None:
    """Run Python in the shared environment, which is made or brought up to date first."""
    wanted = hashlib.sha256(Path("pyproject.toml").read_bytes()).hexdigest()
    installed = ENVIRONMENT / "installed.sha256"
    if not installed.exists() or installed.read_text() != wanted:
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT))
        session.run(PYTHON, "-m", "pip", "install", "--editable", ".[test,dev]")
        installed.write_text(wanted)
    # Stopped with Ctrl-C, a run still writes what it has; nox alone would give it 0.3 seconds.
    session.run(PYTHON, *arguments, interrupt_timeout=15.0, terminate_timeout=5.0)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmark: arguments after -- go to `python -m bench run`."""
    python(session, "-m", "bench", "run", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """On a machine with a GPU: its tests, the table of kernels, the profile full."""
    failed = []
    for words in (
        ["pytest", "-m", "gpu", "-n", "8"],
        ["bench", "kernels"],
        ["bench", "run", "--profile", "full", "--device", "cuda"],
    ):
        try:
            python(session, "-m", *words)
        except nox.command.CommandFailed:  # the rest is measured all the same
            failed.append(" ".join(words))
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def chapter(session: nox.Session) -> None:
    """The chapter's runs and exercises: arguments after -- go to `python -m bench chapter`."""
    python(session, "-m", "bench", "chapter", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Render a report directory again: nox -s report -- DIR."""
    python(session, "-m", "bench", "report", *session.posargs)


@nox.session
def doctor(session: nox.Session) -> None:
    """Say what this machine has, and what to do about what it lacks."""
    python(session, "-m", "bench", "doctor", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on up to eight processors: arguments after -- go to pytest.

    -- -n0 runs them one after the other in one process, as a debugger needs it.
    """
    workers = min(8, os.cpu_count() or 1)
    is_chosen = any(word.startswith(("-n", "--numprocesses")) for word in session.posargs)
    # A module has fixtures of its own; which go first is said in tests/conftest.py.
    parallel = ["-n", str(workers), "--dist", "loadscope", "--no-loadscope-reorder"]
    words = [] if is_chosen or workers == 1 else parallel
    python(session, "-m", "pytest", *words, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff; -- --fix mends what can be mended."""
    fix = "--fix" in session.posargs
    python(session, "-m", "ruff", "check", ".", *(["--fix"] if fix else []))
    python(session, "-m", "ruff", "format", ".", *([] if fix else ["--check"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    python(session, "-m", "mypy", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Slower than before? -- --base REV pairs two commits; -- baseline DIR DIR compares reports.

    nox answers 1 for any failure; the gate's own exit code is in verdict.json.
    """
    words = session.posargs
    if words[:1] not in (["baseline"], ["revisions"]):
        words = ["revisions", *words]
    python(session, "-m", "bench", "gate", *words)
