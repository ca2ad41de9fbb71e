"""What pages of several kinds are made of: cells, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A figure with what stands small beneath it."""

    main: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first cell of a row names it."""

    title: str
    heads: tuple[tuple[str, str], ...]  # each with its unit
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    worded: tuple[str, ...] = ()  # heads of columns that hold words, which begin at the left


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn, and its caption."""

    name: str  # the stem of its files
    title: str
    caption: str
    draw: Callable[[], Figure]
