"""bench/report.py, and what it is made of: ranking, tables and verdict."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.ranking import NOT_RUN, PYTHON_LOOP, TORCH_NN, Workload, load
from bench.report import Summary, render
from bench.results import TRAINING
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
from bench.verdict import problems, verdict

from .example_report import write
from .rendered import Page, printed

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script> & \"quoted\" | {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def cpu(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("cpu")
    write(directory, epochs=8)
    render(directory)
    return directory


@pytest.fixture(scope="module")
def page(cpu) -> Page:
    return Page((cpu / "report.html").read_text("utf-8"))


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


# Figures in words


@pytest.mark.parametrize(
    ("write_down", "value", "text"),
    [
        (tokens, 116173.5, "116,174"),
        (tokens, 14.04, "14.0"),
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
