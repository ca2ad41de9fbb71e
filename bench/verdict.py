"""What a report says first: who is the fastest, by how much, and what went wrong.

Sentences are plain text in which names stand between backticks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from bench.gate import MOST_MARKED
from bench.ranking import NOT_RUN, PYTHON_LOOP, TORCH_NN, Case, Report, Workload
from bench.statistics import geometric_mean
from bench.stored import load_remarks, log_of
from bench.tables import MISSING, decimals, factor, factor_interval, tokens
from bench.wording import counted

MOST_SENTENCES = 5
"""Of so many workloads one reads a sentence each; what more would say stands in a table."""

MAX_PERPLEXITY_SPREAD = 1.02
"""Same weights, same minibatches: training perplexities further apart than this are reported."""

REMARKED = "Found out after it was written"

FAILURES = {
    "incorrect": "Incorrect: outputs or gradients differ from the reference, so not timed",
    "diverged": "Diverged: the loss stopped being a number",
    "crashed": "Crashed",
    "oom": "Out of memory",
    "timeout": "Out of time",
}


@dataclass(frozen=True)
class Problem:
    """Something a reader must know before believing the tables."""

    title: str
    lines: list[str]


def verdict(report: Report) -> list[str]:
    """One sentence over the whole report, then one for each workload, unless they are many.

    Before them all stands whether the run is unreliable, where that is so. Of many workloads
    :func:`glance` says what the sentences would.
    """
    return [*unreliable(report), *_fastest(report)]


@dataclass(frozen=True)
class Glance:
    """Who won each of many workloads: a table of one row a workload, in the report's order."""

    heads: list[str]
    rows: list[list[str]]

    def is_text(self, column: int) -> bool:
        """Whether that column holds names; the others hold figures."""
        return column in (0, 1, 5)


