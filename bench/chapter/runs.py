"""The three published runs, beside what the chapter prints of them."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from bench import tables
from bench.chapter.curves import draw_curves
from bench.chapter.section import Section, of_seeds
from bench.chapter.stored import Chapter, Learned, over_seeds
from bench.chapter.texts import PREFIXES
from bench.page_parts import Cell, Picture, Table

NAMES = {
    "lstm": "LSTM, 2 layers of 256",
    "scratch": "tanh RNN from scratch, 2 layers of 512",
    "gru": "GRU, 1 layer of 256",
}

PRINTED_LINES = (
    " for so it will be convenient to speak of himwas e",
    "you can show black is white by argument said filby",
    " with a slight accession ofcheerfulness really thi",
)
"""How the chapter's lines go on after their prefix. Its printings do not agree on which network
wrote which of the three: the GPU differed from printing to printing."""

TARGET = 1.1  # the perplexity that counts as the published one, 1.0


def section(chapter: Chapter) -> Section | None:
    """The published runs; None where none has finished."""
    learned = {role: found for role, found in chapter.learned("runs").items() if found}
    if not learned:
        return None
    rows = []
    for role, found in learned.items():
        workload = found[0].workload
        speeds = chapter.own_and_library("runs", role)
        published = float(workload["published_tokens_per_second"])
        perplexities = ", ".join(f"{one.train_perplexity:.3f}" for one in found)
        rows.append(
            (
                Cell(NAMES[role], workload["published_note"]),
                Cell(f"{workload['published_perplexity']:.1f}"),
                Cell(perplexities, f"after {found[0].epochs} epochs, seeds in turn"),
                of_seeds(over_seeds(found, lambda one: one.best_validation)),
                Cell(tables.tokens(published), "GPU not named"),
                *(
                    Cell(tables.tokens(s.tokens_per_second), s.implementation)
                    if s
                    else Cell(tables.MISSING)
                    for s in speeds
                ),
            )
        )
    heads = (
        ("network", ""),
        ("printed", "perplexity"),
        ("here", "training perplexity"),
        ("other text", "best perplexity"),
        ("printed", "tokens/s"),
        ("here, own", "tokens/s"),
        ("here, library", "tokens/s"),
    )
    everyone = [one for found in learned.values() for one in found]
    return Section(
        "runs",
        "Do the three published runs come out as printed?",
        _answer(chapter, learned),
        (Table("Measured beside printed", heads, tuple(rows)), _lines(chapter, everyone)),
        (
            Picture(
                "runs",
                "Perplexity by epoch",
                "A line a seed. Solid: on the 10,000 characters trained on. Dotted: on the 5,000 "
                "after them, which is what the perplexity of 1.0 is worth on other text.",
                lambda: _draw(learned),
            ),
        ),
        "",
        max(len(found) for found in learned.values()),
    )


def _answer(chapter: Chapter, learned: dict[str, list[Learned]]) -> tuple[str, ...]:
    everyone = [one for found in learned.values() for one in found]
    worst = max(one.train_perplexity for one in everyone)
    epochs = {one.epochs for one in everyone}
    after = f"after {max(epochs)} epochs"
    if worst <= TARGET:
        first = (
            f"Yes: {after}, all {len(everyone)} trainings end at a training perplexity of "
            f"{math.ceil(1000 * worst) / 1000:.3f} or less; printed is 1.0."
        )
    elif max(epochs) < 500:
        first = (
            f"Not in this reduced run: {after} of 500 the training perplexity is "
            f"{min(one.train_perplexity for one in everyone):.1f} to {worst:.1f}; printed is 1.0."
        )
    else:
        above = sum(one.train_perplexity > TARGET for one in everyone)
        first = f"Not all: {above} of {len(everyone)} trainings end above {TARGET}."
    samples = chapter.samples[chapter.samples["case_id"].isin([one.case_id for one in everyone])]
    equal = sum(
        row["text"].removeprefix(row["prefix"]) in PRINTED_LINES
        for row in samples.to_dict("records")
    )
    best = min(one.best_validation for one in everyone)
    return (
        first,
        f"On the 5,000 characters that follow, none gets below {best:.1f}: "
        "a perplexity of 1 is the text learned by heart.",
        f"{equal} of {len(samples)} generated lines are, letter for letter, among those printed.",
    )


def _lines(chapter: Chapter, everyone: list[Learned]) -> Table:
    """Each line that was written, with who wrote it, beside what is printed."""
    rows = []
    for prefix in PREFIXES:
        found = chapter.samples[chapter.samples["prefix"] == prefix]
        by_case = {row["case_id"]: row for row in found.to_dict("records")}
        writers: dict[str, list[str]] = {prefix + line: [] for line in PRINTED_LINES}
        for one in everyone:
            if row := by_case.get(one.case_id):
                writers.setdefault(row["text"], []).append(f"{one.role} seed {one.seed}")
        verbatim = {row["text"]: row["verbatim"] for row in by_case.values()}
        for line, names in writers.items():
            written = line.removeprefix(prefix)
            if written in PRINTED_LINES:
                mark = "as printed"
            else:
                mark = f"{verbatim[line]} of {len(written)} characters stand in the text"
            rows.append((Cell(line), Cell(mark), Cell(", ".join(names) or "nobody here")))
    return Table(
        "What they write after “time traveller” and “traveller”",
        (
            ("line", "the most probable next character, fifty times"),
            ("compared", "with print and text"),
            ("written by", "network and seed"),
        ),
        tuple(rows),
        "The chapter prints a line of each; its printings do not agree which.",
        worded=("compared", "written by"),
    )


def _draw(learned: dict[str, list[Learned]]) -> Figure:
    return draw_curves({NAMES[role]: found for role, found in learned.items()})
