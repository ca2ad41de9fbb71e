"""bench/plots: what is drawn is what was measured, in order, readable, and the same every time."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.plots import PLOTS, bars, curves, points, style, write_all
from bench.ranking import Report, load
from bench.results import CURVES, ROUNDS
from deeprnn import implementations

from .example_report import IMPLEMENTATIONS, write


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    directory = tmp_path_factory.mktemp("cpu")
    write(directory, epochs=8)
    return load(directory)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> Report:
    """One workload of a GPU, where cases ran in two ways."""
    directory = tmp_path_factory.mktemp("gpu")
    write(directory, "gpu", epochs=8, workloads=1)
    return load(directory)


@pytest.fixture(scope="module")
def many(report, graphs) -> Report:
    """More workloads than one column takes, and no full lines of columns."""
    workloads = [*report.workloads, *graphs.workloads] * 2
    return replace(graphs, workloads=workloads)


@pytest.fixture(autouse=True)
def look():
    with mpl.rc_context(style.SETTINGS):
        yield


def figure_of(drawn: tuple[Figure, str] | str) -> Figure:
    assert not isinstance(drawn, str), drawn
    return drawn[0]


def panels_of(figure: Figure) -> list[Axes]:
    """The axes as one reads them, line by line."""
    style.freeze(figure)
    drawn = [axes for axes in figure.axes if axes.axison]
    return sorted(drawn, key=lambda axes: (-round(axes.get_position().y0, 1), _left(axes)))


def _left(axes: Axes) -> float:
    return axes.get_window_extent().x0


@pytest.mark.parametrize(
    ("count", "columns", "lines"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (6, 2, 3), (7, 3, 3)]
)
def test_many_panels_stand_in_columns_and_are_read_line_by_line(count, columns, lines):
    handles = [Line2D([], [], label=f"name {number}") for number in range(13)]
    figure, axes = style.panels([1.0 + 0.1 * number for number in range(count)], len(handles))
    style.legend_above(figure, handles)
    for number, panel in enumerate(axes):
        style.heading(panel, f"panel {number}", ["a note"])
    style.freeze(figure)
    assert style.columns_in(figure) == style.columns_of(count) == columns
    assert panels_of(figure) == axes
    boxes = [panel.get_window_extent() for panel in axes]
    assert len({round(box.x0) for box in boxes}) == columns
    width = figure.bbox.width / columns
    for line in range(lines):  # a column with a panel fewer has a little more room for the others
        tops = [box.y1 for box in boxes[columns * line : columns * (line + 1)]]
        assert max(tops) - min(tops) < 0.05 * figure.bbox.height
    for number, (panel, box) in enumerate(zip(axes, boxes, strict=True)):
        left = width * (number % columns)
        assert left < box.x0 < box.x1 <= left + width
        for text in panel.texts:  # title and note begin at the left edge of the column
            assert left < text.get_window_extent().x0 < left + 0.05 * width
    legend = figure.legends[0].get_window_extent()
    tops = [text.get_window_extent().y1 for panel in axes for text in panel.texts]
    assert max(tops) < legend.y0 < legend.y1 <= figure.bbox.y1


def test_every_plot_is_written_twice_the_same(graphs, tmp_path):
    first = write_all(graphs, tmp_path / "first")
    second = write_all(graphs, tmp_path / "second")
    assert [plot.name for plot in first] == list(PLOTS)
    assert first == second
    assert all(plot.is_drawn for plot in first)
    for name, suffix in itertools.product(PLOTS, ("svg", "png")):
        one = (tmp_path / "first" / f"{name}.{suffix}").read_bytes()
        assert one == (tmp_path / "second" / f"{name}.{suffix}").read_bytes()
        if suffix == "png":
            assert one.startswith(b"\x89PNG")
        else:
            ElementTree.fromstring(one)
            assert b"prefers-color-scheme: dark" in one
            assert b"<dc:date>" not in one
    assert len(list((tmp_path / "first").iterdir())) == 2 * len(PLOTS)


@pytest.mark.parametrize("which", ["report", "graphs", "many"])
def test_throughput_has_the_fastest_on_top_and_nothing_interpreted(which, request):
    loaded = request.getfixturevalue(which)
    figure = figure_of(bars.throughput(loaded))
    for axes, workload in zip(panels_of(figure), loaded.workloads, strict=True):
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == sorted(widths, reverse=True)
        assert widths == [case["tokens_per_second"] for case in workload.ranked]
        bottom, top = axes.get_ylim()
        assert bottom > top  # the first bar is the uppermost
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [loaded.label(case) for case in workload.ranked]
        assert axes.get_xlim()[0] == 0
    if which == "report":
        assert "triton_step" not in labels


def test_memory_has_the_least_on_top(report):
    for axes in figure_of(bars.memory(report)).axes:
        widths = [bar.get_width() for bar in axes.patches]
        assert widths == sorted(widths)


def test_a_published_figure_is_a_line_in_sight_or_a_note(report, graphs):
    far = figure_of(bars.throughput(report)).axes[0]
    near = figure_of(bars.throughput(graphs)).axes[0]
    assert any("beyond" in text.get_text() for text in far.texts)
    assert max(far.get_xlim()) < 116_173.5
    assert any("published (solid line) 116,174" in text.get_text() for text in near.texts)
    assert any(list(line.get_xdata()) == [116_173.5] * 2 for line in near.lines)


def test_what_an_interpreter_ran_is_named_in_every_caption(report, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", lambda figure, directory, name: "drawn")
    for plot in write_all(report, tmp_path):
        assert "an interpreter ran it: triton_step." in plot.caption


@pytest.mark.parametrize("draw", [curves.over_epochs, curves.over_seconds])
def test_every_ranked_case_has_a_line_and_its_own_markers(report, draw):
    colour = style.colours(report.implementations)
    for axes, workload in zip(figure_of(draw(report)).axes, report.workloads, strict=True):
        assert axes.get_yscale() == "log"
        for case in workload.ranked:
            mine = [line for line in axes.lines if line.get_color() == colour[case.implementation]]
            assert len(mine) == 2  # the line, and its markers above all lines
        assert any(list(line.get_ydata()) == [1.1, 1.1] for line in axes.lines)


def test_a_target_far_below_is_a_note_and_an_overflow_is_left_out(tmp_path):
    write(tmp_path, epochs=6, workloads=1)
    table = CURVES.load(tmp_path)
    table["train_perplexity"] += 20
    table.loc[table["epoch"] == 1, "train_perplexity"] = math.inf
    CURVES.path(tmp_path).unlink()
    CURVES.append(tmp_path, table.to_dict("records"))
    (axes,) = figure_of(curves.over_epochs(load(tmp_path))).axes
    assert axes.get_ylim()[0] > 10
    assert axes.get_ylim()[1] < 100
    assert any("the target, 1.1, lies below" in text.get_text() for text in axes.texts)
    assert all(value == int(value) for value in axes.get_xticks())


def test_lines_that_coincide_differ_in_width(report):
    axes = figure_of(curves.over_epochs(report)).axes[0]
    solid = [line for line in axes.lines if line.get_marker() == "None" and line.get_ls() == "-"]
    ordered = sorted(solid, key=lambda line: line.get_zorder())
    widths = [line.get_linewidth() for line in ordered]
    assert len(set(widths)) == len(widths) == len(IMPLEMENTATIONS) - 1
    assert widths == sorted(widths, reverse=True)  # what lies above is thinner


@pytest.mark.parametrize("which", ["report", "graphs", "many"])
def test_no_name_covers_another_or_leaves_the_panel(which, request):
    loaded = request.getfixturevalue(which)
    figure = figure_of(points.cold_start(loaded))
    renderer = figure.canvas.get_renderer()
    for axes, workload in zip(panels_of(figure), loaded.workloads, strict=True):
        names = [t for t in axes.texts if getattr(t, "arrow_patch", None) is not None]
        assert sorted(t.get_text() for t in names) == sorted(map(loaded.label, workload.ranked))
        for name in names:
            name.update_positions(renderer)
        boxes = [mpl.text.Text.get_window_extent(t, renderer) for t in names]
        panel = axes.get_window_extent(renderer)
        for box in boxes:
            assert panel.x0 <= box.x0
            assert box.x1 <= panel.x1
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_colours_depend_on_the_names_alone():
    names = ["c", "a", "b"]
    assert style.colours(names) == style.colours(reversed(names))
    assert style.colours(names)["a"] == style.PALETTE[0]
    many = [f"n{i:02}" for i in range(3 * len(style.PALETTE))]
    looks = zip(style.colours(many).values(), style.markers(many).values(), strict=True)
    assert len(set(looks)) == len(many)


def test_an_implementation_has_the_same_colour_and_marker_in_every_report():
    names = implementations.names()
    for name in names:
        assert style.colours([name])[name] == style.colours(names)[name]
        assert style.markers([name])[name] == style.markers(names)[name]


def test_every_implementation_has_a_colour_and_a_marker_of_its_own():
    names = implementations.names()
    assert len(set(style.colours(names).values())) == len(names)
    assert len(set(style.markers(names).values())) == len(names)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("card", [style.CARD, style.DARK[style.CARD]], ids=["light", "dark"])
def test_text_and_marks_stand_out_on_both_cards(card):
    dark = card != style.CARD
    for colour in (style.INK, style.MUTED):
        assert contrast(style.DARK[colour] if dark else colour, card) >= 4.5
    for colour in style.PALETTE:
        assert contrast(colour, card) >= 2


def test_a_plot_with_nothing_to_show_is_removed_and_says_why(tmp_path):
    write(tmp_path, epochs=3, workloads=1, keep=lambda case_id: False, layers=False)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "throughput.svg").write_text("an earlier one")
    plots = write_all(load(tmp_path), tmp_path / "plots")
    assert not any(plot.is_drawn for plot in plots)
    assert all(plot.caption.startswith("Not drawn: ") for plot in plots)
    assert not list((tmp_path / "plots").iterdir())


def test_a_single_case_with_a_single_round_can_be_drawn(tmp_path):
    def one(case_id: str) -> bool:
        return case_id.endswith("/torch_nn/eager")

    write(tmp_path, epochs=1, turns=1, workloads=1, keep=one, layers=False)
    assert len(ROUNDS.load(tmp_path)) == 1
    assert all(plot.is_drawn for plot in write_all(load(tmp_path), Path(tmp_path / "plots")))
