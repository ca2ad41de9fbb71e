"""Did it get slower, bigger or worse? From what was measured to a verdict and an exit code.

Nothing passes unseen: a case that one side lacks, that failed, or that has too few pairs is
*invalid*, and so is a gate that compared nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.gate_decision import (
    AMBIGUOUS,
    BETTER,
    LOOKS,
    NOT_WORSE,
    SAME,
    WORSE,
    Decision,
    decide,
    estimate,
    has_moved,
    look_error,
)
from bench.gate_pairs import Measurement, Pair, Side

PASS, REGRESSION, UNRELIABLE, INVALID = "pass", "regression", "unreliable", "invalid"

EXIT_CODES = {PASS: 0, REGRESSION: 3, AMBIGUOUS: 4, UNRELIABLE: 4, INVALID: 5}
"""1 is a tool that failed, 2 a wrong use; neither has a verdict."""

MOST_MARKED = 0.5
"""With a larger share of rounds contended or throttled, the runner cannot be believed."""


@dataclass(frozen=True)
class Quantity:
    """Something that must not get worse, and how its decisions are called."""

    name: str
    title: str
    unit: str
    worse: str
    better: str
    read: Callable[[Side], float | None]
    more_is_better: bool = False

    def log_cost_ratio(self, base: float, head: float) -> float:
        """Above 0 head is worse, whichever way the figure points."""
        return math.log(base / head) if self.more_is_better else math.log(head / base)

    def word(self, decision: str) -> str:
        return {WORSE: self.worse, BETTER: self.better}.get(decision, decision)


SPEED = Quantity(
    "speed", "Speed", "tokens/s", "slower", "faster", lambda side: side.tokens_per_second, True
)
MEMORY = Quantity(
    "memory", "Peak memory", "MiB", "bigger", "smaller", lambda side: side.peak_memory_mib
)
PERPLEXITY = Quantity(
    "perplexity", "Perplexity", "", "worse", "better", lambda side: side.train_perplexity
)
QUANTITIES = {quantity.name: quantity for quantity in (SPEED, MEMORY, PERPLEXITY)}

REGRESSIONS = tuple(quantity.worse for quantity in QUANTITIES.values())

WORST_FIRST = (
    INVALID,
    UNRELIABLE,
    *REGRESSIONS,
    AMBIGUOUS,
    "new",
    "untimed",
    NOT_WORSE,
    *(quantity.better for quantity in QUANTITIES.values()),
    SAME,
)
"""Every decision that a case can come to; last the one that needs no reader."""


@dataclass(frozen=True)
class Thresholds:
    """The smallest effects that matter, as cost ratios minus one."""

    speed: float = 0.03
    memory: float = 0.05
    perplexity: float = 0.01

    def of(self, quantity: Quantity) -> float:
        return float(getattr(self, quantity.name))


@dataclass(frozen=True)
class Comparison:
    """One quantity of one case, on both sides."""

    quantity: Quantity
    base: float  # in the quantity's unit, the median over pairs
    head: float
    ratio: float  # head's cost over base's: above 1 is worse
    low: float
    high: float
    threshold: float
    pairs: int
    decision: str


@dataclass(frozen=True)
class CaseVerdict:
    """One case: the worst of its comparisons, or why there are none."""

    case_id: str
    decision: str
    reason: str = ""
    comparisons: tuple[Comparison, ...] = ()
    control: Decision | None = None  # base against base, in speed
    rounds: int = 0
    marked: int = 0

    @property
    def speed(self) -> Comparison | None:
        return next((c for c in self.comparisons if c.quantity is SPEED), None)


@dataclass(frozen=True)
class Verdict:
    """The answer of a whole gate."""

    kind: str  # revisions | baseline
    word: str
    cases: tuple[CaseVerdict, ...]  # the worst first
    base: dict[str, Any]
    head: dict[str, Any]
    settings: dict[str, Any]
    problems: tuple[str, ...] = ()  # what made it invalid or unreliable, beyond single cases
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.word]


def judge_pairs(
    measurement: Measurement, thresholds: Thresholds, cases: int, looks: Sequence[int] = LOOKS
) -> CaseVerdict:
    """The decision on one case of a paired gate, from the pairs there are so far.

    ``cases`` is how many share the error of the gate. ``ambiguous`` asks for more pairs until the
    last look.
    """
    pairs = measurement.pairs
    empty = CaseVerdict(
        measurement.case_id,
        measurement.kind,
        measurement.reason,
        rounds=sum(side.rounds for pair in pairs for side in pair.sides),
        marked=sum(side.marked for pair in pairs for side in pair.sides),
    )
    if measurement.kind != "paired":
        return empty
    if len(pairs) < looks[0]:
        reason = f"too few rounds: {len(pairs)} pairs, and the first look needs {looks[0]}"
        return replace(empty, decision=INVALID, reason=reason)
    comparisons = []
    for quantity in QUANTITIES.values():
        comparison = _compare(quantity, pairs, thresholds.of(quantity), cases, looks)
        if isinstance(comparison, str):
            return replace(empty, decision=INVALID, reason=comparison)
        if comparison is not None:
            comparisons.append(comparison)
    logs = _logs(SPEED, [(pair.base, pair.control) for pair in pairs])
    assert logs is not None
    decision, reason = worst(c.decision for c in comparisons), ""
    control, moved = _control(logs, thresholds.speed, cases, looks)
    if moved:
        decision = UNRELIABLE
        reason = f"base against base moved by {100 * (control.ratio - 1):+.1f} %"
    return replace(
        empty,
        decision=decision,
        reason=reason,
        comparisons=tuple(comparisons),
        control=control,
    )


def _compare(
    quantity: Quantity, pairs: Sequence[Pair], threshold: float, cases: int, looks: Sequence[int]
) -> Comparison | str | None:
    """The comparison; None where neither side has the figure; a reason where one lacks it."""
    base = [quantity.read(pair.base) for pair in pairs]
    head = [quantity.read(pair.head) for pair in pairs]
    if all(value is None for value in (*base, *head)):
        return None
    logs = _logs(quantity, [(pair.base, pair.head) for pair in pairs])
    if logs is None:
        return f"{quantity.title.lower()} is missing or not a positive number on a side"
    found = decide(logs, threshold, cases, looks)
    return Comparison(
        quantity,
        float(np.median(np.array(base, dtype=float))),
        float(np.median(np.array(head, dtype=float))),
        found.ratio,
        found.low,
        found.high,
        threshold,
        found.pairs,
        quantity.word(found.word),
    )


def _logs(quantity: Quantity, sides: Sequence[tuple[Side, Side]]) -> list[float] | None:
    logs = []
    for first, second in sides:
        a, b = quantity.read(first), quantity.read(second)
        if not _is_figure(a) or not _is_figure(b):
            return None
        assert a is not None
        assert b is not None
        logs.append(quantity.log_cost_ratio(a, b))
    return logs


def _is_figure(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _control(
    logs: Sequence[float], threshold: float, cases: int, looks: Sequence[int]
) -> tuple[Decision, bool]:
    """Base against base at the last look reached, and whether it moved at any look."""
    moved = False
    for look, pairs in enumerate(looks):
        if pairs > len(logs):
            break
        found = estimate(np.asarray(logs[:pairs]), look_error(look, cases, looks))
        has = bool(has_moved(found, math.log1p(threshold)))
        moved = moved or has
        centre, low, high = (math.exp(float(value)) for value in found)
        decision = Decision("moved" if moved else "still", centre, low, high, pairs)
    return decision, moved


def worst(decisions: Any) -> str:
    """The decision that stands first in :data:`WORST_FIRST`."""
    return str(min(decisions, key=WORST_FIRST.index))


def conclude(
    kind: str,
    cases: Sequence[CaseVerdict],
    base: dict[str, Any],
    head: dict[str, Any],
    settings: dict[str, Any],
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Verdict:
    """The verdict over all cases. ``problems`` found before any comparison make it invalid.

    Invalid outranks unreliable, and both outrank a regression: what cannot be believed is no
    regression yet.
    """
    found = list(problems)
    if not any(case.comparisons for case in cases):
        found.append("nothing was compared")
    rounds, marked = sum(c.rounds for c in cases), sum(c.marked for c in cases)
    decisions = {case.decision for case in cases}
    if found or INVALID in decisions:
        word = INVALID
    elif UNRELIABLE in decisions or marked > MOST_MARKED * rounds:
        word = UNRELIABLE
    elif decisions & set(REGRESSIONS):
        word = REGRESSION
    else:
        word = AMBIGUOUS if AMBIGUOUS in decisions else PASS
    if marked > MOST_MARKED * rounds:
        found.append(
            f"{marked} of {rounds} rounds were contended or throttled: "
            "run again while nothing else uses the machine"
        )
    ordered = sorted(cases, key=_badness)
    return Verdict(kind, word, tuple(ordered), base, head, settings, tuple(found), tuple(notes))


def _badness(case: CaseVerdict) -> tuple[int, float, str]:
    ratio = max((c.ratio for c in case.comparisons), default=0.0)
    return WORST_FIRST.index(case.decision), -ratio, case.case_id
