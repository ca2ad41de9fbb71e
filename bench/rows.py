"""From what a case answered to its row of ``training.csv``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench import custom, statistics
from bench.ranking import TORCH_NN
from bench.results import TRAINING
from bench.workloads import CHAPTER_SECONDS

TARGET_PERPLEXITY = 1.1
"""``seconds_to_target`` ends with the first epoch whose training perplexity is at most this."""

Fields = Mapping[str, Any]


def row(plan: Fields, workload: Fields, case: Fields, status: str, reason: str) -> dict[str, Any]:
    """What is known of a case before anything is measured, in the columns of ``training.csv``."""
    return {
        **{k: v for k, v in workload.items() if k in TRAINING.columns and k != "epochs"},
        "case_id": case["case_id"],
        "status": status,
        "reason": reason,
        "implementation": case["implementation"],
        "execution": case["execution"],
        "device": plan["device"],
        "interpreted": case["interpreted"],
        "target_perplexity": TARGET_PERPLEXITY,
        "corpus": workload.get("corpus", plan["corpus"]["title"]),
        "corpus_sha256": workload.get("corpus_sha256", plan["corpus"]["sha256"]),
        "seed": plan["seed"] if workload.get("seed") is None else workload["seed"],
        "run_id": plan["run_id"],
        "commit": plan["commit"],
        "command": reproduction_command(plan, case["case_id"]),
    }


def figures(
    workload: Fields, case: Fields, rounds: Sequence[Fields], peak: float | None
) -> dict[str, Any]:
    """What the rounds of one case amount to.

    Args:
        workload: its sizes and ``flops_per_token``.
        case: one that was interpreted, or run beside others, has perplexities and no speeds.
        rounds: all of them, with perplexities and ``training_seconds`` since the first.
        peak: floating-point operations a second of the machine's own matrix products.
    """
    last = rounds[-1]
    found = {k: last[k] for k in ("train_perplexity", "validation_perplexity")}
    found["epochs"] = last["epoch"]
    if case["interpreted"] or not case.get("timed", True):
        return found
    reached = [r for r in rounds if r["train_perplexity"] <= TARGET_PERPLEXITY]
    found["seconds_to_target"] = reached[0]["training_seconds"] if reached else None
    counted = [r["tokens_per_second"] for r in rounds if not r["warm_up"]]
    found["rounds"] = len(counted)
    if not counted:
        return found
    interval = statistics.throughput(counted)
    median = interval.median
    found["tokens_per_second"] = median
    if len(counted) > 1:  # one round has no spread
        found["tokens_per_second_low"] = interval.low
        found["tokens_per_second_high"] = interval.high
    batch_tokens = workload["batch_size"] * workload["num_steps"]
    found["step_milliseconds"] = 1e3 * batch_tokens / median
    # A network cannot outrun the products it is made of: then these were measured disturbed.
    if peak is not None and median * workload["flops_per_token"] <= peak:
        found["fraction_of_peak"] = median * workload["flops_per_token"] / peak
    return found


def factors(
    cases: Sequence[Fields], found: Mapping[str, Fields], rounds: Sequence[Fields]
) -> dict[str, float]:
    """By case id, how many times the baseline's tokens/s, from rounds that ran side by side.

    ``cases`` are those that are done, ``found`` their figures by id, ``rounds`` those of them all.
    """
    if not cases:
        return {}
    speeds = [found[case["case_id"]].get("tokens_per_second") for case in cases]
    frame = pd.DataFrame([dict(case) for case in cases])
    frame = frame.assign(status="ok", tokens_per_second=pd.Series(speeds, dtype=float))
    ratios = statistics.factors_over(TORCH_NN, frame, pd.DataFrame([dict(r) for r in rounds]))
    return {case_id: ratio.ratio for case_id, ratio in ratios.items()}


def reproduction_command(plan: Fields, case_id: str) -> str:
    """The command line that measures this case again, in a chapter with the part it belongs to."""
    only = [case_id]
    if "budget" in plan:  # of the chapter one repeats parts
        only = sorted({e["part"] for e in plan["parts"] if e["case_id"] == case_id})
    return shlex.join(run_command(plan, only))


def run_command(plan: Fields, only: Sequence[str]) -> list[str]:
    """The words of a command line that runs ``only`` with the options of ``plan``."""
    words = ["python", "-m", "bench"]
    if "budget" in plan:  # the chapter is no profile
        words += ["chapter", "--budget", plan["budget"]]
    elif "custom" in plan:
        words += ["run", *custom.words(plan["custom"], only)]
    else:
        words += ["run", "--profile", plan["profile"]]
    for pattern in only:
        words += ["--only", pattern]
    words += ["--device", plan["device"]]
    usual = CHAPTER_SECONDS if "budget" in plan else custom.profile_of(plan).case_seconds
    if plan["case_seconds"] != usual:
        words += ["--case-seconds", f"{plan['case_seconds']:g}"]
    if "budget" in plan:
        return words
    words += ["--seed", str(plan["seed"]), "--threads", str(plan["threads"])]
    if plan["corpus"]["asked"] != "timemachine":
        words += ["--corpus", plan["corpus"]["asked"]]
    return words