def glance(report: Report) -> Glance | None:
    """The winners of many workloads; None where the verdict's sentences name them."""
    if not _is_many(report) or not any(w.ranked for w in report.workloads):
        return None
    heads = ["workload", "fastest", "tokens/s", f"× {PYTHON_LOOP}", f"× {TORCH_NN}"]
    rows = [_winner(report, workload) for workload in report.workloads]
    heads.append("cannot be told from it")
    if all(row[-1] == MISSING for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Glance(heads, rows)


def _is_many(report: Report) -> bool:
    return len(report.workloads) > MOST_SENTENCES and report.plan.get("speeds_count", True)


def _winner(report: Report, workload: Workload) -> list[str]:
    best = workload.fastest
    if best is None:
        return [workload.title, "nothing timed", *4 * [MISSING]]
    interval = factor_interval(best.over_torch_nn)
    is_tie = len(workload.ranked) > 1 and _is_tie(report, workload)
    return [
        workload.title,
        report.label(best),
        tokens(best["tokens_per_second"]),
        factor(best.over_python_loop),
        factor(best.over_torch_nn) + (f" ({interval})" if interval else ""),
        report.label(workload.ranked[1]) if is_tie else MISSING,
    ]


def unreliable(report: Report) -> list[str]:
    """Whether more rounds than can be borne are suspect, of those that count."""
    if not report.plan.get("speeds_count", True):
        return []
    rounds = _rounds_of_ranked(report)
    marks = rounds.loc[~rounds["warm_up"].fillna(False), "mark"]
    marked = marks[marks != ""]
    if len(marked) <= MOST_MARKED * len(marks):
        return []
    counts = _and([f"{mark} {count}" for mark, count in marked.value_counts().items()])
    return [
        f"Unreliable: {len(marked)} of the {len(marks)} rounds that count are marked as suspect "
        f"({counts}), so these speeds cannot be believed. Run again while nothing else uses the "
        "machine and its clocks are not held down."
    ]


def _fastest(report: Report) -> list[str]:
    timed = [w for w in report.workloads if w.ranked]
    if not report.plan.get("speeds_count", True):
        correct = sum(case.status == "ok" for case in report.cases)
        able = sum(case.status != "unsupported" for case in report.cases)
        unsupported = counted(len(report.cases) - able, "case")
        left_out = f"; {unsupported} cannot run here" if able < len(report.cases) else ""
        return [
            f"{correct} of {counted(able, 'case')} that can run here "
            f"{'is' if able == 1 else 'are'} correct{left_out}. This profile checks that "
            "everything works: its speeds are shown, and mean nothing."
        ]
    if not timed:
        if not any(case.status == NOT_RUN for case in report.cases):
            return ["No case gave a throughput that counts, so there is no fastest implementation."]
        return ["Nothing has been timed yet, so there is no fastest implementation."]
    if _is_many(report):
        return [_overall(report, timed)]
    sentences = [_of_workload(report, workload) for workload in report.workloads]
    return sentences if len(report.workloads) == 1 else [_overall(report, timed), *sentences]


def _overall(report: Report, timed: list[Workload]) -> str:
    wins = Counter(w.ranked[0].implementation for w in timed)
    parts = []
    for place, (name, count) in enumerate(sorted(wins.items(), key=lambda win: (-win[1], win[0]))):
        all_of_them = "each" if count == len(timed) else f"{count}"
        many = f"{all_of_them} of {len(timed)} workloads" if place == 0 else f"{count}"
        parts.append(f"`{name}` on {many}")
    sentence = "The fastest correct implementation is " + _and(parts)
    means = []
    for name, of_case in (
        (PYTHON_LOOP, [w.ranked[0].over_python_loop for w in timed]),
        (TORCH_NN, [w.ranked[0].over_torch_nn for w in timed]),
    ):
        known = [ratio.ratio for ratio in of_case if ratio is not None]
        if len(known) == len(timed) and set(wins) != {name}:
            means.append(f"{decimals(geometric_mean(known))} times as fast as `{name}`")
    if means:
        sentence += f"; on average the fastest is {_and(means)} (geometric mean)"
    ties = sum(_is_tie(report, workload) for workload in timed)
    if ties:
        sentence += (
            f". On {ties} of {len(timed)} workloads the next one cannot be told from the fastest"
        )
    return sentence + "."


def _is_tie(report: Report, workload: Workload) -> bool:
    """Whether the interval of the runner-up's ratio to the fastest leaves it level or ahead.

    Ranks are of medians over rounds, ratios of turns: where a machine's speed has two levels, the
    two may even disagree.
    """
    if len(workload.ranked) < 2:
        return False
    ratio = report.compare(workload.ranked[1], workload.ranked[0])
    return ratio is None or ratio.high >= 1


def _of_workload(report: Report, workload: Workload) -> str:
    best = workload.fastest
    if best is None:
        return f"{workload.title}: nothing timed."
    speed = tokens(best["tokens_per_second"])
    sentence = f"{workload.title}: `{report.label(best)}` is the fastest, with {speed} tokens/s"
    against = [
        f"{factor(ratio)} times as fast as `{name}`"
        for name, ratio in ((PYTHON_LOOP, best.over_python_loop), (TORCH_NN, best.over_torch_nn))
        if ratio is not None and best.implementation != name
    ]
    if against:
        sentence += ", " + _and(against)
    return sentence + "." + _runner_up(report, workload, best)


def _runner_up(report: Report, workload: Workload, best: Case) -> str:
    """Who follows, where that is not plain from the sentence before it."""
    if len(workload.ranked) < 2:
        return ""
    if _is_tie(report, workload):
        second = workload.ranked[1]
        ratio = report.compare(second, best)
        if ratio is None:
            return (
                f" `{report.label(second)}` cannot be told from it: no rounds of both are stored."
            )
        interval = factor_interval(ratio)
        if ratio.low > 1:
            return (
                f" But turn by turn `{report.label(second)}` is {factor(ratio)} times as fast, "
                f"95 % interval {interval}: medians and turns disagree, so trust neither."
            )
        return (
            f" `{report.label(second)}` cannot be told from it: {factor(ratio)} times as fast"
            + (f", 95 % interval {interval}." if interval else ".")
        )
    if best.implementation != TORCH_NN:
        return ""
    other = next((c for c in workload.ranked if c.implementation != TORCH_NN), None)
    if other is None:
        return ""
    name, ratio = report.label(other), report.compare(other, best)
    return f" The next best implementation is `{name}`" + (
        f", {factor(ratio)} times as fast." if ratio is not None else "."
    )


def problems(report: Report) -> list[Problem]:
    """What a reader must know, the worst first; empty when all is well."""
    remarks = load_remarks(report.directory)
    found = [Problem(REMARKED, remarks)] if remarks else []
    for status, title in FAILURES.items():
        cases = [case for case in report.cases if case.status == status]
        if cases:
            items = [_why(report, case) for case in cases]
            found.append(Problem(title, items))
    corpus = report.plan.get("corpus") or {}
    if not corpus.get("is_published", True) or corpus.get("note"):
        text = corpus.get("note") or (
            f"The text is {corpus.get('title') or corpus.get('name')}, not the published one: "
            "perplexities do not compare with published ones."
        )
        title = "Text" if corpus.get("is_published", True) else "A stand-in for the published text"
        found.append(Problem(title, [str(text)]))
    found += [p for p in (_parted(report), _marked(report), _unrun(report)) if p.lines]
    if report.unplanned:
        found.append(Problem("Rows that no plan names", [f"`{name}`" for name in report.unplanned]))
    return found


def _why(report: Report, case: Case) -> str:
    """The reason, and where the rest stands that the case wrote."""
    reason = f"`{case.case_id}`: {case.reason or 'no reason was stored'}"
    log = log_of(report.directory, case.case_id)
    return f"{reason} (more in `{log.relative_to(report.directory)}`)" if log.exists() else reason


def _parted(report: Report) -> Problem:
    """Workloads whose implementations do not learn the same."""
    items = []
    for workload in report.workloads:
        ids = {c.case_id: report.label(c) for c in workload.cases if c.status == "ok"}
        curves = report.curves[report.curves["case_id"].isin(list(ids))]
        curves = curves.dropna(subset=["train_perplexity"])
        table = curves.pivot_table(index="epoch", columns="case_id", values="train_perplexity")
        shared = table.dropna()
        if shared.empty or len(ids) < 2:
            continue
        epoch, last = shared.index[-1], shared.iloc[-1]
        if last.max() > MAX_PERPLEXITY_SPREAD * last.min():
            low, high = ids[str(last.idxmin())], ids[str(last.idxmax())]
            items.append(
                f"{workload.title}: after {epoch} epochs from {decimals(last.min(), 3)} (`{low}`) "
                f"to {decimals(last.max(), 3)} (`{high}`)"
            )
    percent = round(100 * (MAX_PERPLEXITY_SPREAD - 1))
    return Problem(
        f"Training perplexities part by more than {percent} %, although weights and minibatches "
        "are the same; rounding alone can do that after many epochs",
        items,
    )


def _marked(report: Report) -> Problem:
    """Suspect rounds, where speed means something."""
    rounds = _rounds_of_ranked(report)
    rounds = rounds[~rounds["warm_up"].fillna(False)]
    marked = rounds[rounds["mark"] != ""]
    items = []
    for workload in report.workloads:
        ids = [case.case_id for case in workload.ranked]
        for mark, group in marked[marked["case_id"].isin(ids)].groupby("mark"):
            by_case = [int((group["case_id"] == case_id).sum()) for case_id in ids]
            total = int(rounds["case_id"].isin(ids).sum())
            spread = f", {min(by_case)} to {max(by_case)} a case" if len(by_case) > 1 else ""
            items.append(f"{mark}, {workload.title}: {len(group):,} of {total:,}{spread}")
    share = 100 * len(marked) / max(1, len(rounds))
    percent = f"{share:.0f}" if share >= 10 else f"{share:.2g}"
    return Problem(
        f"{len(marked):,} of {len(rounds):,} rounds of ranked cases ({percent} %) are marked as "
        "suspect; they count",
        items,
    )


def _rounds_of_ranked(report: Report) -> pd.DataFrame:
    ranked = [case.case_id for workload in report.workloads for case in workload.ranked]
    return report.rounds[report.rounds["case_id"].isin(ranked)]


def _unrun(report: Report) -> Problem:
    missing = [f"`{case.case_id}`" for case in report.cases if case.status == NOT_RUN]
    return Problem(f"{len(missing)} of {len(report.cases)} cases: {NOT_RUN}", missing)


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
