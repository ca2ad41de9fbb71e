"""Perplexity over epochs and over time."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from bench.plots.style import (
    CARD,
    INK,
    MUTED,
    colours,
    heading,
    legend_above,
    markers,
    panels,
)
from bench.ranking import EAGER, Case, Report

DEFAULT_TARGET = 1.1  # perplexity, where no row stores one
DASHES = (0, (3.5, 1.3))
FAR = 1e9  # a perplexity beyond says only that training has failed
PANEL = 2.3  # inches
FINE = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)


def over_epochs(report: Report) -> tuple[Figure, str] | str:
    """Training perplexity by epoch: do all learn the same?"""
    chosen = _chosen(report, "epoch")
    if not chosen:
        return "no ranked case has a curve stored"
    held_out = Line2D([], [], color=INK, lw=1.8, ls=":", label="validation, the fastest")
    figure, axes = _panels(report, chosen, [held_out])
    for axis, (title, cases, by_case) in zip(axes, chosen, strict=True):
        for i, case in enumerate(cases):
            # Lines lie on each other when all learn the same: each is thinner than the one below,
            # and the markers take turns, so that none is hidden.
            width = 7.0 - 5.6 * i / max(len(cases) - 1, 1)
            _line(report, axis, case, by_case[case.case_id], "epoch", width, i / len(cases))
        _validation(axis, by_case[cases[0].case_id])
        heading(axis, title, _perplexity_axis(axis, cases))
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, (
        "Training perplexity on a log scale; the horizontal line, if there is one, is the target. "
        "Weights and minibatches are the same, so lines on top of each other mean the same "
        "learning. Dotted: perplexity of the fastest on text that it never trains on."
    )


def over_seconds(report: Report) -> tuple[Figure, str] | str:
    """Training perplexity by training time: who gets there first?"""
    chosen = _chosen(report, "seconds")
    if not chosen:
        return "no ranked case has a curve stored"
    figure, axes = _panels(report, chosen)
    for axis, (title, cases, by_case) in zip(axes, chosen, strict=True):
        for i, case in enumerate(cases):
            _line(report, axis, case, by_case[case.case_id], "seconds", 1.9, i / len(cases))
        heading(axis, title, _perplexity_axis(axis, cases))
        ends = [float(by_case[case.case_id]["seconds"].max()) for case in cases]
        spread = max(ends) > 8 * min(ends) > 0
        axis.set_xscale("log" if spread else "linear")
        axis.set_xlabel("seconds of training" + (" (log scale)" if spread else ""))
        if spread:
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure, (
        "Training perplexity on a log scale; the horizontal line is the target. The time is that "
        "of training epochs: cold start and validation are not part of it."
    )


Chosen = list[tuple[str, list[Case], dict[str, pd.DataFrame]]]


def _chosen(report: Report, column: str) -> Chosen:
    """Of each workload the title, the ranked cases with a curve, and the curves by case."""
    stored = report.curves.dropna(subset=["train_perplexity", column]).sort_values("epoch")
    stored = stored[stored["train_perplexity"].between(1, FAR, inclusive="left")]
    by_case = {str(name): group for name, group in stored.groupby("case_id")}
    chosen = []
    for workload in report.workloads:
        cases = [case for case in workload.ranked if case.case_id in by_case]
        if cases:
            chosen.append((workload.title, cases, by_case))
    return chosen


def _panels(
    report: Report, chosen: Chosen, more: Sequence[Line2D] = ()
) -> tuple[Figure, list[Axes]]:
    """Panels under one legend of the implementations, the ways to run them, and ``more``."""
    drawn = [case for _, cases, _ in chosen for case in cases]
    colour, marker = colours(report.implementations), markers(report.implementations)
    handles = [
        Line2D([], [], color=colour[name], marker=marker[name], lw=2.5, markersize=6, label=name)
        for name in sorted({case.implementation for case in drawn})
    ]
    executions = sorted({case.execution for case in drawn}, key=lambda name: (name != EAGER, name))
    if report.has_executions:
        handles += [
            Line2D([], [], color=MUTED, lw=2, ls="-" if name == EAGER else DASHES, label=name)
            for name in executions
        ]
    handles += more
    figure, axes = panels([PANEL for _ in chosen], len(handles))
    legend_above(figure, handles)
    return figure, axes


def _line(
    report: Report,
    axis: Axes,
    case: Case,
    curve: pd.DataFrame,
    column: str,
    width: float,
    turn: float,
) -> None:
    colour = colours(report.implementations)[case.implementation]
    x, y = curve[column].to_numpy(float), curve["train_perplexity"].to_numpy(float)
    dashes = DASHES if report.has_executions and case.execution != EAGER else "-"
    axis.plot(x, y, color=colour, lw=width, ls=dashes, solid_capstyle="round", zorder=2 + turn)
    every = max(len(curve) // 4, min(len(curve), 8))  # the few of a short curve take turns
    marked = slice(int(turn * every), None, every)
    axis.plot(
        x[marked],
        y[marked],
        markers(report.implementations)[case.implementation],
        color=colour,
        markersize=7.5,
        markeredgecolor=CARD,
        markeredgewidth=0.9,
        zorder=4 + turn,
    )


def _validation(axis: Axes, curve: pd.DataFrame) -> None:
    held_out = curve[curve["validation_perplexity"].between(1, FAR, inclusive="left")]
    if len(held_out) > 1:
        x, y = held_out["epoch"].to_numpy(float), held_out["validation_perplexity"].to_numpy(float)
        axis.plot(x, y, color=INK, linewidth=1.8, linestyle=":", zorder=4)


def _perplexity_axis(axis: Axes, cases: list[Case]) -> list[str]:
    """A log axis down to the target; where that is far below, a note says so instead."""
    target = next((c["target_perplexity"] for c in cases if c["target_perplexity"]), DEFAULT_TARGET)
    axis.set_yscale("log")
    axis.set_ylabel("perplexity")
    low, high = axis.dataLim.y0, axis.dataLim.y1
    is_near = low <= 3 * target
    bottom, top = (0.97, max(high, target)) if is_near else (low / 1.1, high)
    axis.set_ylim(bottom, 1.15 * top)
    steps = (1, 2, 5) if top / bottom > 12 else (1, 1.5, 2, 3, 5, 7) if is_near else FINE
    ticks = [step * 10.0**power for power in range(6) for step in steps]
    kept = [tick for tick in ticks if tick > 1.3 * target and bottom <= tick <= 1.15 * top]
    axis.yaxis.set_major_locator(FixedLocator([target, *kept] if is_near else kept))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if not is_near:
        return [f"the target, {target:g}, lies below the panel"]
    axis.axhline(target, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5)
    return []
