"""The plots of ``kernels.csv``: a bar is what was measured, in order, with its parts."""

import pytest
from matplotlib.container import BarContainer

from bench import kernel_page
from bench.kernel_table import KERNELS
from bench.plots import kernels as kernel_plots

from .conftest import timed


def bars_of(drawn):
    """The names of a figure's first panel from the top, and the widths of its bars by colour."""
    assert not isinstance(drawn, str), drawn
    axes = drawn[0].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    widths = [
        [bar.get_width() for bar in bars]
        for bars in axes.containers
        if isinstance(bars, BarContainer)
    ]
    words = [text.get_text() for text in axes.texts]
    return names, widths, words


def layer_of(tmp_path, *rows):
    KERNELS.append(tmp_path, rows)
    return kernel_page.layers_of(KERNELS.load(tmp_path))


def test_stacks_are_drawn_the_fastest_on_top_with_their_forward_part(tmp_path):
    layers = layer_of(
        tmp_path,
        timed("torch_nn", 6.0, 5.9, 6.1),
        {**timed("torch_nn", 2.5, 2.4, 2.6), "mode": "forward", "row_id": "f"},
        timed("a", 2.0, 1.9, 2.1),
        {**timed("b", 1.0, 0.9, 1.1), "mode": "forward", "row_id": "alone"},
        timed("c", 1.0, 0.9, 1.1, execution="eager"),
    )
    names, (whole, light, dark, _), words = bars_of(kernel_plots.stacks(layers))
    assert names == ["a", "torch_nn"]  # b and c lack what is compared
    assert whole == light == [2.0, 6.0]
    assert dark == [0.0, 2.5]
    assert {"2.00  3.00 ×", "6.00"} <= set(words)
    assert isinstance(kernel_plots.recurrences(layers), str)


def test_the_references_bar_is_what_factors_are_of(tmp_path):
    layers = layer_of(
        tmp_path,
        timed("torch_nn", 6.0, 6.0, 6.0),
        timed("a", 5.9, 5.9, 5.9),
        timed("torch_nn", 5.6, 5.6, 5.6, part="control"),
    )
    names, (whole, *_), words = bars_of(kernel_plots.stacks(layers))
    assert names == ["torch_nn", "a"]
    assert whole == pytest.approx([5.8, 5.9])
    assert {"5.80", "5.90  0.98 ×"} <= set(words)


def test_floors_stand_beneath_the_recurrences_with_what_was_predicted(tmp_path):
    layers = layer_of(
        tmp_path,
        timed("a", 3.0, 2.9, 3.1, part="recurrence", predicted_microseconds_per_step=2.5),
        {**timed("barrier", 0.9, 0.9, 0.9, part="floor"), "mode": "forward", "row_id": "f"},
        {**timed("barrier", 0.8, 0.8, 0.8, part="floor"), "mode": "backward", "row_id": "b"},
        {**timed("launch", 0.7, 0.7, 0.7, part="floor"), "mode": "forward", "row_id": "l"},
    )
    drawn = kernel_plots.recurrences(layers)
    names, (whole, _, dark, _), words = bars_of(drawn)
    assert names == ["a", "a barrier", "a launch"]
    assert whole == pytest.approx([3.0, 1.7, 0.7])
    assert dark == pytest.approx([0.0, 0.9, 0.7])
    assert "0.700  forward alone" in words
    (diamond,) = [line for line in drawn[0].axes[0].lines if line.get_marker() == "D"]
    assert list(diamond.get_xdata()) == [2.5]
    assert isinstance(kernel_plots.stacks(layers), str)
