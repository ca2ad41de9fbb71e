"""What a paired gate measured: base, head and control side by side, as often as it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SIDES = ("base", "head", "control")
"""Who takes part in a pair. The control is base once more, in a process of its own."""


@dataclass(frozen=True)
class Side:
    """One process of a pair, from its start to its end."""

    tokens_per_second: float
    peak_memory_mib: float | None
    train_perplexity: float  # after the last of its epochs that is compared
    rounds: int  # timed
    marked: int  # of these, how many carry a mark: contended, throttled


@dataclass(frozen=True)
class Pair:
    """Base, head and control with the same seed, their rounds in turns."""

    seed: int
    base: Side
    head: Side
    control: Side

    @property
    def sides(self) -> tuple[Side, Side, Side]:
        return self.base, self.head, self.control


@dataclass
class Measurement:
    """All pairs of one case, or why there are none.

    ``kind`` is ``paired`` (measured on both sides), ``new`` (only head has it), ``invalid`` (lacks,
    crashed, is incorrect or diverged on a side), or ``untimed`` (unsupported on both sides, or run
    by an interpreter, whose speed means nothing). All but ``paired`` have a one-line reason.
    """

    case_id: str
    kind: str = "paired"
    reason: str = ""
    pairs: list[Pair] = field(default_factory=list)


def turn_order(pair: int) -> tuple[str, ...]:
    """Who is timed when, within pair number ``pair``: there and back, A B C C B A.

    Of a steady drift every side so gets the same share. Who begins changes from pair to pair.
    """
    first = pair % len(SIDES)
    turns = SIDES[first:] + SIDES[:first]
    return (*turns, *reversed(turns))


def combine(turns: Sequence[Sequence[float]]) -> float:
    """Tokens/s of one side from those of its rounds, by turn.

    The median within a turn leaves out a hiccup; the mean of the logs over turns keeps the drift
    balanced, which a median over all rounds would not.
    """
    return math.exp(float(np.mean([np.median(np.log(turn)) for turn in turns])))
