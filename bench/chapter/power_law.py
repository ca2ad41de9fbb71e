"""How bits a character fall as the training text grows: a power law above a floor.

bits(N) = E + A · N^(−α). E is what no amount of text takes away, α how fast the rest goes. Three
parameters from half a dozen sizes are easily fitted and hardly known, so the intervals matter most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.statistics import t_quantile

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
EXPONENTS = (1e-3, 10.0)
"""Where the exponent is looked for. Ten makes a step: all but the first size lie on the floor."""
_POINTS = 2000  # of the grids of exponents
_ZOOMS = 4  # times that the grid closes in on the best exponent
_ROUNDING = 1e-6  # no fit is so good that its residual, in bits, counts as less


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law and what the sizes leave open; the intervals hold the truth with 95 %."""

    floor: float  # E, bits a character; 0 where none was fitted
    coefficient: float  # A, bits a character at N = 1
    exponent: float  # α
    floor_interval: tuple[float, float]
    coefficient_interval: tuple[float, float]
    exponent_interval: tuple[float, float]  # up to infinity where the fall may be a step
    residual: float  # standard deviation of the sizes' means about the curve, in bits
    floor_is_resolved: bool  # can the floor be told apart from 0?

    def predict(self, characters: float) -> float:
        """Bits a character after training on so many characters."""
        return self.floor + self.coefficient * characters**-self.exponent


def fit(characters: Sequence[float], bits: Sequence[float], floor: bool = True) -> PowerLaw:
    """Fit bits(N) = E + A · N^(−α) with E, A ≥ 0 and α > 0; with `floor=False`, E is 0.

    `bits[i]` was reached after training on `characters[i]`; a size may come several times, once a
    seed. Squares are taken of bits, not of their logarithms: bits are the logarithm of perplexity
    already, so that equal errors mean equal factors of perplexity at every size.

    Seeds at one size share their training text, so they tell little about how far that size lies
    off the curve. Each size therefore counts once, by the mean of its seeds, and there are (sizes −
    parameters) degrees of freedom: few, and the t distribution charges for it. The intervals come
    from the profile of the sum of squares, the set of parameters where it stays below
    S · (1 + t²/df), S being the least. Unlike those from the curvature at the best point, they may
    be lopsided, as those of E and α are. An interval that reaches EXPONENTS' end is open there.

    They say nothing of the choice of the held-out text, which all sizes share.

    Raises ValueError for unequal lengths, values that are not positive and finite, fewer different
    sizes than parameters + 1, and bits that do not fall as the text grows.

    Sources: Hestness et al., "Deep learning scaling is predictable, empirically" (2017); Kaplan et
    al., "Scaling laws for neural language models" (2020); Hoffmann et al., "Training
    compute-optimal large language models" (2022). Intervals: Bates and Watts, "Nonlinear regression
    analysis and its applications" (1988), section 6.1.
    """
    parameters = 3 if floor else 2
    sizes, means = _means(characters, bits, parameters)
    freedom = len(sizes) - parameters
    exponents = np.geomspace(*EXPONENTS, _POINTS)
    best = _closest(sizes, means, exponents, floor)
    estimate = _Slices(sizes, means, best, floor)
    least = float(estimate.squares[0])
    t = t_quantile((1 + CONFIDENCE) / 2, freedom)
    bound = max(least, freedom * _ROUNDING**2) * (1 + t**2 / freedom)

    # Look closely at the exponents that are possible, and at what goes with each.
    possible = np.flatnonzero(_Slices(sizes, means, exponents, floor).squares <= bound)
    place = int(np.searchsorted(exponents, best[0]))
    first = max(min([place, *possible]) - 1, 0)
    last = min(max([place, *possible]) + 1, _POINTS - 1)
    close = np.union1d(np.geomspace(exponents[first], exponents[last], _POINTS), best)
    at, floors, heights = _Slices(sizes, means, close, floor).extremes(bound)
    coefficients = np.maximum(heights, 0) * sizes[0] ** at
    floor_interval = (float(floors.min()), float(floors.max()))
    return PowerLaw(
        floor=float(estimate.best[0][0]),
        coefficient=float(estimate.best[1][0] * sizes[0] ** best[0]),
        exponent=float(best[0]),
        floor_interval=floor_interval,
        coefficient_interval=(float(coefficients.min()), float(coefficients.max())),
        exponent_interval=(
            0.0 if at.min() <= EXPONENTS[0] else float(at.min()),
            math.inf if at.max() >= EXPONENTS[1] * (1 - 1e-9) else float(at.max()),
        ),
        residual=math.sqrt(least / freedom),
        floor_is_resolved=floor_interval[0] > 0,
    )


