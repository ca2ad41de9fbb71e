"""bench/rows.py: what a case's rounds amount to, and the command that measures it again."""

import math
import shlex

import pytest

from bench import rows, run_commands
from bench.__main__ import app
from bench.results import TRAINING
from bench.statistics import throughput
from bench.workloads import CHAPTER_SECONDS, PROFILES

WORKLOAD = {
    "workload": "lstm-L2-H256-B32-T35-fp32",
    "batch_size": 32,
    "num_steps": 35,
    "epochs": 5,
    "flops_per_token": 2e6,
    "seed": None,
}
CASE = {
    "case_id": "lstm-L2-H256-B32-T35-fp32/torch_nn/eager",
    "implementation": "torch_nn",
    "execution": "eager",
    "interpreted": False,
}
PLAN = {
    "profile": "quick",
    "device": "cpu",
    "seed": 3,
    "threads": 2,
    "case_seconds": PROFILES["quick"].case_seconds,
    "run_id": "20260101-000000",
    "commit": "0123abc",
    "corpus": {"asked": "timemachine", "title": "The Time Machine", "sha256": "0" * 64},
}


def rounds_of(*speeds, perplexities=None, warm_up=1):
    """Rounds as the runner keeps them: each trains for a second."""
    perplexities = perplexities or [20 - epoch for epoch in range(len(speeds))]
    return [
        {
            "epoch": epoch,
            "warm_up": epoch <= warm_up,
            "tokens_per_second": speed,
            "train_perplexity": perplexity,
            "validation_perplexity": perplexity + 1,
            "training_seconds": float(epoch),
        }
        for epoch, (speed, perplexity) in enumerate(zip(speeds, perplexities, strict=True), start=1)
    ]


# Figures


def test_figures_are_of_the_rounds_that_count():
    rounds = rounds_of(1.0, 1000.0, 1100.0, 1300.0)
    found = rows.figures(WORKLOAD, CASE, rounds, peak=1e10)
    interval = throughput([1000.0, 1100.0, 1300.0])
    assert found == {
        "train_perplexity": 17,
        "validation_perplexity": 18,
        "epochs": 4,
        "seconds_to_target": None,
        "rounds": 3,
        "tokens_per_second": 1100.0,
        "tokens_per_second_low": interval.low,
        "tokens_per_second_high": interval.high,
        "step_milliseconds": pytest.approx(1000 * 32 * 35 / 1100),
        "fraction_of_peak": pytest.approx(1100 * 2e6 / 1e10),
    }
    assert set(found) <= set(TRAINING.columns)


@pytest.mark.parametrize("case", [{**CASE, "interpreted": True}, {**CASE, "timed": False}])
def test_what_was_interpreted_or_ran_beside_others_has_perplexities_alone(case):
    found = rows.figures(WORKLOAD, case, rounds_of(1.0, 2.0, 3.0), peak=1e10)
    assert found == {"train_perplexity": 18, "validation_perplexity": 19, "epochs": 3}


def test_a_case_that_only_warmed_up_has_no_speed():
    found = rows.figures(WORKLOAD, CASE, rounds_of(5.0), peak=1e10)
    assert found["rounds"] == 0
    assert "tokens_per_second" not in found
    assert found["train_perplexity"] == 20


def test_one_round_has_a_speed_and_no_interval():
    found = rows.figures(WORKLOAD, CASE, rounds_of(5.0, 6.0), peak=None)
    assert found["tokens_per_second"] == 6.0
    assert "tokens_per_second_low" not in found
    two = rows.figures(WORKLOAD, CASE, rounds_of(5.0, 6.0, 8.0), peak=None)
    assert (two["tokens_per_second_low"], two["tokens_per_second_high"]) == (6.0, 8.0)


def test_the_target_is_reached_in_the_first_epoch_that_is_at_most_as_perplexed():
    assert rows.TARGET_PERPLEXITY == 1.1  # what is called "perplexity 1.0" rounds to it
    rounds = rounds_of(1.0, 1.0, 1.0, 1.0, perplexities=[2.0, 1.2, 1.1, 1.05])
    assert rows.figures(WORKLOAD, CASE, rounds, None)["seconds_to_target"] == 3.0


@pytest.mark.parametrize(("peak", "share"), [(None, None), (2e9, 1.0), (1.99e9, None)])
def test_nobody_is_faster_than_the_products_it_is_made_of(peak, share):
    """A peak below what was reached was measured disturbed, and is no peak."""
    found = rows.figures(WORKLOAD, CASE, rounds_of(1.0, 1000.0, 1000.0), peak)
    assert found.get("fraction_of_peak") == share


