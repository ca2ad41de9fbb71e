"""How plots look: colours, type, and files that are the same whenever they are drawn again.

An implementation keeps its colour and marker in every plot of every report. They are given out in
the order of the names, so a new implementation needs no edit here. Hues are those of Okabe and Ito,
*Color Universal Design* (2008), which people with any colour vision can tell apart, then of Tol,
*Colour Schemes* (2021), so that each implementation there is has one; markers say the same a second
time.
"""

from __future__ import annotations

import io
import math
import pkgutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text

IMPLEMENTATIONS = Path(__file__).resolve().parents[2] / "deeprnn" / "implementations"

PALETTE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#8f6a3b",
    "#7a7f87",
    "#aa3377",
    "#999933",
    "#6f4c9b",
)
MARKERS = "osD^vPX*<hp"

CARD, INK, MUTED, GRID = "#fdfdfc", "#22262b", "#686e76", "#e4e6e9"
DARK = {CARD: "#16191e", INK: "#e4e7eb", MUTED: "#9ba3ad", GRID: "#2d333b"}
"""What each neutral colour becomes on a dark page: the SVG itself knows both."""

WIDTH = 5.8  # inches: at the width of a phone the type is still readable

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.facecolor": CARD,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "deeprnn-bench",
    "path.simplify": True,
}


def colours(implementations: Iterable[str]) -> dict[str, str]:
    """A colour for each name: in every report the same for an implementation that is there."""
    places = _places(implementations)
    return {name: PALETTE[place % len(PALETTE)] for name, place in places.items()}


