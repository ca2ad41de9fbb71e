"""bench/report.py, and what it is made of: ranking, tables and verdict."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.ranking import NOT_RUN, PYTHON_LOOP, TORCH_NN, Workload, load
from bench.report import Summary, render
from bench.results import CURVES, ROUNDS, TRAINING, ResultsError, Table
from bench.statistics import Ratio
from bench.tables import (
    REFUSED_EVERYWHERE,
    decimals,
    factor,
    percent,
    seconds,
    terminal,
    tokens,
)
from bench.verdict import glance, problems, verdict

from .example_report import write

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}
EVIL = "<script>alert('x')</script> & \"quoted\" | {{ 7 * 7 }}"


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.cases: list[tuple[str, str]] = []  # tag and case id; a tag may stand for several
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            value = value or ""
            assert not name.startswith("on"), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "src":
                self.images.append(value)
            elif name == "data-case":
                self.cases.extend((tag, case_id) for case_id in value.split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def cpu(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("cpu")
    write(directory, epochs=8)
    render(directory)
    return directory


@pytest.fixture(scope="module")
def page(cpu) -> Page:
    return Page((cpu / "report.html").read_text("utf-8"))


def printed(summary: Summary, width: int = 80) -> str:
    buffer = io.StringIO()
    summary.print(Console(file=buffer, width=width))
    return buffer.getvalue()


# The page


def test_the_page_stands_alone(cpu, page):
    text = (cpu / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|//cdn|@import|url\(", text)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.images
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.images)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_ids_are_unique_and_links_lead_somewhere(cpu, page):
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (cpu / link).is_file(), link


def test_every_planned_case_appears_once(cpu, page):
    planned = [case["case_id"] for case in load(cpu).plan["cases"]]
    assert sorted(case_id for _, case_id in page.cases) == sorted(planned)


def test_the_ranking_is_by_throughput_and_leaves_out_what_was_interpreted(cpu, page):
    ranked = [case_id for tag, case_id in page.cases if tag == "tr"]
    rows = TRAINING.load(cpu).set_index("case_id")
    for workload in load(cpu).workloads:
        mine = [case_id for case_id in ranked if case_id.startswith(workload.name + "/")]
        speeds = rows.loc[mine, "tokens_per_second"].tolist()
        assert speeds == sorted(speeds, reverse=True)
        assert [case.rank for case in workload.ranked] == list(range(1, len(mine) + 1))
    assert not rows.loc[ranked, "interpreted"].any()
    assert set(rows.loc[ranked, "status"]) == {"ok"}
    listed = [case_id for tag, case_id in page.cases if tag == "li"]
    assert {case_id.split("/")[1] for case_id in listed} == {"triton_step", "torch_compile_step"}
    assert "checks only" in page.text
    assert "no C++ compiler" in page.text


def test_the_page_holds_what_a_reader_looks_for(page):
    for phrase in (
        "times as fast as python_loop",
        "Example 9000",
        "260.1",
        "python -m bench run --only",
        "time traveller for so",
        "500 epochs: perplexity",
        "forward + backward",
        "nothing but its matrix products",
        "The Time Machine",
        "one layer, as printed",
    ):
        assert phrase in page.text, phrase


def test_rendering_again_gives_the_same_bytes(cpu):
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(cpu.rglob("*")) if p.is_file()}

    before = content()
    render(cpu)
    assert content() == before


def test_nothing_stored_becomes_markup(tmp_path):
    def poison_plan(plan: dict[str, Any]) -> None:
        plan["purpose"] = plan["commit"] = EVIL
        plan["notes"] = [EVIL]
        plan["corpus"] |= {"title": EVIL, "note": EVIL, "origin": EVIL, "is_published": False}
        for workload in plan["workloads"]:
            workload["title"] = workload["published_note"] = EVIL

    def poison(row: dict[str, Any]) -> None:
        row |= {"backend": EVIL, "command": EVIL, "sample": EVIL, "peak_memory_kind": EVIL}
        if row["implementation"] == "torchscript":
            row |= {"status": "crashed", "reason": EVIL}

    write(tmp_path, change=poison, change_plan=poison_plan, epochs=2, turns=2, workloads=1)
    environment = tmp_path / "environment.json"
    environment.write_text('{"<script>": {"<b>": "<script>alert(1)</script>"}, "x": "<i>"}')
    summary = render(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    poisoned = Page(text)
    assert poisoned.tags["script"] == poisoned.tags["b"] == 0
    assert poisoned.tags["i"] == text.count('<i style="width:')  # the bars in the table
    assert poisoned.text.count(EVIL) >= 8  # as it was, so no template ran it either
    assert "<script" not in (tmp_path / "summary.md").read_text("utf-8")
    assert EVIL in printed(summary, 400)


# Markdown and terminal


def test_the_summary_holds_the_verdict_and_the_tables_in_order(cpu):
    text = (cpu / "summary.md").read_text("utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("# ")
    assert lines[2].startswith("**The fastest correct implementation is `torch_nn` on 2 of 3")
    ranks = [int(row[1]) for line in lines if (row := re.match(r"\|\s*(\d+) \| `", line))]
    assert ranks == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5]
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "- `torch_compile_step`: unsupported: no C++ compiler" in text
    assert not re.search(r"\n\n\n", text)


SIZES = {"num_layers": 2, "hidden_size": 256, "batch_size": 32, "num_steps": 35}


@pytest.mark.parametrize(
    ("spec", "shape", "settings"),
    [
        (
            {**SIZES, "dtype": "float32", "matmul_precision": "ieee", "learning_rate": 2.0},
            [("T", "35"), ("B", "32"), ("H", "256"), ("L", "2")],
            ["IEEE float32", "learning rate 2.0"],
        ),
        (
            {"dtype": "float32", "matmul_precision": "tf32", "epochs": 1},
            [],
            ["TF32", "1 epoch"],
        ),
        ({"dtype": "bfloat16", "matmul_precision": "ieee"}, [], ["bfloat16"]),
        ({"dtype": "float32", "epochs": 20}, [], ["float32", "20 epochs"]),
        ({"num_layers": 3}, [("L", "3")], []),
    ],
)
def test_a_workload_says_in_words_what_was_trained(spec, shape, settings):
    workload = Workload("name", "title", spec, [], [])
    assert workload.shape == shape
    assert workload.settings == settings


def test_page_and_summary_say_it_of_each_workload(cpu, page):
    words = "IEEE float32 · learning rate 2.0 · 8 epochs"
    assert f"\nT 35 · B 32 · H 256 · L 2 · {words}\n\n|" in (cpu / "summary.md").read_text("utf-8")
    assert words in " ".join(page.text.split())


def test_what_is_refused_everywhere_is_said_once(tmp_path):
    reason = "Inductor captures its own graphs; not combined here"
    write(tmp_path, "gpu", epochs=2, turns=3)
    summary = render(tmp_path)
    markdown = (tmp_path / "summary.md").read_text("utf-8")
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert len(summary.report.workloads) > 1
    for text in (markdown, printed(summary), page.text):
        before, after = text.split(REFUSED_EVERYWHERE)
        assert reason not in before
        assert after.count(reason) == 2  # torch_compile_step's and torch_compile_unrolled's
    planned = [case["case_id"] for case in summary.report.plan["cases"]]
    assert sorted(case_id for _, case_id in page.cases) == sorted(planned)


def test_what_one_workload_refuses_is_said_there(cpu):
    text = (cpu / "summary.md").read_text("utf-8")
    assert text.count("- `torch_compile_step`: unsupported: no C++ compiler") == 1
    assert REFUSED_EVERYWHERE not in text


def test_a_report_of_one_workload_says_there_what_is_refused(tmp_path):
    write(tmp_path, "gpu", epochs=2, turns=3, workloads=1)
    shown = printed(render(tmp_path))
    assert "torch_compile_step · cuda_graph: unsupported: Inductor captures" in shown
    assert REFUSED_EVERYWHERE not in shown


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_terminal_shows_everything_in_80_columns(tmp_path, kind):
    write(tmp_path, kind, epochs=2, turns=3, workloads=1)
    report = load(tmp_path)
    summary = Summary(report, verdict(report), problems(report), tmp_path / "report.html")
    text = printed(summary)
    table = text.split("\n\n")[0].splitlines()
    assert all(len(line) <= 80 for line in table if ": " not in line)
    assert "…" not in text
    assert table[1].split()[-5:] == ["tokens/s", "±", "×loop", "×nn", "ppl"]
    for case in report.workloads[0].ranked:
        row = next(line for line in table if line.split()[:1] == [str(case.rank)])
        assert case.implementation in row
        assert f"{case['tokens_per_second']:,.0f}" in row
    assert text.rstrip().endswith("report.html")


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (62, ["tokens/s", "±", "×loop", "×nn", "ppl"]),
        (57, ["tokens/s", "×loop", "×nn", "ppl"]),
        (48, ["tokens/s", "×nn", "ppl"]),
        (36, ["tokens/s"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_figures_and_whole_ones(tmp_path, width, heads):
    write(tmp_path, epochs=2, turns=3, workloads=1)
    report = load(tmp_path)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(report, report.workloads[0], width))
    _, head, *rows = console.export_text().rstrip().splitlines()
    assert head.split() == ["implementation", *heads]
    assert len(rows) == len(report.workloads[0].ranked)
    for row, case in zip(rows, report.workloads[0].ranked, strict=True):
        assert row.split()[1:3] == [case.implementation, f"{case['tokens_per_second']:,.0f}"]


# Reports that are not whole


def test_cases_without_a_row_are_named(tmp_path):
    write(tmp_path, epochs=2, turns=2, workloads=1, keep=lambda c: "torch_nn" in c)
    summary = render(tmp_path)
    case_ids = [case.case_id for case in summary.report.cases if case.status == NOT_RUN]
    assert len(case_ids) == 6
    shown = Page((tmp_path / "report.html").read_text("utf-8"))
    for text in (shown.text, (tmp_path / "summary.md").read_text("utf-8"), printed(summary, 200)):
        for case_id in case_ids:
            assert case_id in text
    assert summary.report.workloads[0].fastest is not None


@pytest.mark.parametrize("rows", ["none", "unsupported", "crashed", "interpreted"])
def test_a_report_without_a_throughput_renders(tmp_path, rows):
    def change(row: dict[str, Any]) -> None:
        if rows == "interpreted":
            row["interpreted"] = True
        elif rows != "none":
            row |= dict.fromkeys(("tokens_per_second", "train_perplexity", "sample"))
            row |= {"status": rows, "reason": "because of that"}

    write(tmp_path, change=change, keep=lambda c: rows != "none", workloads=2, layers=False)
    summary = render(tmp_path)
    assert len(summary.verdict) == 1
    assert "no fastest implementation" in summary.verdict[0]
    shown = Page((tmp_path / "report.html").read_text("utf-8"))
    assert len(shown.cases) == 14
    assert not shown.images
    assert "Not drawn" in shown.text
    if rows != "none":
        assert ("because of that" in shown.text) == (rows != "interpreted")
    assert printed(summary)


def test_only_a_plan_is_enough(tmp_path):
    write(tmp_path, keep=lambda c: False, workloads=1, layers=False)
    for name in ("environment.json", "training.csv", "rounds.csv"):
        (tmp_path / name).unlink()
    summary = render(tmp_path)
    assert "Nothing has been timed yet" in summary.verdict[0]
    assert "One layer alone" not in (tmp_path / "report.html").read_text("utf-8")


def test_a_single_round_gives_factors_without_an_interval(tmp_path):
    write(tmp_path, epochs=1, turns=1, workloads=1)
    report = load(tmp_path)
    assert all(case.over_torch_nn is not None for case in report.workloads[0].ranked)
    assert not any(
        case.over_torch_nn.is_bounded
        for case in report.workloads[0].ranked
        if case.over_torch_nn is not None
    )
    summary = render(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "inf" not in Page(text).text.replace("information", "")
    best = report.workloads[0].ranked[0]
    assert best["tokens_per_second_low"] is best["tokens_per_second_high"] is None
    assert "one round" in Page(text).text
    assert "(one round)" in (tmp_path / "summary.md").read_text("utf-8")
    assert "0.0%" not in printed(summary)


def test_a_stored_speedup_stands_in_when_the_baseline_is_gone(tmp_path):
    write(tmp_path, epochs=1, workloads=1)
    rows = TRAINING.load(tmp_path)
    stored = dict(zip(rows["case_id"], rows["speedup_over_torch_nn"], strict=True))
    rows = rows[rows["implementation"] != TORCH_NN]
    TRAINING.path(tmp_path).unlink()
    TRAINING.append(tmp_path, rows.to_dict("records"))
    for case in load(tmp_path).workloads[0].ranked:
        assert case.over_torch_nn is not None
        assert case.over_torch_nn.ratio == stored[case.case_id]


# Files that are wrong


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


# The verdict and the problems


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


# Figures in words


@pytest.mark.parametrize(
    ("write_down", "value", "text"),
    [
        (tokens, 116173.5, "116,174"),
        (tokens, 14.04, "14"),
        (tokens, None, "–"),
        (decimals, 1.0, "1.00"),
        (decimals, 12.34, "12.3"),
        (decimals, 1234.5, "1,234"),
        (seconds, 0.004, "0.004"),
        (seconds, 48.2, "48.2"),
        (percent, 0.856, "86 %"),
        (percent, 0.0123, "1.2 %"),
        (factor, Ratio(0.0629, 0.06, 0.07, 3), "0.063"),
        (factor, None, "–"),
    ],
)
def test_figures_are_written_for_reading(write_down, value, text):
    assert write_down(value) == text


# What the sources may know


SOURCES = ["report.py", "ranking.py", "tables.py", "verdict.py", "statistics.py"]
SOURCES += [f"plots/{name}.py" for name in ("__init__", "style", "bars", "curves", "points")]


@pytest.mark.parametrize("name", SOURCES)
def test_rendering_names_no_implementation_but_the_two_baselines(name):
    known = {path.stem for path in (ROOT / "deeprnn" / "implementations").glob("*.py")}
    tree = ast.parse((ROOT / "bench" / name).read_text("utf-8"))
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    allowed = {PYTHON_LOOP, TORCH_NN} if name == "ranking.py" else set()
    assert (strings & (known | {PYTHON_LOOP, TORCH_NN})) <= allowed


def test_templates_name_no_implementation():
    known = {path.stem for path in (ROOT / "deeprnn" / "implementations").glob("*.py")}
    for template in (ROOT / "bench" / "templates").iterdir():
        assert not set(re.findall(r"\w+", template.read_text("utf-8"))) & (known - {"__init__"})


def test_rendering_needs_no_torch_and_not_what_takes_a_second():
    code = (
        "import sys, bench.report\n"
        "print(sorted({'torch', 'triton', 'deeprnn', 'kernels', 'scipy.stats'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_example_is_like_a_run(cpu):
    rows = TRAINING.load(cpu)
    assert set(rows["status"]) == {"ok", "unsupported"}
    assert pd.notna(rows.loc[rows["status"] == "ok", "tokens_per_second"]).all()


def test_a_profile_that_only_checks_names_no_winner(tmp_path):
    write(tmp_path, change_plan=lambda content: content.update(speeds_count=False))
    (sentence,) = verdict(load(tmp_path))
    assert re.match(r"\d+ of \d+ cases that can run here are correct", sentence)
    assert "fastest" not in sentence
