"""Medians, ratios and their intervals: how sure a figure is.

Timings have heavy tails and drift, so throughput is a median with a distribution-free interval, and
two cases are compared by the ratios of rounds that ran one after the other, on a log scale, where
"twice as fast" and "half as fast" lie equally far from "the same".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes a second to import

ENOUGH_FOR_95 = 6
"""The fewest values whose range holds the true median with a probability of 95 %."""


class Interval(NamedTuple):
    """A median and the interval that holds it, in the unit of the values."""

    median: float
    low: float
    high: float
    coverage: float  # the least probability that the interval holds the true median
    reached: bool  # whether that is as much as was asked for


class Ratio(NamedTuple):
    """How many times as large as ``b`` is ``a``: 1 is equal, 2 is twice."""

    ratio: float
    low: float  # 0 where the spread is unknown
    high: float  # infinite where the spread is unknown
    pairs: int

    @property
    def is_bounded(self) -> bool:
        """Whether the interval says anything: it takes two pairs to see a spread."""
        return self.low > 0 and math.isfinite(self.high)

    @property
    def inverse(self) -> Ratio:
        return Ratio(1 / self.ratio, 1 / self.high, _reciprocal(self.low), self.pairs)


def _reciprocal(value: float) -> float:
    return math.inf if value == 0 else 1 / value


BLOCKS = 10
"""Stretches of a run that are taken for independent; each should be many rounds.

Of 20, in runs of 500 rounds on shared servers, each still resembled the next (correlated by 0.22 on
average, over 27 cases of two reports): with so much, an interval meant for 95 % holds 88 %. Of 10,
and of 14, none was left.
"""


def block_medians(values: Sequence[float]) -> Sequence[float]:
    """The medians of stretches of ``values``, in the order measured; few values as they are.

    A round resembles its neighbours: a machine's speed drifts. An interval that takes rounds for
    independent is then too narrow; stretches of many rounds are nearly so.

    Source: Flegal and Jones, "Batch means and spectral variance estimators in Markov chain Monte
    Carlo", Annals of Statistics 38(2), 2010, for the mean.
    """
    if len(values) < 2 * BLOCKS:
        return values
    return [float(np.median(block)) for block in np.array_split(np.asarray(values), BLOCKS)]


def throughput(speeds: Sequence[float]) -> Interval:
    """The median of the rounds' tokens/s, in the order measured, and what encloses the true one.

    The interval is :func:`median_interval`'s, over :func:`block_medians`.
    """
    median = float(np.median(speeds))
    interval = median_interval(block_medians(speeds))
    return interval._replace(
        median=median, low=min(interval.low, median), high=max(interval.high, median)
    )


def counted_speeds(rounds: pd.DataFrame, case_id: str) -> list[float]:
    """The tokens/s of a case's rounds that count, in the order measured; ``rounds`` as stored."""
    mine = rounds[rounds["case_id"] == case_id]
    speeds = mine["tokens_per_second"][~mine["warm_up"].fillna(False).astype(bool)]
    return [float(speed) for speed in speeds.dropna()]


def median_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """The median of ``values`` and the order statistics that enclose the true median.

    Of ``n`` independent values, the number below the true median is binomial(n, 1/2), whatever
    their distribution. So the k-th smallest and k-th largest enclose it with probability
    1 − 2·P(X < k), and the largest ``k`` that still gives ``confidence`` is taken.

    Fewer than six values cannot give 95 %. Then the interval is the smallest to the largest value,
    ``reached`` is false, and ``coverage`` says what it is worth: 0.94 for five, 0 for one.

    Raises ``ValueError`` for no values, for values that are not finite, and for a confidence that
    is not between 0 and 1.

    Source: David and Nagaraja, *Order Statistics*, 3rd edition (2003), section 7.1.
    """
    _check_confidence(confidence)
    ordered = np.sort(np.asarray(list(values), dtype=float))
    count = len(ordered)
    if count == 0 or not np.isfinite(ordered).all():
        raise ValueError(f"a median needs one finite value or more, got {ordered.tolist()}")
    below = special.bdtr(np.arange(count), count, 0.5)  # P(X <= k)
    # The smallest k with P(X <= k) >= tail; one less stays within the tail.
    k = max(int(np.searchsorted(below, (1 - confidence) / 2)), 1)
    coverage = max(1 - 2 * float(below[k - 1]), 0.0)
    return Interval(
        float(np.median(ordered)),
        float(ordered[k - 1]),
        float(ordered[count - k]),
        coverage,
        coverage >= confidence - 1e-12,
    )


