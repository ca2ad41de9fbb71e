"""Of ``kernels.csv``: kernels against the reference, and how steady the machine was meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import tables
from bench.page_parts import Cell, Table
from bench.ranking import TORCH_NN
from bench.wording import counted

COMPARED = ("stack", "cuda_graph", "forward_backward")
"""Whole stacks, forward + backward, captured: part, execution and mode."""

FASTEST = ("layers", "fastest", "µs a step", f"× `{TORCH_NN}` in a graph", f"× `{TORCH_NN}` eager")

FASTEST_NOTE = (
    f"Whole stacks, forward + backward, in a CUDA graph; × is how many times as fast as "
    f"`{TORCH_NN}`. That was timed in a graph before all the others and after them: its figure is "
    "the mean of both, and the interval is what the intervals of both timings allow."
)

DRIFTED_ABOVE = 0.03
"""A layer is said to have moved when its control differs from its first timing by more."""


@dataclass(frozen=True)
class Figure:
    """Microseconds a step, and the ends of its interval; or how many times as fast, and its."""

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

    @property
    def cell(self) -> Cell:
        """Three digits, with the interval beneath."""
        return Cell(*self._written(tables.three_figures))

    @property
    def factor(self) -> Cell:
        """Two decimals, with the interval beneath."""
        return Cell(*self._written("{:.2f}".format))

    def _written(self, write: Callable[[float], str]) -> tuple[str, str]:
        return write(self.median), tables.span(self.low, self.high, write)

    def __str__(self) -> str:
        return "{} ({})".format(*self._written(tables.three_figures))

    def with_another(self, other: Figure | None) -> Figure:
        """The mean of two timings, and an interval that reaches over both."""
        if other is None:
            return self
        mean = (self.median + other.median) / 2
        return Figure(mean, min(self.low, other.low), max(self.high, other.high))

    def times_as_fast_as(self, other: Figure) -> Figure:
        """The ratio, and what the ends of both intervals allow."""
        return Figure(
            other.median / self.median, other.low / self.high, other.high / self.low
        )  # fmt: skip


def captured_reference(layer: pd.DataFrame) -> Figure | None:
    """The reference's stack in a graph: as it was timed first, and, where it was, last."""
    part, execution, mode = COMPARED
    first = Figure.of(layer, part, TORCH_NN, execution, mode)
    return first and first.with_another(Figure.of(layer, "control", TORCH_NN, execution, mode))


def over_reference(layer: pd.DataFrame, kernel: str) -> Figure | None:
    """How many times as fast as the reference a kernel is, its stack in a graph as well."""
    part, execution, mode = COMPARED
    own, reference = Figure.of(layer, part, kernel, execution, mode), captured_reference(layer)
    return None if own is None or reference is None else own.times_as_fast_as(reference)


