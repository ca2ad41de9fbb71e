"""What the chapter needs, by budget, and the plan that comes of it."""

import re

import pytest

from bench.chapter import planning
from bench.chapter.exercises import (
    ALL_OF_IT,
    BUDGETS,
    HELD_OUT_CHARACTERS,
    MORE_TEXT,
    PARTS,
    TEXTS,
    WELLS,
    mixtures,
    needs,
    parameters,
    wide_gru,
)
from bench.chapter.texts import texts_for_job
from bench.workloads import PUBLISHED, PUBLISHED_LSTM, UsageError
from deeprnn import language_model

from .example_chapter import make_plan, texts


@pytest.mark.parametrize("workload", [*PUBLISHED, wide_gru()], ids=lambda w: w.id)
def test_parameters_are_those_of_the_model(workload):
    model = language_model.build(
        "torch_nn",
        workload.cell,
        28,
        workload.hidden_size,
        workload.num_layers,
        recurrent=workload.recurrent,
    )
    assert parameters(workload) == sum(p.numel() for p in model.parameters())


def test_the_fair_gru_has_as_many_parameters_as_the_lstm():
    assert abs(parameters(wide_gru()) / parameters(PUBLISHED_LSTM) - 1) < 0.005


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda b: b.name)
def test_every_part_is_planned_and_no_held_out_character_is_trained_on(budget):
    found = needs(budget)
    assert {need.part for need in found} == set(PARTS)
    lengths = {"timemachine": ALL_OF_IT, "moreau": 227_323, "pride": 648_472}
    lengths["metamorphosis"] = 113_863
    for need in found:
        for name, count in need.workload.training:
            if name in (*need.held_out, need.validation):
                assert count <= lengths[name] - 2 * HELD_OUT_CHARACTERS, need.role
    assert lengths["moreau"] - 2 * HELD_OUT_CHARACTERS >= MORE_TEXT


def test_mixtures_hold_the_wells_or_the_total_equal():
    of = mixtures(30_000)
    total = {role: sum(n for _, n in training) for role, training in of.items()}
    wells = {role: dict(training).get(WELLS, 0) for role, training in of.items()}
    extra = ("Wells", "Wells + other Wells", "Wells + Austen", "Wells + Kafka + Austen")
    assert {wells[role] for role in extra} == {30_000}
    equal = ("twice as much Wells", "Wells + other Wells", "Wells + Austen")
    assert {total[role] for role in equal} == {60_000}
    assert total["a third each of Wells, Kafka, Austen"] == 60_000


def test_full_asks_for_what_the_exercises_ask():
    full = needs(BUDGETS["full"])
    for part in ("exercise-1", "exercise-2"):
        seeds = {need.workload.seed for need in full if need.part == part and not need.is_timed}
        assert seeds == set(range(5))
    published = [need for need in full if need.part == "runs" and not need.is_timed]
    assert {need.workload.seed for need in published} == {0, 1, 2}
    assert {need.workload.epochs for need in published} == {500}
    sizes = {need.role for need in full if need.part == "exercise-3"}
    for size in ("5,000", "10,000", "20,000", "40,000", "80,000", "155,580", "all 170,580"):
        assert any(role.startswith(size) for role in sizes)


def test_a_case_that_two_parts_need_is_planned_once(monkeypatch):
    plan = make_plan(monkeypatch)["plan"]
    ids = [case["case_id"] for case in plan["cases"]]
    assert len(ids) == len(set(ids))
    shared = [
        e for e in plan["parts"] if e["case_id"].startswith("lstm-L2-H256-B32-T35-fp32-seed0")
    ]
    assert {entry["part"] for entry in shared} == {"runs", "exercise-2"}
    assert {entry["case_id"] for entry in plan["parts"]} == set(ids)


def test_a_shared_case_trains_as_long_as_the_longest_asks(monkeypatch):
    plan = make_plan(monkeypatch)["plan"]
    epochs = {w["workload"]: w["epochs"] for w in plan["workloads"]}
    for entry in plan["parts"]:
        assert epochs[entry["case_id"].split("/")[0]] >= entry["epochs"]


def test_jobs_get_their_texts(monkeypatch):
    answer = make_plan(monkeypatch, only=["exercise-4"])
    plan, made_up = answer["plan"], answer["texts"]
    for case in plan["cases"]:
        job = texts_for_job(plan, made_up, case)
        workload = next(w for w in plan["workloads"] if w["workload"] == case["workload"])
        assert len(job["training_text"]) == sum(n for _, n in workload["training"])
        assert set(job["held_out"]) == set(TEXTS)
        for name, judged in job["held_out"].items():
            assert len(judged) == HELD_OUT_CHARACTERS
            assert made_up[name].endswith(judged)
        assert len(job["validation_text"]) == HELD_OUT_CHARACTERS
        name = case["validation"]
        assert made_up[name].endswith(job["validation_text"] + job["held_out"][name])


@pytest.mark.parametrize(
    ("budget", "only", "message"),
    [
        ("huge", [], "--budget 'huge' is unknown; use one of quick, standard, full"),
        ("quick", ["exercise-5"], "--only 'exercise-5' is unknown; the parts are runs, exercise-1"),
    ],
)
def test_wrong_use_is_named(budget, only, message):
    request = {"budget": budget, "only": only, "threads": 0, "case_seconds": 0, "measure": False}
    with pytest.raises(UsageError, match=re.escape(message)):
        planning.make(request, "cpu")


def test_another_text_is_refused(monkeypatch):
    stand_in = texts()["moreau"]
    monkeypatch.setattr(planning.corpus, "load", lambda name: stand_in)
    request = {"budget": "quick", "only": [], "threads": 0, "case_seconds": 0, "measure": False}
    with pytest.raises(UsageError, match="the chapter is about The Time Machine, and only"):
        planning.make(request, "cpu")