def paired_log_ratio(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The geometric mean of ``a[i] / b[i]`` with a t interval on the logarithms.

    ``a[i]`` and ``b[i]`` were measured next to each other, so that what slowed the machine slowed
    both and cancels. With few pairs a t interval keeps its promise where a percentile bootstrap is
    too narrow. One pair says nothing about spread: its interval is (0, infinity).

    Raises ``ValueError`` for unequal lengths, no pairs, or values that are not positive and finite.

    Source: Student (1908); for speedups as ratios on a log scale, Fleming and Wallace, "How not to
    lie with statistics", Communications of the ACM 29(3), 1986.
    """
    _check_confidence(confidence)
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    logs = _logarithms(a) - _logarithms(b)
    count = len(logs)
    mean = float(logs.mean())
    if count == 1:
        return Ratio(math.exp(mean), 0.0, math.inf, 1)
    error = float(logs.std(ddof=1)) / math.sqrt(count)
    half = t_quantile((1 + confidence) / 2, count - 1) * error
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), count)


def t_quantile(probability: float, freedom: float) -> float:
    """The value below which Student's t with ``freedom`` degrees lies with ``probability``."""
    return float(special.stdtrit(freedom, probability))


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product: the mean for ratios, whichever of two is called the base.

    Raises ``ValueError`` for no values, or values that are not positive and finite.
    """
    return math.exp(float(_logarithms(values).mean()))


def speedup(
    rounds: pd.DataFrame, case_id: str, baseline_id: str, confidence: float = 0.95
) -> Ratio | None:
    """How many times the tokens/s of ``baseline_id`` does ``case_id`` reach? ``None`` if unknown.

    ``rounds`` is ``rounds.csv``; rounds that only warm up do not count, marked rounds do. The
    cases of a workload take turns, so a pair is a turn: the geometric mean of the case's rounds in
    it over that of the baseline's. Rounds within a turn share its weather and are no pairs of their
    own. Only where the two share a single turn are rounds paired by epoch. Of many turns, stretches
    are the pairs, because a turn resembles its neighbours (:func:`block_medians`).
    """
    counted = rounds[~rounds["warm_up"].fillna(False).astype(bool)]
    for key in ("turn", "epoch"):
        case = _mean_by(key, counted[counted["case_id"] == case_id])
        baseline = _mean_by(key, counted[counted["case_id"] == baseline_id])
        shared = sorted(set(case) & set(baseline))
        if len(shared) > 1 or (key == "epoch" and shared):
            a, b = (_stretches([side[at] for at in shared]) for side in (case, baseline))
            return paired_log_ratio(a, b, confidence)
    return None


def _stretches(speeds: list[float]) -> list[float]:
    """The geometric means of stretches of many speeds; few as they are."""
    if len(speeds) < 2 * BLOCKS:
        return speeds
    return [geometric_mean(block.tolist()) for block in np.array_split(np.array(speeds), BLOCKS)]


def _mean_by(key: str, rounds: pd.DataFrame) -> dict[int, float]:
    speeds: dict[int, list[float]] = {}
    for at, speed in zip(rounds[key], rounds["tokens_per_second"], strict=True):
        if not pd.isna(at) and math.isfinite(speed) and speed > 0:
            speeds.setdefault(int(at), []).append(float(speed))
    return {at: geometric_mean(group) for at, group in speeds.items()}


def factors_over(
    implementation: str,
    cases: pd.DataFrame,
    rounds: pd.DataFrame,
    execution: str | None = None,
    confidence: float = 0.95,
) -> dict[str, Ratio]:
    """How many times as fast as ``implementation`` is each case of one workload, by ``case_id``?

    ``cases`` holds the workload's rows of ``training.csv``. The baseline is the implementation run
    as ``execution``; by default, whichever way of running it is the fastest here: a rival counts at
    its best. Cases and baselines count when their status is ``ok``, their speed is known, and no
    interpreter ran them. Without rounds to pair, a factor is the ratio of the two stored medians
    with an unbounded interval. Empty when there is no baseline.
    """
    timed = cases[
        (cases["status"] == "ok")
        & (cases["tokens_per_second"] > 0)
        & ~cases["interpreted"].fillna(False).astype(bool)
    ]
    rivals = timed[timed["implementation"] == implementation]
    if execution is not None:
        rivals = rivals[rivals["execution"] == execution]
    if rivals.empty:
        return {}
    medians = dict(zip(timed["case_id"], timed["tokens_per_second"], strict=True))
    baseline = max(rivals["case_id"], key=lambda case_id: medians[case_id])
    factors: dict[str, Ratio] = {}
    for case_id, median in medians.items():
        paired = speedup(rounds, case_id, baseline, confidence)
        plain = Ratio(float(median / medians[baseline]), 0.0, math.inf, 0)
        factors[case_id] = paired if paired is not None else plain
    return factors


def _logarithms(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if len(array) == 0 or not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"a ratio needs one positive finite value or more, got {array.tolist()}")
    return np.log(array)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")