def ranked(layer: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Whole stacks, forward + backward, in a graph: the fastest kernel first."""
    part, execution, mode = COMPARED
    figures = {}
    for kernel in map(str, layer["kernel"].unique()):
        figure = Figure.of(layer, part, kernel, execution, mode)
        if figure is not None:
            # Of two timings their mean: what factors are of must also be what is ranked.
            figures[kernel] = (captured_reference(layer) if kernel == TORCH_NN else None) or figure
    return sorted(figures.items(), key=lambda item: item[1].median)


def untimed(layer: pd.DataFrame) -> list[str]:
    """Kernels that could run and have no figure: without them nobody is the fastest."""
    part, execution, mode = COMPARED
    rows = layer[
        (layer["part"] == part) & (layer["execution"] == execution) & (layer["mode"] == mode)
    ]
    return [str(name) for name in rows["kernel"][~rows["status"].isin(["ok", "unsupported"])]]


def _winners(layer: pd.DataFrame) -> list[tuple[str, Figure]]:
    """The fastest kernel, and those that cannot be told from it."""
    found = ranked(layer)
    best = found[0][1]
    return [one for one in found if one[1].times_as_fast_as(best).high >= 1]


def verdict(layers: Mapping[str, pd.DataFrame]) -> list[str]:
    """A sentence for each kernel that is the fastest of some layers, the most frequent first.

    Layers in which a kernel has no figure that could have one, or the reference has none, are left
    out, and counted.
    """
    winners: dict[tuple[str, ...], list[float]] = {}
    compared = [layer for layer in layers.values() if ranked(layer) or untimed(layer)]
    whole = [
        layer for layer in compared if captured_reference(layer) is not None and not untimed(layer)
    ]
    for layer in whole:
        best = _winners(layer)
        ratio = over_reference(layer, best[0][0])
        assert ratio is not None
        winners.setdefault(tuple(sorted(name for name, _ in best)), []).append(ratio.median)
    cut = len(compared) - len(whole)
    stacks = counted(len(whole), "stack") + (" timed whole" if cut else "")
    sentences: list[str] = []
    for kernels, ratios in sorted(winners.items(), key=lambda item: -len(item[1])):
        names = " and ".join(f"`{kernel}`" for kernel in kernels)
        fastest_of = (
            "is the fastest" if len(kernels) == 1 else "cannot be told apart as the fastest"
        )
        sentence = f"{names} {fastest_of} in {len(ratios)} of {stacks}"
        if TORCH_NN not in kernels:
            low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
            times = low if low == high else f"{low} to {high}"
            sentence += f", {times} times as fast as `{TORCH_NN}`"
        if not sentences:
            sentence += ": forward + backward, all in a CUDA graph"
        sentences.append(sentence + ".")
    if not whole:
        sentences.append(f"No stack of layers was timed whole beside `{TORCH_NN}` in a CUDA graph.")
    elif cut:
        sentences.append(f"{counted(cut, 'more stack')} cannot be judged: kernels lack figures.")
    return sentences


def fastest(layers: Mapping[str, pd.DataFrame]) -> Table | None:
    """One line a layer: its fastest kernel against the reference, captured as well and eager."""
    _, _, mode = COMPARED
    rows = []
    nothing = Cell(tables.MISSING)
    for name, layer in layers.items():
        if not (found := ranked(layer)):
            continue
        if lacking := untimed(layer):
            names = ", ".join(f"`{kernel}`" for kernel in lacking)
            rows.append((Cell(name), Cell(f"not told: {names} without a figure"), *[nothing] * 4))
            continue
        kernel, figure = found[0]
        over = None if kernel == TORCH_NN else over_reference(layer, kernel)
        eager = Figure.of(layer, COMPARED[0], TORCH_NN, "eager", mode)
        second = nothing
        if len(found) > 1:
            is_tie = len(_winners(layer)) > 1
            detail = tables.three_figures(found[1][1].median)
            detail += ", not told apart" if is_tie else ""
            second = Cell(f"`{found[1][0]}`", detail)
        rows.append(
            (
                Cell(name),
                Cell(f"`{kernel}`"),
                figure.cell,
                over.factor if over else nothing,
                figure.times_as_fast_as(eager).factor if eager else nothing,
                second,
            )
        )
    if not rows:
        return None
    heads = tuple((head, "") for head in (*FASTEST, "second"))
    title = "The fastest of each layer"
    return Table(title, heads, tuple(rows), FASTEST_NOTE, worded=("fastest", "second"))


def drift(layer: pd.DataFrame) -> float | None:
    """By how much the reference was slower when it was timed once more, as a fraction."""
    part, execution, mode = COMPARED
    first = Figure.of(layer, part, TORCH_NN, execution, mode)
    control = Figure.of(layer, "control", TORCH_NN, execution, mode)
    return control.median / first.median - 1 if first and control else None


def conditions(timed: pd.DataFrame) -> list[str]:
    """How steady the machine was while a layer was timed."""
    said = []
    _, execution, mode = COMPARED
    moved = drift(timed)
    if moved is not None:
        control = Figure.of(timed, "control", TORCH_NN, execution, mode)
        sentence = (
            f"`{TORCH_NN}` once more, after all the others: {control} in a graph, forward + "
            f"backward, {100 * moved:+.1f} %; × is against the mean of both"
        )
        if abs(moved) > DRIFTED_ABOVE:
            sentence += "; ratios of this layer are no finer than that"
        said.append(f"{sentence}.")
    clocks = timed["sm_clock_mhz"].dropna()
    if not clocks.empty:
        low, high = f"{clocks.min():,.0f}", f"{clocks.max():,.0f}"
        said.append(f"Clock of the multiprocessors: {low if low == high else f'{low}–{high}'} MHz.")
    for mark, rows in timed[timed["mark"].fillna("") != ""].groupby("mark", sort=False):
        names = ", ".join(f"`{name}`" for name in rows["row_id"])
        said.append(f"{str(mark).capitalize()} while it was timed: {names}.")
    return said
