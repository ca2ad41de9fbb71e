"""Throughput and memory: one bar a case, the best on top."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.plots.style import CARD, INK, colours, heading, panels
from bench.ranking import Case, Report, Workload
from bench.tables import decimals, memory_kind, tokens

ROW = 0.31  # inches of height for one bar
IN_SIGHT = 1.7  # a reference beyond so many times the longest bar would make the bars too short


def throughput(report: Report) -> tuple[Figure, str] | str:
    """Tokens/s by implementation, the fastest on top, with its interval."""
    workloads = [w for w in report.workloads if w.ranked]
    if not workloads:
        return "no case has a throughput that counts"
    figure, axes = panels([ROW * len(w.ranked) + 0.17 for w in workloads])
    for axis, workload in zip(axes, workloads, strict=True):
        cases = workload.ranked
        values = [case["tokens_per_second"] for case in cases]
        lows = [_or(case["tokens_per_second_low"], case["tokens_per_second"]) for case in cases]
        highs = [_or(case["tokens_per_second_high"], case["tokens_per_second"]) for case in cases]
        _bars(report, axis, cases, values, highs, tokens)
        below = [max(value - low, 0) for value, low in zip(values, lows, strict=True)]
        above = [max(high - value, 0) for value, high in zip(values, highs, strict=True)]
        axis.errorbar(
            values,
            range(len(values)),
            xerr=[below, above],
            fmt="none",
            ecolor=INK,
            elinewidth=1.3,
            capsize=3,
        )
        heading(axis, workload.title, _references(axis, workload, max(highs)))
        axis.set_xlabel("training tokens/s")
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    source = " Published figures come from a GPU that is not named."
    return figure, (
        "Median over timed epochs; whiskers are the 95 % interval of the median."
        + (source if any(w.published for w in workloads) else "")
    )


def memory(report: Report) -> tuple[Figure, str] | str:
    """Peak memory by implementation, the least on top."""
    chosen = []
    for workload in report.workloads:
        cases = [case for case in workload.ranked if case["peak_memory_mib"]]
        if cases:
            chosen.append((workload, sorted(cases, key=lambda case: case["peak_memory_mib"])))
    if not chosen:
        return "no ranked case has its peak memory stored"
    figure, axes = panels([ROW * len(cases) for _, cases in chosen])
    for axis, (workload, cases) in zip(axes, chosen, strict=True):
        values = [case["peak_memory_mib"] for case in cases]
        _bars(report, axis, cases, values, values, lambda value: decimals(value, 0))
        heading(axis, workload.title)
        axis.set_xlabel("peak memory, MiB")
    kinds = sorted({memory_kind(case) for _, cases in chosen for case in cases} - {""})
    counted = f" Counted: {', '.join(kinds)}." if kinds else ""
    return figure, f"The most that the process of each case held.{counted}"


def _bars(
    report: Report,
    axis: Axes,
    cases: list[Case],
    values: list[float],
    ends: list[float],
    write: Callable[[float], str],
) -> None:
    """Bars with their value written behind ``ends``."""
    colour = colours(report.implementations)
    axis.barh(range(len(cases)), values, 0.7, color=[colour[c.implementation] for c in cases])
    for row, (value, end) in enumerate(zip(values, ends, strict=True)):
        axis.annotate(
            write(value),
            (end, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.4},  # over a reference line
        )
    style_rows(axis, [report.label(case) for case in cases], ends)


def style_rows(axis: Axes, names: list[str], ends: list[float]) -> None:
    """Horizontal bars, the first on top, with room behind the longest for what is written there."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xlim(0, 1.3 * max(ends))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)


def _references(axis: Axes, workload: Workload, longest: float) -> list[str]:
    """Draw the lines to compare with where they lie in sight; say in words what each one is."""
    notes = []
    for name, look, value in (
        ("published", "solid", workload.published),
        ("matrix products alone", "dashed", workload.floor),
    ):
        if value is None:
            continue
        if value <= IN_SIGHT * longest:
            axis.axvline(value, color=INK, linewidth=1.3, linestyle=look)
            axis.set_xlim(0, max(axis.get_xlim()[1], 1.04 * value))
            notes.append(f"{name} ({look} line) {tokens(value)}")
        else:
            notes.append(f"{name} {tokens(value)}, beyond the right edge")
    return notes


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
