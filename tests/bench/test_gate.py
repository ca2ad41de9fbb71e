"""From pairs to a verdict: every decision, every exit code, and what is written."""

import json
import math
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from scipy import stats

from bench import gate_verdict
from bench.gate import EXIT_CODES, MOST_MARKED, Thresholds, conclude, judge_pairs
from bench.gate_decision import LOOKS, decide, estimate, held_at, look_error
from bench.gate_pairs import Measurement, Pair, Side, combine, turn_order
from bench.statistics import paired_log_ratio

SCHEMA = json.loads((files("bench") / "templates" / "verdict.schema.json").read_text("utf-8"))
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def violations(value, schema, where="verdict"):
    """What in ``value`` breaks ``schema``: the keywords that the schema of verdicts uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [violations(value, option, where) for option in schema["anyOf"]]
        return min(found, key=len)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return [f"{where} is {value!r}, not {' or '.join(kinds)}"]
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{where} is {value!r}, not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where} is {value!r}, not one of {schema['enum']}")
    if isinstance(value, float) and not math.isfinite(value):
        found.append(f"{where} is {value}, which is not JSON")
    if isinstance(value, (int, float)):
        if "minimum" in schema and value < schema["minimum"]:
            found.append(f"{where} is below {schema['minimum']}")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{where} is not above {schema['exclusiveMinimum']}")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [
            f"{where} lacks {name}" for name in schema.get("required", []) if name not in value
        ]
        if schema.get("additionalProperties") is False:
            found += [f"{where} has {name}" for name in value if name not in properties]
        for name, inner in properties.items():
            if name in value:
                found += violations(value[name], inner, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += violations(item, schema["items"], f"{where}[{i}]")
    return found


def side(speed=20_000.0, memory=300.0, perplexity=9.0, marked=0):
    return Side(speed, memory, perplexity, rounds=4, marked=marked)


def measurement(case_id="lstm/a/eager", pairs=6, *, head=None, control=None, noise=0.002, **base):
    """Pairs of one case; ``head`` and ``control`` are factors on base's figures."""
    rng = np.random.default_rng(5)
    result = Measurement(case_id)
    for seed in range(pairs):
        sides = []
        for factors in ({}, head or {}, control or {}):
            figures = {"speed": 20_000.0, "memory": 300.0, "perplexity": 9.0} | base
            for name, factor in factors.items():
                figures[name] *= factor
            figures["speed"] *= math.exp(rng.normal(0, noise))
            sides.append(side(**figures))
        result.pairs.append(Pair(seed, *sides))
    return result


def verdict_of(*measurements, **options):
    thresholds = Thresholds()
    judged = [judge_pairs(m, thresholds, len(measurements)) for m in measurements]
    side_facts = {"name": "main", "commit": "0123abc", "machine": "a machine"}
    settings = {
        "smallest_effects": {"speed": 0.03, "memory": 0.05, "perplexity": 0.01},
        "looks": list(LOOKS),
        "error": 0.05,
        "cases": len(measurements),
        "reading": gate_verdict.reading(LOOKS, len(measurements)),
    }
    return conclude("revisions", judged, side_facts, side_facts, settings, **options)


INVALID_CASE = Measurement("lstm/gone/eager", "invalid", "head lacks it")

VERDICTS = {
    "unchanged": ([measurement()], "pass", "same"),
    "slower": ([measurement(head={"speed": 0.9})], "regression", "slower"),
    "faster": ([measurement(head={"speed": 1.2})], "pass", "faster"),
    "bigger": ([measurement(head={"memory": 1.2})], "regression", "bigger"),
    "smaller": ([measurement(head={"memory": 0.8})], "pass", "smaller"),
    "learns worse": ([measurement(head={"perplexity": 1.1})], "regression", "worse"),
    "at the threshold": ([measurement(head={"speed": 1 / 1.03})], "ambiguous", "ambiguous"),
    "noisy": ([measurement(noise=0.2, pairs=20)], "ambiguous", "ambiguous"),
    "the control moves": (
        [measurement(head={"speed": 0.9}, control={"speed": 0.9})],
        "unreliable",
        "unreliable",
    ),
    "too few pairs": ([measurement(pairs=5)], "invalid", "invalid"),
    "a case is gone": ([measurement(), INVALID_CASE], "invalid", "invalid"),
    "gone, another slower": (
        [measurement(head={"speed": 0.9}), INVALID_CASE],
        "invalid",
        "invalid",
    ),
    "nothing measured": ([], "invalid", None),
    "only new cases": ([Measurement("x", "new", "base lacks it")], "invalid", "new"),
    "new beside old": ([measurement(), Measurement("x", "new", "base lacks it")], "pass", "new"),
    "memory lost": ([measurement(memory=math.nan)], "invalid", "invalid"),
    "perplexity is infinite": ([measurement(perplexity=math.inf)], "invalid", "invalid"),
}


