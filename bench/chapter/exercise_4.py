"""Exercise 4: may one merge texts of different authors?"""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.chapter.exercise_3 import with_perplexity
from bench.chapter.exercises import AUSTEN, KAFKA, MORE_WELLS, TEXTS, WELLS
from bench.chapter.section import Section, have_a_seed_in_common, mean_and_half
from bench.chapter.stored import Chapter, Learned
from bench.page_parts import Cell, Picture, Table
from bench.plots.style import PALETTE, legend_above, panels

PART = "exercise-4"
AUTHORS = {
    WELLS: "Wells, The Time Machine",
    MORE_WELLS: "Wells, Doctor Moreau",
    AUSTEN: "Austen, Pride and Prejudice",
    KAFKA: "Kafka, Metamorphosis",
}
SINGLE = {"Wells": WELLS, "Austen": AUSTEN, "Kafka": KAFKA}
"""The mixtures that hold one author alone, and what that author wrote."""


def section(chapter: Chapter) -> Section | None:
    """Mixtures judged by each author's held-out text; None before one seed of each is there."""
    learned = chapter.learned(PART)
    if not learned or not all(learned.values()) or not have_a_seed_in_common(learned):
        return None
    rows = []
    for role, found in learned.items():
        training = found[0].workload["training"]
        what = " + ".join(f"{count:,} of {AUTHORS[name]}" for name, count in training)
        rows.append(
            (
                Cell(role, what),
                *(with_perplexity([chapter.bits(one, text) for one in found]) for text in TEXTS),
            )
        )
    heads = (
        ("trained on", "characters"),
        *((f"held-out {AUTHORS[text]}", "bits; perplexity, ± bits") for text in TEXTS),
    )
    return Section(
        PART,
        "May texts of different authors be merged into one training text?",
        _answer(chapter, learned),
        (
            Table(
                "Bits a character by training text and held-out author",
                heads,
                tuple(rows),
                "Epochs are chosen by validation on the first text named in a row. Rows with the "
                "same number of Wells' characters show what the extra text brings; “twice as much "
                "Wells”, the pairs and the thirds have the same total.",
            ),
            _confusion(chapter, learned),
        ),
        (
            Picture(
                "exercise_4",
                "What each training text is worth for each author",
                "Held-out bits a character, the mean over seeds with its 95 % interval; less is "
                "better.",
                lambda: _draw(chapter, learned),
            ),
        ),
        _one_seed(chapter, learned),
        max(len(found) for found in learned.values()),
    )


def _difference(
    chapter: Chapter, learned: dict[str, list[Learned]], role: str, other: str, text: str
) -> tuple[float, float, list[float]]:
    """Bits that ``role`` saves against ``other``, paired by seed: mean, half interval, seeds."""
    by_seed = {one.seed: chapter.bits(one, text) for one in learned[other]}
    saved = []
    for one in learned[role]:
        mine, theirs = chapter.bits(one, text), by_seed.get(one.seed)
        if mine is not None and theirs is not None:
            saved.append(theirs - mine)
    return *mean_and_half(saved), saved


def _say(mean: float, half: float) -> str:
    if math.isinf(half):
        return f"{'saves' if mean > 0 else 'costs'} {abs(mean):.2f} bits by the only seed"
    if abs(mean) <= half:
        return f"changes it by {-mean:+.2f} bits, which the seeds do not tell apart from 0"
    return f"{'saves' if mean > 0 else 'costs'} {abs(mean):.2f} bits"


