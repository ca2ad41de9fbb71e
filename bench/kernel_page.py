"""``kernels.md`` from ``kernels.csv``, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from bench.kernel_comparison import (
    Figure,
    captured_reference,
    conditions,
    fastest,
    line,
    over_reference,
)
from bench.kernel_table import KERNELS
from bench.wording import precision
from deeprnn.implementations import REFERENCE

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

HEAD = """# Kernels: microseconds a step

The time of a whole part over T: median, and in brackets the 95 % interval of the median. "Forward"
is the forward pass as training runs it. A row was compared with `torch.nn` in float64 before it was
timed (over at most 64 steps), and its largest relative error is shown; while it was timed its
results were held to the first one's, a recurrence's to the bit. Predictions are for an H100 or
H200, and for `recurrence` alone, without launch and copies. The L2 cache is not cleared between
calls.
"""

STEPS_HEAD = """## A step alone

What more steps add, over how many they are: (t(long) − t(short)) / (T long − T short), of layers
that differ in T alone. It leaves out what a call costs once, the launch, the weights' way onto the
chip and copies, and is what a prediction speaks of. In brackets the widest that the two intervals
allow.
"""


def write(directory: Path) -> Path:
    """Render ``kernels.md`` beside ``kernels.csv``. Raises ``ResultsError`` for a damaged file."""
    path = directory / "kernels.md"
    path.write_text(render(KERNELS.load(directory)), "utf-8")
    return path


def render(table: pd.DataFrame) -> str:
    """The page: for each layer what was timed, part by part, then what was not and why."""
    lines = [HEAD]
    devices = sorted({name for name in table["device"] if name})
    commits = sorted({name for name in table["commit"] if name})
    if devices or commits:
        lines += [f"Device: {', '.join(devices) or 'none'}. Commit: {', '.join(commits)}.", ""]
    key = ["cell", "num_layers", "hidden_size", "batch_size", "num_steps", "dtype"]
    layers = {}
    for values, layer in table.groupby([*key, "matmul_precision"], sort=False):
        cell, L, H, B, T, dtype, products = values
        kind = precision(str(dtype), str(products))
        layers[f"{cell}, {L} × {H}, B {B}, T {T}, {kind}"] = layer
    lines += fastest(layers)
    for name, layer in layers.items():
        if not (layer["status"] == "ok").any():
            continue  # it stands below, with the reason
        lines += [f"## {name}", ""]
        for part, title in PARTS.items():
            lines += _part(title, layer[layer["part"] == part], layer)
        lines += _tiles(layer[(layer["part"] == "tile") & (layer["status"] == "ok")])
        lines += conditions(layer[layer["status"] == "ok"])
    is_again = table["part"].isin(["control", "tile"])  # another timing of what is there already
    lines += _steps_alone(table[(table["status"] == "ok") & ~is_again])
    lines += _missing(table[table["status"] != "ok"])
    return "\n".join(lines).rstrip() + "\n"


def _part(title: str, rows: pd.DataFrame, layer: pd.DataFrame) -> list[str]:
    """One table: kernels down, ways of running them across; columns that are empty are left out."""
    timed = rows[rows["status"] == "ok"]
    if timed.empty:
        return []
    present = set(zip(timed["execution"], timed["mode"], strict=True))
    columns = [column for column in COLUMNS if column[:2] in present]
    is_compared = bool((rows["part"] == "stack").all()) and captured_reference(layer) is not None
    with_predictions = bool(timed["predicted_microseconds_per_step"].notna().any())
    head = ["kernel", *(name for *_, name in columns)]
    head += [f"× `{REFERENCE}`, both in a graph, forward + backward"] if is_compared else []
    head += ["predicted forward", "predicted forward + backward"] if with_predictions else []
    head += ["largest error"] if bool(timed["gradient_error"].notna().any()) else []
    lines = [f"{title}:", "", line(head), "|---" * len(head) + "|"]
    for kernel, group in timed.groupby("kernel", sort=False):
        figures = {
            (row["execution"], row["mode"]): str(Figure.in_row(row))
            for row in group.to_dict("records")
        }
        cells = [str(kernel), *(figures.get(column[:2], "–") for column in columns)]
        if is_compared:
            cells.append("1" if kernel == REFERENCE else over_reference(layer, str(kernel)))
        if with_predictions:
            predicted = group.set_index("mode")["predicted_microseconds_per_step"].to_dict()
            for mode in ("forward", "forward_backward"):
                value = predicted.get(mode)
                cells.append("–" if value is None or pd.isna(value) else f"{value:.3g}")
        if "largest error" in head:
            cells.append(f"{group['gradient_error'].max():.1e}")
        lines.append(line(cells))
    return [*lines, ""]


def _tiles(timed: pd.DataFrame) -> list[str]:
    """Kernels with each tile that fits: the usual one first, the fastest in bold."""
    if timed.empty:
        return []
    head = ["kernel", "direction", "rows x units of a program", "µs a step", "× the usual"]
    lines = [
        "Each tile that fits, the usual one first, the fastest in bold: of the recurrence, or",
        "where a kernel has none by itself of the stack, in a graph. A tile of the backward pass",
        "is timed forward + backward.",
        "",
    ]
    lines += [line(head), "|---" * len(head) + "|"]
    for (kernel, _), rows in timed.groupby(["kernel", "mode"], sort=False):
        figures = [Figure.in_row(row) for row in rows.to_dict("records")]
        best = min(figures, key=lambda figure: figure.median)
        for tile, figure in zip(rows["tile"], figures, strict=True):
            direction, _, name = str(tile).partition(" ")
            name = f"**{name}**" if figure is best else name
            cells = [str(kernel), direction, name, str(figure), figure.times_as_fast_as(figures[0])]
            lines.append(line(cells))
    return [*lines, ""]


def _steps_alone(timed: pd.DataFrame) -> list[str]:
    """What a step costs beyond what a call costs: from the shortest and the longest of a layer."""
    key = [
        *("part", "kernel", "cell", "num_layers", "hidden_size", "batch_size", "dtype"),
        *("matmul_precision", "execution", "mode"),
    ]
    lines = []
    for values, rows in timed.groupby(key, sort=False):
        by_steps = rows.sort_values("num_steps").to_dict("records")
        short, long = by_steps[0], by_steps[-1]
        if short["num_steps"] == long["num_steps"]:
            continue
        part, kernel, cell, L, H, B, dtype, products, execution, mode = map(str, values)
        kind = precision(dtype, products)
        ends = (("", ""), ("_high", "_low"), ("_low", "_high"))
        added = Figure(*(_added(short, early, long, late) for early, late in ends))
        cells = [part, kernel, f"{cell}, {L} × {H}, B {B}, {kind}", execution]
        cells += [mode.replace("_", " + "), f"{short['num_steps']}, {long['num_steps']}"]
        lines.append(line([*cells, str(added)]))
    if not lines:
        return []
    head = ["part", "kernel", "layers", "execution", "mode", "T", "µs a step"]
    return [STEPS_HEAD, line(head), "|---" * len(head) + "|", *lines, ""]


def _added(short: dict[Any, Any], early: str, long: dict[Any, Any], late: str) -> float:
    """Microseconds that each further step takes, by these ends of the two intervals."""
    total = [
        row["num_steps"] * row[f"microseconds_per_step{end}"]
        for row, end in ((short, early), (long, late))
    ]
    return float((total[1] - total[0]) / (long["num_steps"] - short["num_steps"]))


def _missing(rows: pd.DataFrame) -> list[str]:
    """What has no figure, gathered by reason."""
    if rows.empty:
        return []
    lines = ["## Without a figure", ""]
    for (status, reason), group in rows.groupby(["status", "reason"], sort=False):
        names = [str(name) for name in group["row_id"]]
        shown = ", ".join(f"`{name}`" for name in names[:4])
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"- {status}: {reason}: {shown}{more}")
    return [*lines, ""]


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
