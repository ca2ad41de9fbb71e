"""The commands that follow a plan: list it, run it, or run the chapter's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bench import terminal
from bench.chapter.exercises import BUDGETS, PARTS
from bench.options import (
    CorpusOption,
    DeviceOption,
    DryRunOption,
    OnlyOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    WorkloadOption,
    chosen_device,
    chosen_threads,
    directory_of_its_own,
    within,
)
from bench.results import ResultsError
from bench.terminal import refuse
from bench.wording import counted, plain, purpose
from bench.workloads import PROFILES

RUN_EPILOG = "\b\n" + "\n".join(f"  {p.name:<10} {p.purpose}" for p in PROFILES.values())

CHAPTER_EPILOG = "\b\nParts:\n"
CHAPTER_EPILOG += "\n".join(f"  {name:<11} {title}" for name, title in PARTS.items())
CHAPTER_EPILOG += "\n\n\b\nBudgets:\n"
CHAPTER_EPILOG += "\n".join(f"  {b.name:<9} {b.purpose}" for b in BUDGETS.values())

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help=f"{', '.join(PROFILES)}. Default: quick on a CPU, full with CUDA."
    ),
]
EpochsOption = Annotated[
    int,
    typer.Option(
        "--epochs",
        callback=within(0),
        help="Epochs of each --workload; the first warms up and is not timed; "
        "0: 10 on a CPU, 41 with CUDA.",
    ),
]
LearningRateOption = Annotated[
    float,
    typer.Option(
        "--learning-rate",
        callback=within(0),
        help="Of each --workload; 0: 2 for LSTM and GRU, 1 for a plain RNN, as published.",
    ),
]
CaseSecondsOption = Annotated[
    float,
    typer.Option(
        "--case-seconds",
        callback=within(0),
        help="Stop a case that takes longer; 0: the profile's limit, in a chapter 3 hours.",
    ),
]


def _ask_planner(measure: bool, **request: Any) -> dict[str, Any]:
    """The plan for these options, made by a child process: this one never touches a GPU."""
    from bench.worker_process import worker_environment

    device = chosen_device(request["device"])
    threads = chosen_threads(request["threads"], device)
    done = subprocess.run(
        [sys.executable, "-m", "bench.planner"],
        input=json.dumps({**request, "device": device, "measure": measure}) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        env=worker_environment(device, threads),
        check=False,
        start_new_session=True,  # Ctrl-C is this process's business
    )
    if done.returncode != 0 or not done.stdout:
        typer.echo("bench: the plan could not be made; the lines above say why", err=True)
        raise typer.Exit(1)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        refuse(answer["error"])
    return answer


def list_cases(
    profile: ProfileOption = None,
    workload: WorkloadOption = None,
    only: OnlyOption = None,
    device: DeviceOption = "auto",
    corpus: CorpusOption = "timemachine",
) -> None:
    """Show the plan: every case, and why one is unsupported here."""
    chosen: dict[str, Any] = {"profile": profile, "workloads": workload or [], "only": only or []}
    chosen |= {"device": device, "corpus": corpus}
    answer = _ask_planner(measure=False, seed=0, threads=0, case_seconds=0, **chosen)
    _print_plan(answer["plan"])


def _print_plan(plan: dict[str, Any]) -> None:
    console = terminal.console()
    cases = plan["cases"]
    refused = sum(bool(case["unsupported"]) for case in cases)
    what = (
        f"Chapter, budget {plan['budget']}," if "budget" in plan else f"Profile {plan['profile']}"
    )
    lines = [f"{what} on {plan['device']}: {plain(purpose(plan))}"]
    for workload in plan["workloads"]:
        lines += ["", f"{workload['title']}, {workload['epochs']} epochs"]
        for case in cases:
            if case["workload"] == workload["workload"]:
                note = f"   unsupported: {case['unsupported']}" if case["unsupported"] else ""
                mark = "   interpreted" if case["interpreted"] and not note else ""
                lines.append(f"  {case['case_id']}{mark}{note}")
    lines += ["", f"{counted(len(cases), 'case')}, {refused} of them unsupported here. Left out:"]
    lines += [f"  - {note}" for note in plan["notes"]]
    if plan["corpus"]["note"]:
        lines += ["", plan["corpus"]["note"]]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def run(
    profile: ProfileOption = None,
    workload: WorkloadOption = None,
    epochs: EpochsOption = 0,
    learning_rate: LearningRateOption = 0,
    only: OnlyOption = None,
    device: DeviceOption = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            callback=directory_of_its_own,
            help="Default: reports/<machine>/<profile>, the next time <profile>-<time>.",
        ),
    ] = None,
    resume: ResumeOption = False,
    corpus: CorpusOption = "timemachine",
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
    case_seconds: CaseSecondsOption = 0,
    dry_run: DryRunOption = False,
) -> None:
    """Train every case of a profile, or of networks of your own, and write the report.

    \b
    Examples:
      python -m bench run                                    quick on a CPU, full with CUDA
      python -m bench run --profile published --only lstm    the published LSTM, 500 epochs
      python -m bench run -w lstm-L1-H512-B64-T100-tf32      a network of your own
      python -m bench run -p published -o DIR --resume       go on, with the same options
    """
    started = time.monotonic()
    request = {
        "profile": profile,
        "workloads": workload or [],
        "epochs": epochs,
        "learning_rate": learning_rate,
        "only": only or [],
        "device": device,
        "corpus": corpus,
        "seed": seed,
        "threads": threads,
        "case_seconds": case_seconds,
    }
    if resume and output is None:
        refuse("--resume needs the directory to continue: --output DIR")
    answer = _ask_planner(measure=not dry_run, **request)
    if dry_run:
        _print_plan(answer["plan"])
        return
    _carry_out(answer, output, resume, started)


def _carry_out(
    answer: dict[str, Any], output: Path | None, resume: bool, started: float
) -> NoReturn:
    """Run a plan to its end, or to Ctrl-C, and leave with the exit code that says which."""
    from bench import session

    console = terminal.console()
    terminal.stop_like_ctrl_c()
    try:
        directory = session.open_directory(answer, output, resume, started)
    except ResultsError as error:
        refuse(str(error))
    try:
        failed = session.run(answer, directory, console, started)
    except ResultsError as error:
        refuse(str(error))
    except KeyboardInterrupt:
        command = session.resume_command(answer["plan"], directory)
        console.print(
            f"Stopped. What was measured is kept in {directory}\nContinue with: {command}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    raise typer.Exit(1 if failed else 0)


def chapter(
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help=f"{', '.join(BUDGETS)}. Default: quick on a CPU, full with CUDA."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only this part; may be given several times."),
    ] = None,
    device: DeviceOption = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            callback=directory_of_its_own,
            help="Default: reports/<machine>/chapter, the next time chapter-<time>.",
        ),
    ] = None,
    resume: ResumeOption = False,
    threads: ThreadsOption = 0,
    case_seconds: CaseSecondsOption = 0,
    dry_run: DryRunOption = False,
) -> None:
    """Reproduce the chapter's published runs and answer its exercises; writes chapter.html.

    \b
    Examples:
      python -m bench chapter                                   all of it, reduced, on a CPU
      python -m bench chapter --budget standard --only runs     the published runs, 500 epochs
      python -m bench chapter --budget full -o DIR --resume     go on where it was stopped
    """
    started = time.monotonic()
    if resume and output is None:
        refuse("--resume needs the directory to continue: --output DIR")
    request = {
        "budget": budget,
        "only": only or [],
        "device": device,
        "threads": threads,
        "case_seconds": case_seconds,
    }
    answer = _ask_planner(measure=not dry_run, **request)
    if dry_run:
        _print_plan(answer["plan"])
        return
    _carry_out(answer, output, resume, started)
