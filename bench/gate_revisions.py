"""Two revisions side by side: worktrees, a frozen copy of the measuring code, and the driver."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import gate_environment
from bench.environment import without_git
from bench.results import write_json
from bench.worker_process import PROJECT

VERDICT_FILES = ("verdict.json", "verdict.md", "verdict.png", "verdict.svg")

STOP_SECONDS = 5.0


class GateError(ValueError):
    """A wrong use: what was given, what is accepted, what to do next; one line."""


def git(*words: str) -> str:
    """What git answers in this checkout. Raises ``GateError`` with its last words."""
    done = subprocess.run(  # git is wherever the user has it
        ["git", "-C", str(PROJECT), *words],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        env=without_git(),
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GateError(f"git {' '.join(words)}: {said}")
    return done.stdout.strip()


def resolve(option: str, revision: str) -> dict[str, str]:
    """The name and the full commit of a revision. Raises ``GateError``."""
    if not (PROJECT / ".git").exists():
        raise GateError("gate revisions compares commits, so it needs a git checkout of the suite")
    try:
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options")
        commit = git(*words, f"{revision or ' '}^{{commit}}")  # of nothing git makes HEAD
        if not re.fullmatch("[0-9a-f]{40,64}", commit):  # ^HEAD, say, is what to leave out
            raise GateError("no commit")
    except GateError:
        raise GateError(
            f"{option} {revision!r} is no commit here; give a branch, tag or commit "
            "(in a shallow clone, fetch it first)"
        ) from None
    short = commit[:12]
    return {"name": f"{revision} ({short})" if revision != short else short, "commit": commit}


def notes(base: Mapping[str, str], head: Mapping[str, str], head_is_default: bool) -> list[str]:
    """What a reader should know about the comparison before its figures."""
    found = []
    if base["commit"] == head["commit"]:
        found.append("base and head are the same commit")
    if head_is_default and git("status", "--porcelain", "--", "deeprnn", "kernels"):
        found.append("uncommitted changes in deeprnn or kernels are not measured: head is HEAD")
    return found


def environments(
    choice: str, sides: Mapping[str, Mapping[str, str]], say: Callable[[str], None]
) -> tuple[dict[str, gate_environment.Environment], list[str]]:
    """What each side runs with, from its own ``pyproject.toml``, and notes for the verdict.

    Raises ``EnvironmentFailed``: see :mod:`bench.gate_environment`.
    """
    here = PROJECT / "pyproject.toml"
    caller = here.read_text("utf-8") if here.exists() else ""
    return gate_environment.provide(
        choice,
        gate_environment.dependencies(caller, "this checkout"),
        {
            name: gate_environment.dependencies(_project_file(side["commit"]), name)
            for name, side in sides.items()
        },
        say,
    )


def _project_file(commit: str) -> str:
    try:
        return git("show", f"{commit}:pyproject.toml")
    except GateError:
        return ""  # a commit without one asks for nothing


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory with a frozen copy of this ``bench`` in ``measuring``; gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="deeprnn-gate-")).resolve()
    try:
        shutil.copytree(
            PROJECT / "bench",
            scratch / "measuring" / "bench",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def worktrees(scratch: Path, commits: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A worktree for each name, detached at its commit; removed afterwards."""
    directories = {name: str(scratch / name) for name in commits}
    try:
        for name, commit in commits.items():
            git("worktree", "add", "--quiet", "--force", "--detach", directories[name], commit)
        yield directories
    finally:
        for directory in directories.values():
            try:
                git("worktree", "remove", "--force", directory)
            except GateError:  # git was stopped while it made this one
                shutil.rmtree(directory, ignore_errors=True)
                git("worktree", "prune")


def drive(scratch: Path, request: Mapping[str, Any]) -> int:
    """Run the driver from the frozen copy; its exit code."""
    path = scratch / "request.json"
    write_json(path, request)
    frozen = str(scratch / "measuring")
    environment = {
        **os.environ,
        # The directory one happens to be in would come first, and it may hold a deeprnn.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [frozen, os.environ.get("PYTHONPATH")])),
    }
    driver = subprocess.Popen(
        [sys.executable, "-m", "bench.gate_driver", str(path)],
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone; it passes one on
    )
    try:
        return driver.wait()
    except KeyboardInterrupt:
        driver.send_signal(signal.SIGINT)
        try:
            driver.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            driver.kill()  # its workers end when nobody speaks to them any more
        return 130


def clear_output(output: Path) -> None:
    """Remove an earlier verdict: a gate that fails to run must not leave a pass behind.

    Raises ``GateError`` where the directory cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in VERDICT_FILES:
            (output / name).unlink(missing_ok=True)
        probe = output / "verdict.json.part"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise GateError(
            f"--output {output}: {error.strerror}; give a directory that can be written"
        ) from None
