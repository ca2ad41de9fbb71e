"""bench/statistics.py: intervals keep their promise, ratios do not depend on the unit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.results import ROUNDS, TRAINING
from bench.statistics import (
    BLOCKS,
    Ratio,
    block_medians,
    counted_speeds,
    factors_over,
    geometric_mean,
    median_interval,
    paired_log_ratio,
    speedup,
    t_quantile,
    throughput,
)

POSITIVE = st.floats(1e-3, 1e6)
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=12)


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


# Medians


def test_the_interval_is_that_of_the_tables():
    # David and Nagaraja 2003: for n = 10 the second and ninth values, 97.9 %.
    interval = median_interval(range(1, 11))
    assert (interval.median, interval.low, interval.high) == (5.5, 2, 9)
    assert interval.coverage == pytest.approx(1 - 2 * 11 / 1024)
    assert interval.reached


@pytest.mark.parametrize(
    ("count", "rank"),
    [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40)],
)
def test_the_ranks_are_those_of_the_sign_test(count, rank):
    """Tabulated, for instance, in Conover, *Practical Nonparametric Statistics*, for 95 %."""
    interval = median_interval(range(1, count + 1))
    assert (interval.low, interval.high) == (rank, count + 1 - rank)


@pytest.mark.parametrize(("count", "coverage"), [(1, 0.0), (2, 0.5), (5, 0.9375)])
def test_fewer_than_six_values_give_their_range_and_say_so(count, coverage):
    interval = median_interval(range(count))
    assert (interval.low, interval.high) == (0, count - 1)
    assert interval.coverage == coverage
    assert not interval.reached


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_ranks_and_coverage_are_those_of_the_binomial_distribution(confidence):
    for count in range(1, 200):
        interval = median_interval(range(1, count + 1), confidence)
        rank = max(stats.binom.ppf((1 - confidence) / 2, count, 0.5), 1)
        assert interval.low == rank
        below = stats.binom.cdf(rank - 1, count, 0.5)
        assert interval.coverage == pytest.approx(max(1 - 2 * below, 0))


@pytest.mark.parametrize("freedom", [1, 3.3, 17, math.inf])
def test_quantiles_of_t(freedom):
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom))


def test_six_values_are_enough():
    assert median_interval(range(6)).reached


@pytest.mark.parametrize("count", [6, 9, 15, 30])
@pytest.mark.parametrize("name", ["lognormal", "exponential", "standard_cauchy"])
def test_it_holds_the_true_median_as_often_as_it_says(count, name):
    rng = np.random.default_rng([count, len(name)])
    true = {"lognormal": 1.0, "exponential": math.log(2), "standard_cauchy": 0.0}[name]
    intervals = [median_interval(getattr(rng, name)(size=count)) for _ in range(600)]
    held = np.mean([interval.low <= true <= interval.high for interval in intervals])
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 600)
    assert held == pytest.approx(intervals[0].coverage, abs=0.03)


@settings(deadline=None)
@given(st.lists(POSITIVE, min_size=1, max_size=40), POSITIVE)
def test_scaling_the_values_scales_the_interval(values, unit):
    plain, scaled = median_interval(values), median_interval([unit * v for v in values])
    assert plain.low <= plain.median <= plain.high
    for a, b in zip(plain[:3], scaled[:3], strict=True):
        assert close(unit * a, b)
    assert plain.coverage == scaled.coverage


@settings(deadline=None)
@given(st.lists(POSITIVE, min_size=6, max_size=40))
def test_more_confidence_is_a_wider_interval(values):
    narrow, wide = median_interval(values, 0.8), median_interval(values, 0.95)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_median_of_nothing_is_an_error(values):
    with pytest.raises(ValueError, match="finite"):
        median_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match=str(confidence)):
        median_interval([1, 2, 3], confidence)
    with pytest.raises(ValueError, match=str(confidence)):
        paired_log_ratio([1, 2], [1, 2], confidence)


# Ratios


def test_a_ratio_against_figures_worked_out_by_hand():
    ratio = paired_log_ratio([2.0, 8.0, 4.0], [1.0, 1.0, 1.0])
    # Logarithms to base 2: 1, 3, 2; mean 2, deviation 1, t(0.975; 2) = 4.302653.
    half = 4.302653 / math.sqrt(3)
    assert ratio.ratio == pytest.approx(4.0)
    assert ratio.low == pytest.approx(2 ** (2 - half), rel=1e-5)
    assert ratio.high == pytest.approx(2 ** (2 + half), rel=1e-5)
    assert ratio.pairs == 3


@settings(deadline=None)
@given(PAIRS)
def test_swapping_the_two_inverts_ratio_and_interval(pairs):
    a, b = zip(*pairs, strict=True)
    there, back = paired_log_ratio(a, b), paired_log_ratio(b, a)
    assert close(there.ratio, 1 / back.ratio)
    assert there.pairs == back.pairs
    if there.is_bounded and back.is_bounded:
        assert close(there.low, 1 / back.high)
        assert close(there.high, 1 / back.low)
        assert all(close(x, y) for x, y in zip(there.inverse, back, strict=True))


@settings(deadline=None)
@given(PAIRS, POSITIVE)
def test_the_unit_does_not_matter_and_weather_cancels(pairs, unit):
    a, b = zip(*pairs, strict=True)
    plain = paired_log_ratio(a, b)
    rescaled = paired_log_ratio([unit * x for x in a], [unit * x for x in b])
    weather = [1 + i for i in range(len(a))]
    drifting = paired_log_ratio(
        [w * x for w, x in zip(weather, a, strict=True)],
        [w * x for w, x in zip(weather, b, strict=True)],
    )
    for other in (rescaled, drifting):
        assert close(plain.ratio, other.ratio)
        if plain.is_bounded and other.is_bounded:
            assert math.isclose(plain.low, other.low, rel_tol=1e-4)


def test_one_pair_knows_no_spread():
    ratio = paired_log_ratio([3.0], [2.0])
    assert ratio.ratio == pytest.approx(1.5)
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert not ratio.is_bounded
    assert ratio.inverse.high == math.inf


@pytest.mark.parametrize("pairs", [3, 6, 10])
def test_a_ratio_holds_the_truth_as_often_as_it_says(pairs):
    rng = np.random.default_rng(pairs)
    held = 0
    for _ in range(600):
        drift = np.exp(rng.normal(0, 0.3, pairs))
        a = 1.05 * drift * np.exp(rng.normal(0, 0.01, pairs))
        ratio = paired_log_ratio(a, drift * np.exp(rng.normal(0, 0.01, pairs)))
        held += ratio.low <= 1.05 <= ratio.high
    assert held / 600 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("a", "b"),
    [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0]), ([1.0], [math.nan])],
)
def test_pairs_that_make_no_ratio_are_an_error(a, b):
    with pytest.raises(ValueError, match="got"):
        paired_log_ratio(a, b)


def test_the_geometric_mean():
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="positive"):
        geometric_mean([1.0, 0.0])


@settings(deadline=None)
@given(st.lists(POSITIVE, min_size=1, max_size=9))
def test_the_mean_of_inverses_is_the_inverse_of_the_mean(values):
    assert close(geometric_mean([1 / v for v in values]), 1 / geometric_mean(values))


def test_two_equal_pairs_know_that_there_is_no_spread():
    ratio = paired_log_ratio([3.0, 3.0], [2.0, 2.0])
    assert ratio.low == ratio.high == pytest.approx(1.5)
    assert ratio.is_bounded
    assert Ratio(1.0, 0.0, 2.0, 2).is_bounded is Ratio(1.0, 0.5, math.inf, 2).is_bounded is False
    assert paired_log_ratio([3.0], [2.0]).pairs == 1


# Throughput


def test_few_rounds_give_the_interval_of_their_own_and_many_that_of_stretches():
    few = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0]
    assert throughput(few) == median_interval(few)
    rng = np.random.default_rng(1)
    many = list(np.exp(rng.normal(0, 0.1, 500)))
    found, stretches = throughput(many), median_interval(block_medians(many))
    assert found.median == pytest.approx(float(np.median(many)))
    assert (found.low, found.high) == (stretches.low, stretches.high)
    assert found.coverage == stretches.coverage


def test_the_interval_of_a_throughput_holds_its_median():
    """The median of all is no median of stretches: here it lies beyond the interval of those."""
    slow = [1.0] * 6 + [9.0] * 5  # a stretch whose median is 1; nine such, and one of nines
    values = slow * (BLOCKS - 1) + [9.0] * len(slow)
    stretches = median_interval(block_medians(values))
    assert (stretches.low, stretches.high) == (1.0, 1.0)
    found = throughput(values)
    assert (found.median, found.low, found.high) == (9.0, 1.0, 9.0)
    found = throughput([10 - value for value in values])
    assert (found.median, found.low, found.high) == (1.0, 1.0, 9.0)


def test_rounds_that_count_are_those_of_the_case_with_a_speed():
    table = rounds(a=[(0, 1.0), (1, 2.0), (2, math.nan), (3, 4.0)], b=[(1, 9.0)])
    table["warm_up"] = pd.array([True, pd.NA, False, False, False], dtype="boolean")
    assert counted_speeds(table, "a") == [2.0, 4.0]  # not known to warm up: it counts
    assert counted_speeds(table, "c") == []


def test_a_round_without_a_speed_makes_no_pair():
    table = rounds(
        a=[(0, 10.0), (1, 0.0), (2, math.inf), (3, math.nan), (4, 20.0)],
        b=[(turn, 5.0) for turn in range(5)],
    )
    table["warm_up"] = pd.array([pd.NA] * len(table), dtype="boolean")
    ratio = speedup(table, "a", "b")
    assert ratio is not None
    assert ratio.pairs == 2
    assert ratio.ratio == pytest.approx(math.sqrt(8))


# Cases


def rounds(**speeds: list[tuple[int, float]]) -> pd.DataFrame:
    """Rounds of cases by name: turn and tokens/s of each."""
    rows = [
        {
            "case_id": name,
            "epoch": epoch,
            "turn": turn,
            "warm_up": False,
            "tokens_per_second": speed,
        }
        for name, timed in speeds.items()
        for epoch, (turn, speed) in enumerate(timed, start=1)
    ]
    return pd.DataFrame(rows, columns=list(ROUNDS.columns))


def test_rounds_of_one_turn_are_paired():
    table = rounds(a=[(0, 10.0), (1, 40.0), (3, 1.0)], b=[(1, 20.0), (0, 5.0), (2, 7.0)])
    ratio = speedup(table, "a", "b")
    assert ratio is not None
    assert ratio.pairs == 2
    assert ratio.ratio == pytest.approx(2.0)
    assert ratio.high - ratio.low < 1e-9


def test_rounds_within_a_turn_are_one_pair():
    table = rounds(a=[(0, 10.0), (0, 40.0), (1, 20.0)], b=[(0, 10.0), (1, 10.0), (1, 10.0)])
    ratio = speedup(table, "a", "b")
    assert ratio is not None
    assert ratio.pairs == 2
    assert ratio.ratio == pytest.approx(2.0)


def test_a_single_turn_is_paired_by_epoch():
    table = rounds(a=[(0, 10.0), (0, 40.0)], b=[(0, 5.0), (0, 20.0)])
    ratio = speedup(table, "a", "b")
    assert ratio is not None
    assert ratio.pairs == 2
    assert ratio.ratio == pytest.approx(2.0)


def test_rounds_that_warm_up_do_not_count():
    table = rounds(a=[(0, 1.0), (1, 20.0), (2, 20.0)], b=[(0, 50.0), (1, 10.0), (2, 10.0)])
    table["warm_up"] = table["turn"] == 0
    ratio = speedup(table, "a", "b")
    assert ratio is not None
    assert ratio.pairs == 2
    assert ratio.ratio == pytest.approx(2.0)


def test_without_a_shared_round_there_is_no_speedup():
    assert speedup(rounds(a=[(0, 1.0)]), "a", "b") is None
    assert speedup(rounds(), "a", "b") is None


def cases(*rows: tuple[str, str, str, float | None]) -> pd.DataFrame:
    """Rows of training.csv from implementation, execution, status and tokens/s."""
    content = [
        {
            "case_id": f"w/{name}/{execution}",
            "implementation": name,
            "execution": execution,
            "status": status,
            "tokens_per_second": speed,
            "interpreted": name == "slow",
        }
        for name, execution, status, speed in rows
    ]
    return pd.DataFrame(content, columns=list(TRAINING.columns))


def test_a_rival_counts_at_its_best():
    table = cases(
        ("mine", "eager", "ok", 30.0),
        ("rival", "eager", "ok", 10.0),
        ("rival", "graph", "ok", 20.0),
        ("rival", "odd", "incorrect", None),
    )
    best = factors_over("rival", table, rounds())
    eager = factors_over("rival", table, rounds(), execution="eager")
    assert best["w/mine/eager"].ratio == pytest.approx(1.5)
    assert best["w/rival/eager"].ratio == pytest.approx(0.5)
    assert eager["w/mine/eager"].ratio == pytest.approx(3.0)
    assert not best["w/mine/eager"].is_bounded
    assert "w/rival/odd" not in best


def test_factors_come_from_rounds_where_there_are_some():
    table = cases(("mine", "eager", "ok", 30.0), ("rival", "eager", "ok", 10.0))
    timed = rounds(**{"w/mine/eager": [(0, 8.0), (1, 8.0)], "w/rival/eager": [(0, 2.0), (1, 2.0)]})
    factor = factors_over("rival", table, timed)["w/mine/eager"]
    assert factor.ratio == pytest.approx(4.0)
    assert factor.pairs == 2


def test_what_was_interpreted_or_failed_has_no_factor():
    table = cases(
        ("slow", "eager", "ok", 1.0),
        ("mine", "eager", "diverged", 5.0),
        ("rival", "eager", "ok", 10.0),
    )
    assert set(factors_over("rival", table, rounds())) == {"w/rival/eager"}
    assert factors_over("slow", table, rounds()) == {}
    assert factors_over("absent", table, rounds()) == {}
    assert factors_over("rival", cases(), rounds()) == {}
    table = cases(("rival", "eager", "ok", 10.0), ("mine", "eager", "ok", 0.0))
    table["interpreted"] = pd.array([pd.NA, pd.NA], dtype="boolean")
    assert set(factors_over("rival", table, rounds())) == {"w/rival/eager"}


def test_an_interval_of_stretches_holds_where_neighbours_resemble_each_other():
    """An autoregressive series, ρ 0.5: single values for independent ones promise too much."""
    generator = np.random.default_rng(0)
    held = {"rounds": 0, "stretches": 0}
    runs = 300
    for _ in range(runs):
        noise = generator.standard_normal(500)
        series = np.empty(500)
        series[0] = noise[0]
        for i in range(1, 500):
            series[i] = 0.5 * series[i - 1] + noise[i]
        for name, values in (("rounds", list(series)), ("stretches", block_medians(list(series)))):
            interval = median_interval(values)
            held[name] += interval.low <= 0 <= interval.high
    assert held["rounds"] < 0.87 * runs
    assert held["stretches"] > 0.92 * runs


def test_few_values_are_stretches_of_their_own():
    values = [float(n) for n in range(2 * BLOCKS - 1)]
    assert block_medians(values) is values
    assert len(block_medians([*values, 1.0])) == BLOCKS


def test_turns_that_resemble_their_neighbours_are_paired_by_stretches():
    """The true factor is 1; so often is it within the interval of what drifts apart and back."""
    rng = np.random.default_rng(3)
    runs, turns, held = 200, 200, {"turns": 0, "stretches": 0}
    for _ in range(runs):
        noise = rng.normal(0, 0.01, turns)
        drift = np.zeros(turns)
        for i in range(1, turns):
            drift[i] = 0.5 * drift[i - 1] + noise[i]
        fast = [float(speed) for speed in 1000 * np.exp(drift)]
        rows = [
            {"case_id": case_id, "epoch": i, "turn": i, "warm_up": False, "tokens_per_second": v}
            for case_id, speeds in (("a", fast), ("b", [1000.0] * turns))
            for i, v in enumerate(speeds)
        ]
        by_turn = paired_log_ratio(fast, [1000.0] * turns)
        by_stretch = speedup(pd.DataFrame(rows), "a", "b")
        assert by_stretch.pairs == BLOCKS
        held["turns"] += by_turn.low <= 1 <= by_turn.high
        held["stretches"] += by_stretch.low <= 1 <= by_stretch.high
    assert held["turns"] < 0.87 * runs
    assert held["stretches"] > 0.91 * runs
