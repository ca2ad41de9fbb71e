"""Perplexity by epoch of several networks, a line a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.chapter.stored import Learned
from bench.plots.style import INK, MUTED, PALETTE, legend_above, panels


def draw_curves(networks: Mapping[str, Sequence[Learned]]) -> Figure:
    """Training (solid) and validation (dotted) perplexity on a log scale, a colour a network."""
    figure, (axes,) = panels([3.2], len(networks) + 2)
    handles = []
    for (name, learned), colour in zip(networks.items(), PALETTE, strict=False):
        handles.append(Line2D([], [], color=colour, lw=2.5, label=name))
        for one in learned:
            curve = one.curve
            axes.plot(curve["epoch"], curve["train_perplexity"], color=colour, lw=1.1)
            judged = curve.dropna(subset=["validation_perplexity"])
            axes.plot(judged["epoch"], judged["validation_perplexity"], ":", color=colour, lw=1.3)
    handles.append(Line2D([], [], color=MUTED, lw=1.3, label="text trained on"))
    handles.append(Line2D([], [], color=MUTED, lw=1.3, ls=":", label="other text"))
    axes.set_yscale("log")
    axes.axhline(1.0, color=INK, lw=0.8)  # before the ticks are chosen: it widens the axis
    marks = [1, 1.5, 2, 3, 5, 10, 20, 30, 50, 100, 300, 1000]
    low, high = axes.get_ylim()
    axes.set_yticks([m for m in marks if low <= m <= high], minor=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel("epoch")
    axes.set_ylabel("perplexity (log scale)")
    legend_above(figure, handles)
    return figure
