"""Which Python each side of a gate runs with: the caller's, or one with packages of its own.

Two commits that ask for the same packages as the checkout share the caller's environment, so that
nothing but their code differs. A commit that asks for others gets a virtual environment with just
those. It is kept in the user's cache, by what was asked for, and the next gate finds it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

AUTO, SHARED, SEPARATE = "auto", "shared", "separate"
CHOICES = (AUTO, SHARED, SEPARATE)

MEASURING_NEEDS = ("psutil", "nvidia-ml-py")
"""What the frozen ``bench`` imports in the processes that it measures, whatever a side asks for."""

NAMED = ("torch", "triton", "numpy")
"""Packages whose versions a verdict names: they decide how fast the same code is."""

_COMPLETE = "complete.json"


class EnvironmentFailed(RuntimeError):
    """The tool cannot give a side its packages; the message is one line."""


@dataclass(frozen=True)
class Environment:
    """What the processes of one side run with."""

    kind: str  # shared | separate
    python: str
    packages: Mapping[str, str] = field(default_factory=dict)  # versions, of those in NAMED

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "packages": dict(self.packages)}


def dependencies(project: str, where: str) -> list[str]:
    """What the text of a ``pyproject.toml`` asks for; nothing where there is no such file.

    Raises ``EnvironmentFailed``, which names ``where``, for a text that is not TOML.
    """
    try:
        found = tomllib.loads(project).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise EnvironmentFailed(f"pyproject.toml of {where} cannot be read: {error}") from None
    return [str(requirement) for requirement in found]


def _normalised(requirements: Sequence[str]) -> list[str]:
    """The same list for the same packages, whatever their order and spacing."""
    return sorted("".join(requirement.split()).lower() for requirement in requirements)


def provide(
    choice: str,
    caller: Sequence[str],
    sides: Mapping[str, Sequence[str]],
    say: Callable[[str], None],
) -> tuple[dict[str, Environment], list[str]]:
    """The environment of each side, built where it has to be, and notes for the verdict.

    Args:
        choice: ``auto`` (shared where a side asks for what the caller asks for), ``shared`` or
            ``separate``.
        caller: what the checkout asks for that this process runs from.
        sides: what each side asks for, by name.
        say: takes a line for whoever waits.

    Raises ``EnvironmentFailed`` where packages cannot be installed.
    """
    differs = {name: _normalised(asked) != _normalised(caller) for name, asked in sides.items()}
    built: dict[str, Environment] = {}
    for name, asked in sides.items():
        if choice == SEPARATE or (choice == AUTO and differs[name]):
            kind, python = SEPARATE, build(name, asked, say)
        else:
            kind, python = SHARED, sys.executable
        built[name] = Environment(kind, python, _versions(python, kind == SEPARATE))
    return built, _notes(built, differs)


def _notes(built: Mapping[str, Environment], differs: Mapping[str, bool]) -> list[str]:
    found = []
    if all(environment.kind == SHARED for environment in built.values()):
        found.append(f"{_and(built)} run with the Python packages that are installed here")
    for name, environment in built.items():
        if environment.kind == SEPARATE:
            found.append(f"{name} runs in an environment of its own, with what it asks for")
        elif differs[name]:
            found.append(f"{name} asks for other packages than those it was run with")
    for package in NAMED:
        versions = {name: e.packages.get(package, "missing") for name, e in built.items()}
        if len(set(versions.values())) > 1:
            said = _and([f"{version} for {name}" for name, version in versions.items()])
            found.append(f"{package} is {said}: a difference may be the package's")
    return found


def _and(names: Mapping[str, Any] | Sequence[str]) -> str:
    return " and ".join(names)


# Building


def directory() -> Path:
    """Where environments are kept: in the user's cache, beside the texts."""
    from deeprnn.corpus import cache_directory

    return cache_directory() / "environments"


def build(name: str, asked: Sequence[str], say: Callable[[str], None]) -> str:
    """The Python of a virtual environment with what is ``asked`` for, made unless it is there.

    Raises ``EnvironmentFailed``. Whatever stops it, no half environment is left.
    """
    wanted = [*asked, *(need for need in MEASURING_NEEDS if need not in _normalised(asked))]
    key = hashlib.sha256(
        json.dumps([sys.version, sys.platform, _normalised(wanted)]).encode()
    ).hexdigest()[:16]
    home = directory() / key
    is_new = False
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        for place in (home.parent.parent, home.parent):
            _refuse_what_others_can_write(place, name)
        while not _hold(home):  # after it was built somebody may remove it before it is held
            with _lock(home, fcntl.LOCK_EX):
                if not (home / _COMPLETE).exists():
                    _install(home, name, wanted, say)
                    is_new = True
    except OSError as error:
        raise EnvironmentFailed(
            f"environment of {name}: {home}: {error.strerror}; give a directory that can be "
            "written as XDG_CACHE_HOME, or take this one with --environment shared"
        ) from None
    if not is_new:
        say(f"environment of {name}: {home}, from an earlier gate")
    return str(home / "bin" / "python")


