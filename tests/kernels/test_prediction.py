"""The reckoning follows what it is made of."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.prediction import microseconds_a_step, predict
from kernels.tiling import Tile

TILE = Tile(16, 8, 64, 4, 1)


def test_parts_sum_to_the_step():
    parts = microseconds_a_step(TILE, 256, 4, torch.float32, "tf32", False)
    assert abs(sum(parts.values()) - 2 * parts["step"]) < 1e-9


def test_longer_rows_take_longer_and_half_the_bytes_less():
    narrow = microseconds_a_step(TILE, 256, 4, torch.float32, "tf32", False)
    wide = microseconds_a_step(TILE, 512, 4, torch.float32, "tf32", False)
    backward = microseconds_a_step(TILE, 256, 4, torch.float32, "tf32", True)
    half = microseconds_a_step(TILE, 256, 4, torch.bfloat16, "ieee", False)
    assert half["step"] < narrow["step"] < wide["step"] < backward["step"]


def test_plain_arithmetic_is_what_bounds_ieee_float32():
    ieee = microseconds_a_step(TILE, 256, 4, torch.float32, "ieee", False)
    tf32 = microseconds_a_step(TILE, 256, 4, torch.float32, "tf32", False)
    assert ieee["product"] > tf32["product"]
    # Threads that keep their weights have the arithmetic alone to do, not half of it.
    staged = Tile(4, 16, 32, 4, 1, shares=8)
    threads = replace(staged, block_k=4, staged=False, in_registers=1)
    by_dot, alone = (
        microseconds_a_step(tile, 256, 4, torch.float32, "ieee", False)["product"]
        for tile in (staged, threads)
    )
    assert alone == pytest.approx(by_dot / 2, rel=0.1)


def test_what_does_not_fit_has_no_prediction():
    assert predict("lstm", 256, 2048, torch.float32, "ieee") == {}
    both = predict("lstm", 32, 256, torch.float32, "tf32")
    assert list(both) == ["forward", "backward"]
    assert both["forward"]["step"] < both["backward"]["step"]


def test_a_link_of_a_wavefront_waits_for_the_longer_of_two():
    """The other layer's part costs what does not fit into the time in which one's own rows come."""
    for marked in (False, True):
        tile = replace(TILE, marked=marked)
        step, link = (
            microseconds_a_step(tile, 256, 4, torch.float32, "tf32", True, layers)
            for layers in (1, 2)
        )
        assert step["below"] == 0 < link["below"]
        assert link["step"] == pytest.approx(step["step"] + link["below"])
    counted = microseconds_a_step(TILE, 64, 4, torch.float32, "tf32", False, 2)
    assert counted["below"] == 0  # the barrier takes longer than so little


def test_the_page_says_what_is_reckoned_today():
    """Every predicted microsecond in the tables of kernels/README.md."""
    cells = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}
    precisions = {"IEEE": (torch.float32, "ieee"), "TF32": (torch.float32, "tf32"),
                  "bfloat16": (torch.bfloat16, "ieee")}  # fmt: skip
    page = (Path(__file__).parents[2] / "kernels" / "README.md").read_text("utf-8")
    heading, layer, precision, rows = [], "", "", 0
    for line in page.splitlines():
        words = [word.strip() for word in line.strip("|").split("|")] if line[:1] == "|" else []
        if words[2:3] == ["direction"]:
            heading = words
        elif words[2:3] in (["forward"], ["backward"]) and "predicted" in " ".join(heading):
            layer, precision, way = words[0] or layer, words[1] or precision, words[2]
            said = dict(zip(heading, words, strict=True))
            name, H, B = re.fullmatch(r"(\w+) (?:2 × )?(\d+)(?:, B (\d+))?", layer).groups()
            sizes = (cells[name], int(B or 32), int(H), *precisions[precision])
            layers = 2 if "×" in layer else 1
            parts = predict(*sizes, layers=layers)[way]
            marks = predict(*sizes, layers=layers, marked=True).get(way, {"step": None})
            wanted = parts | dict.fromkeys(
                ("predicted", "predicted, barrier", "predicted, counters"), parts["step"]
            ) | dict.fromkeys(("predicted, marks", "marks"), marks["step"])  # fmt: skip
            for name in said.keys() & wanted.keys():
                value = wanted[name]
                assert said[name] == ("–" if value is None else f"{value:.2f}"), (name, line)
                rows += 1
        elif not words:
            heading = []
    assert rows > 80