@pytest.mark.parametrize(("measurements", "word", "first"), VERDICTS.values(), ids=VERDICTS)
def test_every_verdict(measurements, word, first, tmp_path):
    verdict = verdict_of(*measurements)
    assert verdict.word == word
    if first is not None:
        assert verdict.cases[0].decision == first
    gate_verdict.write(verdict, tmp_path)
    stored = json.loads((tmp_path / "verdict.json").read_text("utf-8"))
    assert violations(stored, SCHEMA) == []
    assert stored["exit_code"] == EXIT_CODES[word]
    page = (tmp_path / "verdict.md").read_text("utf-8")
    assert page.startswith(f"## {word.capitalize()}:")
    drawn = any(case.comparisons for case in verdict.cases)
    assert (tmp_path / "verdict.svg").exists() is drawn
    assert (tmp_path / "verdict.png").exists() is drawn


def test_exit_codes_are_those_documented():
    assert EXIT_CODES == {
        "pass": 0,
        "regression": 3,
        "ambiguous": 4,
        "unreliable": 4,
        "invalid": 5,
    }


def test_the_schema_refuses_what_a_verdict_is_not():
    good = gate_verdict.as_json(verdict_of(measurement()))
    assert violations(good, SCHEMA) == []
    for change in ({"verdict": "fine"}, {"exit_code": 1}, {"cases": [{}]}, {"more": 1}):
        assert violations(good | change, SCHEMA)
    assert violations({k: v for k, v in good.items() if k != "cases"}, SCHEMA)


def test_marked_rounds_make_it_unreliable():
    busy = measurement()
    busy.pairs = [Pair(p.seed, *(side(marked=3) for _ in range(3))) for p in busy.pairs]
    verdict = verdict_of(busy)
    assert verdict.word == "unreliable"
    assert "54 of 72 rounds were contended or throttled" in verdict.problems[0]


@pytest.mark.parametrize(("marked", "word"), [(36, "pass"), (37, "unreliable")])
def test_half_of_the_rounds_may_be_marked(marked, word):
    calm = measurement()
    assert sum(one.rounds for pair in calm.pairs for one in pair.sides) == 72
    assert MOST_MARKED == 0.5
    *others, last = calm.pairs
    calm.pairs = [replace(pair, base=replace(pair.base, marked=4)) for pair in others]
    calm.pairs.append(replace(last, base=replace(last.base, marked=marked - 20)))
    verdict = verdict_of(calm)
    assert verdict.word == word
    assert bool(verdict.problems) is (word == "unreliable")


@pytest.mark.parametrize(
    ("factor", "moved"),
    [(1.02, True), (1 / 1.02, True), (1.01, False), (1 / 1.01, False), (1.03**0.5 * 1.001, True)],
)
def test_a_control_that_moves_by_half_of_what_matters_is_not_believed(factor, moved):
    verdict = verdict_of(measurement(control={"speed": factor}, noise=1e-5))
    assert (verdict.word == "unreliable") is moved
    if moved:
        change = 100 * (1 / factor - 1)  # of its cost
        assert verdict.cases[0].reason == f"base against base moved by {change:+.1f} %"


def test_a_control_that_moved_once_is_not_believed_later():
    early = measurement(pairs=20, noise=1e-5)
    early.pairs = [
        replace(pair, control=side(pair.base.tokens_per_second * (0.9 if i < 6 else 1.07)))
        for i, pair in enumerate(early.pairs)
    ]
    assert verdict_of(early).word == "unreliable"
    assert verdict_of(early).cases[0].control.word == "moved"


def test_what_neither_side_measures_is_left_out_and_what_one_lacks_is_invalid():
    def without(name, *which):
        found = measurement()
        found.pairs = [
            replace(pair, **{w: replace(getattr(pair, w), **{name: None}) for w in which})
            for pair in found.pairs
        ]
        return verdict_of(found)

    both = without("peak_memory_mib", "base", "head", "control")
    assert both.word == "pass"
    assert [c.quantity.name for c in both.cases[0].comparisons] == ["speed", "perplexity"]
    for side_that_lacks in ("base", "head"):
        one = without("peak_memory_mib", side_that_lacks)
        assert one.word == "invalid"
        assert "is missing or not a positive number on a side" in one.cases[0].reason
    assert verdict_of(measurement(memory=0.0)).word == "invalid"
    assert verdict_of(measurement(memory=0.5)).word == "pass"


