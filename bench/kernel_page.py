"""``kernels.html``, ``kernels.md`` and ``plots/`` from ``kernels.csv``."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from bench import plots, tables
from bench.kernel_comparison import (
    DRIFTED_ABOVE,
    TORCH_NN,
    Figure,
    captured_reference,
    conditions,
    drift,
    fastest,
    over_reference,
    verdict,
)
from bench.kernel_table import KERNELS, PRECISIONS
from bench.page_parts import Cell, Table
from bench.plots import kernels as kernel_plots
from bench.report import replace_file, template
from bench.stored import PLANNED_ROWS, load_environment, load_kernels
from bench.wording import counted, precision

LAYER = (
    *("cell", "num_layers", "hidden_size", "batch_size", "num_steps", "dtype"),
    "matmul_precision",
)
"""Rows that agree in these are of the same layers."""

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

NAMED_AT_MOST = 4
"""Rows without a figure that a line names before it counts the others."""


@dataclass(frozen=True)
class Layer:
    """What was timed of layers of one kind."""

    name: str
    anchor: str
    tables: list[Table]
    remarks: list[str]  # how steady the machine was
    command: str  # what repeats its rows


@dataclass(frozen=True)
class Summary:
    """What the terminal prints when a table is done."""

    verdict: list[str]
    page: Path

    def print(self, console: Console) -> None:
        """Who is the fastest, and where the page is."""
        for sentence in self.verdict:
            console.print(Text(sentence.replace("`", "")), soft_wrap=True)
        console.print(Text(f"Page: {self.page}"), soft_wrap=True)


def render(directory: Path) -> Summary:
    """Write the pages and the plots of ``directory``, whose run may still go on.

    Rendering the same files again gives the same bytes. Raises ``ResultsError``, one line, when a
    stored file is damaged.
    """
    table = load_kernels(directory)
    layers = layers_of(table)
    drawn = plots.write(kernel_plots.PLOTS, layers, directory / "plots")
    environment = load_environment(directory)
    planned = environment.get("Run", {}).get(PLANNED_ROWS)
    # A layer's control is its last row: where a run was cut, one without is not whole.
    is_cut = planned is not None and planned > len(table)
    judged = {
        name: layer
        for name, layer in layers.items()
        if not is_cut or (layer["part"] == "control").any()
    }
    summary = Summary(verdict(judged), directory / "kernels.html")
    missing = table[table["status"] != "ok"]
    values = {
        "verdict": summary.verdict,
        "about": _about(table),
        "environment": environment,
        "problems": _problems(layers, table, planned),
        "fastest": fastest(judged),
        "plots": drawn,
        "layers": [
            _layer(name, layer) for name, layer in layers.items() if (layer["status"] == "ok").any()
        ],
        "steps_alone": _steps_alone(table),
        "missing": _missing(missing),
        "files": _files(directory, drawn),
        "reference": TORCH_NN,
    }
    replace_file(directory / "kernels.md", template("kernels.md").render(values))
    replace_file(summary.page, template("kernels.html").render(values))
    return summary


def layers_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows by the layers that they are of, in the order in which they were timed."""
    layers = {}
    for values, rows in table.groupby(list(LAYER), sort=False):
        cell, L, H, B, T, dtype, products = values
        kind = precision(str(dtype), str(products))
        layers[f"{cell}, {L} × {H}, B {B}, T {T}, {kind}"] = rows
    return layers


