"""The ranked table, once: its columns and how each figure is written.

The page, the Markdown summary and the terminal show the same columns, or fewer of them.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from bench.ranking import EAGER, INTERPRETED, PYTHON_LOOP, TORCH_NN, Case, Report, Workload
from bench.statistics import BLOCKS, ENOUGH_FOR_95, Ratio

MISSING = "–"

REFUSED_EVERYWHERE = "Unsupported in every workload"

SHORT = {name: name.rpartition("_")[2] for name in (PYTHON_LOOP, TORCH_NN)}
"""How the heads of the terminal's narrow columns call the two baselines."""

TERMINAL_LEGEND = (
    f"± the longer arm of the 95 % interval, or of the range of fewer than {ENOUGH_FOR_95} rounds; "
    f"×{SHORT[PYTHON_LOOP]} times as fast as {PYTHON_LOOP} run {EAGER}; "
    f"×{SHORT[TORCH_NN]} times as fast as {TORCH_NN} at its fastest; ppl training perplexity"
)


def tokens(value: float | None) -> str:
    """A throughput or another large figure: thousands apart, three figures below 100."""
    return MISSING if value is None else three_figures(value)


def three_figures(value: float) -> str:
    """Three significant figures, zeros at the end included; all before the point from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def decimals(value: float | None, digits: int = 2) -> str:
    """``digits`` decimals for small values, fewer for large ones, where they say nothing."""
    if value is None or not math.isfinite(value):
        return MISSING if value is None else str(value)
    size = abs(value)
    kept = digits if size < 10 else min(digits, 1) if size < 100 else 0
    return f"{value:,.{kept}f}"


def seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    return decimals(value, 2) if value >= 0.01 else f"{value:.2g}"


def percent(value: float | None) -> str:
    if value is None:
        return MISSING
    scaled = 100 * value
    return f"{scaled:.0f} %" if scaled >= 10 else f"{scaled:.2g} %"


def error(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}"


def span(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f"{write(low)} to {write(high)}"


def times(value: float) -> str:
    """How many times as much: two decimals around 1, more below 0.1, where two say little."""
    return decimals(value, 2) if value >= 0.1 else f"{value:.2g}"


def factor(ratio: Ratio | None) -> str:
    return MISSING if ratio is None else times(ratio.ratio)


def factor_interval(ratio: Ratio | None) -> str:
    if ratio is None or not ratio.is_bounded or ratio.low == ratio.high or ratio.pairs < 3:
        return ""
    return span(ratio.low, ratio.high, times)


def _speed_interval(case: Case) -> str:
    written = span(case["tokens_per_second_low"], case["tokens_per_second_high"], tokens)
    if not written:
        return "one round" if case["rounds"] == 1 else ""
    if case["rounds"] is not None and case["rounds"] < ENOUGH_FOR_95:
        written += f"\nrange of {case['rounds']} rounds"
    return written


def memory_kind(case: Case) -> str:
    """What a peak of memory counts, in words."""
    return str(case["peak_memory_kind"] or "").replace("_", " ")


@dataclass(frozen=True)
class Column:
    """One column: its head, what it means, and a case's figure with a second line beneath."""

    head: str
    unit: str
    meaning: str
    main: Callable[[Case], str]
    detail: Callable[[Case], str] = lambda case: ""


