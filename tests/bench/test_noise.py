"""What a machine can resolve, from pairs whose scatter is known."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import stats

from bench.gate_decision import (
    LOOKS,
    decide,
    degrees_of_freedom,
    estimate,
    look_error,
    resolvable,
)
from bench.gate_pairs import Measurement, Pair, Side
from bench.noise import report, scatter_interval, spread

PROJECT = Path(__file__).resolve().parents[2]


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
    assert [int(line.split()[0]) for line in lines if "±" in line] == list(LOOKS)
    assert "a slowdown is found, 19 times of 20, from (beyond 3 %)" in text


def test_a_case_that_failed_has_measured_nothing():
    failed = measurement(0.01, pairs=4)
    failed.kind, failed.reason = "invalid", "head crashed: planted"
    (line,) = report([(failed, [8.0] * 4)], 0.03)
    assert line == f"{failed.case_id}: nothing measured: head crashed: planted"


def test_the_scatter_of_few_pairs_has_an_interval_that_holds_it():
    rng = np.random.default_rng(6)
    found = [scatter_interval(float(rng.normal(0, 0.01, 10).std(ddof=1)), 10) for _ in range(2000)]
    held = np.mean([low <= 0.01 <= high for low, high in found])
    assert held == pytest.approx(0.95, abs=0.015)


def test_looks_that_hold_nothing_back_promise_what_the_plain_scatter_allows():
    """One pair of forty far out: the later looks leave it out, the first does not."""
    wild = measurement(0.01)
    last = wild.pairs[-1]
    wild.pairs[-1] = replace(last, head=replace(last.head, tokens_per_second=10_000.0))
    within = []
    for measured in (measurement(0.01), wild):
        lines = report([(measured, [8.0] * 40)], 0.03)
        within.append([float(re.search(r"± +([\d.]+) %", x).group(1)) for x in lines if "±" in x])
    calm, with_it = within
    assert with_it[0] > 2 * calm[0]
    assert with_it[1] < 1.5 * calm[1]


def test_what_was_measured_beside_others_is_called_unreliable():
    quiet = measurement(0.01)
    loud = Measurement(quiet.case_id)
    for pair in quiet.pairs:
        sides = (replace(side, marked=3) for side in pair.sides)
        loud.pairs.append(Pair(pair.seed, *sides))
    assert "Unreliable" not in "\n".join(report([(quiet, [8.0] * 40)], 0.03))
    assert "Unreliable: more than half" in "\n".join(report([(loud, [8.0] * 40)], 0.03))


def test_pairs_too_slow_for_five_minutes_are_named():
    text = "\n".join(report([(measurement(0.01), [70.0] * 40)], 0.03))
    assert "Within five minutes nothing is: 6 pairs take 7 minutes." in text


def test_what_is_called_known_is_what_the_gate_would_say():
    lines = report([(measurement(0.01), [8.0] * 40)], 0.03)
    scatter = float(re.search(r"scatters by ([\d.]+) %", "\n".join(lines)).group(1)) / 100
    shown = [float(re.search(r"± +([\d.]+) %", line).group(1)) for line in lines if "±" in line]
    rng = np.random.default_rng(4)
    for look, (pairs, within) in enumerate(zip(LOOKS, shown, strict=True)):
        draws = rng.normal(0, scatter, (2000, pairs))
        found = estimate(draws, look_error(look, 1))
        assert 100 * np.expm1((found.high - found.centre).mean()) == pytest.approx(within, rel=0.1)


@pytest.mark.parametrize("pairs", [3, 6, 20, 100])
def test_an_effect_that_is_resolved_is_found_in_95_of_100(pairs):
    freedom, error = degrees_of_freedom(pairs), 0.01
    effect = resolvable(0.01, pairs, error) / 0.01 * math.sqrt(pairs)  # in standard errors
    assert stats.nct.sf(stats.t.ppf(1 - error / 2, freedom), freedom, effect) == pytest.approx(0.95)


def test_more_pairs_resolve_less():
    found = [resolvable(0.01, pairs, 0.01) for pairs in LOOKS]
    assert found == sorted(found, reverse=True)


def test_nothing_measured_is_said():
    failed = Measurement("lstm/torch_nn/eager", "invalid", "base crashed: planted")
    (line,) = report([(failed, [])], 0.03)
    assert line == "lstm/torch_nn/eager: nothing measured: base crashed: planted"


# The command


def noise(directory: Path, *words: str) -> subprocess.Popen[str]:
    (directory / "text.txt").write_text("the time traveller for so it will be convenient " * 60)
    options = ["--profile", "smoke", "--device", "cpu", "--threads", "1", "--corpus", "text.txt"]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "noise", *options, *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_it_measures_the_cases_that_only_chooses_within_its_minutes(tmp_path):
    run = noise(tmp_path, "--only", "rnn_tanh-*/torch_nn/*", "--pairs", "2", "--max-minutes", "5")
    printed = run.communicate(timeout=300)[0]
    assert run.returncode == 0, printed
    assert "1 case to pair" in printed
    assert "2 pairs of the same code" in printed
    assert not list(tmp_path.glob("deeprnn-*"))


def test_stopped_it_leaves_nothing(tmp_path):
    run = noise(tmp_path, "--only", "rnn_tanh-*/torch_nn/*")
    assert "case to pair" in run.stdout.readline()
    time.sleep(1)  # a worker runs
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) > 1
    run.send_signal(signal.SIGINT)
    printed = run.communicate(timeout=60)[0]
    assert run.returncode == 130, printed
    assert printed.strip().splitlines()[-1] == "bench: stopped; nothing was measured"
    assert not list(tmp_path.glob("deeprnn-*"))
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
