"""What a machine can resolve, from pairs whose scatter is known."""

import math
import re

import numpy as np
import pytest

from bench.gate_decision import LOOKS, decide, look_error, resolvable
from bench.gate_pairs import Measurement, Pair, Side
from bench.noise import report, spread


def measurement(scatter: float, pairs: int = 40) -> Measurement:
    """Pairs of the same code; the log ratio of two sides scatters by ``scatter``."""
    rng = np.random.default_rng(3)
    result = Measurement("lstm/torch_nn/eager")
    for seed in range(pairs):
        speeds = 20_000 * np.exp(rng.normal(0, scatter / math.sqrt(2), 3))
        result.pairs.append(Pair(seed, *(Side(float(s), 300.0, 9.0, 4, 1) for s in speeds)))
    return result


def test_the_spread_is_that_of_one_pair():
    logs = np.random.default_rng(0).normal(0, 0.01, 2000)
    assert spread(logs) == pytest.approx(0.01, rel=0.1)
    assert spread(logs[:8]) == pytest.approx(logs[:8].std(ddof=1))


def test_what_is_called_resolvable_is_found_as_often_as_it_says():
    rng = np.random.default_rng(1)
    for pairs in LOOKS:
        effect = math.log(1.03) + resolvable(0.01, pairs, look_error(LOOKS.index(pairs), 1))
        gates = rng.normal(effect, 0.01, (400, LOOKS[-1]))
        found = [decide(list(logs[:pairs]), 0.03).word == "worse" for logs in gates]
        assert 0.9 < np.mean(found) < 0.99


def test_the_report_says_what_was_measured():
    lines = report([(measurement(0.01), [8.0] * 40)], 0.03)
    text = "\n".join(lines)
    scatter = float(re.search(r"one pair scatters by ([\d.]+) %", text).group(1))
    assert scatter == pytest.approx(1.0, abs=0.4)
    assert "40 pairs of the same code, 8.0 s each" in text
    assert "120 of 480 rounds were contended or throttled" in text
    assert "Within five minutes (20 pairs)" in text
    assert len([line for line in lines if "19 times of 20" in line]) == len(LOOKS)


def test_more_pairs_resolve_less():
    found = [resolvable(0.01, pairs, 0.01) for pairs in LOOKS]
    assert found == sorted(found, reverse=True)


def test_nothing_measured_is_said():
    failed = Measurement("lstm/torch_nn/eager", "invalid", "base crashed: planted")
    (line,) = report([(failed, [])], 0.03)
    assert line == "lstm/torch_nn/eager: nothing measured: base crashed: planted"