COLUMNS = {
    "speed": Column(
        "tokens/s",
        "95 % interval",
        "Characters of training text per second: the median over timed epochs, with an interval "
        "that holds the true median with a probability of 95 % whatever the distribution, if "
        f"epochs are independent. Neighbours are not quite, so from {2 * BLOCKS} timed epochs on "
        f"it is taken from the medians of {BLOCKS} stretches of the run. "
        "Fewer than six rounds cannot give 95 %; then it runs from the slowest to the fastest.",
        lambda case: tokens(case["tokens_per_second"]),
        lambda case: _speed_interval(case),
    ),
    "over_loop": Column(
        f"× {PYTHON_LOOP}",
        "95 % interval",
        f"How many times as fast as {PYTHON_LOOP} run {EAGER}, the network as a textbook writes "
        "it. The geometric mean over pairs of turns that ran one after the other, with a t "
        f"interval on the logarithms (from {2 * BLOCKS} turns on over {BLOCKS} stretches of them); "
        "it may differ a little from the ratio of two medians.",
        lambda case: factor(case.over_python_loop),
        lambda case: factor_interval(case.over_python_loop),
    ),
    "over_library": Column(
        f"× {TORCH_NN}",
        "95 % interval",
        f"The same against {TORCH_NN}, the library, run in whichever way is the fastest here.",
        lambda case: factor(case.over_torch_nn),
        lambda case: factor_interval(case.over_torch_nn),
    ),
    "step": Column(
        "step",
        "ms",
        "One training step on one minibatch: forward, backward, clipping and update.",
        lambda case: decimals(case["step_milliseconds"]),
    ),
    "memory": Column(
        "peak memory",
        "MiB",
        "The most that the case's own process held; the second line says what was counted. Compare "
        "only figures that count the same, and those of a process only within one report: how much "
        "of Python's and PyTorch's files a system holds in memory differs between installations.",
        lambda case: decimals(case["peak_memory_mib"], 0),
        lambda case: textwrap.fill(memory_kind(case), 10),  # no wider than the column's head
    ),
    "cold": Column(
        "cold start",
        "s",
        "From nothing to the end of the first step, building and compiling included. Never part of "
        "the throughput.",
        lambda case: seconds(case["cold_start_seconds"]),
    ),
    "train": Column(
        "perplexity",
        "training",
        "exp of the mean cross-entropy a character over the last epoch, on the text it trains on: "
        "1 is certainty, the size of the vocabulary is guessing. The second line says after how "
        "many epochs.",
        lambda case: decimals(case["train_perplexity"], 3),
        lambda case: "" if case["epochs"] is None else f"{case['epochs']} epochs",
    ),
    "validation": Column(
        "perplexity",
        "validation",
        "The same on the text that follows, which it never trains on.",
        lambda case: decimals(case["validation_perplexity"], 3),
    ),
    "target": Column(
        "to target",
        "s",
        "Training time up to the first epoch whose training perplexity is at most the target, "
        "which the second line gives.",
        lambda case: seconds(case["seconds_to_target"]),
        lambda case: (
            "" if case["target_perplexity"] is None else f"≤ {case['target_perplexity']:.4g}"
        ),
    ),
    "gradient": Column(
        "gradient error",
        "relative",
        "The largest relative error ‖a − r‖ / ‖r‖ over output, final state and every gradient, "
        "against torch.nn in float64 on the CPU, checked before anything is timed.",
        lambda case: error(case["gradient_error"]),
    ),
    "peak": Column(
        "of peak",
        "matrix products",
        "Arithmetic done per second as a share of what this machine reached in a plain matrix "
        "product, measured in the same run. What is missing to 100 % is the gap to the floor: the "
        "time that goes into waiting, launching, moving data and everything but those products.",
        lambda case: percent(case["fraction_of_peak"]),
    ),
}


def columns_with_figures(cases: Iterable[Case]) -> list[Column]:
    """The columns that at least one of ``cases`` fills: an empty column says nothing."""
    kept = list(cases)
    return [c for c in COLUMNS.values() if any(c.main(case) != MISSING for case in kept)]


