"""Sizes that are known beforehand, and bounds that no compressor beats."""

import bz2
import lzma
import math
import random
from itertools import pairwise

import pytest

from bench.chapter.compressors import NAMES, held_out_bits, own_bits

LETTERS = " abcdefghijklmnopqrstuvwxyz"


def random_text(count, seed=0):
    return "".join(random.Random(seed).choices(LETTERS, k=count))


def size(name, text):
    return round(own_bits(name, text) * len(text) / 8)


def test_sizes_are_those_of_the_files():
    # There is one encoder of bz2 in use, and it has not changed: its sizes are the same anywhere.
    text = "the time traveller "
    assert (size("bz2", text), size("bz2", text * 100)) == (52, 71)
    assert size("bz2", text * 100) == len(bz2.compress((text * 100).encode(), 9))
    # 13 bytes of header, an end mark and the 19 letters; 1,881 more, repeated, add next to nothing.
    assert 13 + len(text) <= size("lzma", text) <= 13 + len(text) + 16
    assert size("lzma", text * 100) <= size("lzma", text) + 20


@pytest.mark.parametrize("name", NAMES)
def test_nothing_can_be_saved_on_random_text(name):
    text = random_text(20_000)
    assert math.log2(27) < own_bits(name, text) < math.log2(27) + 0.3
    assert math.log2(27) - 0.1 < held_out_bits(name, text[:15_000], text[15_000:]) < 5.2


def test_what_was_seen_before_costs_lzma_next_to_nothing():
    text = random_text(20_000)
    assert held_out_bits("lzma", text, text[5_000:10_000]) < 0.05


def test_what_was_seen_in_the_same_block_costs_bz2_less():
    text = random_text(20_000)
    assert held_out_bits("bz2", text, text[5_000:10_000]) < 3.5


def test_bz2_forgets_what_came_in_an_earlier_block():
    # The first block ends within the held-out text's first characters.
    text = random_text(900_000 - 40)
    assert held_out_bits("bz2", text, text[5_000:10_000]) > 4.5


@pytest.mark.parametrize("name", NAMES)
def test_the_difference_is_that_of_two_files(name):
    train, held_out = random_text(3_000), random_text(500, seed=1)
    added = size(name, train + held_out) - size(name, train)
    assert held_out_bits(name, train, held_out) == added * 8 / 500
    assert held_out_bits(name, "", held_out) < own_bits(name, held_out)  # headers cancel


def test_lzma_is_set_as_strong_as_it_gets():
    words = ["time", "machine", "traveller", "space", "dimension", "grey", "eyes", "fire"]
    choose = random.Random(3)
    text = " ".join("".join(choose.choices(words, k=2)) for _ in range(4_000))
    plain = [len(lzma.compress(text.encode(), preset=preset)) for preset in (0, 6, 9)]
    assert all(size("lzma", text) < one for one in plain)
    assert all(a >= b for a, b in pairwise(plain))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: own_bits("zip", "a"), "no compressor named 'zip': give lzma or bz2"),
        (lambda: held_out_bits("zip", "a", "b"), "no compressor named 'zip': give lzma or bz2"),
        (lambda: own_bits("bz2", ""), "the given text is empty: bits a character need one"),
        (lambda: held_out_bits("lzma", "a", ""), "the held-out text is empty: bits a character"),
    ],
)
def test_refusals_say_what_was_given_and_what_is_accepted(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