def test_factors_are_of_rounds_that_ran_side_by_side():
    other = {**CASE, "case_id": "w/mine/eager", "implementation": "mine"}
    cases = [CASE, other]
    found = {CASE["case_id"]: {"tokens_per_second": 10.0}, "w/mine/eager": {}}
    assert rows.factors([], {}, []) == {}
    timed = {"turn": 0, "epoch": 1, "warm_up": False, "tokens_per_second": 1.0}
    unpaired = rows.factors(cases, found, [{"case_id": "x", **timed}])
    assert unpaired == {CASE["case_id"]: 1.0}
    found["w/mine/eager"] = {"tokens_per_second": 99.0}
    rounds = [
        {"case_id": c["case_id"], "turn": t, "epoch": t, "warm_up": False, "tokens_per_second": s}
        for c, s in ((CASE, 10.0), (other, 30.0))
        for t in range(3)
    ]
    assert rows.factors(cases, found, rounds)["w/mine/eager"] == pytest.approx(3.0)


# Rows


def test_a_row_says_what_was_planned():
    row = rows.row(PLAN, {**WORKLOAD, "cell": "lstm", "learning_rate": 2.0}, CASE, "oom", "too big")
    assert set(row) <= set(TRAINING.columns)
    assert (row["status"], row["reason"], row["cell"]) == ("oom", "too big", "lstm")
    assert row["learning_rate"] == 2.0
    assert "epochs" not in row  # of the plan; a row says how many were trained
    assert row["seed"] == 3
    assert row["corpus"] == "The Time Machine"
    assert shlex.split(row["command"])[:4] == ["python", "-m", "bench", "run"]
    own = {**WORKLOAD, "seed": 7, "corpus": "Emma", "corpus_sha256": "1" * 64}
    row = rows.row(PLAN, own, CASE, "ok", "")
    assert (row["seed"], row["corpus"], row["corpus_sha256"]) == (7, "Emma", "1" * 64)
    assert rows.row(PLAN, {**WORKLOAD, "seed": 0}, CASE, "ok", "")["seed"] == 0


# Commands


def asked(command, monkeypatch):
    """What the command line asks the planner for, given ``command``."""
    requests = []

    def planner(measure, **request):
        requests.append(request)
        raise SystemExit(0)

    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "bench"]
    monkeypatch.setattr(run_commands, "_ask_planner", planner)
    with pytest.raises(SystemExit):
        app(words[3:], standalone_mode=False)
    return requests[0]


def test_the_command_of_a_row_asks_for_it_alone(monkeypatch):
    command = rows.reproduction_command(PLAN, CASE["case_id"])
    request = asked(command, monkeypatch)
    assert request["profile"] == "quick"
    assert request["only"] == [CASE["case_id"]]
    assert (request["device"], request["seed"], request["threads"]) == ("cpu", 3, 2)
    assert (request["corpus"], request["case_seconds"]) == ("timemachine", 0)
    assert "--case-seconds" not in command
    assert "--corpus" not in command


def test_the_command_of_a_row_keeps_what_was_unusual(monkeypatch):
    plan = {**PLAN, "case_seconds": 12.5, "corpus": {**PLAN["corpus"], "asked": "my own.txt"}}
    request = asked(rows.reproduction_command(plan, CASE["case_id"]), monkeypatch)
    assert (request["corpus"], request["case_seconds"]) == ("my own.txt", 12.5)


def test_the_command_of_a_network_of_ones_own(monkeypatch):
    chosen = {"workloads": ["lstm-H9", "gru-H8"], "epochs": 4, "learning_rate": 0.5}
    plan = {**PLAN, "profile": "custom", "custom": chosen, "case_seconds": 77.0}
    command = rows.reproduction_command(plan, "lstm-L2-H9-B32-T35-fp32/torch_nn/eager")
    request = asked(command, monkeypatch)
    assert request["profile"] is None
    assert request["workloads"] == ["lstm-H9"]
    assert (request["epochs"], request["learning_rate"]) == (4, 0.5)
    assert request["case_seconds"] == 77.0


def test_of_a_chapter_the_parts_that_need_a_case_are_repeated(monkeypatch):
    parts = [("runs", "a"), ("exercise-2", "b"), ("exercise-1", "a"), ("runs", "a")]
    plan = {**PLAN, "profile": "chapter", "budget": "quick", "case_seconds": CHAPTER_SECONDS}
    plan["parts"] = [{"part": part, "case_id": case_id} for part, case_id in parts]
    command = rows.reproduction_command(plan, "a")
    assert "--seed" not in command  # a chapter has seeds of its own
    request = asked(command, monkeypatch)
    assert request["budget"] == "quick"
    assert request["only"] == ["exercise-1", "runs"]
    assert request["case_seconds"] == 0
    longer = rows.reproduction_command({**plan, "case_seconds": 60.0}, "a")
    assert asked(longer, monkeypatch)["case_seconds"] == 60.0


def test_speeds_that_are_no_numbers_never_reach_a_row():
    with pytest.raises(ValueError, match="finite"):
        rows.figures(WORKLOAD, CASE, rounds_of(1.0, math.inf, 2.0), None)
