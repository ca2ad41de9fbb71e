"""Perplexity over epochs and over time."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from bench.plots.style import (
    CARD,
    INK,
    MUTED,
    colours,
    heading,
    legend_above,
    legend_height,
    markers,
    panels,
)
from bench.ranking import EAGER, Case, Report

DEFAULT_TARGET = 1.1  # perplexity, where no row stores one
DASHES = (0, (3.5, 1.3))
PANEL = 2.3  # inches


def over_epochs(report: Report) -> tuple[Figure, str] | str:
    """Training perplexity by epoch: do all learn the same?"""
    chosen = _chosen(report, "epoch")
    if not chosen:
        return "no ranked case has a curve stored"
    figure, axes = _panels(report, chosen)
    for axis, (title, cases, by_case) in zip(axes, chosen, strict=True):
        for i, case in enumerate(cases):
            # Lines lie on each other when all learn the same: each is thinner than the one below,
            # and the markers take turns, so that none is hidden.
            width = 7.0 - 5.6 * i / max(len(cases) - 1, 1)
            _line(report, axis, case, by_case[case.case_id], "epoch", width, i / len(cases))
        _validation(axis, by_case[cases[0].case_id])
        _perplexity_axis(axis, cases)
        heading(axis, title)
        axis.set_xlabel("epoch")
    return figure, (
        "Training perplexity on a log scale; the dashed line is the target. Weights and "
        "minibatches are the same, so lines on top of each other mean the same learning. Dotted: "
        "perplexity of the fastest on text that it never trains on."
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
        _perplexity_axis(axis, cases)
        heading(axis, title)
        ends = [float(by_case[case.case_id]["seconds"].max()) for case in cases]
        spread = max(ends) > 8 * min(ends) > 0
        axis.set_xscale("log" if spread else "linear")
        axis.set_xlabel("seconds of training" + (" (log scale)" if spread else ""))
        if spread:
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure, (
        "Training perplexity on a log scale; the dashed line is the target. The time is that of "
        "training epochs: cold start and validation are not part of it."
    )


Chosen = list[tuple[str, list[Case], dict[str, pd.DataFrame]]]


def _chosen(report: Report, column: str) -> Chosen:
    """Of each workload the title, the ranked cases with a curve, and the curves by case."""
    stored = report.curves.dropna(subset=["train_perplexity", column]).sort_values("epoch")
    stored = stored[stored["train_perplexity"] > 0]
    by_case = {str(name): group for name, group in stored.groupby("case_id")}
    chosen = []
    for workload in report.workloads:
        cases = [case for case in workload.ranked if case.case_id in by_case]
        if cases:
            chosen.append((workload.title, cases, by_case))
    return chosen


def _panels(report: Report, chosen: Chosen) -> tuple[Figure, list[Axes]]:
    """Panels under one legend of the implementations and the ways to run them."""
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
    figure, axes = panels([PANEL for _ in chosen], legend_height(len(handles)))
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
    dashes = "-" if case.execution == EAGER else DASHES
    axis.plot(x, y, color=colour, lw=width, ls=dashes, solid_capstyle="round", zorder=2 + turn)
    every = max(len(curve) // 4, 1)
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
    held_out = curve.dropna(subset=["validation_perplexity"])
    if len(held_out) > 1:
        x, y = held_out["epoch"].to_numpy(float), held_out["validation_perplexity"].to_numpy(float)
        axis.plot(x, y, color=INK, linewidth=1.8, linestyle=":", zorder=4)
        axis.annotate(
            "validation",
            (x[-1], y[-1]),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )


def _perplexity_axis(axis: Axes, cases: list[Case]) -> None:
    target = next((c["target_perplexity"] for c in cases if c["target_perplexity"]), DEFAULT_TARGET)
    axis.set_yscale("log")
    top = max(axis.get_ylim()[1] * 1.1, 1.5 * target)
    axis.set_ylim(0.97, top)
    round_ones = [1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000]
    kept = [tick for tick in round_ones if 1.2 * target < tick <= top]
    axis.yaxis.set_major_locator(FixedLocator([target, *kept]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.axhline(target, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5)
    axis.set_ylabel("perplexity")
