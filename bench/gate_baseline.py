"""Two stored reports of one machine: did the later one get slower, bigger or worse?

Runs of different days do not meet the same machine, so speed is compared as the ratio to
``torch_nn`` in the same run, taken in turns with the case itself. That ratio cannot see what slows
every implementation alike, and one process a case cannot see how much processes differ: to decide
about a change, use the paired gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.gate import (
    INVALID,
    MEMORY,
    PERPLEXITY,
    SPEED,
    CaseVerdict,
    Comparison,
    Quantity,
    Thresholds,
    Verdict,
    conclude,
    worst,
)
from bench.gate_comparable import notes, refusals
from bench.gate_decision import BETTER, ERROR, SAME, WORSE, classify
from bench.ranking import TORCH_NN, Case, Report
from bench.ranking import Workload as RankedWorkload
from bench.selection import MatchesNothing, choose
from bench.statistics import BLOCKS, Ratio, speedup, t_quantile

MIN_TURNS = 5
"""Fewer turns with the reference say too little about spread."""

THRESHOLDS = Thresholds(speed=0.05, memory=0.10, perplexity=0.05)
"""Wider than those of pairs: memory and perplexity are single figures here."""

READING = (
    "A cost ratio is current over baseline: above 1 is worse. For speed it is that of seconds a "
    f"token relative to {TORCH_NN} in the same run, with an interval; the intervals of all cases "
    "hold together with 95 %, as far as one process a case can tell; in brackets the turns, of "
    f"many of them {BLOCKS} stretches. The "
    "absolute tokens/s are for information. Memory and perplexity are single figures."
)

# Of a workload in plan.json: what only describes it.
_DESCRIPTION = (
    "title",
    "published_tokens_per_second",
    "published_perplexity",
    "published_note",
    "flops_per_token",
)


class Found(NamedTuple):
    """A case in its report."""

    case: Case
    workload: RankedWorkload


def compare(
    baseline: Report,
    current: Report,
    thresholds: Thresholds = THRESHOLDS,
    only: Sequence[str] = (),
) -> Verdict:
    """The verdict over every case that either report planned and ``only`` does not leave out.

    Reports that cannot be compared as wholes give an invalid verdict that says why. Raises
    ``ValueError`` for a pattern that matches no case.
    """
    cases = [_cases(report) for report in (baseline, current)]
    ids = list(dict.fromkeys([*cases[0], *cases[1]]))
    try:
        ids = choose(ids, only)
    except MatchesNothing as error:
        raise ValueError(
            f"--only {error.pattern!r} matches none of the {len(ids)} cases of both"
        ) from None
    problems = refusals(baseline, current)
    judged: list[CaseVerdict] = []
    compared = 0
    if not problems:
        pairs = [(i, cases[0].get(i), cases[1].get(i)) for i in ids]
        both_ok = [
            c.case for _, b, c in pairs if b is not None and c is not None and _both_ok(b, c)
        ]
        compared = len(both_ok)
        judged = [
            _judge(case_id, b, c, (baseline, current), thresholds, compared)
            for case_id, b, c in pairs
        ]
        if compared and all(case.implementation == TORCH_NN for case in both_ok):
            problems = [
                f"no speeds were compared: {TORCH_NN} is what others are held against; "
                "let --only choose another implementation, too"
            ]
    return conclude(
        "baseline",
        judged,
        _side(baseline),
        _side(current),
        {
            "smallest_effects": {
                "speed": thresholds.speed,
                "memory": thresholds.memory,
                "perplexity": thresholds.perplexity,
            },
            "looks": [],
            "error": ERROR,
            "cases": compared,
            "reading": READING,
            "only": list(only),
        },
        problems,
        [] if problems else notes(baseline, current, set(ids)),
    )


def _cases(report: Report) -> dict[str, Found]:
    return {case.case_id: Found(case, w) for w in report.workloads for case in w.cases}


def _side(report: Report) -> dict[str, Any]:
    plan = report.plan
    return {
        "name": f"{report.directory.name} of {plan.get('run_id') or 'an unknown time'}",
        "commit": str(plan.get("commit") or "unknown"),
        "machine": str(plan.get("machine") or "unknown"),
        "device": str(plan.get("device") or "unknown"),
    }


def _both_ok(baseline: Found, current: Found) -> bool:
    return (
        baseline.case.status == current.case.status == "ok"
        and not baseline.case.interpreted
        and not current.case.interpreted
    )


def _judge(
    case_id: str,
    baseline: Found | None,
    current: Found | None,
    reports: tuple[Report, Report],
    thresholds: Thresholds,
    compared: int,
) -> CaseVerdict:
    """One case: what stands in the way of a comparison, or the comparison."""
    early = _without_comparison(case_id, baseline, current)
    if early is not None:
        return early
    assert baseline is not None
    assert current is not None
    both = (baseline, current)
    empty = CaseVerdict(case_id, INVALID, rounds=0)
    differing = _differences(baseline.workload.spec, current.workload.spec)
    if differing:
        return _invalid(empty, f"another workload definition: {', '.join(differing)}")
    comparisons: list[Comparison] = []
    if current.case.implementation != TORCH_NN:
        speed = _speed(both, reports, thresholds.speed, compared)
        if isinstance(speed, str):
            return _invalid(empty, speed)
        comparisons.append(speed)
    for quantity, column in ((MEMORY, "peak_memory_mib"), (PERPLEXITY, "train_perplexity")):
        if quantity is PERPLEXITY and reports[0].plan.get("seed") != reports[1].plan.get("seed"):
            continue
        figure = _single(quantity, column, both, thresholds.of(quantity))
        if isinstance(figure, str):
            return _invalid(empty, figure)
        comparisons.append(figure)
    rounds, marked = _rounds(case_id, reports)
    return CaseVerdict(
        case_id,
        worst(comparison.decision for comparison in comparisons) if comparisons else "untimed",
        "" if comparisons else f"{TORCH_NN} is what the others are compared with",
        tuple(comparisons),
        rounds=rounds,
        marked=marked,
    )


def _invalid(case: CaseVerdict, reason: str) -> CaseVerdict:
    return CaseVerdict(case.case_id, INVALID, reason)


def _without_comparison(
    case_id: str, baseline: Found | None, current: Found | None
) -> CaseVerdict | None:
    """The verdict of a case that only one side has or that failed; None if it can be compared."""
    statuses = [found.case.status if found else "missing" for found in (baseline, current)]
    reasons = [found.case.reason if found else "" for found in (baseline, current)]
    absent = ("missing", "unsupported")
    if statuses[1] not in ("ok", *absent):
        return CaseVerdict(case_id, INVALID, f"now {statuses[1]}: {reasons[1]}".rstrip(": "))
    if statuses[1] in absent:
        if statuses[0] in absent:
            return CaseVerdict(case_id, "untimed", f"unsupported: {reasons[1] or reasons[0]}")
        return CaseVerdict(case_id, INVALID, f"now {statuses[1]}: {reasons[1]}".rstrip(": "))
    if statuses[0] in absent:
        return CaseVerdict(
            case_id, "new", f"{statuses[0]} in the baseline: {reasons[0]}".rstrip(": ")
        )
    if statuses[0] != "ok":
        why = f"{statuses[0]} in the baseline: {reasons[0]}".rstrip(": ")
        return CaseVerdict(case_id, INVALID, f"{why}; store a new baseline")
    assert current is not None
    if current.case.interpreted:
        return CaseVerdict(case_id, "untimed", "an interpreter ran it")
    return None


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    keys = sorted({*there, *here} - set(_DESCRIPTION))
    return [
        f"{key} {there.get(key)} in the baseline, {here.get(key)} now"
        for key in keys
        if there.get(key) != here.get(key)
    ]


def _speed(
    both: tuple[Found, Found], reports: tuple[Report, Report], threshold: float, compared: int
) -> Comparison | str:
    """Welch's t interval on the log of the two ratios to the reference, or why there is none.

    Source: Welch, *Biometrika* 34, 1947.
    """
    ratios: list[Ratio] = []
    for name, found, report in zip(("the baseline", "this run"), both, reports, strict=True):
        reference = _reference(found)
        if reference is None:
            return f"{name} has no {TORCH_NN} with the same execution to compare with"
        ratio = speedup(report.rounds, found.case.case_id, reference.case_id)
        turns = 0 if ratio is None else ratio.pairs
        if ratio is None or turns < MIN_TURNS:
            return f"too few rounds: {turns} turns in {name}, and {MIN_TURNS} are needed"
        ratios.append(ratio)
    errors = [_standard_error(ratio) for ratio in ratios]
    error = math.hypot(*errors)
    centre = math.log(ratios[0].ratio / ratios[1].ratio)
    freedom = _welch_freedom(errors, [ratio.pairs for ratio in ratios])
    quantile = t_quantile(1 - ERROR / 2 / max(compared, 1), freedom)
    low, high = centre - quantile * error, centre + quantile * error
    word = SPEED.word(str(classify(np.array(low), np.array(high), math.log1p(threshold))))
    return Comparison(
        SPEED,
        both[0].case["tokens_per_second"],
        both[1].case["tokens_per_second"],
        math.exp(centre),
        math.exp(low),
        math.exp(high),
        threshold,
        min(ratio.pairs for ratio in ratios),
        word,
    )


def _reference(found: Found) -> Case | None:
    return next(
        (
            case
            for case in found.workload.ranked
            if case.implementation == TORCH_NN and case.execution == found.case.execution
        ),
        None,
    )


def _standard_error(ratio: Ratio) -> float:
    """Of the mean log, from its 95 % t interval."""
    return math.log(ratio.high / ratio.low) / 2 / t_quantile(0.975, ratio.pairs - 1)


def _welch_freedom(errors: Sequence[float], counts: Sequence[int]) -> float:
    total = sum(error**2 for error in errors)
    parts = sum(error**4 / (count - 1) for error, count in zip(errors, counts, strict=True))
    return total**2 / parts if parts else float(min(counts) - 1)


def _single(
    quantity: Quantity, column: str, both: tuple[Found, Found], threshold: float
) -> Comparison | str:
    """Two single figures: no spread is known, so the threshold alone decides."""
    values = [found.case[column] for found in both]
    for name, value in zip(("the baseline", "this run"), values, strict=True):
        if value is None or not math.isfinite(value) or value <= 0:
            return f"{quantity.title.lower()} is missing or not a positive number in {name}"
    kinds = [found.case["peak_memory_kind"] for found in both]
    if quantity is MEMORY and kinds[0] != kinds[1]:
        return f"another kind of peak memory: {kinds[0]} in the baseline, {kinds[1]} now"
    log = quantity.log_cost_ratio(*values)
    is_worse, is_better = log > math.log1p(threshold), log < -math.log1p(threshold)
    word = WORSE if is_worse else BETTER if is_better else SAME
    ratio, (base, head) = math.exp(log), values
    return Comparison(quantity, base, head, ratio, ratio, ratio, threshold, 1, quantity.word(word))


def _rounds(case_id: str, reports: tuple[Report, Report]) -> tuple[int, int]:
    found = []
    for report in reports:
        own = report.rounds[report.rounds["case_id"] == case_id]
        own = own[~own["warm_up"].fillna(False).astype(bool)]
        found.append((len(own), int((own["mark"].fillna("") != "").sum())))
    # Of the worse of the two: a quiet baseline must not vouch for a disturbed run.
    return max(found, key=lambda counts: counts[1] / max(counts[0], 1))
