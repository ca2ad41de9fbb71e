"""A chapter as a run would have stored it, with figures that a test plants."""

import json
import math
import random
from dataclasses import replace

from bench.chapter import planning
from bench.chapter.exercises import BUDGETS, TEXTS, WELLS
from bench.chapter.floors import FLOORS
from bench.chapter.texts import PREFIXES
from bench.results import CURVES, HELD_OUT, ROUNDS, SAMPLES, TRAINING
from deeprnn.corpus import Corpus

TINY = replace(
    BUDGETS["quick"],
    name="quick",
    run_epochs=10,
    run_seeds=2,
    epochs=10,
    seeds=3,
    hidden_size=8,
    updates=20,
    text_seeds=3,
    portion=2_000,
)


def a_text(name, characters):
    """Letters and spaces that differ from text to text."""
    draw = random.Random(name)
    letters = "abcdefghijklmnopqrstuvwxyz "
    weights = [draw.random() + 0.05 for _ in letters]
    return letters + "".join(draw.choices(letters, weights, k=characters - len(letters)))


def texts(characters=240_000):
    """The chapter's texts, made up; The Time Machine's has the length of the real one."""
    return {
        name: Corpus(
            name=name,
            title=f"{name}, made up",
            text=a_text(name, 170_580 if name == WELLS else characters),
            sha256="0" * 64,
            origin="made up",
            is_published=name == WELLS,
            note="",
        )
        for name in TEXTS
    }


def make_plan(monkeypatch, budget=TINY, only=(), measure=False):
    """The planner's answer for ``budget``, without a text from anywhere."""
    fetched = texts()
    monkeypatch.setattr(planning, "_fetch", lambda needed: fetched)
    monkeypatch.setitem(BUDGETS, "quick", budget)
    request = {
        "budget": "quick",
        "only": list(only),
        "threads": 1,
        "case_seconds": 0,
        "measure": measure,
    }
    answer = planning.make(request, "cpu")
    answer["plan"]["run_id"] = "20260101-000000"
    return answer


def write(directory, plan, perplexity, bits, speed, leave_out=lambda case_id: False):
    """Store what a finished run would have, from functions of a role and a seed.

    ``perplexity(role, seed)`` is that of the last epoch, on the training text; validation is twice
    as high. ``bits(role, text, seed)`` are held-out bits a character; ``speed(role)`` tokens/s.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plan.json").write_text(json.dumps(plan))
    (directory / "environment.json").write_text(json.dumps({"Machine": {"Processor": "<b>any"}}))
    roles = {entry["case_id"]: entry for entry in plan["parts"]}  # of several, the last one's
    workloads = {w["workload"]: w for w in plan["workloads"]}
    common = {"run_id": plan["run_id"]}
    for case in plan["cases"]:
        case_id, workload = case["case_id"], workloads[case["workload"]]
        role, seed = roles[case_id]["role"], roles[case_id]["seed"] or 0
        if leave_out(case_id):
            continue
        row = {"case_id": case_id, "status": "ok", "implementation": case["implementation"]}
        if case["timed"]:
            rate = speed(role) * (0.9 if case["implementation"] == "torch_nn" else 1.0)
            row |= {f"tokens_per_second{end}": rate for end in ("", "_low", "_high")}
            ROUNDS.append(
                directory,
                [
                    {
                        "case_id": case_id,
                        "epoch": turn + 1,
                        "turn": turn,
                        "warm_up": turn == 0,
                        "tokens": 8960,
                        "seconds": 8960 / rate,
                        "tokens_per_second": rate * (1 + 0.01 * (turn % 2)),
                        "mark": "",
                    }
                    for turn in range(5)
                ],
            )
            TRAINING.append(directory, [row])
            continue
        last = perplexity(role, seed)
        epochs = workload["epochs"]
        CURVES.append(
            directory,
            [
                {
                    "case_id": case_id,
                    "epoch": epoch,
                    "train_perplexity": last * (epochs / epoch),
                    "validation_perplexity": 2 * last * (epochs / epoch),
                    **common,
                }
                for epoch in range(1, epochs + 1)
            ],
        )
        passages = 15 if len(case["held_out"]) > 2 else 1
        HELD_OUT.append(
            directory,
            [
                {
                    "case_id": case_id,
                    "weights": weights,
                    "epoch": epochs,
                    "text": text,
                    "passage": passage,
                    "characters": 7_500 // passages,
                    "bits": bits(role, text, seed) * (7_500 // passages),
                    **common,
                }
                for weights in ("last", "best")
                for text in case["held_out"]
                for passage in range(passages)
            ],
        )
        SAMPLES.append(
            directory,
            [
                {
                    "case_id": case_id,
                    "prefix": prefix,
                    "text": f"{prefix}<i>you can show",
                    "verbatim": 3,
                    **common,
                }
                for prefix in PREFIXES
            ],
        )
        TRAINING.append(directory, [row | {"seed": seed}])
    trainings = {tuple(map(tuple, w["training"])) for w in plan["workloads"] if w["training"]}
    FLOORS.append(
        directory,
        [
            {
                "model": model,
                "training": "+".join(f"{name}{count}" for name, count in training),
                "training_characters": sum(count for _, count in training),
                "text": text,
                "bits_per_character": level + 10 / math.sqrt(sum(count for _, count in training)),
                **common,
            }
            for training in sorted(trainings)
            for text in TEXTS
            for model, level in (
                ("kneser_ney", 2.0),
                ("witten_bell", 2.2),
                ("lzma", 2.5),
                ("bz2", 2.4),
            )
        ],
    )
