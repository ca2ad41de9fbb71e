"""The plots of a report, a panel a workload, as PNG and SVG.

Each plot is drawn from a loaded report and says in its caption what it leaves out. A plot that
would show nothing is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.plots import bars, curves, points, style
from bench.ranking import EAGER, Report


@dataclass(frozen=True)
class Plot:
    """A drawn plot, or why there is none."""

    name: str  # the stem of its files in plots/
    title: str
    caption: str  # what it shows and leaves out; for a plot that is not drawn, why
    svg: str  # the text of the file; empty where there was nothing to show
    columns: int = 1  # of panels

    @property
    def is_drawn(self) -> bool:
        return bool(self.svg)


Subject = TypeVar("Subject")
"""What plots are drawn of: a report, or the layers of a table of kernels."""

Draw = Callable[[Report], tuple[Figure, str] | str]
"""Gives a figure and its caption, or the reason why there is none."""

PLOTS: dict[str, tuple[str, Draw]] = {
    "throughput": ("Throughput", bars.throughput),
    "perplexity_epochs": ("Perplexity over epochs", curves.over_epochs),
    "perplexity_seconds": ("Perplexity over time", curves.over_seconds),
    "memory": ("Peak memory", bars.memory),
    "cold_start": ("Cold start against steady state", points.cold_start),
    "published": ("Measured beside published", points.published),
}


def write_all(report: Report, directory: Path) -> list[Plot]:
    """Draw every plot into ``directory``; of those not drawn, remove what an earlier one left."""
    return write(PLOTS, report, directory, _left_out(report))


def write(
    drawings: Mapping[str, tuple[str, Callable[[Subject], tuple[Figure, str] | str]]],
    subject: Subject,
    directory: Path,
    remark: str = "",
) -> list[Plot]:
    """Draw each of ``drawings``, a title and who draws it by the name of its files.

    ``remark`` ends the caption of each. Of a plot that is not drawn the files are removed.
    """
    plots = []
    with mpl.rc_context(style.SETTINGS):
        for name, (title, draw) in drawings.items():
            drawn = draw(subject)
            if isinstance(drawn, str):
                for suffix in (".svg", ".png"):
                    (directory / (name + suffix)).unlink(missing_ok=True)
                plots.append(Plot(name, title, f"Not drawn: {drawn}.", ""))
            else:
                figure, caption = drawn
                svg = style.save(figure, directory, name)
                caption = f"{caption} {remark}".strip()
                plots.append(Plot(name, title, caption, svg, style.columns_in(figure)))
    return plots


def _left_out(report: Report) -> str:
    """Whose figures are missing from every plot, and what a bare name means."""
    names = {
        case.implementation for case in report.cases if case.interpreted and case.status == "ok"
    }
    sentences = []
    if names:
        sentences.append(f"Not shown, because an interpreter ran it: {', '.join(sorted(names))}.")
    if report.has_executions:
        sentences.append(f"A name without a suffix ran {EAGER}.")
    return " ".join(sentences)
