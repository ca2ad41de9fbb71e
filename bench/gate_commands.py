"""The command line of the gate: ``python -m bench gate revisions | baseline``, and ``noise``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.options import (
    CorpusOption,
    DeviceOption,
    OnlyOption,
    SeedOption,
    ThreadsOption,
    WorkloadOption,
    chosen_device,
    chosen_threads,
    directory_of_its_own,
    within,
)
from bench.terminal import refuse, stop_like_ctrl_c
from bench.workloads import PROFILES, UsageError, find_profile

EXIT_CODES = (
    "Exit codes: 0 pass; 1 the tool failed; 2 wrong use; 3 regression; 4 ambiguous or unreliable; "
    "5 invalid, which is a case that is missing, crashed, incorrect, diverged or has too few "
    "rounds on a side, or nothing to compare; 130 stopped with Ctrl-C."
)

gate = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=f"""Did training get slower, bigger or worse?

\b
Examples:
  python -m bench gate revisions --base main --only manual_gradient
  python -m bench gate revisions --base main --workload lstm-H384
  python -m bench gate baseline reports/my-machine/published new-report

{EXIT_CODES}""",
)

USUAL = "quick"
"""The profile of which the gate measures workloads, where it is given none."""

EffectOption = Annotated[
    str, typer.Option("--min-effect", help="The smallest slowdown that matters: 3% or 0.03.")
]
MemoryOption = Annotated[
    str, typer.Option("--min-memory-effect", help="The smallest growth in peak memory.")
]
PerplexityOption = Annotated[
    str, typer.Option("--min-perplexity-effect", help="The smallest rise in perplexity.")
]


def _without_earlier_verdict(option: typer.CallbackParam, value: Path) -> Path:
    """First of all: whatever stops this gate must not leave an older verdict in its place."""
    from bench import gate_revisions as tool

    output = directory_of_its_own(option, value)
    assert output is not None
    if "--help" not in sys.argv:
        try:
            tool.clear_output(output)
        except tool.GateError as error:
            refuse(str(error))
    return output


OutputOption = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        callback=_without_earlier_verdict,
        is_eager=True,  # before any other is found to be wrong
        help="Where verdict.json, .md, .png and .svg go.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", help=f"Whose workloads: {', '.join(PROFILES)}.", show_default=USUAL
    ),
]
MinutesOption = Annotated[
    float,
    typer.Option("--max-minutes", callback=within(0.1), help="No pair begins after so long."),
]

DEFAULT_OUTPUT = Path("build/gate")


def parse_effect(option: str, text: str) -> float:
    """``3%`` or ``0.03`` as 0.03; anything else is refused."""
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        refuse(f"{option} {text!r} is no effect; give a share such as 3% or 0.03")
    return value


def _effects(speed: str, memory: str, perplexity: str) -> dict[str, float]:
    return {
        "speed": parse_effect("--min-effect", speed),
        "memory": parse_effect("--min-memory-effect", memory),
        "perplexity": parse_effect("--min-perplexity-effect", perplexity),
    }


def _request(kind: str, **options: Any) -> dict[str, Any]:
    """What the driver needs, with the profile and the device checked and chosen."""
    if options["profile"] is None and not options["workloads"]:
        options["profile"] = USUAL
    if options["profile"] is not None:
        try:
            find_profile(options["profile"])
        except UsageError as error:
            refuse(str(error))
    options["device"] = chosen_device(options["device"])
    options["threads"] = chosen_threads(options["threads"], options["device"])
    from deeprnn.corpus.known_texts import KNOWN

    corpus = Path(options["corpus"])
    if options["corpus"] not in KNOWN and corpus.exists():
        options["corpus"] = str(corpus.resolve())
    return {"kind": kind, "case_seconds": 0, "notes": [], **options}


@gate.command(epilog=EXIT_CODES)
def revisions(
    base: Annotated[str, typer.Option("--base", help="The commit to compare with.")],
    head: Annotated[
        str | None, typer.Option("--head", help="The commit in question. Default: HEAD.")
    ] = None,
    only: OnlyOption = None,
    min_effect: EffectOption = "3%",
    min_memory_effect: MemoryOption = "5%",
    min_perplexity_effect: PerplexityOption = "1%",
    max_minutes: MinutesOption = 30,
    profile: ProfileOption = None,
    workload: WorkloadOption = None,
    device: DeviceOption = "auto",
    corpus: CorpusOption = "timemachine",
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
    environment: Annotated[
        str,
        typer.Option(
            "--environment",
            help="auto: a commit whose pyproject.toml asks for other packages than this checkout "
            "gets a virtual environment of its own; shared: both run with what is installed here; "
            "separate: each gets its own. They are kept for the next gate: "
            "`python -m bench gate environments`.",
        ),
    ] = "auto",
    output: OutputOption = DEFAULT_OUTPUT,
) -> None:
    """Measure two commits side by side, in pairs, on this machine."""
    from bench import gate_revisions as tool
    from bench.gate_environment import CHOICES, EnvironmentFailed

    if environment not in CHOICES:
        refuse(f"--environment {environment!r} is unknown; use {', '.join(CHOICES)}")
    effects = _effects(min_effect, min_memory_effect, min_perplexity_effect)
    request = _request(
        "revisions",
        only=only or [],
        smallest_effects=effects,
        max_minutes=max_minutes,
        profile=profile,
        workloads=workload or [],
        device=device,
        corpus=corpus,
        seed=seed,
        threads=threads,
        stops_early=True,
        output=str(output.resolve()),
    )
    stop_like_ctrl_c()
    try:
        request["base"] = tool.resolve("--base", base)
        request["head"] = tool.resolve("--head", head or "HEAD")
        request["notes"] = tool.notes(request["base"], request["head"], head is None)
        sides = {side: request[side] for side in ("base", "head")}
        built, notes = tool.environments(environment, sides, typer.echo)
        request["notes"] += notes
        request["pythons"] = {
            side: found.python for side, found in built.items() if found.kind == "separate"
        }
        for side, found in built.items():
            request[side]["environment"] = found.as_json()
        commits = {side: request[side]["commit"] for side in ("base", "head")}
        with tool.scratch_directory() as scratch, tool.worktrees(scratch, commits) as sources:
            code = tool.drive(scratch, {**request, "sources": sources})
    except tool.GateError as error:
        refuse(str(error))
    except EnvironmentFailed as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("bench: stopped; there is no verdict", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


@gate.command(short_help="Show, or remove, kept virtual environments.")
def environments(
    is_removing: Annotated[
        bool, typer.Option("--remove", help="Remove all that no running gate uses.")
    ] = False,
) -> None:
    """Show, or remove, the virtual environments that `gate revisions` keeps."""
    from bench import gate_environment as tool

    for home, size, asked in tool.kept():
        typer.echo(f"{home}  {size / 1e9:.1f} GB  {', '.join(asked)}")
    used = tool.remove() if is_removing else []
    for home in used:
        typer.echo(f"{home} is in use: a gate runs")
    typer.echo(f"{'Removed from' if is_removing else 'Kept in'} {tool.directory()}")


@gate.command(epilog=EXIT_CODES)
def baseline(
    stored: Annotated[Path, typer.Argument(help="The report to hold to.", metavar="BASELINE_DIR")],
    current: Annotated[Path, typer.Argument(help="The report to judge.", metavar="CURRENT_DIR")],
    only: OnlyOption = None,
    min_effect: EffectOption = "5%",
    min_memory_effect: MemoryOption = "10%",
    min_perplexity_effect: PerplexityOption = "5%",
    output: OutputOption = DEFAULT_OUTPUT,
) -> None:
    """Compare two stored reports of one machine."""
    from bench import gate_verdict, ranking
    from bench.gate import Thresholds
    from bench.gate_baseline import compare
    from bench.results import ResultsError

    thresholds = Thresholds(**_effects(min_effect, min_memory_effect, min_perplexity_effect))
    try:
        reports = [ranking.load(directory) for directory in (stored, current)]
        verdict = compare(reports[0], reports[1], thresholds, only or [])
    except (ResultsError, ValueError) as error:
        refuse(str(error))
    gate_verdict.write(verdict, output)
    for line in gate_verdict.terminal(verdict):
        typer.echo(line)
    typer.echo(f"Verdict: {output / 'verdict.json'}")
    raise typer.Exit(verdict.exit_code)


def noise(
    only: OnlyOption = None,
    pairs: Annotated[
        int,
        typer.Option("--pairs", callback=within(2, 200), help="How many pairs of each case."),
    ] = 10,
    min_effect: EffectOption = "3%",
    max_minutes: MinutesOption = 5,
    profile: ProfileOption = None,
    workload: WorkloadOption = None,
    device: DeviceOption = "auto",
    corpus: CorpusOption = "timemachine",
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
) -> None:
    """Measure the same code against itself: what effect can this machine resolve?"""
    from bench import gate_revisions as tool
    from bench.ranking import EAGER, TORCH_NN
    from bench.worker_process import PROJECT

    request = _request(
        "noise",
        only=only or [f"{'*' if workload else 'lstm-*'}/{TORCH_NN}/{EAGER}"],
        smallest_effects=_effects(min_effect, "5%", "1%"),
        max_minutes=max_minutes,
        profile=profile,
        workloads=workload or [],
        device=device,
        corpus=corpus,
        seed=seed,
        threads=threads,
        stops_early=False,
        pairs=pairs,
        sources={"base": str(PROJECT), "head": str(PROJECT)},
    )
    stop_like_ctrl_c()
    try:
        with tool.scratch_directory() as scratch:
            code = tool.drive(scratch, request)
    except KeyboardInterrupt:
        typer.echo("bench: stopped; nothing was measured", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(code)
