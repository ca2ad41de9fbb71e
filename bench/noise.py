"""What effect can this machine resolve, in how many pairs? From the same code against itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from bench.gate import MOST_MARKED, SPEED
from bench.gate_decision import LOOKS, degrees_of_freedom, estimate, held_at, look_error, resolvable
from bench.gate_pairs import Measurement
from bench.statistics import t_quantile

FIVE_MINUTES = 300.0


def spread(logs: np.ndarray) -> float:
    """The standard deviation of one log ratio as the gate's interval sees it.

    Where the interval holds the outermost back, it sees less than the plain standard deviation.
    """
    error = 0.05  # any: it divides out
    found = estimate(logs, error)
    return float(found.high - found.centre) / _reach(1.0, len(logs), error)


def scatter_interval(scatter: float, pairs: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation, known from so many pairs: that of chi-square.

    Both halves of the same code share a side, so they count once.
    """
    freedom = pairs - 1
    low, high = (math.sqrt(freedom / special.chdtri(freedom, tail)) for tail in (0.025, 0.975))
    return scatter * low, scatter * high


def is_measured(measurement: Measurement) -> bool:
    """Whether there are pairs to see a spread by, and none of them failed."""
    return measurement.kind == "paired" and len(measurement.pairs) > 1


def report(
    measured: Sequence[tuple[Measurement, Sequence[float]]], smallest_effect: float
) -> list[str]:
    """Lines for a terminal. A figure that was not measured is not printed.

    ``measured`` are the pairs of each case and how many seconds each took.
    """
    lines: list[str] = []
    for measurement, seconds in measured:
        if not is_measured(measurement):
            why = measurement.reason or "fewer than two pairs fitted into the time"
            lines.append(f"{measurement.case_id}: nothing measured: {why}")
            continue
        lines += _case(measurement, float(np.median(seconds)), smallest_effect)
    return lines


def _case(measurement: Measurement, pair_seconds: float, smallest_effect: float) -> list[str]:
    pairs = measurement.pairs
    speeds = [pair.base.tokens_per_second for pair in pairs]
    logs = [
        np.array(
            [
                SPEED.log_cost_ratio(pair.base.tokens_per_second, other.tokens_per_second)
                for pair, other in ((p, getattr(p, side)) for p in pairs)
            ]
        )
        for side in ("head", "control")
    ]
    scatter = math.sqrt(float(np.mean([values.var(ddof=1) for values in logs])))
    held_back = math.sqrt(float(np.mean([spread(values) ** 2 for values in logs])))
    low, high = scatter_interval(scatter, len(pairs))
    marked = sum(side.marked for pair in pairs for side in pair.sides)
    rounds = sum(side.rounds for pair in pairs for side in pair.sides)
    means = ", ".join(f"{100 * (math.exp(float(v.mean())) - 1):+.2f} %" for v in logs)
    lines = [
        f"{measurement.case_id}",
        f"  {len(pairs)} pairs of the same code, {pair_seconds:.1f} s each: "
        f"{np.median(speeds):,.0f} tokens/s; the two halves differ by {means} on average",
        f"  one pair scatters by {100 * scatter:.2f} % (standard deviation; 95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f} %); "
        f"{marked} of {rounds} rounds were contended or throttled",
        "  pairs    time   equal code is known to within   a slowdown is found, 19 times of 20, "
        f"from (beyond {100 * smallest_effect:g} %)",
    ]
    threshold = math.log1p(smallest_effect)
    fitting = 0
    for look, count in enumerate(LOOKS):
        error = look_error(look, 1)
        one = held_back if held_at(count) else scatter
        within = _reach(one, count, error)
        found = math.expm1(threshold + resolvable(one, count, error))
        seconds = count * pair_seconds
        fitting = count if seconds <= FIVE_MINUTES else fitting
        lines.append(
            f"  {count:>5}  {seconds:>4.0f} s   ± {100 * math.expm1(within):>5.2f} %"
            f"{'':<22}{100 * found:>6.2f} %"
        )
    if fitting:
        error = look_error(LOOKS.index(fitting), 1)
        one = held_back if held_at(fitting) else scatter
        least = 100 * math.expm1(resolvable(one, fitting, error))
        lines.append(
            f"  Within five minutes ({fitting} pairs) a slowdown of {least:.2f} % "
            "is told from none."
        )
    else:
        lines.append(
            f"  Within five minutes nothing is: {LOOKS[0]} pairs take "
            f"{LOOKS[0] * pair_seconds / 60:.0f} minutes."
        )
    if marked > MOST_MARKED * rounds:
        lines.append(
            "  Unreliable: more than half of the rounds were contended or throttled; "
            "run again while nothing else uses the machine."
        )
    return lines


def _reach(one: float, pairs: int, error: float) -> float:
    """Half the width of the interval of so many pairs, each scattering by ``one``."""
    quantile = t_quantile(1 - error / 2, degrees_of_freedom(pairs))
    return quantile * one / math.sqrt(pairs)