class _Slices:
    """The sum of squares over E and the height h = A · N₁^(−α), for each of many exponents.

    For a given exponent the law is a straight line over f = (N / N₁)^(−α), so everything about E
    and h is in closed form: the least squares, and the ellipse where they stay below a bound.
    """

    def __init__(self, sizes: Floats, means: Floats, exponents: Floats, floor: bool) -> None:
        self.exponents, self.means, self.floor = exponents, means, floor
        self.f = (sizes / sizes[0]) ** -exponents[:, None]  # (exponents, sizes)
        centred = self.f - self.f.mean(1, keepdims=True)
        self.spread = np.square(centred).sum(1)
        self.slope = centred @ means / self.spread
        self.intercept = means.mean() - self.slope * self.f.mean(1)
        self.free = np.square(self._residuals(self.intercept, self.slope)).sum(1)
        # Without a floor the line passes through 0.
        self.through_zero = self.f @ means / np.square(self.f).sum(1)
        self.zero = np.square(self._residuals(0 * self.slope, self.through_zero)).sum(1)
        use_floor = floor & (self.intercept > 0)
        self.squares = np.where(use_floor, self.free, self.zero)
        self.best = (
            np.where(use_floor, self.intercept, 0.0),
            np.where(use_floor, self.slope, self.through_zero),
        )

    def _residuals(self, floors: Floats, heights: Floats) -> Floats:
        return self.means - floors[:, None] - heights[:, None] * self.f

    def extremes(self, bound: float) -> tuple[Floats, Floats, Floats]:
        """Exponents, floors and heights, among them the least and greatest that `bound` allows.

        In each slice they lie where the ellipse ends along E or along h, or where E = 0 cuts it.
        """
        zero = np.zeros(len(self.exponents))
        cut = np.sqrt(np.maximum(bound - self.zero, 0) / np.square(self.f).sum(1))
        room = np.sqrt(np.maximum(bound - self.free, 0))
        mean, number = self.f.mean(1), self.f.shape[1]
        h_reach = room / np.sqrt(self.spread)
        e_reach = room * np.sqrt(1 / number + mean**2 / self.spread)
        # Where one of E and h is at its end, the other has given way: the ellipse is slanted.
        e_given = mean * h_reach
        h_given = room * mean / (self.spread * np.sqrt(1 / number + mean**2 / self.spread))
        found: list[list[Floats]] = [[], [], []]
        for sign in (-1, 1):
            candidates = [(self.zero <= bound, zero, self.through_zero + sign * cut)]
            if self.floor:
                allowed = self.free <= bound
                e, h = self.intercept, self.slope
                candidates += [
                    (allowed, e - sign * e_given, h + sign * h_reach),
                    (allowed, e + sign * e_reach, h - sign * h_given),
                ]
            for allowed, floors, heights in candidates:
                kept = allowed & (floors >= 0)
                for column, values in zip(found, (self.exponents, floors, heights), strict=True):
                    column.append(values[kept])
        at, all_floors, all_heights = (np.concatenate(column) for column in found)
        return at, all_floors, all_heights


def _closest(sizes: Floats, means: Floats, exponents: Floats, floor: bool) -> Floats:
    """The exponent with the least squares, as an array of one."""
    for _ in range(_ZOOMS):
        index = int(_Slices(sizes, means, exponents, floor).squares.argmin())
        first, last = max(index - 1, 0), min(index + 1, len(exponents) - 1)
        best = exponents[[index]]
        exponents = np.linspace(exponents[first], exponents[last], 101)
    return best


def _means(
    characters: Sequence[float], bits: Sequence[float], parameters: int
) -> tuple[Floats, Floats]:
    """The different sizes, rising, and the mean of the bits at each."""
    if len(characters) != len(bits):
        raise ValueError(f"each size needs its bits, got {len(characters)} and {len(bits)}")
    given = np.array([characters, bits], dtype=float)
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise ValueError("sizes and bits a character are positive and finite: leave out the others")
    sizes = np.unique(given[0])
    if len(sizes) <= parameters:
        raise ValueError(
            f"a law of {parameters} parameters needs {parameters + 1} different sizes or more, "
            f"got {len(sizes)}"
        )
    means = np.array([given[1][given[0] == size].mean() for size in sizes])
    trend = np.polyfit(np.log(sizes), means, 1)[0] * math.log(sizes[-1] / sizes[0])
    if trend > -_ROUNDING:
        raise ValueError(
            "bits a character do not fall as the training text grows: there is no law to fit"
        )
    return sizes, means
