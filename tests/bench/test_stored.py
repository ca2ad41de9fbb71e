"""What a damaged report directory is refused for, in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.report import render
from bench.results import ResultsError

from .example_report import write

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script> & \"quoted\" | {{ 7 * 7 }}"


def damage_header(directory: Path) -> None:
    (directory / "training.csv").write_text("case_id,status\n", "utf-8")


def damage_value(directory: Path) -> None:
    path = directory / "rounds.csv"
    path.write_text(path.read_text("utf-8").replace(",false,", ",perhaps,", 1), "utf-8")


def repeat_row(directory: Path) -> None:
    path = directory / "training.csv"
    path.write_text(path.read_text("utf-8") + path.read_text("utf-8").splitlines()[1] + "\n")


def cut_plan(directory: Path) -> None:
    path = directory / "plan.json"
    path.write_text(path.read_text("utf-8")[:200], "utf-8")


def other_schema(directory: Path) -> None:
    (directory / "plan.json").write_text('{"schema": 99}', "utf-8")


def change_json(name: str, *path: str | int, to: Any) -> Callable[[Path], None]:
    """Harm that sets what stands at ``path`` in a JSON file."""

    def harm(directory: Path) -> None:
        content = json.loads((directory / name).read_text("utf-8"))
        at = content
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to
        (directory / name).write_text(json.dumps(content), "utf-8")

    harm.__name__ = f"{name} {path} {to!r}"
    return harm


def plan_without(key: str) -> Callable[[Path], None]:
    def harm(directory: Path) -> None:
        content = json.loads((directory / "plan.json").read_text("utf-8"))
        del content[key]
        (directory / "plan.json").write_text(json.dumps(content), "utf-8")

    harm.__name__ = f"plan_without_{key}"
    return harm


def cut_lines(name: str) -> Callable[[Path], None]:
    """Harm that no single file shows: its last lines are missing, and it ends with a line."""

    def harm(directory: Path) -> None:
        lines = (directory / name).read_text("utf-8").splitlines(keepends=True)
        (directory / name).write_text("".join(lines[:-3]), "utf-8")

    harm.__name__ = f"cut_{name}"
    return harm


def remove(name: str) -> Callable[[Path], None]:
    def harm(directory: Path) -> None:
        (directory / name).unlink()

    harm.__name__ = f"remove_{name}"
    return harm


def speed(text: str, name: str) -> Callable[[Path], None]:
    """Harm that writes ``text`` for a speed in the last line of a table."""

    def harm(directory: Path) -> None:
        with (directory / name).open(encoding="utf-8", newline="") as file:
            rows = [*csv.reader(file)]
        rows[-1][rows[0].index("tokens_per_second")] = text
        with (directory / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    harm.__name__ = f"speed_{text or 'empty'}_in_{name}"
    return harm


def odd_environment(directory: Path) -> None:
    (directory / "environment.json").write_text("[1, 2]", "utf-8")


LAST = "lstm-L2-H256-B32-T35-fp32/triton_step/eager"


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (damage_header, "training.csv"),
        (damage_value, "rounds.csv"),
        (repeat_row, "two rows for lstm-L2-H256-B32-T35-fp32/manual_gradient/eager"),
        (cut_plan, "plan.json"),
        (other_schema, "plan.json"),
        (plan_without("cases"), "cases is missing"),
        (plan_without("purpose"), "purpose is missing"),
        (plan_without("workloads"), "workloads is missing"),
        (change_json("plan.json", "workloads", to=[]), "manual_gradient/eager has no workload"),
        (change_json("plan.json", "cases", 1, "case_id", to=LAST), f"{LAST} stands there twice"),
        (
            change_json("plan.json", "cases", 1, "case_id", to="lstm"),
            "lstm is no workload/implementation/execution",
        ),
        (change_json("plan.json", "seed", to="0"), "seed is not of type int"),
        (change_json("plan.json", "threads", to=True), "threads is not of type int"),
        (change_json("plan.json", "commit", to=None), "commit is not of type str"),
        (change_json("plan.json", "corpus", to=None), "corpus is no object"),
        (change_json("plan.json", "corpus", "title", to=1), "corpus.title is not of type str"),
        (change_json("plan.json", "notes", to="x"), "notes is no list"),
        (change_json("plan.json", "notes", 0, to=1), "notes[0] is not of type str"),
        (change_json("plan.json", "workloads", 0, "epochs", to="1"), "workloads[0].epochs is not"),
        (
            change_json("plan.json", "workloads", 0, "published_perplexity", to="1"),
            "workloads[0].published_perplexity is not of type int or float",
        ),
        (change_json("plan.json", "cases", 0, to=[]), "cases[0] is no object"),
        (change_json("plan.json", "cases", 0, "unsupported", to=[]), "cases[0].unsupported is not"),
        (change_json("environment.json", "Versions", to=[1]), "Versions is no object"),
        (change_json("environment.json", "Run", to="x"), "Run is no object"),
        (change_json("environment.json", "Run", "Wall time (s)", to="x"), "Run.Wall time (s) is"),
        (remove("rounds.csv"), "rounds.csv holds 0 rounds that count of"),
        (cut_lines("rounds.csv"), f"rounds.csv holds 3 rounds that count of {LAST}"),
        (speed("inf", "rounds.csv"), f"rounds.csv holds 5 rounds that count of {LAST}, where"),
        (speed("", "rounds.csv"), f"rounds.csv holds 5 rounds that count of {LAST}, where"),
        (speed("0", "rounds.csv"), f"rounds.csv holds 5 rounds that count of {LAST}, where"),
        (speed("", "training.csv"), f"{LAST} was timed and has no tokens_per_second"),
        (speed("nan", "training.csv"), f"{LAST} was timed and has no tokens_per_second"),
        (speed("inf", "training.csv"), f"{LAST} was timed and has no tokens_per_second"),
        (remove("curves.csv"), "curves.csv holds 0 epochs of"),
        (cut_lines("curves.csv"), "curves.csv holds 0 epochs of"),
        (odd_environment, "environment.json"),
        (remove("plan.json"), "plan.json does not exist"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_damaged_report_is_refused_in_one_line(tmp_path, harm, named):
    write(tmp_path, epochs=1, workloads=1)
    harm(tmp_path)
    with pytest.raises(ResultsError, match=re.escape(named)) as caught:
        render(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_what_a_plan_need_not_have_is_not_missed(tmp_path):
    write(tmp_path, epochs=1)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text("utf-8"))
    for key in ("title", "name", "sha256"):
        plan["corpus"].pop(key, None)
    path.write_text(json.dumps(plan), "utf-8")
    render(tmp_path)
    assert "Text: not stored" in (tmp_path / "summary.md").read_text("utf-8")