def markdown_text(text: str) -> str:
    """``text`` as Markdown shows it, with no markup of its own and nothing that ends a cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def markdown(report: Report, workload: Workload) -> str:
    """The ranked table and, beneath it, one line for each case that has no rank."""
    columns = columns_with_figures(workload.ranked)
    lines = []
    if workload.ranked:
        rows: list[dict[str, Any]] = []
        for case in workload.ranked:
            row: dict[str, Any] = {"": case.rank, "implementation": f"`{report.label(case)}`"}
            for column in columns:
                detail = column.detail(case).replace("\n", ", ")
                detail = detail if column.unit == "95 % interval" else ""
                unit = "" if column.unit == "95 % interval" else f", {column.unit}"
                row[column.head + unit] = column.main(case) + (f" ({detail})" if detail else "")
            rows.append(row)
        align = ("right", "left", *("right" for _ in columns))
        frame = pd.DataFrame(rows)
        lines.append(frame.to_markdown(index=False, disable_numparse=True, colalign=align))
    unranked = report.unranked(workload)
    if workload.ranked and unranked:
        lines.append("")
    for case in unranked:
        lines.append(f"- `{report.label(case)}`: {markdown_text(why_unranked(case))}")
    return "\n".join(lines)


def markdown_refusals(report: Report) -> str:
    """A line for each implementation that no workload can have here."""
    return "\n".join(
        f"- `{report.label(case)}`: {markdown_text(case.reason)}"
        for case, *_ in report.refused_everywhere
    )


def status_word(case: Case) -> str:
    """One or two words for why a case has no rank."""
    if case.status != "ok":
        return case.status
    return "checks only" if case.interpreted else "not timed"


def unranked_detail(case: Case) -> str:
    """The reason why a case has no rank; for one that only checks, what the check gave."""
    if case.status != "ok" or not case.interpreted:
        return case.reason
    parts = [case.reason or INTERPRETED]
    if case["gradient_error"] is not None:
        parts.append(f"gradient error {error(case['gradient_error'])}")
    if case["train_perplexity"] is not None:
        after = "" if case["epochs"] is None else f" after {case['epochs']} epochs"
        parts.append(f"training perplexity {decimals(case['train_perplexity'], 3)}{after}")
    return "; ".join(parts)


def why_unranked(case: Case) -> str:
    """Status and reason of a case that has no rank, in a line."""
    detail = unranked_detail(case)
    return f"{status_word(case)}: {detail}" if detail else status_word(case)


def terminal(report: Report, workload: Workload, width: int = 80) -> RichTable:
    """The ranking within ``width`` columns: 80 hold it all, so a file gets it whole.

    In a narrower terminal figures are left out, those first that one can do without.
    """
    names = [case.implementation for case in workload.ranked]
    left = [[str(case.rank) for case in workload.ranked], names]
    if report.has_executions:
        left.append([case.execution for case in workload.ranked])
    figures: dict[str, Callable[[Case], str]] = {
        "tokens/s": lambda case: tokens(case["tokens_per_second"]),
        "±": _plus_minus,
        f"×{SHORT[PYTHON_LOOP]}": lambda case: factor(case.over_python_loop),
        f"×{SHORT[TORCH_NN]}": lambda case: factor(case.over_torch_nn),
        "ppl": lambda case: decimals(case["train_perplexity"], 2),
    }
    cells = {head: [write(case) for case in workload.ranked] for head, write in figures.items()}
    needed = sum(max(map(len, column)) for column in left) + 2 * len(left)
    sizes = {head: max(len(head), *map(len, column)) + 2 for head, column in cells.items()}
    for head in ("±", f"×{SHORT[PYTHON_LOOP]}", "ppl", f"×{SHORT[TORCH_NN]}"):
        if needed + sum(sizes[kept] for kept in cells) - 2 > width:
            del cells[head]
    table = RichTable(title=workload.title, title_justify="left", box=None, pad_edge=False)
    table.title_style = "bold"
    table.add_column("", justify="right", style="dim")
    table.add_column("implementation", overflow="fold")
    if report.has_executions:
        table.add_column("run as", overflow="fold")
    for head in cells:
        table.add_column(head, justify="right", no_wrap=True)
    for row, case in enumerate(workload.ranked):
        how = [case.execution] if report.has_executions else []
        style = "bold" if case.rank == 1 else None
        shown = [column[row] for column in cells.values()]
        table.add_row(str(case.rank), Text(case.implementation), *how, *shown, style=style)
    return table


def _plus_minus(case: Case) -> str:
    low, high = case["tokens_per_second_low"], case["tokens_per_second_high"]
    if low is None or high is None:
        return MISSING
    middle = case["tokens_per_second"]
    return f"{100 * max(high - middle, middle - low) / middle:.1f}%"
