"""``python -m bench kernels``: the tuning table for work on kernels."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import terminal
from bench.kernel_table import CELLS, KERNELS, PRECISIONS, Spec, specs
from bench.options import cuda_is_present, directory_of_its_own, within
from bench.results import ResultsError, write_json
from bench.stored import PLANNED_ROWS, holds
from bench.terminal import refuse

if TYPE_CHECKING:
    from bench.kernel_page import Summary

NEEDS_GPU = (
    "kernels are timed on a CUDA device, and PyTorch sees none here; run this on a machine with "
    "one, or add --predicted to see what was reckoned beforehand"
)


def kernels(
    cell: Annotated[
        list[str] | None,
        typer.Option("--cell", help=f"{', '.join(CELLS)}. Default: all but rnn_relu."),
    ] = None,
    hidden: Annotated[
        list[int] | None,
        typer.Option("--hidden", help="H, and I. Default: 256, of a plain RNN 512."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="B. Default: 32.")] = None,
    steps: Annotated[list[int] | None, typer.Option("--steps", help="T. Default: 35.")] = None,
    layers: Annotated[list[int] | None, typer.Option("--layers", help="L. Default: 1.")] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help=f"{', '.join(PRECISIONS)}. Default: tf32."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            callback=directory_of_its_own,
            help="Default: reports/<machine>/kernels, the next time kernels-<time>.",
        ),
    ] = None,
    max_minutes: Annotated[
        float,
        typer.Option(
            "--max-minutes",
            callback=within(0.1),
            help="Of the whole run. Rows left then have the status timeout; the exit code is 1.",
        ),
    ] = 9.5,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            callback=directory_of_its_own,
            help="Keep compiled kernels here, and use those that are there. Default: compile anew.",
        ),
    ] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Time kernels with every tile that fits, too.")
    ] = False,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Print the predictions; needs no GPU.")
    ] = False,
) -> None:
    """Microseconds a step of each kernel beside its measured floors. Needs a GPU.

    What says which layers may be given several times, and all combinations are timed, of one layer
    where --layers does not say more. With none of it ten stacks are timed: the published ones, of
    two layers, in TF32 and IEEE float32, and LSTM 768 over 1024 steps among them.

    Writes kernels.csv, environment.json, kernels.html, kernels.md and plots/.

    \b
    Examples:
      python -m bench kernels                           the ten default stacks
      python -m bench kernels --cell lstm --layers 2    one stack
      python -m bench kernels --cell gru --tiles        and what another tile would take
      python -m bench kernels --cache DIR               compile once for several tables
      python -m bench kernels --predicted               reckoned; needs no GPU
    """
    started = time.monotonic()
    try:
        chosen = specs(
            cell or [], hidden or [], batch or [], steps or [], precision or [], layers or []
        )
    except ValueError as error:
        refuse(str(error))
    if predicted:
        _print_predictions(chosen)
        return
    if not cuda_is_present():
        refuse(NEEDS_GPU)
    terminal.stop_like_ctrl_c()
    try:
        failed = _time(chosen, output, started + 60 * max_minutes, cache, tiles)
    except ResultsError as error:
        refuse(str(error))
    raise typer.Exit(1 if failed else 0)


def _print_predictions(chosen: list[Spec]) -> None:
    from bench.kernel_rows import Row
    from deeprnn import implementations

    rows = []
    for spec in chosen:
        for name in implementations.names():
            rows += [row.columns() for row in Row.predicted_of(spec, name)]
    if not rows:
        refuse(
            "nothing to predict: none of these layers fits on the chip at once; give a smaller "
            "--hidden or --batch"
        )
    typer.echo(_predictions(rows))


def _predictions(rows: list[dict[str, object]]) -> str:
    """What was reckoned for ``rows``, as a table; nothing here was measured."""
    lines = [
        "Predicted for an H100 or H200, microseconds a step of one layer's recurrence.",
        "Reckoned beforehand, not measured.",
        "",
        "| layer | kernel | forward | forward + backward |",
        "|---|---|---|---|",
    ]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        value = row["predicted_microseconds_per_step"]
        if isinstance(value, float):
            layer, _, kernel, *_ = str(row["row_id"]).split("/")
            found.setdefault((layer, kernel), {})[str(row["mode"])] = value
    for (layer, kernel), figures in found.items():
        both = f"{figures['forward']:.2f} | {figures['forward_backward']:.2f}"
        lines.append(f"| {layer} | {kernel} | {both} |")
    return "\n".join(lines)


def _time(
    chosen: list[Spec], output: Path | None, deadline: float, cache: Path | None, tiles: bool
) -> bool:
    """Time everything; whether a row failed. Raises ``ResultsError`` for an unusable directory."""
    from bench.environment import default_threads
    from bench.kernel_runner import KernelRun, PlanFailed
    from bench.progress import RunProgress
    from bench.runner import wall_time
    from bench.stored import REPORTS
    from bench.wording import counted

    console = terminal.console()
    of_run: dict[str, Any] = {"Started": wall_time()}
    started = time.monotonic()
    cache = cache and _made(cache, "--cache")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "kernels.log"
        threads = default_threads("cuda")
        run = KernelRun(chosen, "cuda", threads, deadline, log, cache=cache, tiles=tiles)
        try:
            run.plan()
            run_id = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            directory = _directory(output or _usual(REPORTS / run.about["machine"], run_id))
            of_run |= {"Commit": run.about["commit"], PLANNED_ROWS: len(run.rows)}
            environment = run.about["environment"] | {"Run": of_run}
            write_json(directory / "environment.json", environment)
            kernels = len(run.kernels())
            to_fill = sum(not row["status"] for row in run.rows.values())
            progress = RunProgress(console, kernels + to_fill)
            counts: dict[str, int] = {}
            said: dict[str, int] = {}
            shared = {key: run.about[key] for key in ("device", "commit")} | {"run_id": run_id}

            def keep(row: Any) -> None:
                KERNELS.append(directory, [{**row, **shared}])
                counts[row["status"]] = counts.get(row["status"], 0) + 1
                if row["status"] in ("ok", "unsupported"):
                    return
                reason = f"{row['status']}: {row['reason']}"
                said[reason] = said.get(reason, 0) + 1
                if said[reason] == 1:  # a run out of time says the same of hundreds
                    progress.say(f"  {row['row_id']}: {reason}")

            def doing(row_id: str, done: int, total: int) -> None:
                progress.doing(row_id, 1.0 if done else 0.0)

            try:
                if kernels:
                    progress.say(f"Compiling and checking {counted(kernels, 'kernel')}")
                run.compile(lambda: progress.doing("compiling", 1.0))
                run.run(keep, doing)
                of_run["Finished"] = wall_time()
            finally:
                progress.close()
                of_run["Wall time (s)"] = round(time.monotonic() - started, 1)
                write_json(directory / "environment.json", environment)
                summary = _render(directory)
        except PlanFailed as failure:
            console.print(f"The rows could not be planned: {failure}", markup=False)
            return True
        except KeyboardInterrupt:
            console.print("Stopped. What was measured is kept.", markup=False)
            raise typer.Exit(130) from None
        finally:
            run.close()
    for reason, count in said.items():
        if count > 1:
            console.print(f"  {count - 1} more: {reason}", markup=False, soft_wrap=True)
    figures = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    console.print(f"{figures}.", markup=False, soft_wrap=True)
    if summary is not None:
        summary.print(console)
    return any(status not in ("ok", "unsupported") for status in counts)


def _render(directory: Path) -> Summary | None:
    """The pages and the index; nothing where no row was kept yet."""
    from bench import index, kernel_page

    if not KERNELS.path(directory).exists():
        return None
    summary = kernel_page.render(directory)
    index.update(directory)
    return summary


def _usual(machine: Path, run_id: str) -> Path:
    """Where a table goes that is told no place: beside an earlier one, as a report does."""
    usual = machine / "kernels"
    return usual.with_name(f"kernels-{run_id}") if KERNELS.path(usual).exists() else usual


def _directory(path: Path) -> Path:
    """A directory without a report yet."""
    if name := holds(path):
        raise ResultsError(f"{path} already holds a report ({name}); give another --output")
    return _made(path, "--output")


def _made(path: Path, option: str) -> Path:
    """A directory that is there, made if it was not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(
            f"{option} {path}: {error.strerror}; give a directory that can be written"
        ) from None
    return path
