"""Cold start against steady state, and measured beside published: one point a case."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from bench.plots.style import (
    CARD,
    INK,
    colours,
    heading,
    legend_above,
    markers,
    panels,
    place_labels,
)
from bench.ranking import EAGER, Case, Report


def cold_start(report: Report) -> tuple[Figure, str] | str:
    """Cold start against throughput: what does the first step cost, and what does it buy?"""
    chosen = [(w, [c for c in w.ranked if c["cold_start_seconds"]]) for w in report.workloads]
    chosen = [(workload, cases) for workload, cases in chosen if cases]
    if not chosen:
        return "no ranked case has its cold start stored"
    figure, axes = panels([2.3 + 0.09 * len(cases) for _, cases in chosen])
    colour, marker = colours(report.implementations), markers(report.implementations)
    labels = []
    for axis, (workload, cases) in zip(axes, chosen, strict=True):
        points = []
        for case in cases:
            x, y = case["cold_start_seconds"], case["tokens_per_second"]
            shade = colour[case.implementation]
            axis.plot(
                x,
                y,
                marker[case.implementation],
                color=shade,
                markerfacecolor=CARD
                if report.has_executions and case.execution != EAGER
                else shade,
                markeredgewidth=1.7,
                markersize=7,
            )
            points.append((x, y, report.label(case), shade))
        _log_axis(axis, "x", [p[0] for p in points], 1.6)
        _log_axis(axis, "y", [p[1] for p in points], 1.25)
        heading(axis, workload.title)
        axis.set_xlabel("cold start, s (log scale)")
        axis.set_ylabel("tokens/s (log scale)")
        labels.append((axis, points))
    for axis, points in labels:  # after every panel has its place
        place_labels(axis, points)
    hollow = " Hollow points did not run eager." if report.has_executions else ""
    return figure, (
        "Further left is ready sooner, further up is faster once it runs: upper left is best."
        + hollow
    )


def published(report: Report) -> tuple[Figure, str] | str:
    """Every ranked implementation beside the published figure of its workload."""
    chosen = [
        (w.title, w.published, w.ranked) for w in report.workloads if w.ranked and w.published
    ]
    if not chosen:
        return "no workload that has a published figure has been timed"
    colour, marker = colours(report.implementations), markers(report.implementations)
    names = sorted({case.implementation for _, _, cases in chosen for case in cases})
    handles = [Line2D([], [], ls="", marker=marker[n], color=colour[n], label=n) for n in names]
    handles.append(Line2D([], [], ls="", marker="|", ms=14, mew=2.4, color=INK, label="published"))
    figure, axes = panels([0.5 for _ in chosen], len(handles))
    legend_above(figure, handles)
    values = [float(figure) for _, figure, _ in chosen if figure]
    values += [case["tokens_per_second"] for _, _, cases in chosen for case in cases]
    for axis, (title, figure_then, cases) in zip(axes, chosen, strict=True):
        best: dict[str, Case] = {}
        for case in cases:
            best.setdefault(case.implementation, case)
        for place, (name, case) in enumerate(best.items()):
            lane = (0, 1, -1)[place % 3]  # neighbours in speed must not cover each other
            axis.plot(
                case["tokens_per_second"], lane, marker[name], color=colour[name], ms=9, mec=CARD
            )
        axis.set_ylim(-2, 2)
        axis.plot(figure_then, 0, "|", color=INK, markersize=30, markeredgewidth=2.6)
        _log_axis(axis, "x", values, 1.15)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        heading(axis, title)
    axes[-1].set_xlabel("training tokens/s (log scale)")
    return figure, (
        "Each implementation as it ran the fastest. The published figures come from a GPU that is "
        "not named."
    )


def _log_axis(axes: Axes, which: str, values: list[float], room: float) -> None:
    """A log axis, ``"x"`` or ``"y"``, over ``values`` times ``room``, with round ticks."""
    low, high = min(values) / room, max(values) * room
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis: Axis = axes.xaxis if which == "x" else axes.yaxis
    steps = (
        (1,) if high / low > 300 else (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    )
    ticks = [step * 10.0**power for power in range(-6, 12) for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    if low >= 100:
        axis.set_major_formatter(EngFormatter(sep=" "))
    else:
        axis.set_major_formatter(lambda value, _: f"{value:g}")