def _about(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Where and by what the rows were measured; several where a table was put together."""
    found = []
    for column in ("device", "commit", "run_id"):
        values = ", ".join(sorted({str(name) for name in table[column] if name}))
        found.append((column.partition("_")[0], values or "not stored"))
    return found


def _layer(name: str, layer: pd.DataFrame) -> Layer:
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
                is_known = value is not None and not pd.isna(value)
                cells.append(Cell(f"{value:.3g}") if is_known else nothing)
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


def _steps_alone(table: pd.DataFrame) -> Table | None:
    """What a step costs beyond what a call costs: from the shortest and the longest of a layer."""
    # A control and tiles are other timings of what is there already.
    timed = table[(table["status"] == "ok") & ~table["part"].isin(["control", "tile"])]
    key = ["part", "kernel", *(c for c in LAYER if c != "num_steps"), "execution", "mode"]
    rows = []
    for values, group in timed.groupby(key, sort=False):
        by_steps = group.sort_values("num_steps").to_dict("records")
        short, long = by_steps[0], by_steps[-1]
        if short["num_steps"] == long["num_steps"]:
            continue
        part, kernel, cell, L, H, B, dtype, products, execution, mode = map(str, values)
        kind = precision(dtype, products)
        ends = (("", ""), ("_high", "_low"), ("_low", "_high"))
        added = Figure(*(_added(short, early, long, late) for early, late in ends))
        words = [kernel, part, f"{cell}, {L} × {H}, B {B}, {kind}", execution]
        words += [mode.replace("_", " + "), f"{short['num_steps']}, {long['num_steps']}"]
        rows.append((*map(Cell, words), added.cell))
    if not rows:
        return None
    heads = ("kernel", "part", "layers", "execution", "mode", "T", "µs a step")
    named = tuple((head, "") for head in heads)
    return Table("A step alone", named, tuple(rows), worded=heads[1:5])


def _added(short: dict[Any, Any], early: str, long: dict[Any, Any], late: str) -> float:
    """Microseconds that each further step takes, by these ends of the two intervals."""
    total = [
        row["num_steps"] * row[f"microseconds_per_step{end}"]
        for row, end in ((short, early), (long, late))
    ]
    return float((total[1] - total[0]) / (long["num_steps"] - short["num_steps"]))


def _problems(
    layers: dict[str, pd.DataFrame], table: pd.DataFrame, planned: int | None
) -> list[str]:
    """What to know before a figure is believed: one sentence each."""
    said = []
    if planned is not None and planned > len(table):
        cut = planned - len(table)
        said.append(f"The run was cut: {cut} of {counted(planned, 'planned row')} are not here.")
    wanted = table[table["status"] != "unsupported"]
    lacking = wanted[wanted["status"] != "ok"]
    if not lacking.empty:
        counts = lacking["status"].value_counts().sort_index()
        kinds = ", ".join(f"{count} {status}" for status, count in counts.items())
        said.append(f"{len(lacking)} of {counted(len(wanted), 'row')} have no figure: {kinds}.")
    for mark, rows in table[table["mark"].fillna("") != ""].groupby("mark", sort=False):
        said.append(f"{counted(len(rows), 'row')} {mark} while timed; their layers name them.")
    for name, layer in layers.items():
        moved = drift(layer)
        if moved is not None and abs(moved) > DRIFTED_ABOVE:
            said.append(f"{name}: the machine moved by {100 * moved:+.1f} % meanwhile.")
    return said


def _missing(rows: pd.DataFrame) -> list[tuple[str, list[str], int]]:
    """What has no figure, gathered by reason: the reason, some names, and how many more."""
    found = []
    for (status, reason), group in rows.groupby(["status", "reason"], sort=False):
        names = [str(name) for name in group["row_id"]]
        shown = names[:NAMED_AT_MOST]
        found.append((f"{status}: {reason}", shown, len(names) - len(shown)))
    return found


def _files(directory: Path, drawn: list[plots.Plot]) -> list[str]:
    """The files beside the page, as relative links."""
    stored = [KERNELS.filename, "environment.json"]
    pictures = [f"plots/{p.name}.{kind}" for p in drawn if p.is_drawn for kind in ("svg", "png")]
    return [name for name in stored if (directory / name).exists()] + ["kernels.md", *pictures]


def predictions(rows: list[dict[str, object]]) -> str:
    """What was reckoned for ``rows``, as a table; nothing here was measured."""
    lines = [
        "Predicted for an H100 or H200, microseconds a step of one layer's recurrence.",
        "Reckoned beforehand, not measured.",
        "",
        "| layer | kernel | forward | forward + backward |",
        "|---|---|---|---|",
    ]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        value = row["predicted_microseconds_per_step"]
        if isinstance(value, float):
            layer, _, kernel, *_ = str(row["row_id"]).split("/")
            found.setdefault((layer, kernel), {})[str(row["mode"])] = value
    for (layer, kernel), figures in found.items():
        both = f"{figures['forward']:.2f} | {figures['forward_backward']:.2f}"
        lines.append(f"| {layer} | {kernel} | {both} |")
    return "\n".join(lines)