def _answer(chapter: Chapter, learned: dict[str, list[Learned]]) -> tuple[str, ...]:
    def against(role: str, other: str, text: str = WELLS) -> str:
        mean, half, _ = _difference(chapter, learned, role, other, text)
        return _say(mean, half)

    def told(role: str, other: str) -> float:
        """What is saved; 0 where the seeds do not tell."""
        mean, half, _ = _difference(chapter, learned, role, other, WELLS)
        return mean if math.isinf(half) or abs(mean) > half else 0.0

    on_austen, half, _ = _difference(
        chapter, learned, "Wells + Austen", "twice as much Wells", AUSTEN
    )
    extra = told("Wells + Austen", "Wells")
    verdict = "These seeds do not tell"
    if extra:
        verdict = "Yes, when the other author comes on top" if extra > 0 else "Not for Wells' sake"
    instead = told("Wells + Austen", "twice as much Wells")
    choice = "cannot be told from the same author's"
    if instead:
        choice = "is the better choice" if instead > 0 else "is the poorer choice"
    return (
        f"{verdict}: for held-out Wells, adding as much Austen to the same Wells "
        f"{against('Wells + Austen', 'Wells')}, adding Kafka and Austen "
        f"{against('Wells + Kafka + Austen', 'Wells')}, and adding other Wells "
        f"{against('Wells + other Wells', 'Wells')}.",
        f"With the total held equal, a text by someone else {choice}: against twice as much Wells, "
        f"half Austen {against('Wells + Austen', 'twice as much Wells')}; on held-out Austen it "
        f"{_say(on_austen, half)}.",
    )


def _confusion(chapter: Chapter, learned: dict[str, list[Learned]]) -> Table:
    """Whose model finds a passage least surprising, by who wrote it."""
    counts = {text: dict.fromkeys(SINGLE, 0) for text in TEXTS}
    for one in learned["Wells"]:
        models = {
            author: next((o for o in learned[author] if o.seed == one.seed), None)
            for author in SINGLE
        }
        if not all(models.values()):
            continue
        for text in TEXTS:
            by_author = {
                author: _passages(chapter, model, text)
                for author, model in models.items()
                if model is not None
            }
            for passage in by_author["Wells"]:
                told = min(by_author, key=lambda author: by_author[author][passage])
                counts[text][told] += 1
    rows = []
    for text in TEXTS:
        total = sum(counts[text].values())
        cells = [
            Cell(f"{count / total:.0%}" if total else "–", f"{count} of {total}")
            for count in counts[text].values()
        ]
        rows.append((Cell(AUTHORS[text]), *cells))
    return Table(
        "Who wrote this passage?",
        (("passages of", "500 characters, held out"), *((f"told as {a}", "") for a in SINGLE)),
        tuple(rows),
        "A passage is given to the author whose network, trained on as many characters of that "
        "author alone, needs the fewest bits for it; passages of all seeds are counted.",
    )


def _passages(chapter: Chapter, one: Learned, text: str) -> dict[int, float]:
    stored = chapter.held_out
    found = stored[
        (stored["case_id"] == one.case_id)
        & (stored["text"] == text)
        & (stored["weights"] == "best")
    ]
    return dict(zip(found["passage"], found["bits"], strict=True))


def _one_seed(chapter: Chapter, learned: dict[str, list[Learned]]) -> str:
    mean, _, saved = _difference(chapter, learned, "Wells + Austen", "Wells", WELLS)
    if len(saved) < 2:
        return ""
    against = sum((value > 0) != (mean > 0) for value in saved)
    span = f"from {min(saved):+.3f} to {max(saved):+.3f} bits"
    verdict = f"{against} of {len(saved)} would reverse it" if against else "none would reverse it"
    return f"Single seeds put what Austen saves on held-out Wells {span}; {verdict}."


def _draw(chapter: Chapter, learned: dict[str, list[Learned]]) -> Figure:
    figure, (axes,) = panels([0.42 * len(learned) + 0.6], len(TEXTS))
    for row, found in enumerate(learned.values()):
        for place, (text, colour) in enumerate(zip(TEXTS, PALETTE, strict=False)):
            bits = [v for one in found if (v := chapter.bits(one, text)) is not None]
            mean, half = mean_and_half(bits)
            at = row + 0.16 * (place - 1.5)
            if len(bits) > 1:
                axes.plot([mean - half, mean + half], [at, at], color=colour, lw=1.4)
            axes.plot([mean], [at], "o", color=colour, ms=5)
    axes.set_yticks(range(len(learned)), list(learned))
    axes.invert_yaxis()
    axes.set_xlabel("held-out bits a character (less is better)")
    axes.grid(axis="y", visible=False)
    legend_above(
        figure,
        [
            Line2D([], [], color=colour, marker="o", lw=1.4, label=AUTHORS[text])
            for text, colour in zip(TEXTS, PALETTE, strict=False)
        ],
    )
    return figure
