"""One run from its directory to its report: what lies around the runner."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import custom
from bench.chapter import floors
from bench.chapter.texts import texts_for_job
from bench.kernel_table import KERNELS
from bench.progress import RunProgress
from bench.results import RERUN, TRAINING, ResultsError, write_json
from bench.rows import run_command
from bench.runner import Runner, wall_time
from bench.stored import REPORTS, holds, load_environment, load_plan
from bench.wording import counted, plain, precision, purpose
from bench.workloads import Profile

MUST_AGREE = (
    *("schema", "profile", "budget", "custom", "only", "device", "machine", "seed", "threads"),
    *("commit", "cases"),
)
"""What a resumed run may not change: its rows would no longer belong to one another."""


SAME_MACHINE = ("Versions", "GPU", "Threads")
"""Sections of ``environment.json`` that must be those of the run that is resumed."""


def open_directory(
    answer: dict[str, Any], output: Path | None, resume: bool, started: float | None = None
) -> Path:
    """The report directory, with ``plan.json`` and ``environment.json`` in it.

    Adds ``run_id`` and ``peaks`` to the plan; a resumed run keeps those it had. ``started`` is what
    ``time.monotonic`` said when the command began, which planned and measured peaks before this.

    Raises:
        ResultsError: the directory cannot be written, holds another report, or, to be resumed,
            belongs to another plan or commit.
    """
    plan = answer["plan"]
    plan["run_id"] = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    if output is None:
        directory = REPORTS / plan["machine"] / plan["profile"]
        if (directory / "plan.json").exists():
            directory = directory.with_name(f"{plan['profile']}-{plan['run_id']}")
    else:
        directory = output
    if resume:
        stored = load_plan(directory / "plan.json")
        # What the end needs must not be found missing there, after everything was measured.
        there = load_environment(directory)
        if not there:
            raise ResultsError(
                f"{directory / 'environment.json'} is missing or empty, which says on what machine "
                f"the rows were measured; {RERUN}"
            )
        _refuse_to_mix(directory, stored, plan)
        _refuse_another_machine(directory, there, answer["environment"])
        plan["run_id"] = stored["run_id"]
        # Measured once: the rows of one report refer to one ceiling.
        answer["peaks"] = stored.get("peaks") or answer["peaks"]
        return directory
    if name := holds(directory):
        raise ResultsError(
            f"{directory} already holds a report ({name}); continue a run with --resume, "
            "or give another --output"
        )
    plan["peaks"] = answer["peaks"]
    environment = answer["environment"]
    environment["Measured"] = {
        f"{precision(*key.split('/'))} matrix products (GFLOP/s)": round(flops / 1e9, 1)
        for key, flops in answer["peaks"].items()
    }
    planning = 0.0 if started is None else time.monotonic() - started
    environment["Run"] = {"Started": wall_time(planning), "Commit": plan["commit"]}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "environment.json", environment)
        write_json(directory / "plan.json", plan)  # last: what has a plan can be resumed
    except FileExistsError:
        what = "a link to nothing" if directory.is_symlink() else "a file"
        raise ResultsError(f"--output {directory} is {what}; give a directory") from None
    except OSError as error:
        raise ResultsError(
            f"--output {directory}: {error.strerror}; give a directory that can be written"
        ) from None
    return directory


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """No other run writes into ``directory`` meanwhile, where the system can tell.

    Raises ``ResultsError`` when one does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultsError(
                f"another run is writing into {directory}; wait for it, or give another --output"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def _refuse_to_mix(directory: Path, stored: dict[str, Any], plan: dict[str, Any]) -> None:
    differing = [
        f"{key} ({_brief(stored.get(key))} there, {_brief(plan.get(key))} now)"
        for key in MUST_AGREE
        if stored.get(key) != plan.get(key)
    ]
    if stored.get("corpus", {}).get("sha256") != plan["corpus"]["sha256"]:
        differing.append("the text")
    if differing:
        raise ResultsError(
            f"--resume: {directory} was made by another plan, differing in "
            f"{', '.join(differing)}; use the same options and commit, or another --output"
        )


def _refuse_another_machine(directory: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Rows of one report are of one installation: a package or driver may be another by now."""
    differing = [
        f"{name} ({value} there, {here[section][name]} now)"
        for section in SAME_MACHINE
        for name, value in (there.get(section) or {}).items()
        if name in here.get(section, {}) and here[section][name] != value
    ]
    if differing:
        raise ResultsError(
            f"--resume: {directory} was measured with another {', '.join(differing)}; "
            "put that back, or use another --output"
        )


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(
            f"{key} {' '.join(e) if isinstance(e, list) else e}" for key, e in value.items()
        )
    return f"{len(value)} entries" if isinstance(value, list) else str(value)


def run(answer: dict[str, Any], directory: Path, console: Console, started: float) -> bool:
    """Run what is missing, time single layers, render, and print the ranking.

    Returns whether any case failed. Whatever interrupts it, the rows so far are on disk. Raises
    ``ResultsError`` where another run is writing into the same directory.
    """
    with alone_in(directory):
        return _run(answer, directory, console, started)


def _run(answer: dict[str, Any], directory: Path, console: Console, started: float) -> bool:
    plan = answer["plan"]
    is_chapter = "budget" in plan
    profile = chapter_profile(plan) if is_chapter else custom.profile_of(plan)
    _say_what_comes(plan, answer["origin"], directory, console)
    runner = Runner(
        plan,
        profile,
        answer["text"],
        answer["peaks"],
        directory,
        lambda seconds: RunProgress(console, seconds),
        partial(texts_for_job, plan, answer["texts"]) if is_chapter else lambda case: {},
    )
    if len(runner.done) > 0:
        _say(console, f"Resuming: {len(runner.done)} of {len(plan['cases'])} cases have a row.")
    news: dict[str, Any] = {}
    try:
        runner.run()
        if is_chapter:
            floors.measure(plan, answer["texts"], directory, partial(_say, console))
        # A run that is resumed keeps what it has.
        if profile.layers_seconds and not plan["only"] and not (directory / "layers.csv").exists():
            seconds = profile.layers_seconds
            news["Single layers not timed"] = _time_layers(plan, seconds, directory, console)
        news["Finished"] = wall_time()
    finally:
        environment = load_environment(directory)
        of_run = (environment.get("Run") or {}) | news
        spent = of_run.get("Wall time (s)", 0) + time.monotonic() - started
        of_run["Wall time (s)"] = round(spent, 1)
        environment["Run"] = {name: value for name, value in of_run.items() if value is not None}
        write_json(directory / "environment.json", environment)
    show(directory, console)
    statuses = TRAINING.load(directory)["status"]
    return bool((~statuses.isin(["ok", "unsupported"])).any())


def chapter_profile(plan: dict[str, Any]) -> Profile:
    """How the runner treats the chapter's cases, which a budget chooses instead of a profile."""
    return Profile(name="chapter", purpose=plan["purpose"], workloads=(), validate_every=5)


def _say_what_comes(plan: dict[str, Any], origin: str, directory: Path, console: Console) -> None:
    what = (
        f"Chapter, budget {plan['budget']}," if "budget" in plan else f"Profile {plan['profile']}"
    )
    _say(console, f"{what} on {plan['device']}: {plain(purpose(plan))}")
    _say(console, f"Text: {plan['corpus']['title']} ({origin})")
    if plan["corpus"]["note"]:
        _say(console, f"Note: {plan['corpus']['note']}")
    cases, threads = counted(len(plan["cases"]), "case"), counted(plan["threads"], "thread")
    _say(console, f"{cases}, {threads}; writing to {directory}")


def _time_layers(
    plan: dict[str, Any], seconds: float, directory: Path, console: Console
) -> str | None:
    """Write ``layers.csv``; returns what was not timed and why, if anything."""
    from bench.layers_report import run_layers

    _say(console, "Single layers, forward and backward (pytest-benchmark)")
    problem = run_layers(
        directory, plan["run_id"], plan["device"], plan["threads"], max_seconds=seconds
    )
    if problem:
        _say(console, f"  not timed: {problem}")
    return problem


def show(directory: Path, console: Console) -> None:
    """Render the report and print its ranking and where it is."""
    # matplotlib is slow to import; nothing before needs it
    from bench import index, kernel_page, report
    from bench.chapter import page

    if KERNELS.path(directory).exists():
        kernel_page.render(directory).print(console)
    elif "budget" in load_plan(directory / "plan.json"):
        page.render(directory).print(console)
    else:
        report.render(directory).print(console)
    if written := index.update(directory):
        _say(console, f"Index: {written}")


def resume_command(plan: dict[str, Any], directory: Path) -> str:
    """The command line that goes on where a run was stopped."""
    words = run_command(plan, plan["only"])
    if "budget" in plan:
        words += ["--threads", str(plan["threads"])]
    return shlex.join([*words, "--output", str(directory), "--resume"])


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
