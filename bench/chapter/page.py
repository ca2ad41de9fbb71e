"""Writes ``chapter.html``, ``summary.md`` and ``plots/`` from what a chapter stored."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.text import Text

from bench.chapter import exercise_1, exercise_2, exercise_3, exercise_4, runs
from bench.chapter.exercises import BUDGETS, PARTS
from bench.chapter.floors import FLOORS
from bench.chapter.section import Section
from bench.chapter.stored import Chapter
from bench.page_parts import Picture
from bench.plots import style
from bench.report import replace_file, template
from bench.results import CURVES, HELD_OUT, ROUNDS, SAMPLES, TRAINING

SECTIONS = {
    "runs": runs.section,
    "exercise-1": exercise_1.section,
    "exercise-2": exercise_2.section,
    "exercise-3": exercise_3.section,
    "exercise-4": exercise_4.section,
}


@dataclass(frozen=True)
class Summary:
    """What the terminal prints when a chapter is done."""

    chapter: Chapter
    sections: list[Section]
    page: Path

    def print(self, console: Console) -> None:
        """Each question with its answer, what is missing, and where the page is."""
        for section in self.sections:
            console.print(Text(section.question, style="bold"))
            console.print(Text(" ".join(section.answer)))
            console.print()
        for line in self.chapter.missing()[:8]:
            console.print(Text(f"   {line}"), soft_wrap=True)
        console.print(Text(f"Page: {self.page}"), soft_wrap=True)


def render(directory: Path) -> Summary:
    """Write the page of ``directory``, whose run may still go on.

    Rendering the same files again gives the same bytes. Raises ``ResultsError``, one line, when
    ``plan.json`` is missing or a stored file is damaged.
    """
    chapter = Chapter(directory)
    sections = [found for make in SECTIONS.values() if (found := make(chapter)) is not None]
    summary = Summary(chapter, sections, directory / "chapter.html")
    drawn = _draw(sections, directory / "plots")
    values = {
        "chapter": chapter,
        "plan": chapter.plan,
        "budget": BUDGETS.get(chapter.plan["budget"]),
        "sections": sections,
        "titles": PARTS,
        "unanswered": [
            title
            for part, title in PARTS.items()
            if chapter.has(part) and part not in {section.part for section in sections}
        ],
        "missing": chapter.missing(),
        "svg": drawn,
        "command": lambda part: _command(chapter.plan, part),
        "files": _files(directory, drawn),
        "marked": _marked(chapter),
    }
    replace_file(directory / "summary.md", template("chapter.md").render(values))
    replace_file(summary.page, template("chapter.html").render(values))
    return summary


def _draw(sections: list[Section], directory: Path) -> dict[str, str]:
    """The SVG of each picture by its name; its files are written too."""
    with mpl.rc_context(style.SETTINGS):
        return {
            picture.name: style.save(picture.draw(), directory, picture.name)
            for picture in _pictures(sections)
        }


def _pictures(sections: list[Section]) -> list[Picture]:
    return [picture for section in sections for picture in section.pictures]


def _command(plan: dict[str, Any], part: str) -> str:
    """What repeats one part."""
    words = ["python", "-m", "bench", "chapter", "--budget", plan["budget"], "--only", part]
    return shlex.join([*words, "--device", plan["device"]])


def _marked(chapter: Chapter) -> str:
    """How many of the timed rounds are suspect; empty if none is."""
    counted = chapter.rounds[~chapter.rounds["warm_up"].fillna(False).astype(bool)]
    marked = int((counted["mark"] != "").sum())
    if not marked:
        return ""
    return (
        f"{marked} of {len(counted)} timed rounds are marked as disturbed: others used the "
        "processors. Trust factors, which are paired by turn, before tokens/s, which are medians; "
        "perplexities are not affected."
    )


def _files(directory: Path, drawn: dict[str, str]) -> list[str]:
    """The files beside the page, as relative links."""
    tables = (TRAINING, CURVES, HELD_OUT, SAMPLES, FLOORS, ROUNDS)
    stored = [*(table.filename for table in tables), "environment.json", "plan.json"]
    pictures = [f"plots/{name}.{kind}" for name in drawn for kind in ("svg", "png")]
    return [name for name in stored if (directory / name).exists()] + ["summary.md", *pictures]
