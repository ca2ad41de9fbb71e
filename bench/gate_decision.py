"""Slower, the same, or not known yet: the decision from pairs, and what it is corrected for.

Base and head are measured in pairs, and a pair gives one number: the logarithm of head's cost over
base's. Costs are seconds a token, MiB and perplexity, so above 0 is worse for all three. A machine
that runs 20 % slower in the afternoon slows both halves of a pair and drops out.

The interval is Student's t on the pairs, with the outermost tenth at either end held back (from ten
pairs on): one pair during which a GPU began to throttle must neither raise an alarm nor hide one.

Decisions are taken at looks fixed beforehand. Every look at the data is a chance to be wrong, and
so is every case; the error allowed to the whole gate, 5 %, is divided among cases evenly and
among looks in proportion to their pairs (Bonferroni both times). So all intervals of one quantity,
of all cases at all looks, hold together with 95 %: the chance that some case of a gate is called
slower although its slowdown is no larger than the smallest effect is below 2.5 %.

Sources: Tukey and McLaughlin, *Sankhyā* A 25(3), 1963, for the t interval of a trimmed mean;
Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA 2007,
for intervals over fresh processes; Pocock, *Biometrika* 64(2), 1977, for why looks need correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from bench.statistics import t_quantile

LOOKS = (6, 10, 14, 20)
"""After how many pairs the gate looks, and decides where it can."""

ERROR = 0.05
"""The chance that one gate allows itself that any of its intervals misses, for one quantity."""

HELD_BACK = 0.1
"""The share of pairs that the interval leaves out at either end."""

WORSE, NOT_WORSE, SAME, BETTER = "worse", "not_worse", "same", "better"
AMBIGUOUS = "ambiguous"


class Estimate(NamedTuple):
    """The log of a cost ratio and its interval; arrays where many gates are tried at once."""

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Decision(NamedTuple):
    """What one quantity of one case came to, at the look that settled it or at the last one."""

    word: str
    ratio: float  # head's cost over base's
    low: float
    high: float
    pairs: int


def look_error(look: int, cases: int, looks: Sequence[int] = LOOKS, error: float = ERROR) -> float:
    """The two-sided error that look number ``look`` (from 0) may make for one of ``cases``."""
    return error * looks[look] / sum(looks) / max(cases, 1)


def estimate(logs: np.ndarray, error: float) -> Estimate:
    """Centre and interval over the last axis, missing the truth with probability ``error``.

    With ``g`` of ``n`` values held back at either end, the centre is the mean of the others, its
    standard error that of the values with the extremes pulled in, over ``1 − 2g/n``, and the
    interval t with ``n − 2g − 1`` degrees of freedom.

    Raises ``ValueError`` for fewer than two values or values that are not finite.
    """
    ordered = np.sort(np.asarray(logs, dtype=float), axis=-1)
    count = ordered.shape[-1]
    if count < 2 or not np.isfinite(ordered).all():
        raise ValueError(f"an interval needs two finite values or more, got {count}")
    held = held_at(count)
    kept = ordered[..., held : count - held]
    centre = kept.mean(axis=-1)
    pulled_in = np.clip(ordered, kept[..., :1], kept[..., -1:])
    spread = pulled_in.std(axis=-1, ddof=1) / (1 - 2 * held / count)
    reach = t_quantile(1 - error / 2, degrees_of_freedom(count)) * spread / math.sqrt(count)
    return Estimate(centre, centre - reach, centre + reach)


def degrees_of_freedom(count: int) -> int:
    """Of the t interval over ``count`` pairs: those not held back, less one."""
    return count - 2 * held_at(count) - 1


def held_at(count: int) -> int:
    """How many of ``count`` pairs the interval leaves out at either end."""
    return int(HELD_BACK * count)


def classify(low: np.ndarray, high: np.ndarray, threshold: float) -> np.ndarray:
    """The decision for an interval of log cost ratios; ``threshold`` is the log that matters.

    ``worse`` if the whole interval lies beyond the threshold, ``better`` if it lies wholly beyond
    it on the other side, ``same`` if wholly between the two, ``not_worse`` if it is below the
    threshold but open towards better, and else ``ambiguous``.
    """
    is_below = high < threshold
    return np.select(
        [low > threshold, high < -threshold, is_below & (low > -threshold), is_below],
        [WORSE, BETTER, SAME, NOT_WORSE],
        AMBIGUOUS,
    )


def decide(
    logs: Sequence[float],
    threshold: float,
    cases: int = 1,
    looks: Sequence[int] = LOOKS,
    error: float = ERROR,
) -> Decision:
    """The decision at the first look that settles it; ``ambiguous`` while none has.

    Args:
        logs: log cost ratios in the order in which they were measured.
        threshold: the smallest ratio minus one that matters, such as 0.03.
        cases: how many cases share the error.

    With fewer pairs than the first look needs the interval is open.
    """
    reached = [(i, pairs) for i, pairs in enumerate(looks) if pairs <= len(logs)]
    if not reached:
        centre = math.exp(float(np.mean(logs))) if len(logs) else math.nan
        return Decision(AMBIGUOUS, centre, 0.0, math.inf, len(logs))
    for i, pairs in reached:
        found = estimate(np.asarray(logs[:pairs]), look_error(i, cases, looks, error))
        word = str(classify(found.low, found.high, math.log1p(threshold)))
        if word != AMBIGUOUS:
            break
    centre, low, high = (math.exp(float(value)) for value in found)
    return Decision(word, centre, low, high, pairs)


def has_moved(control: Estimate, threshold: float) -> np.ndarray:
    """Whether base against base differs by more than half of the ``threshold`` (a log).

    Both halves are the same code: a difference is the machine's or the gate's own, and nothing it
    says about head can be believed.
    """
    return (control.low > threshold / 2) | (control.high < -threshold / 2)


def resolvable(spread: float, pairs: int, error: float, power: float = 0.95) -> float:
    """The log ratio beyond a threshold that ``pairs`` pairs find with probability ``power``.

    ``spread`` is the standard deviation of single log ratios as :func:`estimate` sees it. From the
    distribution of t when there is an effect (noncentral t), which takes the ratios for normal.
    """
    freedom = degrees_of_freedom(pairs)
    critical = t_quantile(1 - error / 2, freedom)

    def lacks(effect: float) -> float:
        return power - 1 + float(special.nctdtr(freedom, effect, critical))

    # In standard errors. Four times the critical one is enough with one degree of freedom, too.
    shift = optimize.brentq(lacks, 0.0, 4 * critical + 4)
    return float(shift) * spread / math.sqrt(pairs)
