"""The plots of ``bench kernels``: a panel a kind of layers, a bar a kernel or floor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import tables
from bench.kernel_comparison import TORCH_NN, captured_reference, over_reference
from bench.kernel_comparison import Figure as Microseconds
from bench.plots.bars import ROW, style_rows
from bench.plots.style import CARD, INK, MUTED, colours, heading, panels

Layers = Mapping[str, pd.DataFrame]

LIGHT = 0.45
"""How strong the colour of the backward pass is."""

SHADES = "Dark: forward; light: backward."


@dataclass(frozen=True)
class Bar:
    """Microseconds a step of one kernel or floor."""

    name: str
    colour: str
    forward: float | None
    total: Microseconds
    note: str = ""  # behind the figure
    predicted: float | None = None
    is_floor: bool = False


def stacks(layers: Layers) -> tuple[Figure, str] | str:
    """Whole stacks in a CUDA graph, the fastest on top."""
    found = {name: _stacks(layer) for name, layer in layers.items()}
    drawn = _draw({name: bars for name, bars in found.items() if bars})
    if drawn is None:
        return "no stack was timed forward and backward in a CUDA graph"
    return drawn, (
        f"Products before and after the time loop included. {SHADES} Median, with the 95 % "
        f"interval of both together; × says how many times as fast as {TORCH_NN} in a graph, "
        "whose bar is the mean of its two timings."
    )


def recurrences(layers: Layers) -> tuple[Figure, str] | str:
    """One layer's recurrence in a CUDA graph, and beneath it what parts of a step take alone."""
    found: dict[str, list[Bar]] = {}
    for name, layer in layers.items():
        of_one = re.sub(r", \d+ × ", ", one layer of ", name, count=1)
        found[name if of_one in found else of_one] = _recurrences(layer)
    drawn = _draw({name: bars for name, bars in found.items() if bars})
    if drawn is None:
        return "no recurrence was timed forward and backward in a CUDA graph"
    return drawn, (
        f"One layer without the products around it. {SHADES} Hatched: floors, a part of a step "
        "done T times and nothing else. A launch and torch's product are to be held against "
        "triton_step, a barrier against triton_sequence, rows read from L2 against it and "
        "triton_dataflow; parts overlap, so floors do not add up to a kernel. A diamond "
        "marks what was reckoned beforehand, for an H100 or H200."
    )


FLOORS = {
    "launch": "a launch",
    "barrier": "a barrier",
    "product": "torch's product",
    "traffic": "rows from L2",
    "traffic_apart": "rows from L2, apart",
}
"""What floors are called beneath the kernels."""

PLOTS: dict[str, tuple[str, Callable[[Layers], tuple[Figure, str] | str]]] = {
    "stacks": ("Stacks of layers", stacks),
    "recurrences": ("One layer's recurrence beside its floors", recurrences),
}


def _stacks(layer: pd.DataFrame) -> list[Bar]:
    """As they are ranked: the reference by the mean of its timings, which factors are of."""
    bars = _kernels(layer, "stack")
    reference = captured_reference(layer)
    if reference is None:
        return bars
    noted = []
    for bar in bars:
        over = over_reference(layer, bar.name)
        if bar.name == TORCH_NN:
            noted.append(replace(bar, total=reference))
        else:
            noted.append(replace(bar, note=f"{over.median:.2f} ×" if over else ""))
    return sorted(noted, key=lambda bar: bar.total.median)


def _recurrences(layer: pd.DataFrame) -> list[Bar]:
    bars = _kernels(layer, "recurrence")
    return [*bars, *_floors(layer)] if bars else []


def _kernels(layer: pd.DataFrame, part: str) -> list[Bar]:
    """Kernels that were timed forward and forward + backward, the fastest first."""
    rows = layer[(layer["part"] == part) & (layer["execution"] == "cuda_graph")]
    names = [str(name) for name in rows["kernel"].unique()]
    colour = colours(names)
    bars = []
    for name in names:
        total = Microseconds.of(rows, part, name, "cuda_graph", "forward_backward")
        forward = Microseconds.of(rows, part, name, "cuda_graph", "forward")
        if total is None:
            continue
        own = rows[(rows["kernel"] == name) & (rows["mode"] == "forward_backward")]
        predicted = own["predicted_microseconds_per_step"].dropna()
        bars.append(
            Bar(
                name,
                colour[name],
                None if forward is None else min(forward.median, total.median),
                total,
                predicted=None if predicted.empty else float(predicted.iloc[0]),
            )
        )
    return sorted(bars, key=lambda bar: bar.total.median)


def _floors(layer: pd.DataFrame) -> list[Bar]:
    """Floors as bars: what a step's forward and its backward pass have of them, put together."""
    bars = []
    for name in layer[layer["part"] == "floor"]["kernel"].unique():
        forward, backward = (
            Microseconds.of(layer, "floor", name, "cuda_graph", mode)
            for mode in ("forward", "backward")
        )
        if forward is None:
            continue
        ends = [forward] if backward is None else [forward, backward]
        total = Microseconds(*(sum(getattr(e, x) for e in ends) for x in ("median", "low", "high")))
        note = "" if backward else "forward alone"
        title = FLOORS.get(str(name), str(name))
        bars.append(Bar(title, MUTED, forward.median, total, note, is_floor=True))
    return bars


def _draw(panelled: Mapping[str, list[Bar]]) -> Figure | None:
    if not panelled:
        return None
    figure, axes = panels([ROW * len(bars) + 0.17 for bars in panelled.values()])
    for axis, (name, bars) in zip(axes, panelled.items(), strict=True):
        _panel(axis, bars)
        heading(axis, name)
    return figure


def _panel(axis: Axes, bars: list[Bar]) -> None:
    places = range(len(bars))
    totals = [bar.total.median for bar in bars]
    heights = [0.4 if bar.is_floor else 0.7 for bar in bars]
    hatches = ["////" if bar.is_floor else "" for bar in bars]
    shades = [bar.colour for bar in bars]
    known = [bar.forward if bar.forward is not None else 0.0 for bar in bars]
    axis.barh(places, totals, heights, color=CARD)  # lest the grid shine through the light part
    axis.barh(places, totals, heights, color=shades, alpha=LIGHT)
    axis.barh(places, known, heights, color=shades)
    axis.barh(places, totals, heights, color="none", edgecolor=CARD, linewidth=0, hatch=hatches)
    below = [max(bar.total.median - bar.total.low, 0) for bar in bars]
    above = [max(bar.total.high - bar.total.median, 0) for bar in bars]
    axis.errorbar(
        totals, places, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.3, capsize=3
    )
    ends = []
    for place, bar in zip(places, bars, strict=True):
        ends.append(max(bar.total.high, bar.predicted or 0.0))
        axis.annotate(
            "  ".join(filter(None, (tables.three_figures(bar.total.median), bar.note))),
            (ends[-1], place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.4},  # over the grid
        )
        if bar.predicted is not None:
            axis.plot(
                bar.predicted, place, "D", markersize=5, markerfacecolor=CARD, markeredgecolor=INK
            )
    style_rows(axis, [bar.name for bar in bars], ends)
    axis.set_xlabel("µs a step, forward + backward")
