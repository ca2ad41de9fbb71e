"""Writes ``summary.md``, ``report.html`` and ``plots/`` from what a run stored, and nothing else.

The page is one file that opens without a network: the plots are inside it. The markup is in
``templates/``; everything that comes from a file is escaped on its way into it.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup, escape
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench import plots, tables
from bench.plots.style import colours
from bench.ranking import EAGER, PYTHON_LOOP, TORCH_NN, Case, Report, Workload, load
from bench.results import CURVES, LAYERS, ROUNDS, TRAINING
from bench.statistics import BLOCKS
from bench.verdict import Glance, Problem, glance, problems, verdict
from bench.wording import plain, purpose

TERMINAL_ITEMS = 8  # of a problem; the files name them all


@dataclass(frozen=True)
class Summary:
    """What the terminal prints when a report is done."""

    report: Report
    verdict: list[str]
    problems: list[Problem]
    page: Path

    def print(self, console: Console) -> None:
        """The ranking of each workload, the problems, the verdict, and where the page is.

        Fits 80 columns, so nothing is cut when the output goes into a file; a narrower terminal
        gets fewer of them.
        """
        for workload in self.report.workloads:
            if workload.ranked:
                console.print(tables.terminal(self.report, workload, console.width))
            else:
                console.print(Text(f"{workload.title}: nothing timed", style="bold"))
            for case in self.report.unranked(workload):
                self._print_why(console, case, tables.why_unranked(case))
            console.print()
        if self.report.refused_everywhere:
            console.print(Text(tables.REFUSED_EVERYWHERE, style="bold"))
            for cases in self.report.refused_everywhere:
                self._print_why(console, cases[0], cases[0].reason)
            console.print()
        if any(workload.ranked for workload in self.report.workloads):
            console.print(Text(tables.TERMINAL_LEGEND, style="dim"))
            console.print()
        for problem in self.problems:
            console.print(Text(problem.title, style="bold red"), soft_wrap=True)
            for item in problem.lines[:TERMINAL_ITEMS]:
                console.print(Text(f"   {plain(item)}"), soft_wrap=True)
            if len(problem.lines) > TERMINAL_ITEMS:
                console.print(f"   and {len(problem.lines) - TERMINAL_ITEMS} more")
            console.print()
        for sentence in self.verdict:
            console.print(Text(plain(sentence)))
        if winners := glance(self.report):
            console.print()
            console.print(_terminal_table(winners))
        console.print()
        console.print(Text(f"Report: {self.page}"), soft_wrap=True)

    def _print_why(self, console: Console, case: Case, why: str) -> None:
        line = Text(f"   {self.report.label(case)}: {why}", style="dim")
        console.print(line, soft_wrap=True)


def _terminal_table(winners: Glance) -> RichTable:
    table = RichTable(box=None, pad_edge=False)
    for column, head in enumerate(winners.heads):
        justify: Literal["left", "right"] = "left" if winners.is_text(column) else "right"
        table.add_column(head, justify=justify, overflow="fold")
    for row in winners.rows:
        table.add_row(*map(Text, row))
    return table


def _markdown_table(winners: Glance) -> str:
    rows = [[tables.markdown_text(cell) for cell in row] for row in winners.rows]
    align = ["left" if winners.is_text(i) else "right" for i in range(len(winners.heads))]
    frame = pd.DataFrame(rows, columns=winners.heads)
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=align))


def render(directory: Path) -> Summary:
    """Write the page, the summary and the plots of ``directory``, whose run may still go on.

    Rendering the same files again gives the same bytes. Raises ``ResultsError``, one line, when
    ``plan.json`` is missing or a stored file is damaged.
    """
    report = load(directory)
    summary = Summary(report, verdict(report), problems(report), directory / "report.html")
    drawn = plots.write_all(report, directory / "plots")
    replace_file(directory / "summary.md", _render("summary.md", summary, drawn))
    replace_file(summary.page, _render("report.html", summary, drawn))
    return summary


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def template(name: str) -> Template:
    """A template with the filters that the pages share; HTML is escaped, an unknown name fails."""
    environment = Environment(
        loader=PackageLoader("bench"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "names": _names,
        "breakable": _breakable,
        "data_uri": _data_uri,
        "plain": plain,
        "md": tables.markdown_text,
        "tokens": tables.tokens,
        "decimals": tables.decimals,
        "setting": _setting,
    }
    return environment.get_template(name)


def _render(name: str, summary: Summary, drawn: list[plots.Plot]) -> str:
    report = summary.report
    return template(name).render(
        report=report,
        plan=report.plan,
        purpose=purpose(report.plan),
        corpus=dict.fromkeys(("title", "name", "sha256")) | (report.plan.get("corpus") or {}),
        verdict=summary.verdict,
        winners=glance(report),
        winners_table=_markdown_table,
        problems=summary.problems,
        plots=drawn,
        colours=colours(report.implementations),
        columns=tables.columns_with_figures,
        all_columns=list(tables.COLUMNS.values()),
        status_word=tables.status_word,
        why_detail=tables.unranked_detail,
        markdown_table=tables.markdown,
        markdown_refusals=tables.markdown_refusals,
        refused_everywhere=tables.REFUSED_EVERYWHERE,
        missing=tables.MISSING,
        published=[_beside_published(w) for w in report.workloads if _has_published(w)],
        samples=[(w, _samples(report, w)) for w in report.workloads if _samples(report, w)],
        layers=_layers(report),
        layer_modes=sorted({record["mode"] for record in report.layers}),
        round_counts=_round_counts(report),
        files=_files(report.directory, drawn),
        stretches=BLOCKS,
        python_loop=PYTHON_LOOP,
        torch_nn=TORCH_NN,
        eager=EAGER,
    )


def _has_published(workload: Workload) -> bool:
    return workload.published is not None or _published_perplexity(workload) is not None


def _published_perplexity(workload: Workload) -> float | None:
    value = workload.spec.get("published_perplexity")
    return None if value is None else float(value)


def _beside_published(workload: Workload) -> dict[str, Any]:
    """What was published for a workload, beside the fastest case measured here."""
    best = workload.fastest
    speed = best["tokens_per_second"] if best else None
    published = workload.published
    return {
        "workload": workload,
        "best": best,
        "tokens": published,
        "perplexity": _published_perplexity(workload),
        "factor": speed / published if speed and published else None,
        "note": str(workload.spec.get("published_note") or ""),
    }


def _samples(report: Report, workload: Workload) -> list[tuple[list[str], str]]:
    """The generated lines, each with the names of all that generated it."""
    by_text: dict[str, list[str]] = {}
    for case in workload.cases:
        if case["sample"] and case.status == "ok":
            by_text.setdefault(case["sample"], []).append(report.label(case))
    return [(names, text) for text, names in by_text.items()]


Layer = tuple[str, dict[str, dict[str, Any]], bool]
"""An implementation, its records by mode, and whether an interpreter ran them."""


def _layers(report: Report) -> list[tuple[str, list[Layer]]]:
    """The single layers by cell and size; in each, the fastest first and the interpreted last."""
    sizes: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for record in report.layers:
        title = (
            f"{record['cell']}, H {record['hidden_size']}, B {record['batch_size']}, "
            f"T {record['num_steps']}, {record['dtype']} on {record['device']}"
        )
        by_name = sizes.setdefault(title, {})
        by_name.setdefault(record["implementation"], {})[record["mode"]] = record
    groups = []
    for title, by_name in sizes.items():
        rows = [
            (name, modes, any(record["interpreted"] for record in modes.values()))
            for name, modes in by_name.items()
        ]
        rows.sort(key=lambda row: (row[2], max(_milliseconds(r) for r in row[1].values()), row[0]))
        groups.append((title, rows))
    return groups


def _milliseconds(record: dict[str, Any]) -> float:
    value = record["milliseconds"]
    return math.inf if value is None else float(value)


def _round_counts(report: Report) -> str:
    counts = sorted({int(c["rounds"]) for w in report.workloads for c in w.ranked if c["rounds"]})
    if not counts:
        return ""
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _files(directory: Path, drawn: list[plots.Plot]) -> list[str]:
    """The files beside the page, as relative links."""
    tabled = [table.filename for table in (TRAINING, ROUNDS, CURVES, LAYERS)]
    stored = [*tabled, "environment.json", "plan.json"]
    pictures = [f"plots/{p.name}.{kind}" for p in drawn if p.is_drawn for kind in ("svg", "png")]
    return [name for name in stored if (directory / name).exists()] + ["summary.md", *pictures]


def _names(sentence: str) -> Markup:
    """A sentence with the names between its backticks set as code, and everything escaped."""
    parts = str(sentence).split("`")
    last = len(parts) - 1
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 == 1 and i < last else escape(part)
        for i, part in enumerate(parts)
    )


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after each underscore."""
    return Markup("_<wbr>").join(str(name).split("_"))


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _setting(value: Any) -> str:
    """A value of ``environment.json`` in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if value is None or value == "":
        return tables.MISSING
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
