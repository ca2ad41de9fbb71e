"""The verdict over a report, its winners, and what went wrong in it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.ranking import load
from bench.report import render
from bench.results import CURVES, ROUNDS, TRAINING, ResultsError, Table, read_json
from bench.stored import REMARKS
from bench.tables import (
    factor,
    tokens,
)
from bench.verdict import REMARKED, glance, problems, verdict
from bench.wording import purpose

from .example_report import write
from .rendered import Page, printed

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script> & \"quoted\" | {{ 7 * 7 }}"


def test_a_tie_is_called_a_tie(tmp_path):
    write(tmp_path, "gpu", epochs=1, workloads=2)
    first, *sentences = verdict(load(tmp_path))
    assert first.startswith("The fastest correct implementation is `triton_step` on each of 2")
    assert "On 2 of 2 workloads the next one cannot be told from the fastest" in first
    for sentence in sentences:
        assert "`triton_step · cuda_graph` is the fastest" in sentence
        assert "`torch_nn · cuda_graph` cannot be told from it: 0.9" in sentence


def store(table: Table, directory: Path, frame: pd.DataFrame) -> None:
    """Put ``frame`` in the place of what ``table`` holds."""
    table.path(directory).unlink()
    table.append(directory, frame.astype(object).where(frame.notna(), None).to_dict("records"))


def test_one_round_each_tells_nobody_from_another(tmp_path):
    write(tmp_path, epochs=1, workloads=1)
    assert "cannot be told from it" not in " ".join(verdict(load(tmp_path)))
    rounds = ROUNDS.load(tmp_path)
    counted = rounds[~rounds["warm_up"].astype(bool)]
    store(ROUNDS, tmp_path, counted.groupby("case_id").head(1))
    store(TRAINING, tmp_path, TRAINING.load(tmp_path).assign(rounds=1))
    assert "cannot be told from it" in " ".join(verdict(load(tmp_path)))


def test_who_is_faster_turn_by_turn_did_not_lose(tmp_path):
    """A machine of two speeds: the median of one is higher, and it is the slower one by turns."""
    write(tmp_path, epochs=1, workloads=1, turns=30)
    rounds = ROUNDS.load(tmp_path)
    best, second = (case.case_id for case in load(tmp_path).workloads[0].ranked[:2])
    is_slow = (rounds["case_id"] == best) & (rounds["turn"] % 5 > 2)
    rounds.loc[rounds["case_id"] == second, "tokens_per_second"] = 9_900.0
    rounds.loc[rounds["case_id"] == best, "tokens_per_second"] = 10_000.0
    rounds.loc[is_slow, "tokens_per_second"] = 6_000.0
    rounds["seconds"] = rounds["tokens"] / rounds["tokens_per_second"]
    store(ROUNDS, tmp_path, rounds)
    (sentence,) = verdict(load(tmp_path))
    assert re.search(
        r"But turn by turn `\w+` is 1\.2\d times as fast, 95 % interval 1\.\d+ to 1\.\d+: medians "
        "and turns disagree, so trust neither.",
        sentence,
    )


def test_the_verdict_of_one_workload_is_one_sentence(tmp_path):
    write(tmp_path, epochs=1, workloads=1)
    report = load(tmp_path)
    (sentence,) = verdict(report)
    speed = report.workloads[0].ranked[0]["tokens_per_second"]
    assert sentence.startswith("LSTM, 2 layers of 256 units: `torch_nn` is the fastest, with ")
    assert f"{speed:,.0f} tokens/s, 1.8" in sentence
    assert "times as fast as `python_loop`" in sentence
    assert "times as fast as `torch_nn`" not in sentence
    assert "next best implementation is `manual_gradient`, 0.9" in sentence


def test_the_winners_of_many_workloads_stand_in_a_table(tmp_path, monkeypatch):
    write(tmp_path, epochs=3, turns=9)
    assert glance(load(tmp_path)) is None  # three: a sentence each
    monkeypatch.setattr("bench.verdict.MOST_SENTENCES", 2)
    summary = render(tmp_path)
    report, winners = summary.report, glance(summary.report)
    assert winners is not None
    assert len(summary.verdict) == 1
    for workload, row in zip(report.workloads, winners.rows, strict=True):
        best, second = workload.ranked[:2]
        cells = dict(zip(winners.heads, row, strict=True))
        assert cells["workload"] == workload.title
        assert cells["fastest"] == best.implementation
        assert cells["tokens/s"] == tokens(best["tokens_per_second"])
        assert cells["× python_loop"] == factor(best.over_python_loop)
        assert cells["× torch_nn"].startswith(factor(best.over_torch_nn))
        ratio = report.compare(second, best)
        tied = second.implementation if ratio.low <= 1 <= ratio.high else "–"
        assert cells.get("cannot be told from it", "–") == tied
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert {f"#workload-{n}" for n in (1, 2, 3)} <= set(page.links)
    markdown = (tmp_path / "summary.md").read_text("utf-8")
    assert not re.search(r"\n\n\n", markdown)
    for shown in (markdown, page.text, printed(summary, 120)):
        assert all(row[2] in shown for row in winners.rows)


def test_a_tie_of_winners_has_a_column_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.verdict.MOST_SENTENCES", 1)
    write(tmp_path / "tied", "gpu", epochs=1, workloads=2)
    tied = glance(load(tmp_path / "tied"))
    assert tied.heads[-1] == "cannot be told from it"
    assert [row[-1] for row in tied.rows] == ["torch_nn · cuda_graph"] * 2
    write(tmp_path / "apart", epochs=1, workloads=2)
    apart = glance(load(tmp_path / "apart"))
    assert apart.heads[-1] == "× torch_nn"
    assert {len(row) for row in apart.rows} == {len(apart.heads)}


def test_winners_of_nothing_and_of_checks_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.verdict.MOST_SENTENCES", 1)
    write(tmp_path / "none", epochs=1, keep=lambda case_id: False)
    assert glance(load(tmp_path / "none")) is None
    write(tmp_path / "some", epochs=1, keep=lambda case_id: case_id.startswith("lstm"))
    rows = glance(load(tmp_path / "some")).rows
    assert [row[1] == "nothing timed" for row in rows] == [False, True, True]
    write(tmp_path / "checks", epochs=1, change_plan=lambda plan: plan.update(speeds_count=False))
    assert glance(load(tmp_path / "checks")) is None


def test_an_average_needs_every_workload(tmp_path):
    def keep(case_id: str) -> bool:
        return not (case_id.startswith("gru") and "python_loop" in case_id)

    write(tmp_path, epochs=1, keep=keep)
    first = verdict(load(tmp_path))[0]
    assert "python_loop" not in first
    assert "times as fast as `torch_nn` (geometric mean)" in first


def test_too_few_rounds_are_called_a_range(tmp_path):
    write(tmp_path, epochs=1, turns=4, workloads=1)
    render(tmp_path)
    assert "range of 3 rounds" in Page((tmp_path / "report.html").read_text("utf-8")).text


def test_a_workload_without_baselines_has_no_factors(tmp_path):
    write(tmp_path, epochs=1, workloads=1, keep=lambda c: "torchscript" in c)
    report = load(tmp_path)
    (case,) = report.workloads[0].ranked
    assert case.over_python_loop is None
    assert "times as fast" not in " ".join(verdict(report))


def test_problems_come_worst_first(tmp_path):
    statuses = dict(
        zip(
            ("manual_gradient", "python_loop", "torch_compile_step", "torchscript", "torch_nn"),
            ("timeout", "oom", "crashed", "diverged", "incorrect"),
            strict=True,
        )
    )

    def change(row: dict[str, Any]) -> None:
        if row["implementation"] in statuses:
            status = statuses[row["implementation"]]
            row |= {"status": status, "reason": f"why {status}", "tokens_per_second": None}

    def stand_in(plan: dict[str, Any]) -> None:
        plan["corpus"] |= {"is_published": False, "title": "Moreau", "note": ""}

    write(tmp_path, change=change, change_plan=stand_in, epochs=1, workloads=1)
    rounds = ROUNDS.load(tmp_path)
    rounds.loc[rounds["turn"] == 2, "mark"] = "contended"
    ROUNDS.path(tmp_path).unlink()
    ROUNDS.append(tmp_path, rounds.to_dict("records"))
    TRAINING.append(tmp_path, [{"case_id": "w/alien/eager", "status": "ok"}])
    found = problems(load(tmp_path))
    assert [re.split(r"[: ]", problem.title)[0] for problem in found] == [
        "Incorrect",
        "Diverged",
        "Crashed",
        "Out",
        "Out",
        "A",
        "1",  # round is marked
        "Rows",
    ]
    assert "memory" in found[3].title
    assert "Moreau" in found[5].lines[0]
    assert "1 of 6 rounds of ranked cases (17 %)" in found[6].title
    assert found[6].lines == ["contended, LSTM, 2 layers of 256 units: 1 of 6"]
    assert found[0].lines == ["`lstm-L2-H256-B32-T35-fp32/torch_nn/eager`: why incorrect"]
    assert found[-1].lines == ["`w/alien/eager`"]


def mark_turns(directory: Path, turns: list[int]) -> None:
    rounds = ROUNDS.load(directory)
    rounds.loc[rounds["turn"].isin(turns), "mark"] = "contended"
    ROUNDS.path(directory).unlink()
    ROUNDS.append(directory, rounds.to_dict("records"))


def test_a_run_with_too_many_suspect_rounds_is_unreliable(tmp_path):
    write(tmp_path, epochs=1, workloads=1)
    mark_turns(tmp_path, [0, 1, 2, 3])  # half of those that count; turn 0 only warms up
    assert "Unreliable" not in " ".join(render(tmp_path).verdict)
    mark_turns(tmp_path, [4])
    summary = render(tmp_path)
    expected = "Unreliable: 24 of the 36 rounds that count are marked as suspect (contended 24)"
    assert summary.verdict[0].startswith(expected)
    assert "fastest" in summary.verdict[1]
    assert f"\n**{expected}" in (tmp_path / "summary.md").read_text("utf-8").replace("\\", "")
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert page.index("Unreliable") < page.index("fastest")
    console = Console(width=200, record=True, file=io.StringIO())
    summary.print(console)
    assert expected in console.export_text()[-1500:]


def test_an_unreliable_run_of_many_workloads_says_so_above_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.verdict.MOST_SENTENCES", 2)
    write(tmp_path, epochs=1)
    mark_turns(tmp_path, [0, 1, 2, 3, 4])
    render(tmp_path)
    lines = (tmp_path / "summary.md").read_text("utf-8").splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("| workload"))
    assert lines[2].startswith("**Unreliable")
    assert lines[table - 2].startswith("- The fastest correct implementation is")
    assert lines[table - 1] == ""  # else it would be part of the list


def test_a_profile_that_only_checks_is_not_called_unreliable(tmp_path):
    write(tmp_path, epochs=1, change_plan=lambda content: content.update(speeds_count=False))
    mark_turns(tmp_path, list(range(7)))
    assert "Unreliable" not in " ".join(verdict(load(tmp_path)))


def test_a_report_from_before_a_column_was_added_is_rendered(tmp_path):
    write(tmp_path, epochs=1, workloads=1)
    path = ROUNDS.path(tmp_path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.drop(columns=list(ROUNDS.added)).to_csv(path, index=False)
    before = path.read_bytes()
    assert render(tmp_path).verdict
    assert path.read_bytes() == before


def test_perplexities_that_part_are_reported(tmp_path):
    write(tmp_path, epochs=4, workloads=1)
    assert problems(load(tmp_path)) == []
    curves = CURVES.load(tmp_path)
    off = curves["case_id"].str.contains("torchscript") & (curves["epoch"] == 4)
    curves.loc[off, "train_perplexity"] *= 1.03
    CURVES.path(tmp_path).unlink()
    CURVES.append(tmp_path, curves.to_dict("records"))
    (problem,) = problems(load(tmp_path))
    assert "more than 2 %" in problem.title
    assert "`torchscript`" in problem.lines[0]
    assert "after 4 epochs" in problem.lines[0]


def test_what_was_found_out_later_is_read_first(tmp_path):
    write(tmp_path)
    assert REMARKED not in [problem.title for problem in problems(load(tmp_path))]
    (tmp_path / REMARKS).write_text("The fan was <b>broken</b>.\n\nSo was the door.\n", "utf-8")
    first = problems(load(tmp_path))[0]
    assert first.title == REMARKED
    assert first.lines == ["The fan was <b>broken</b>.", "So was the door."]
    render(tmp_path)
    assert "- So was the door." in (tmp_path / "summary.md").read_text("utf-8")
    assert "was &lt;b&gt;broken" in (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / REMARKS).write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match=r"remarks\.txt cannot be read as UTF-8 text"):
        problems(load(tmp_path))


def test_a_run_of_some_cases_says_so_where_it_says_what_it_is_for(tmp_path):
    write(tmp_path)
    plan = read_json(tmp_path / "plan.json")
    plan |= {"purpose": "All of it.", "only": ["lstm", "*/torch_nn/*"]}
    for case in plan["cases"]:
        case["unsupported"] = "" if case["implementation"] == "torch_nn" else "not chosen"
    words = "All of it. Of that only what `--only lstm` `--only */torch_nn/*` matches: `torch_nn`."
    assert purpose(plan) == words
    assert purpose(plan | {"only": []}) == "All of it."
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"only": ["torch_nn"]}))
    render(tmp_path)
    for name in ("summary.md", "report.html"):
        assert "All of it. Of that only what" in (tmp_path / name).read_text("utf-8")
