"""Check what a smoke run wrote: ``python .ci/check_smoke.py DIR``. Needs no package.

Knows the project from outside, by its files and columns, so that it shares no mistake with the
code that wrote them.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")
IMPLEMENTATIONS = Path(__file__).resolve().parent.parent / "deeprnn" / "implementations"
RUN_EVERYWHERE = ("python_loop", "manual_gradient", "torch_nn")
"""Plain PyTorch: there is no machine on which one of these may be unsupported."""

GRADIENT_BOUND = 1e-5
FILES = (
    "plan.json",
    "environment.json",
    "training.csv",
    "rounds.csv",
    "curves.csv",
    "layers.csv",
    "summary.md",
    "report.html",
)


def problems(directory: Path) -> list[str]:
    """What is wrong with the run in ``directory``, one line each."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        return [f"{directory} lacks {', '.join(missing)}"]
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    planned = {case["case_id"]: case for case in plan["cases"]}
    rows = _read(directory / "training.csv")
    found = []
    counts = Counter(row["case_id"] for row in rows)
    for case_id in planned:
        if counts[case_id] != 1:
            found.append(f"{case_id}: {counts[case_id]} rows instead of one")
    found += [f"{case_id}: a row that was not planned" for case_id in counts.keys() - planned]
    names = {path.stem for path in IMPLEMENTATIONS.glob("*.py")} - {"__init__"}
    present = {(row["implementation"], row["cell"]) for row in rows}
    wanted = {(name, cell) for name in names for cell in CELLS}
    found += [f"{name}: no row for cell {cell}" for name, cell in sorted(wanted - present)]
    for row in rows:
        found += [f"{row['case_id']}: {problem}" for problem in _problems(row, planned)]
    if not _read(directory / "layers.csv"):
        found.append("layers.csv has no row")
    return found


def _problems(row: dict[str, str], planned: dict[str, dict[str, object]]) -> list[str]:
    if row["status"] == "unsupported":
        if row["implementation"] in RUN_EVERYWHERE:
            return [f"unsupported, which it is nowhere: {row['reason']}"]
        return [] if row["reason"] else ["unsupported without a reason"]
    if row["status"] != "ok":
        return [f"{row['status']}: {row['reason']}"]
    found = []
    if not _number(row["gradient_error"]) <= GRADIENT_BOUND:  # written so that NaN is caught
        found.append(f"gradient_error is {row['gradient_error'] or 'empty'}")
    if not _number(row["train_perplexity"]) >= 1:
        found.append(f"train_perplexity is {row['train_perplexity'] or 'empty'}")
    is_interpreted = bool(planned.get(row["case_id"], {}).get("interpreted"))
    if row["interpreted"] != ("true" if is_interpreted else "false"):
        found.append(f"interpreted is {row['interpreted']!r}, planned was {is_interpreted}")
    if is_interpreted and row["speedup_over_torch_nn"]:
        found.append("is interpreted, and ranked all the same")
    if not is_interpreted and not _number(row["tokens_per_second"]) > 0:
        found.append(f"tokens_per_second is {row['tokens_per_second'] or 'empty'}")
    return found


def _number(field: str) -> float:
    return float(field) if field else float("nan")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> int:
    directory = Path(sys.argv[1])
    found = problems(directory)
    for problem in found:
        print(f"smoke: {problem}", file=sys.stderr)
    if not found:
        print(f"smoke: {len(_read(directory / 'training.csv'))} rows, as planned")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