def test_the_worst_comes_first_and_the_page_fits_a_comment():
    cases = [measurement(f"lstm-{i:03}/a/eager") for i in range(400)]
    cases.insert(77, measurement("gru/slow/eager", head={"speed": 0.8}))
    cases.insert(99, INVALID_CASE)
    verdict = verdict_of(*cases)
    assert [case.case_id for case in verdict.cases[:2]] == ["lstm/gone/eager", "gru/slow/eager"]
    page = gate_verdict.markdown(verdict)
    assert len(page) < 65_536
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert "gone" in rows[1]
    assert "gru/slow/eager" in rows[2]
    assert "more lines; verdict.json holds them all" in page


def test_a_reason_cannot_break_the_table():
    nasty = Measurement("a|b", "invalid", "x | y\n| <script> `z` " + "w" * 500)
    page = gate_verdict.markdown(verdict_of(nasty))
    row = next(line for line in page.splitlines() if line.startswith("| a"))
    assert row.replace("\\|", "").count("|") == 8
    assert "\\<script\\>" in row
    assert len(row) < 300


def test_decisions_need_the_whole_interval():
    quiet = [0.001, -0.001] * 3
    assert decide(quiet, 0.03).word == "same"
    assert decide([x + 0.06 for x in quiet], 0.03).word == "worse"
    assert decide([x - 0.06 for x in quiet], 0.03).word == "better"
    assert decide([x - math.log(1.03) for x in quiet], 0.03).word == "not_worse"
    assert decide([x + math.log(1.03) for x in quiet], 0.03).word == "ambiguous"


def test_a_decision_once_taken_stays():
    logs = [0.0, 0.0001] * 3 + [0.2] * 14
    assert decide(logs, 0.03).pairs == 6


def test_without_noise_a_decision_needs_no_spread():
    decision = decide([0.0] * 6, 0.05)
    assert decision.word == "same"
    assert decision.low == decision.high == 1


def test_errors_add_up_to_what_is_allowed():
    total = sum(look_error(look, 7) for look in range(len(LOOKS))) * 7
    assert total == pytest.approx(0.05)


def test_below_ten_pairs_the_interval_is_students():
    logs = np.random.default_rng(0).normal(0, 0.01, 9)
    found = estimate(logs, 0.05)
    student = paired_log_ratio(np.exp(logs), np.ones(9))
    assert math.exp(found.low) == pytest.approx(student.low)
    assert math.exp(found.high) == pytest.approx(student.high)


@pytest.mark.parametrize(("count", "held"), [(9, 0), (10, 1), (14, 1), (20, 2)])
def test_from_ten_pairs_on_the_interval_is_that_of_a_trimmed_mean(count, held):
    """Against SciPy's own, of Tukey and McLaughlin."""
    logs = np.random.default_rng(count).standard_t(3, count)
    share = max(held / count, 1e-9)  # SciPy trips over 0
    low, high = stats.mstats.trimmed_mean_ci(logs, (share, share), alpha=0.05)
    found = estimate(logs, 0.05)
    assert held_at(count) == held
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.centre == pytest.approx(stats.trim_mean(logs, share))


def test_before_the_first_look_the_interval_is_open():
    for logs in ([0.02, 0.04], [0.03]):
        decision = decide(logs, 0.01)
        assert decision.word == "ambiguous"
        assert decision.ratio == pytest.approx(math.exp(0.03))
        assert (decision.low, decision.high, decision.pairs) == (0.0, math.inf, len(logs))
    assert math.isnan(decide([], 0.01).ratio)


@pytest.mark.parametrize("count", [6, 10, 14, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(count):
    rng = np.random.default_rng(1)
    for draw in (rng.normal(0, 1, (20_000, count)), rng.standard_t(3, (20_000, count))):
        found = estimate(draw, 0.05)
        missed = ((found.low > 0) | (found.high < 0)).mean()
        assert missed < 0.06


def test_one_throttled_pair_neither_hides_nor_raises_an_alarm():
    rng = np.random.default_rng(2)
    quiet = rng.normal(0, 0.005, 20)
    quiet[11] = 0.4
    assert decide(list(quiet), 0.03).word in ("same", "ambiguous")
    assert decide(list(quiet + 0.05), 0.03).word == "worse"


def test_turns_give_every_side_the_same_share_of_a_drift():
    for pair in range(3):
        order = turn_order(pair)
        for name in ("base", "head", "control"):
            places = [place for place, turn in enumerate(order) if turn == name]
            assert sum(places) == len(order) - 1
    assert len({turn_order(pair)[0] for pair in range(3)}) == 3


def test_a_hiccup_within_a_turn_does_not_count():
    assert combine([[100.0, 100.0, 20.0], [100.0, 100.0, 100.0]]) == pytest.approx(100)


def test_an_interval_needs_figures():
    for logs in ([], [0.1], [0.1, math.nan]):
        with pytest.raises(ValueError, match="two finite values or more"):
            estimate(np.array(logs), 0.05)
