"""What a part of the chapter says on the page: question, answer, figure, tables, command."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench import tables
from bench.chapter.stored import Chapter, Learned
from bench.page_parts import Cell, Picture, Table
from bench.statistics import Ratio, t_quantile

PAIRED = (
    "Factors pair rounds that ran in one turn, with their 95 % interval; they are not the "
    "quotients of the medians beside them."
)


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    part: str
    question: str
    answer: tuple[str, ...]  # the first sentence is the answer
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    one_seed: str  # what a single seed would have told wrongly; empty where seeds are too few
    seeds: int


def of_seeds(value: Ratio | None, digits: int = 2, unit: str = "") -> Cell:
    """A mean over seeds with its interval beneath."""
    if value is None:
        return Cell(tables.MISSING)
    return Cell(tables.decimals(value.ratio, digits) + unit, interval(value, digits))


def interval(value: Ratio, digits: int = 2) -> str:
    """The 95 % interval, or that there is none."""
    if not value.is_bounded:
        return "one seed"
    return tables.span(value.low, value.high, lambda v: tables.decimals(v, digits))


def of_bits(values: Sequence[float | None], digits: int = 3) -> Cell:
    """Bits a character: the mean over seeds, with the half width of its t interval beneath."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell(tables.MISSING)
    mean, half = mean_and_half(known)
    detail = f"± {half:.{digits}f}" if math.isfinite(half) else "one seed"
    return Cell(f"{mean:.{digits}f}", detail)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half of its 95 % t interval, infinite for one value; of none, NaN."""
    count = len(values)
    if count == 0:
        return math.nan, math.inf
    mean = sum(values) / count
    if count < 2:
        return mean, math.inf
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    reach = t_quantile(0.975, count - 1)
    return mean, reach * math.sqrt(variance / count)


def more_or_less(ratio: Ratio, more: str, less: str, same: str) -> str:
    """``more`` or ``less`` where the interval leaves 1 out, else ``same``."""
    if ratio.is_bounded and ratio.low > 1:
        return more
    if ratio.is_bounded and ratio.high < 1:
        return less
    return same


def percent_apart(ratio: float) -> str:
    """How far a ratio is from 1, in percent, without a sign."""
    return f"{abs(100 * (ratio - 1)):.{1 if abs(ratio - 1) < 0.1 else 0}f} %"


def have_a_seed_in_common(learned: Mapping[str, Sequence[Learned]]) -> bool:
    """Whether there is a seed by which all roles can be compared."""
    seeds = [{one.seed for one in found} for found in learned.values()]
    return bool(seeds) and bool(set.intersection(*seeds))


def how_soon(
    chapter: Chapter, learned: Mapping[str, Sequence[Learned]], names: Mapping[str, str]
) -> tuple[str, ...]:
    """A sentence where networks were still improving on other text when their training ended.

    Then their best perplexities compare how soon they learn it, not how well. What those come to
    that another part of the chapter trained on is said as well.
    """
    best_last = {role: sum(o.was_improving for o in found) for role, found in learned.items()}
    if not any(best_last.values()):
        return ()
    epochs = max(one.epochs for found in learned.values() for one in found)
    counts = _enumerated(
        f"{count} of {len(learned[role])} trainings of {names[role]}"
        for role, count in best_last.items()
        if count
    )
    said = (
        f"On other text that is how soon they learn, not how well: when {epochs} epochs were over, "
        f"{counts} had just come to their best."
    )
    longer = {
        role: [whole for one in found if (whole := chapter.trained_on(one)) is not None]
        for role, found in learned.items()
    }
    reached = [
        f"{names[role]} comes to {sum(o.best_validation for o in found) / len(found):.2f} within "
        f"{max(o.epochs for o in found)} epochs ({len(found)} seed{'s' * (len(found) > 1)})"
        for role, found in longer.items()
        if found
    ]
    return (said, f"Trained on, {_enumerated(reached)}.") if reached else (said,)


def _enumerated(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def told_wrongly(by_seed: dict[int, float], figure: str) -> str:
    """What one seed alone would have said of a ratio of two networks, beside what all say."""
    if len(by_seed) < 2:
        return ""
    span = f"from {min(by_seed.values()):.3f} to {max(by_seed.values()):.3f}"
    above = sum(ratio > 1 for ratio in by_seed.values())
    few = min(above, len(by_seed) - above)
    if few == 0:
        return f"Single seeds put the ratio of {figure} {span}, all on the same side of 1."
    return (
        f"Single seeds put the ratio of {figure} {span}: {few} of {len(by_seed)} alone would have "
        "told the opposite of the others."
    )
