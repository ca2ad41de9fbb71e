"""What the page of ``kernels.csv`` says of layers of one kind: tables, remarks, the command."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

import pandas as pd

from bench import tables
from bench.kernel_comparison import (
    TORCH_NN,
    Figure,
    captured_reference,
    conditions,
    over_reference,
)
from bench.kernel_table import PRECISIONS
from bench.page_parts import Cell, Table

COLUMNS = (
    ("eager", "forward", "eager, forward"),
    ("eager", "backward", "eager, backward"),
    ("eager", "forward_backward", "eager, forward + backward"),
    ("cuda_graph", "forward", "graph, forward"),
    ("cuda_graph", "backward", "graph, backward"),
    ("cuda_graph", "forward_backward", "graph, forward + backward"),
)

PARTS = {
    "stack": "The stack of layers, products before and after the time loop included",
    "recurrence": "The recurrence of one layer alone, without the products around it",
    "floor": "Floors of one layer: a part of a step, T times, and nothing else",
}

TILES = (
    "Each tile that fits, the usual one first, the fastest marked: of the recurrence, or where a "
    "kernel has none by itself of the stack, in a graph. A tile of the backward pass is timed "
    "forward + backward"
)


@dataclass(frozen=True)
class Layer:
    """What was timed of layers of one kind."""

    name: str
    anchor: str
    tables: list[Table]
    remarks: list[str]  # how steady the machine was
    command: str  # what repeats its rows


def layer_of(name: str, layer: pd.DataFrame) -> Layer:
    timed = layer[layer["status"] == "ok"]
    shown = [_part(title, timed[timed["part"] == part], layer) for part, title in PARTS.items()]
    shown.append(_tiles(layer[layer["part"] == "tile"]))
    anchor = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    tabled = [table for table in shown if table is not None]
    return Layer(name, anchor, tabled, conditions(timed), _command(layer))


def _command(layer: pd.DataFrame) -> str:
    """What times these layers again."""
    row = layer.iloc[0]
    made = (row["dtype"], row["matmul_precision"])
    words = ["python", "-m", "bench", "kernels", "--cell", str(row["cell"])]
    for option, column in (
        ("--layers", "num_layers"),
        ("--hidden", "hidden_size"),
        ("--batch", "batch_size"),
        ("--steps", "num_steps"),
    ):
        words += [option, str(row[column])]
    for name, products in PRECISIONS.items():
        if products == made:
            words += ["--precision", name]
    if (layer["part"] == "tile").any():
        words.append("--tiles")
    return shlex.join(words)


def _part(title: str, timed: pd.DataFrame, layer: pd.DataFrame) -> Table | None:
    """Kernels down, ways of running them across; columns that are empty are left out."""
    if timed.empty:
        return None
    present = set(zip(timed["execution"], timed["mode"], strict=True))
    columns = [column for column in COLUMNS if column[:2] in present]
    is_compared = bool((timed["part"] == "stack").all()) and captured_reference(layer) is not None
    with_predictions = bool(timed["predicted_microseconds_per_step"].notna().any())
    with_errors = bool(timed["gradient_error"].notna().any())
    heads = ["kernel", *(name for *_, name in columns)]
    heads += [f"× `{TORCH_NN}`, both in a graph, forward + backward"] if is_compared else []
    heads += ["predicted forward", "predicted forward + backward"] if with_predictions else []
    heads += ["largest error"] if with_errors else []
    rows = []
    for kernel, group in timed.groupby("kernel", sort=False):
        figures = {
            (row["execution"], row["mode"]): Figure.in_row(row).cell
            for row in group.to_dict("records")
        }
        nothing = Cell(tables.MISSING)
        cells = [Cell(str(kernel)), *(figures.get(column[:2], nothing) for column in columns)]
        if is_compared and kernel == TORCH_NN:
            cells.append(Cell("1"))
        elif is_compared:
            over = over_reference(layer, str(kernel))
            cells.append(over.factor if over else nothing)
        if with_predictions:
            predicted = group.set_index("mode")["predicted_microseconds_per_step"].to_dict()
            for mode in ("forward", "forward_backward"):
                value = predicted.get(mode)
                if value is None or pd.isna(value):
                    cells.append(nothing)
                else:
                    cells.append(Cell(tables.three_figures(value)))
        if with_errors:
            cells.append(Cell(f"{group['gradient_error'].max():.1e}"))
        rows.append(tuple(cells))
    return Table(title, tuple((head, "") for head in heads), tuple(rows))


def _tiles(tiles: pd.DataFrame) -> Table | None:
    """Kernels with each tile that fits: the usual one first, the fastest marked."""
    heads = ("kernel", "direction", "rows x units of a program", "µs a step", "× the usual")
    rows = []
    for (kernel, _), group in tiles.groupby(["kernel", "mode"], sort=False):
        figures = [
            Figure.in_row(row) if row["status"] == "ok" else None
            for row in group.to_dict("records")
        ]
        usual = figures[0]
        best = min((f for f in figures if f is not None), key=lambda f: f.median, default=None)
        for tile, figure in zip(group["tile"], figures, strict=True):
            direction, _, name = str(tile).partition(" ")
            if figure is None and figure is not usual:
                continue  # it stands among those without a figure
            name += ", the fastest" if figure is best and best is not None else ""
            over = figure.times_as_fast_as(usual).factor if figure and usual else None
            cells = (figure.cell if figure else None, over)
            words = (Cell(str(kernel)), Cell(direction), Cell(name))
            rows.append((*words, *(cell or Cell(tables.MISSING) for cell in cells)))
    if not rows:
        return None
    return Table(TILES, tuple((head, "") for head in heads), tuple(rows), worded=heads[1:3])
