"""Of ``kernels.csv``: kernels against the reference, and how steady the machine was meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deeprnn.implementations import REFERENCE

FASTEST_HEAD = f"""## The fastest of each layer

Whole stacks, forward + backward, in a CUDA graph; "×" is how many times as fast as `{REFERENCE}`.
That was timed in a graph before all the others and after them: its figure is the mean of both, and
the brackets hold what the intervals allow, of both timings.
"""

COMPARED = ("stack", "cuda_graph", "forward_backward")
"""What ``FASTEST_HEAD`` speaks of: part, execution and mode."""

DRIFTED_ABOVE = 0.03
"""A layer is said to have moved when its control differs from its first timing by more."""


@dataclass(frozen=True)
class Figure:
    """Microseconds a step, and the ends of its interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rows: pd.DataFrame, *identity: str) -> Figure | None:
        """The figure of the timed row with this part, kernel, execution and mode."""
        names = ("part", "kernel", "execution", "mode")
        for name, value in zip(names, identity, strict=True):
            rows = rows[rows[name] == value]
        rows = rows[rows["status"] == "ok"]
        if rows.empty:
            return None
        return cls.in_row(rows.iloc[0])

    @classmethod
    def in_row(cls, row: Mapping[Any, Any] | pd.Series) -> Figure:
        """The figure of a row of ``kernels.csv`` that was timed."""
        column = "microseconds_per_step"
        return cls(*(float(row[name]) for name in (column, f"{column}_low", f"{column}_high")))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"

    def with_another(self, other: Figure | None) -> Figure:
        """The mean of two timings, and an interval that reaches over both."""
        if other is None:
            return self
        mean = (self.median + other.median) / 2
        return Figure(mean, min(self.low, other.low), max(self.high, other.high))

    def times_as_fast_as(self, other: Figure) -> str:
        """The ratio, and what the ends of both intervals allow."""
        ratio, low, high = (
            other.median / self.median, other.low / self.high, other.high / self.low
        )  # fmt: skip
        return f"{ratio:.2f} ({low:.2f}–{high:.2f})"


def captured_reference(layer: pd.DataFrame) -> Figure | None:
    """The reference's stack in a graph: as it was timed first, and, where it was, last."""
    part, execution, mode = COMPARED
    first = Figure.of(layer, part, REFERENCE, execution, mode)
    return first and first.with_another(Figure.of(layer, "control", REFERENCE, execution, mode))


def over_reference(layer: pd.DataFrame, kernel: str) -> str:
    """How many times as fast as the reference a kernel is, its stack in a graph as well."""
    part, execution, mode = COMPARED
    own, reference = Figure.of(layer, part, kernel, execution, mode), captured_reference(layer)
    return "–" if own is None or reference is None else own.times_as_fast_as(reference)


def fastest(layers: Mapping[str, pd.DataFrame]) -> list[str]:
    """One line a layer: its fastest kernel against the reference, captured as well and eager."""
    part, execution, mode = COMPARED
    lines = []
    for name, rows in layers.items():
        figures = {
            kernel: figure
            for kernel in rows["kernel"].unique()
            if (figure := Figure.of(rows, part, kernel, execution, mode)) is not None
        }
        if not figures:
            continue
        ranked = sorted(figures, key=lambda kernel: figures[kernel].median)
        cells = [name, f"`{ranked[0]}`", str(figures[ranked[0]])]
        cells.append("–" if ranked[0] == REFERENCE else over_reference(rows, ranked[0]))
        eager = Figure.of(rows, part, REFERENCE, "eager", mode)
        cells.append(figures[ranked[0]].times_as_fast_as(eager) if eager else "–")
        cells.append(f"`{ranked[1]}`, {figures[ranked[1]]}" if len(ranked) > 1 else "–")
        lines.append(line(cells))
    if not lines:
        return []
    head = ["layers", "fastest", "µs a step", f"× `{REFERENCE}` in a graph"]
    head += [f"× `{REFERENCE}` eager", "second"]
    return [FASTEST_HEAD, line(head), "|---" * len(head) + "|", *lines, ""]


def conditions(timed: pd.DataFrame) -> list[str]:
    """How steady the machine was while a layer was timed."""
    said = []
    _, execution, mode = COMPARED
    first = Figure.of(timed, COMPARED[0], REFERENCE, execution, mode)
    control = Figure.of(timed, "control", REFERENCE, execution, mode)
    if first and control:
        moved = control.median / first.median - 1
        warning = "; **ratios of this layer are no finer than that**"
        said.append(
            f"`{REFERENCE}` once more, after all the others: {control} in a graph, forward + "
            f"backward, {100 * moved:+.1f} %{warning if abs(moved) > DRIFTED_ABOVE else ''}."
        )
    clocks = timed["sm_clock_mhz"].dropna()
    if not clocks.empty:
        low, high = f"{clocks.min():,.0f}", f"{clocks.max():,.0f}"
        said.append(f"Clock of the multiprocessors: {low if low == high else f'{low}–{high}'} MHz.")
    for mark, rows in timed[timed["mark"].fillna("") != ""].groupby("mark", sort=False):
        names = ", ".join(f"`{name}`" for name in rows["row_id"])
        said.append(f"**{str(mark).capitalize()}** while it was timed: {names}.")
    return [*(f"- {sentence}" for sentence in said), ""] if said else []


def line(cells: list[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
