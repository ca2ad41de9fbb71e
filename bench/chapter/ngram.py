"""Interpolated n-gram models of characters: what can be had without a network.

An n-gram model predicts a character from the few before it by counting. A history that was seen
seldom, or never, says little, so each order is mixed with the order below it; the lowest is mixed
with the uniform distribution, and no character is impossible. How much weight goes down is the
smoothing: two of the best known are here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
SMOOTHINGS = ("kneser_ney", "witten_bell")
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class _Grams(NamedTuple):
    """The n-grams of one order in training text and held-out text, numbered in common."""

    train: Integers  # the numbers of the n-grams, by the position where they end
    held_out: Integers
    contexts: Integers  # of each number: the number of the n-gram without its last character
    first: int  # the first position where an n-gram ends


def held_out_bits(train: str, held_out: str, order: int, smoothing: str = "kneser_ney") -> float:
    """Bits a character of `held_out` under a model of order `order` with the counts of `train`.

    Each character is predicted from the up to `order` - 1 before it; the history is empty at the
    beginning of `held_out`. Raises ValueError as `probabilities` does.
    """
    return float(-np.log2(probabilities(train, held_out, order, smoothing)).mean())


def best_order(
    train: str, validation: str, smoothing: str = "kneser_ney", orders: Iterable[int] = range(2, 11)
) -> int:
    """The order with the fewest bits a character of `validation`; the lowest of equals.

    Raises ValueError as `probabilities` does, and for no orders at all.
    """
    bits = {order: held_out_bits(train, validation, order, smoothing) for order in sorted(orders)}
    if not bits:
        raise ValueError("no order to choose from: give one or more, each 1 or greater")
    return min(bits, key=lambda order: bits[order])


def probabilities(
    train: str, held_out: str, order: int, smoothing: str = "kneser_ney"
) -> NDArray[np.float64]:
    """The probability of each character of `held_out` given those before it, float64 `(N,)`.

    `smoothing` is "kneser_ney", modified Kneser–Ney with its discounts D1, D2, D3+ from counts of
    counts, or "witten_bell". Both are interpolated. For every history, the probabilities of the 27
    characters a-z and space sum to 1.

    The discounts divide by n1 to n3, the numbers of n-grams that occur once, twice and three times.
    Where one of n1 to n4 is 0, or a discount does not lie above 0 and at most at its count, as for
    tiny texts and for the lowest orders of any text, that order takes 0.5, 1 and 1.5 instead.

    Raises ValueError for characters outside the alphabet, an empty text, an order below 1 and an
    unknown smoothing.

    Sources: Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
    Harvard TR-10-98 (1998); Witten and Bell, "The zero-frequency problem", IEEE Transactions on
    Information Theory 37(4), 1991, method C.
    """
    if order < 1:
        raise ValueError(f"the order of an n-gram model is 1 or greater, not {order}")
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"no smoothing named {smoothing!r}: give {' or '.join(SMOOTHINGS)}")
    orders = _grams(_encode(train, "training"), _encode(held_out, "held-out"), order)
    result = np.full(len(held_out), 1 / len(ALPHABET))
    for index, grams in enumerate(orders):
        if smoothing == "witten_bell" or index == order - 1:
            counts = np.bincount(grams.train, minlength=len(grams.contexts))
        else:
            counts = _continuations(grams, orders[index + 1])
        mix = _witten_bell if smoothing == "witten_bell" else _kneser_ney
        share, lower_weight = mix(counts, grams.contexts)
        numbers = grams.held_out
        lower = lower_weight[grams.contexts[numbers]] * result[grams.first :]
        result[grams.first :] = share[numbers] + lower
    return result


def _encode(text: str, what: str) -> Integers:
    if not text:
        raise ValueError(f"the {what} text is empty: an n-gram model needs one character or more")
    place = {character: number for number, character in enumerate(ALPHABET)}
    try:
        return np.fromiter((place[character] for character in text), np.int64, len(text))
    except KeyError as error:
        wrong = error.args[0]
        raise ValueError(
            f"the {what} text holds {wrong!r} at position {text.index(wrong):,}: "
            "the characters are a-z and space, as deeprnn.corpus.normalise leaves them"
        ) from None


def _grams(train: Integers, held_out: Integers, order: int) -> list[_Grams]:
    """The n-grams of every order up to `order`, each numbered by its context and last character.

    Numbers are made dense at each order, so that no order is too high for 64 bits.
    """
    # Of order 0 there is one n-gram, which ends at every position and before the first.
    below = [np.zeros(len(text) + 1, np.int64) for text in (train, held_out)]
    orders = []
    for length in range(1, order + 1):
        keys = [
            numbers[:-1] * len(ALPHABET) + text[length - 1 :]
            for numbers, text in zip(below, (train, held_out), strict=True)
        ]
        known, dense = np.unique(np.concatenate(keys), return_inverse=True)
        dense = dense.reshape(-1).astype(np.int64)
        below = [dense[: len(keys[0])], dense[len(keys[0]) :]]
        orders.append(_Grams(below[0], below[1], known // len(ALPHABET), length - 1))
    return orders


def _continuations(grams: _Grams, above: _Grams) -> Integers:
    """How many different characters precede each n-gram in the training text."""
    _, where = np.unique(above.train, return_index=True)
    # The n-gram of `above` that begins one character earlier ends where this one does.
    return np.bincount(grams.train[where + 1], minlength=len(grams.contexts))


def _kneser_ney(counts: Integers, contexts: Integers) -> tuple[Floats, Floats]:
    """Of each n-gram its own share, and of each context the weight of the order below it."""
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    total = _sum_by(contexts, counts)
    lower = _divide(_sum_by(contexts, discounts), total, otherwise=1.0)
    return _divide(counts - discounts, total[contexts], otherwise=0.0), lower


def _discounts(counts: Integers) -> tuple[float, float, float]:
    once, twice, thrice, four_times = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (once and twice and thrice and four_times):
        return FALLBACK_DISCOUNTS
    y = once / (once + 2 * twice)
    found = (
        1 - 2 * y * twice / once,
        2 - 3 * y * thrice / twice,
        3 - 4 * y * four_times / thrice,
    )
    # A discount of 0 would leave nothing for what was not seen; none exceeds its count.
    return found if all(discount > 0 for discount in found) else FALLBACK_DISCOUNTS


def _witten_bell(counts: Integers, contexts: Integers) -> tuple[Floats, Floats]:
    """As `_kneser_ney`: the order below weighs as if each new character had been one more."""
    kinds = _sum_by(contexts, counts > 0)
    total = _sum_by(contexts, counts) + kinds
    lower = _divide(kinds, total, otherwise=1.0)
    return _divide(counts, total[contexts], otherwise=0.0), lower


def _sum_by(contexts: Integers, values: NDArray) -> Floats:
    return np.bincount(contexts, weights=values).astype(np.float64)


def _divide(numerator: NDArray, denominator: Floats, otherwise: float) -> Floats:
    result = np.full(len(denominator), otherwise)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