def _install(home: Path, name: str, wanted: Sequence[str], say: Callable[[str], None]) -> None:
    """Make the environment; whatever stops it, nothing is left of it."""
    shutil.rmtree(home, ignore_errors=True)  # of a gate that was killed
    say(
        f"environment of {name}: installing {len(wanted)} packages and what they need "
        f"into {home}; the first time this can take minutes"
    )
    start = time.monotonic()
    python = str(home / "bin" / "python")
    try:
        _run([sys.executable, "-m", "venv", str(home)], name)
        # -I: packages on the caller's PYTHONPATH would pass for installed ones.
        pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "install"]
        _run([*pip, "--quiet", "--progress-bar", "off", "--", *wanted], name)
        (home / _COMPLETE).write_text(json.dumps(wanted), "utf-8")
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    say(f"environment of {name}: ready after {time.monotonic() - start:.0f} s")


def _refuse_what_others_can_write(place: Path, name: str) -> None:
    """Programs are run from there: nobody else may have put them. Raises EnvironmentFailed."""
    found = place.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise EnvironmentFailed(
            f"environment of {name}: {place} belongs to somebody else or can be written by others; "
            "give a directory of your own as XDG_CACHE_HOME, or take --environment shared"
        )


in_use: list[IO[str]] = []
"""The locks of environments that this process measures with. The system lets go when it ends."""


@contextlib.contextmanager
def _lock(home: Path, how: int) -> Iterator[IO[str]]:
    """Held by one that builds or removes an environment, shared by those that use it.

    The file stays: two that come one after the other must lock the same.
    """
    with home.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, how)
        yield file


def _hold(home: Path) -> bool:
    """Whether the environment is there; from now on nobody removes it."""
    with _lock(home, fcntl.LOCK_SH) as file:
        is_there = (home / _COMPLETE).exists()
        if is_there:  # a lock is the file's, so that a copy holds it, too
            in_use.append(os.fdopen(os.dup(file.fileno()), "a"))
    return is_there


def _run(command: Sequence[str], name: str) -> None:
    """Run an installer; stopped together with all that it started when this process is."""
    installer = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = installer.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(installer.pid, signal.SIGKILL)
        installer.wait()
        raise
    if installer.returncode != 0:
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        errors = [line for line in lines if line.upper().startswith("ERROR")] or lines
        raise EnvironmentFailed(
            f"environment of {name}: {' '.join(command[1:4])} failed: "
            f"{errors[0] if errors else 'no message'}; mend what stands in its way, or take the "
            "packages installed here with --environment shared"
        )


def _versions(python: str, is_separate: bool) -> dict[str, str]:
    """The versions of the packages in :data:`NAMED`, as that Python finds them."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "def version(name):\n"
        "    try: return m.version(name)\n"
        "    except m.PackageNotFoundError: return None\n"
        "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    )
    command = [python, *(["-I"] if is_separate else []), "-c", code, *NAMED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:  # a link to a Python that is gone
        raise EnvironmentFailed(
            f"{python} does not run: {error.strerror}; remove what is kept with "
            "`python -m bench gate environments --remove`"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentFailed(f"{python} does not run: {last}")
    return {name: found for name, found in json.loads(done.stdout).items() if found}


# Looking after what is kept


def kept() -> list[tuple[Path, int, list[str]]]:
    """Each environment in the cache, its size in bytes and what was asked for."""
    found = []
    for complete in sorted(directory().glob(f"*/{_COMPLETE}")):
        size = sum(p.lstat().st_size for p in complete.parent.rglob("*") if not p.is_symlink())
        try:
            asked = list(json.loads(complete.read_text("utf-8")))
        except (ValueError, TypeError):
            # Torn: what is wrong here must not keep it from being removed.
            asked = ["what was asked for cannot be read"]
        found.append((complete.parent, size, asked))
    return found


def remove() -> list[Path]:
    """Remove all environments but those that running gates use, which it returns.

    Also removed is what killed gates left of one.
    """
    used = []
    for home in sorted(path for path in directory().glob("*") if path.is_dir()):
        try:
            with _lock(home, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(home, ignore_errors=True)
        except BlockingIOError:
            used.append(home)
    return used
