"""Planted laws, an interval search by brute force, and how often the intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from bench.chapter.power_law import PowerLaw, fit

SIZES = np.array([5_000, 10_000, 20_000, 40_000, 80_000, 155_580.0])


def law(sizes, floor, coefficient, exponent):
    return floor + coefficient * sizes**-exponent


def noisy(seed, floor, coefficient, exponent, noise, seeds=3):
    """Sizes and bits as of several seeds a size."""
    sizes = np.repeat(SIZES, seeds)
    errors = np.random.default_rng(seed).normal(0, noise, len(sizes))
    return sizes, law(sizes, floor, coefficient, exponent) + errors


@pytest.mark.parametrize("planted", [(1.5, 60, 0.4), (0.8, 8, 0.15), (2.0, 5e4, 1.3)])
def test_a_planted_law_is_found_again(planted):
    found = fit(SIZES, law(SIZES, *planted))
    assert (found.floor, found.coefficient, found.exponent) == pytest.approx(planted, rel=1e-4)
    assert found.residual < 1e-6
    assert found.floor_is_resolved
    assert found.predict(1e6) == pytest.approx(law(1e6, *planted), rel=1e-5)


def test_a_planted_law_without_a_floor_is_found_either_way():
    bits = law(SIZES, 0, 12, 0.15)
    for floor in (False, True):
        found = fit(SIZES, bits, floor=floor)
        assert found.floor == pytest.approx(0, abs=1e-4)
        assert (found.coefficient, found.exponent) == pytest.approx((12, 0.15), rel=1e-4)
        assert found.floor_interval[0] == 0
        assert not found.floor_is_resolved
    assert fit(SIZES, bits, floor=False).floor_interval == (0, 0)


def test_the_fit_is_that_of_a_general_optimiser():
    sizes, bits = noisy(3, 1.5, 60, 0.4, 0.05)
    found = fit(sizes, bits)
    scaled, _ = optimize.curve_fit(
        lambda n, e, h, a: e + h * (n / 5_000) ** -a, sizes, bits, p0=(1, 2, 0.3)
    )
    assert (found.floor, found.exponent) == pytest.approx((scaled[0], scaled[2]), rel=1e-4)
    assert found.coefficient == pytest.approx(scaled[1] * 5_000 ** scaled[2], rel=1e-3)
    means = bits.reshape(6, 3).mean(1)
    deviations = means - law(SIZES, found.floor, found.coefficient, found.exponent)
    assert found.residual == pytest.approx(math.sqrt(np.square(deviations).sum() / 3))


@pytest.mark.parametrize(("seed", "planted"), [(1, (1.5, 60, 0.4)), (2, (0.3, 10, 0.15))])
def test_the_intervals_are_those_of_the_profile(seed, planted):
    sizes, bits = noisy(seed, *planted, 0.03)
    found = fit(sizes, bits)
    means = bits.reshape(6, 3).mean(1)
    bound = 3 * found.residual**2 * (1 + stats.t.ppf(0.975, 3) ** 2 / 3)

    # For each parameter held fixed, the others are searched for, by a general optimiser.
    def profile(index, value):
        def squares(others):
            height, exponent = others[0], others[-1]
            fixed = {0: (value, height, exponent), 2: (others[1], height, value)}[index]
            e, h, a = fixed
            if e < 0:
                return 1e9 * (1 - e)
            return np.square(means - law(SIZES / 5_000, e, h, a)).sum()

        starts = [(1.5, x) for x in (0.2, 0.4, 0.8, 1.2)]
        options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000, "maxfev": 4000}
        return min(
            optimize.minimize(squares, s, method="Nelder-Mead", options=options).fun for s in starts
        )

    for index, interval in ((0, found.floor_interval), (2, found.exponent_interval)):
        for end in interval:
            if end == 0:
                assert profile(index, 0) <= bound * 1.001
            else:
                assert profile(index, end) == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    ("planted", "noise", "seeds", "floor"),
    [
        ((1.5, 60, 0.4), 0.05, 5, True),
        ((1.0, 20, 0.3), 0.02, 1, True),
        ((0, 12, 0.15), 0.03, 3, False),
    ],
)
def test_intervals_hold_the_truth_in_95_of_100_fits(planted, noise, seeds, floor):
    count = 300
    hits = np.zeros(3)
    for seed in range(count):
        found = fit(*noisy(seed, *planted, noise, seeds), floor=floor)
        intervals = (found.floor_interval, found.coefficient_interval, found.exponent_interval)
        hits += [low <= true <= high for true, (low, high) in zip(planted, intervals, strict=True)]
    # Of 300 draws with 0.95, fewer than 270 or more than 298 come once in a few thousand times.
    measured = hits if floor else hits[1:]
    assert ((measured >= 270) & (measured <= 298)).all(), hits


def test_estimates_lie_in_their_intervals_and_rarely_resolve_a_floor_that_is_not_there():
    resolved = 0
    for seed in range(100):
        found = fit(*noisy(seed, 0, 12, 0.15, 0.05))
        for value, (low, high) in (
            (found.floor, found.floor_interval),
            (found.coefficient, found.coefficient_interval),
            (found.exponent, found.exponent_interval),
        ):
            assert low <= value <= high
        assert found.floor_is_resolved == (found.floor_interval[0] > 0)
        resolved += found.floor_is_resolved
    assert resolved <= 10


def test_a_step_leaves_the_exponent_open_upwards():
    found = fit(SIZES, [4.0, 2.01, 1.99, 2.02, 1.98, 2.0])
    assert found.exponent_interval[1] == math.inf
    assert found.exponent_interval[0] > 1
    assert found.floor_is_resolved


def test_each_size_counts_once_however_many_seeds_it_has():
    bits = law(SIZES, 1.5, 60, 0.4) + np.array([1, -1, 1, -1, 1, -1]) * 0.01
    once = fit(SIZES, bits)
    again = fit([*SIZES, 5_000, 5_000], [*bits, bits[0] - 0.1, bits[0] + 0.1])
    assert again.exponent == pytest.approx(once.exponent)
    assert again.exponent_interval == pytest.approx(once.exponent_interval)
    assert fit(SIZES[::-1], bits[::-1]) == once


def test_what_is_predicted_is_the_law():
    given = PowerLaw(1.0, 20.0, 0.5, (0, 2), (1, 30), (0.1, 1), 0.01, False)
    assert given.predict(100) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("characters", "bits", "floor", "message"),
    [
        (
            [1, 2, 3],
            [3, 2, 1],
            True,
            "a law of 3 parameters needs 4 different sizes or more, got 3",
        ),
        ([1, 1, 2, 2], [3, 3, 2, 2], False, "a law of 2 parameters needs 3 different sizes or mor"),
        ([1, 2], [3], True, "each size needs its bits, got 2 and 1"),
        ([], [], True, "a law of 3 parameters needs 4 different sizes or more, got 0"),
        ([1, 2, 3, 4], [3, 2, 1, math.nan], True, "sizes and bits a character are positive and"),
        ([0, 2, 3, 4], [4, 3, 2, 1], True, "sizes and bits a character are positive and finite"),
        ([1, 2, 3, 4], [1, 2, 3, 4], True, "bits a character do not fall as the training text"),
        ([1, 2, 3, 4], [2, 2, 2, 2], True, "bits a character do not fall as the training text"),
    ],
)
def test_refusals_say_what_was_given_and_what_is_accepted(characters, bits, floor, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fit(characters, bits, floor=floor)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