def markers(implementations: Iterable[str]) -> dict[str, str]:
    """A marker for each name; where colours come round again, markers differ."""
    places = _places(implementations)
    return {
        name: MARKERS[(place + place // len(PALETTE)) % len(MARKERS)]
        for name, place in places.items()
    }


def _places(implementations: Iterable[str]) -> dict[str, int]:
    """By name its place among all that this checkout has, then those that it does not know.

    Files are listed and not imported: rendering needs no torch.
    """
    wanted = set(implementations)
    known = [module.name for module in pkgutil.iter_modules([str(IMPLEMENTATIONS)])]
    order = [*sorted(known), *sorted(wanted - set(known))]
    return {name: order.index(name) for name in sorted(wanted)}


def columns_of(panels: int) -> int:
    """How many panels stand beside each other where there are so many: one column gets too long."""
    return 1 if panels <= 4 else 2 if panels <= 6 else 3


def panels(heights: list[float], legends: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure of panels beneath each other, of many in columns, line by line.

    ``heights`` are the panels' own in inches, and ``legends`` is how many entries a legend above
    them has; what it, titles and axis labels need is added.
    """
    columns = columns_of(len(heights))
    lines = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    height = sum(lines) + 0.95 * len(lines) + legend_height(legends, columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.09, hspace=0.02)
    figure = Figure(figsize=(WIDTH * columns, height), dpi=160, layout=layout)
    FigureCanvasAgg(figure)
    # A column is a figure of its own: titles begin at its left edge.
    parts = figure.subfigures(1, columns, squeeze=False)[0] if columns > 1 else [figure]
    grid = [
        part.subplots(len(lines), 1, squeeze=False, height_ratios=lines)[:, 0] for part in parts
    ]
    axes = [grid[place % columns][place // columns] for place in range(len(lines) * columns)]
    for empty in axes[len(heights) :]:
        empty.set_axis_off()
    return figure, axes[: len(heights)]


def columns_in(figure: Figure) -> int:
    """How many columns ``panels`` gave this figure."""
    return round(figure.get_figwidth() / WIDTH)


def heading(axes: Axes, title: str, notes: Iterable[str] = ()) -> None:
    """A title over the panel with lines of notes beneath it, from the left edge of the figure.

    The title of the axes only keeps the room: it would begin where the axis begins, which with long
    names beside it leaves too little width.
    """
    lines = textwrap.wrap(title, 56) or [""]
    small = [line for note in notes for line in textwrap.wrap(note, 74)]
    axes.set_title("\n".join(" " for _ in (*lines, *small)))
    pitch = 1.22 * SETTINGS["axes.titlesize"]
    for row, text in enumerate(reversed((*lines, *small))):
        is_note = row < len(small)
        axes.annotate(
            text,
            (0.02, 1.0),
            xycoords=("subfigure fraction", "axes fraction"),
            xytext=(0, SETTINGS["axes.titlepad"] + row * pitch),
            textcoords="offset points",
            fontsize=9.5 if is_note else SETTINGS["axes.titlesize"],
            fontweight="normal" if is_note else "bold",
            color=MUTED if is_note else INK,
            annotation_clip=False,
        ).set_in_layout(False)


def legend_above(figure: Figure, handles: list[Line2D]) -> None:
    """One legend for all panels, outside of them."""
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2 * columns_in(figure),
        fontsize=9.5,
        handlelength=3.2,
    )


def legend_height(entries: int, columns: int) -> float:
    """Inches that ``legend_above`` takes for so many entries over so many columns of panels."""
    return 0.22 * math.ceil(entries / (2 * columns)) + 0.15 if entries else 0.0


def freeze(figure: Figure) -> None:
    """Lay the figure out once, so that what is placed by hand afterwards stays right."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def save(figure: Figure, directory: Path, name: str) -> str:
    """Write ``name.svg`` and ``name.png`` into ``directory``; returns the SVG's text.

    The files hold no date and no random name, so drawing the same figures gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    freeze(figure)
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS):
        # The canvases' own methods: savefig would draw everything once more to measure it.
        FigureCanvasAgg(figure).print_png(directory / f"{name}.png", metadata={"Software": None})
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().replace("</style>", f"{_dark_rules()}</style>", 1)
    (directory / f"{name}.svg").write_text(text, "utf-8")
    return text


def _dark_rules() -> str:
    rules = "".join(
        f'[style*="{part}: {light}"]{{{part}:{dark}!important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme: dark){{{rules}}}"


def place_labels(axes: Axes, points: list[tuple[float, float, str, str]]) -> None:
    """Name the points ``(x, y, text, colour)`` so that no name covers a point or another name.

    For each name, places around its point are tried from near to far, and the first that is free
    is taken; a name that had to move away gets a thin line to its point.
    """
    figure = axes.figure.figure  # of a panel in a column, the whole
    freeze(figure)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    centres = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    frame = axes.get_window_extent(renderer)
    order = sorted(range(len(points)), key=lambda i: (-centres[i][1], centres[i][0]))
    for i in order:
        x, y, text, colour = points[i]
        label = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkB": 3},
        )
        size = Text.get_window_extent(label, renderer)
        _take_first_free(label, size.width, size.height, centres[i], taken, frame, i)


def _take_first_free(
    label: Any,
    width: float,
    height: float,
    centre: Any,
    taken: list[tuple[float, float, float, float]],
    frame: Any,
    own: int,
) -> None:
    scale = label.figure.dpi / 72
    for distance in (8, 16, 26, 38, 52, 68, 86, 106):
        for side_x, side_y in (
            (1, 0),
            (-1, 0),
            (1, 1),
            (1, -1),
            (-1, 1),
            (-1, -1),
            (0, 1),
            (0, -1),
        ):
            gap = distance * scale
            left = centre[0] + side_x * (gap if side_y == 0 else 8 * scale)
            left -= {1: 0.0, 0: width / 2, -1: width}[side_x]
            bottom = centre[1] + side_y * gap - height / 2
            box = (left - 2, bottom - 1, left + width + 2, bottom + height + 1)
            inside = box[0] >= frame.x0 and box[2] <= frame.x1
            inside = inside and box[1] >= frame.y0 and box[3] <= frame.y1
            free = all(_apart(box, other) for j, other in enumerate(taken) if j != own)
            if inside and free:
                label.set_position(
                    ((left - centre[0]) / scale, (bottom + height / 2 - centre[1]) / scale)
                )
                if distance < 16:
                    label.arrow_patch.set_visible(False)
                taken.append(box)
                return
    # Nothing is free: a name that covers something is better than none.
    label.set_position((8, 0))
    label.arrow_patch.set_visible(False)


def _apart(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
