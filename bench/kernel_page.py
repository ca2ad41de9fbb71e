"""``kernels.html``, ``kernels.md`` and ``plots/`` from ``kernels.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from bench import plots
from bench.kernel_comparison import (
    DRIFTED_ABOVE,
    Figure,
    drift,
    fastest,
    verdict,
)
from bench.kernel_layers import layer_of
from bench.kernel_table import KERNELS
from bench.page_parts import Cell, Table
from bench.plots import kernels as kernel_plots
from bench.report import replace_file, template
from bench.stored import PLANNED_ROWS, load_environment, load_kernels, load_remarks
from bench.wording import counted, plain, precision

LAYER = (
    *("cell", "num_layers", "hidden_size", "batch_size", "num_steps", "dtype"),
    "matmul_precision",
)
"""Rows that agree in these are of the same layers."""

METHOD = (
    "A figure is the time of a whole part over T: the median, and the 95 % interval of the median. "
    "Forward is the forward pass as training runs it. A row was compared with torch.nn in float64 "
    "before it was timed (over at most 64 steps), and its largest relative error is shown; while "
    "it was timed its results were held to the first one's, a recurrence's to the bit. Predictions "
    "are for an H100 or H200, and for a recurrence alone, without launch and copies. The L2 cache "
    "is not cleared between calls."
)

STEPS_ALONE = (
    "What more steps add, over how many they are: (t(long) − t(short)) / (T long − T short), of "
    "layers that differ in T alone. It leaves out what a call costs once, the launch, the weights' "
    "way onto the chip and copies, and is what a prediction speaks of. The interval is the widest "
    "that the two intervals allow."
)

NAMED_AT_MOST = 4
"""Rows without a figure that a line names before it counts the others."""


@dataclass(frozen=True)
class Summary:
    """What the terminal prints when a table is done."""

    verdict: list[str]
    page: Path

    def print(self, console: Console) -> None:
        """Who is the fastest, and where the page is."""
        for sentence in self.verdict:
            console.print(Text(plain(sentence)), soft_wrap=True)
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
        "problems": [*load_remarks(directory), *_problems(layers, table, planned)],
        "fastest": fastest(judged),
        "plots": drawn,
        "layers": [
            layer_of(name, layer)
            for name, layer in layers.items()
            if (layer["status"] == "ok").any()
        ],
        "steps_alone": _steps_alone(table),
        "missing": _missing(missing),
        "files": _files(directory, drawn),
        "method": METHOD,
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
    return Table("A step alone", named, tuple(rows), STEPS_ALONE, worded=heads[1:5])


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
        also = ""
        if others := len(table) - len(wanted):
            also = f" ({others} more are unsupported.)"
        whole = f"{len(lacking)} of {counted(len(wanted), 'row')} have no figure: {kinds}."
        said.append(whole + also)
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
