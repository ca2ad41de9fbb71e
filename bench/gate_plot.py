"""The cost ratios of a verdict with their intervals, the worst on top."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from bench.gate import QUANTITIES, CaseVerdict, Comparison, Verdict
from bench.gate_decision import AMBIGUOUS
from bench.plots.style import GRID, INK, MUTED, PALETTE, SETTINGS, heading, panels, save

ROW = 0.27  # inches of height for one case
MOST_ROWS = 60

SAME_COLOUR, WORSE_COLOUR, OPEN_COLOUR = PALETTE[2], PALETTE[4], MUTED


def write(verdict: Verdict, directory: Path) -> None:
    """Draw ``verdict.png`` and ``verdict.svg``; nothing where nothing was compared."""
    chosen: list[tuple[str, list[tuple[CaseVerdict, Comparison]]]] = []
    for quantity in QUANTITIES.values():
        found = [(k, c) for k in verdict.cases for c in k.comparisons if c.quantity is quantity]
        if found:
            chosen.append((quantity.title, found[:MOST_ROWS]))
    if not chosen:
        for suffix in (".svg", ".png"):
            (directory / f"verdict{suffix}").unlink(missing_ok=True)
        return
    with mpl.rc_context(SETTINGS):
        figure, axes = panels([ROW * len(rows) + 0.25 for _, rows in chosen])
        for axis, (title, rows) in zip(axes, chosen, strict=True):
            _panel(axis, title, rows)
        save(figure, directory, "verdict")


def _panel(axis: Axes, title: str, rows: list[tuple[CaseVerdict, Comparison]]) -> None:
    threshold = rows[0][1].threshold
    axis.axvspan(100 * (1 / (1 + threshold) - 1), 100 * threshold, color=GRID, linewidth=0)
    axis.axvline(0, color=INK, linewidth=0.8)
    for row, (_, comparison) in enumerate(rows):
        centre = 100 * (comparison.ratio - 1)
        low, high = 100 * (comparison.low - 1), 100 * (comparison.high - 1)
        if comparison.decision == comparison.quantity.worse:
            colour = WORSE_COLOUR
        else:
            colour = OPEN_COLOUR if comparison.decision == AMBIGUOUS else SAME_COLOUR
        if math.isfinite(high) and comparison.low > 0:
            axis.plot([low, high], [row, row], color=colour, linewidth=2)
        axis.plot(centre, row, "o", color=colour, markersize=5)
    labels = [_label(case) for case, _ in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("change in cost, %: right is worse")
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    shown = "" if len(rows) < MOST_ROWS else f"The {MOST_ROWS} worst."
    heading(axis, title, [f"Grey: smaller than the smallest effect, {threshold:.1%}. {shown}"])


def _label(case: CaseVerdict) -> str:
    workload, _, rest = case.case_id.partition("/")
    return f"{rest.replace('/eager', '')}\n{workload}"
