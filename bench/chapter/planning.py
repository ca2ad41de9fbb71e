"""From the chapter's needs to a plan of the suite: cases with ids, texts, and who needs which."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from bench import environment
from bench.chapter.exercises import (
    BUDGETS,
    HELD_OUT_CHARACTERS,
    PARTS,
    TEXTS,
    WELLS,
    Budget,
    Need,
    needs,
    parameters,
)
from bench.plan import Case
from bench.workloads import CHAPTER_SECONDS, UsageError, Workload
from deeprnn import corpus, implementations
from deeprnn.support import Request
from deeprnn.vocabulary import Vocabulary

SPEED_GROUP = "the networks whose speeds are compared"


def make(request: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan that ``request`` asks for, in the form that `bench.planner` answers with.

    Raises:
        UsageError: an unknown budget or part, or no Time Machine to train on.
    """
    usual = "full" if device == "cuda" else "quick"
    budget = find_budget(usual if request["budget"] is None else request["budget"])
    only = find_parts(request["only"])
    needed = [need for need in needs(budget) if need.part in only]
    # First seeds first: a run that is stopped early has something to say about every part.
    needed.sort(key=lambda need: -1 if need.is_timed else need.workload.seed or 0)
    texts = _fetch(needed)
    vocabulary_size = len(Vocabulary(texts[WELLS].text))
    cases: dict[str, dict[str, Any]] = {}
    workloads: dict[str, Workload] = {}
    parts = []
    for need in needed:
        case = _case(need, device, vocabulary_size)
        id = case.workload.id
        known = workloads.get(id, case.workload)
        if replace(known, epochs=0) != replace(case.workload, epochs=0):
            raise ValueError(f"two workloads have the id {id}")
        workloads[id] = replace(known, epochs=max(known.epochs, case.workload.epochs))
        entry = cases.setdefault(case.id, _describe_case(case, need))
        entry["held_out"] = list(dict.fromkeys([*entry["held_out"], *need.held_out]))
        parts.append(
            {
                "part": need.part,
                "role": need.role,
                "case_id": case.id,
                "seed": need.workload.seed,
                "timed": need.is_timed,
                "epochs": need.workload.epochs,
            }
        )
    threads = request["threads"] or environment.default_threads(device)
    content = {
        "schema": 1,
        "profile": "chapter",
        "budget": budget.name,
        "is_reduced": budget.is_reduced,
        "purpose": budget.purpose,
        "notes": _notes(budget, only),
        "device": device,
        "seed": 0,
        "threads": threads,
        "prepare_at_once": environment.prepare_at_once(device, threads, hurried=False),
        "workers_at_most": environment.workers_at_most(device),
        "learn_at_once": environment.usable_processors() if device == "cpu" else 4,
        "learn_threads": 1,
        "speeds_count": True,
        "case_seconds": request["case_seconds"] or CHAPTER_SECONDS,
        "only": request["only"],
        "commit": environment.commit(),
        "machine": environment.machine_name(device),
        "corpus": {
            "name": WELLS,
            "title": texts[WELLS].title,
            "sha256": texts[WELLS].sha256,
            "is_published": True,
            "note": "",
            "asked": WELLS,
        },
        "texts": {
            name: {"title": t.title, "sha256": t.sha256, "characters": len(t.text)}
            for name, t in texts.items()
        },
        "held_out_characters": HELD_OUT_CHARACTERS,
        "portion": budget.portion,
        "parts": parts,
        "workloads": [
            {
                "workload": id,
                **dataclasses.asdict(workload),
                "flops_per_token": workload.flops_per_token(vocabulary_size),
                "parameters": parameters(workload, vocabulary_size),
                **_what_it_reads(workload, texts),
            }
            for id, workload in workloads.items()
        ],
        "cases": list(cases.values()),
    }
    answer: dict[str, Any] = {
        "plan": content,
        "text": texts[WELLS].text,
        "texts": {name: t.text for name, t in texts.items()},
        "origin": texts[WELLS].origin,
    }
    if request["measure"]:
        answer["environment"] = environment.describe(device, threads)
        answer["peaks"] = {
            "float32/ieee": environment.matrix_product_flops(device, "float32", "ieee", threads)
        }
    return answer


def find_budget(name: str) -> Budget:
    if name not in BUDGETS:
        raise UsageError(f"--budget {name!r} is unknown; use one of {', '.join(BUDGETS)}")
    return BUDGETS[name]


def find_parts(only: list[str]) -> list[str]:
    """The parts that ``only`` names, all of them without it."""
    for name in only:
        if name not in PARTS:
            raise UsageError(f"--only {name!r} is unknown; the parts are {', '.join(PARTS)}")
    return list(only or PARTS)


def _fetch(needed: list[Need]) -> dict[str, corpus.Corpus]:
    """The texts that are read or judged by, Wells' first."""
    wanted = {WELLS}
    for need in needed:
        wanted |= {*need.held_out, need.validation, *(name for name, _ in need.workload.training)}
    wells = corpus.load(WELLS)
    if not wells.is_published:
        raise UsageError(
            f"the chapter is about The Time Machine, and only {wells.title} is at hand "
            f"({wells.origin}): set {corpus.CORPUS_DIR_VARIABLE} to a directory that holds "
            f"{WELLS}.txt, or connect to a network"
        )
    others = corpus.fetch_all([name for name in TEXTS if name in wanted and name != WELLS])
    return {WELLS: wells, **others}


def _case(need: Need, device: str, vocabulary_size: int) -> Case:
    workload = need.workload
    request = Request(
        cell=workload.cell,
        device=device,
        dtype=workload.dtype,
        matmul_precision=workload.matmul_precision,
        execution="cuda_graph" if device == "cuda" else "eager",
        input_size=vocabulary_size,
        hidden_size=workload.hidden_size,
        num_layers=workload.num_layers,
        batch_size=workload.batch_size,
        num_steps=workload.num_steps,
        recurrent=workload.recurrent,
    )
    if need.is_rival:
        name = implementations.REFERENCE
    else:
        name = implementations.fastest_of_our_own(request)
    reason = implementations.why_unsupported(name, request) or ""
    return Case(workload, name, request.execution, device, False, reason)


def _describe_case(case: Case, need: Need) -> dict[str, Any]:
    return {
        "case_id": case.id,
        "workload": case.workload.id,
        "implementation": case.implementation,
        "execution": case.execution,
        "interpreted": case.interpreted,
        "unsupported": case.unsupported,
        "timed": need.is_timed,
        "group": SPEED_GROUP if need.is_timed else "",
        "held_out": list(need.held_out),
        "validation": need.validation,
    }


def _what_it_reads(workload: Workload, texts: dict[str, corpus.Corpus]) -> dict[str, str]:
    """What a row says of the text: title and hash of each, in their order."""
    names = [name for name, _ in workload.training] or [WELLS]
    return {
        "corpus": " + ".join(texts[name].title for name in names),
        "corpus_sha256": "+".join(texts[name].sha256 for name in names),
    }


def _notes(budget: Budget, only: list[str]) -> list[str]:
    notes = [f"{title}, which --only did not name" for p, title in PARTS.items() if p not in only]
    if budget.is_reduced:
        notes.append(
            f"training to the end: budget {budget.name} trains the published runs for "
            f"{budget.run_epochs} epochs with {budget.run_seeds} seeds, exercises 1 and 2 for "
            f"{budget.epochs} epochs with {budget.seeds}, exercises 3 and 4 with "
            f"{budget.text_seeds} seeds"
        )
    return notes
