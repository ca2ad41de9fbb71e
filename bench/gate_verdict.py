"""Writes a verdict: ``verdict.json`` for machines, ``verdict.md`` for people, and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gate import (
    INVALID,
    QUANTITIES,
    REGRESSIONS,
    UNRELIABLE,
    CaseVerdict,
    Comparison,
    Verdict,
)
from bench.gate_decision import AMBIGUOUS, NOT_WORSE, SAME, Decision
from bench.results import write_json
from bench.wording import counted

SCHEMA = 1

MOST_LINES = 200
"""Of the table in ``verdict.md``: a pull-request comment holds 65,536 characters."""

MOST_REASON = 160  # characters

_SAID = {
    "pass": "Pass: no case got slower, bigger or worse by as much as matters.",
    "regression": "Regression: a case got slower, bigger or worse by more than matters.",
    "ambiguous": "Ambiguous: what was measured does not settle it.",
    "unreliable": "Unreliable: this machine cannot be believed just now.",
    "invalid": "Invalid: not everything could be compared.",
}


def write(verdict: Verdict, directory: Path) -> None:
    """Write ``verdict.json``, ``verdict.md``, ``verdict.png`` and ``verdict.svg``.

    Raises ``OSError`` where ``directory`` cannot be written.
    """
    from bench import gate_plot  # matplotlib is slow to import

    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "verdict.json", as_json(verdict))
    (directory / "verdict.md").write_text(markdown(verdict), "utf-8")
    gate_plot.write(verdict, directory)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """What ``verdict.json`` holds; its schema is ``bench/templates/verdict.schema.json``."""
    return {
        "schema": SCHEMA,
        "kind": verdict.kind,
        "verdict": verdict.word,
        "exit_code": verdict.exit_code,
        "base": verdict.base,
        "head": verdict.head,
        "settings": verdict.settings,
        "problems": list(verdict.problems),
        "notes": list(verdict.notes),
        "cases": [_case(case) for case in verdict.cases],
    }


def _case(case: CaseVerdict) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "decision": case.decision,
        "reason": case.reason,
        "rounds": case.rounds,
        "marked_rounds": case.marked,
        "control": None if case.control is None else _control(case.control),
        "comparisons": [_comparison(comparison) for comparison in case.comparisons],
    }


def _control(control: Decision) -> dict[str, Any]:
    return {
        "state": control.word,
        "ratio": _finite(control.ratio),
        "low": _finite(control.low),
        "high": _finite(control.high),
        "pairs": control.pairs,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "quantity": comparison.quantity.name,
        "unit": comparison.quantity.unit,
        "base": comparison.base,
        "head": comparison.head,
        "cost_ratio": _finite(comparison.ratio),
        "low": _finite(comparison.low),
        "high": _finite(comparison.high),
        "smallest_effect": comparison.threshold,
        "pairs": comparison.pairs,
        "decision": comparison.decision,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown(verdict: Verdict) -> str:
    """The verdict as a page: a sentence, problems, one line a figure, the worst first."""
    lines = [f"## {_SAID[verdict.word]}", "", f"{_sides(verdict)}", ""]
    lines += [f"- **{_cell(problem)}**" for problem in verdict.problems]
    lines += [f"- {_cell(note)}" for note in verdict.notes]
    if verdict.problems or verdict.notes:
        lines.append("")
    rows = [row for case in verdict.cases for row in _rows(case)]
    if rows:
        lines += [
            "| case | figure | base | head | cost ratio | interval | decision |",
            "|:--|:--|--:|--:|--:|:-:|:--|",
            *("| " + " | ".join(row) + " |" for row in rows[:MOST_LINES]),
            "",
        ]
    if len(rows) > MOST_LINES:
        lines += [f"and {len(rows) - MOST_LINES} more lines; verdict.json holds them all", ""]
    lines += [str(verdict.settings["reading"]), ""]
    return "\n".join(lines)


def _sides(verdict: Verdict) -> str:
    base, head, machine = (
        _cell(str(text))
        for text in (verdict.base["name"], verdict.head["name"], verdict.head["machine"])
    )
    return f"Base {base}, head {head}, on {machine}."


def _rows(case: CaseVerdict) -> list[Sequence[str]]:
    """The line of the speed, and one for each other figure that is not simply the same."""
    name = _cell(case.case_id)
    if not case.comparisons:
        what = f"**{case.decision}**" if case.decision == INVALID else case.decision
        return [(name, "", "", "", "", "", f"{what}: {_cell(case.reason)}")]
    rows: list[Sequence[str]] = []
    for comparison in case.comparisons:
        is_quiet = comparison.decision in (SAME, comparison.quantity.better, NOT_WORSE)
        if comparison is not case.comparisons[0] and is_quiet:
            continue
        decision = comparison.decision.replace("_", " ")
        if comparison is case.comparisons[0] and case.decision == UNRELIABLE:
            decision = f"**{UNRELIABLE}**: {_cell(case.reason)}"
        elif decision in REGRESSIONS or decision == AMBIGUOUS:
            decision = f"**{decision}**"
        rows.append(
            (
                name,
                f"{comparison.quantity.title.lower()} {comparison.quantity.unit}".strip(),
                _figure(comparison.base),
                _figure(comparison.head),
                f"{comparison.ratio:.3f}",
                _spread(comparison, f" ({comparison.pairs})"),
                decision,
            )
        )
    return rows


def _spread(comparison: Comparison, many: str) -> str:
    """The interval, and how ``many`` gave it; of single figures there is none."""
    if comparison.low == comparison.high and comparison.pairs == 1:
        return "single figures"
    return f"{comparison.low:.3f} to {_bound(comparison.high)}{many}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _bound(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "∞"


def _cell(text: str) -> str:
    """``text`` on one line, kept short, with nothing that would end a cell of a table."""
    line = " ".join(text.split())
    if len(line) > MOST_REASON:
        line = line[: MOST_REASON - 1] + "…"
    for character in "\\`*_<>|[]":
        line = line.replace(character, "\\" + character)
    return line


def terminal(verdict: Verdict) -> list[str]:
    """Lines for a terminal: what is not quiet, counts of the rest, and the sentence last."""
    lines = []
    unit = "turn" if verdict.kind == "baseline" else "pair"
    counts: dict[str, int] = {}
    for case in verdict.cases:
        counts[case.decision] = counts.get(case.decision, 0) + 1
        if case.comparisons:
            for comparison in case.comparisons:
                spread = _spread(comparison, f", {counted(comparison.pairs, unit)}")
                lines.append(
                    f"{case.case_id}: {comparison.quantity.name} "
                    f"{_figure(comparison.base)} → {_figure(comparison.head)}, cost ratio "
                    f"{comparison.ratio:.3f} ({spread}): {comparison.decision.replace('_', ' ')}"
                )
        if case.reason:
            lines.append(f"{case.case_id}: {case.decision}: {case.reason}")
    lines += [f"problem: {problem}" for problem in verdict.problems]
    lines += [f"note: {note}" for note in verdict.notes]
    lines.append(", ".join(f"{n} {word.replace('_', ' ')}" for word, n in counts.items()))
    lines.append(f"{_SAID[verdict.word]} Exit code {verdict.exit_code}.")
    return lines


def reading(looks: Sequence[int], cases: int) -> str:
    """The sentence that says what the intervals promise."""
    return (
        "A cost ratio is head over base in seconds a token, MiB or perplexity: above 1 is worse. "
        f"Intervals hold together, over {counted(cases, 'case')} and "
        f"{counted(len(looks), 'look')}, with 95 % for each of "
        f"{', '.join(QUANTITIES)}; in brackets the pairs."
    )
