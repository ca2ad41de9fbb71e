"""Exercise 1: does the recurrence that the printed two-layer network lacks matter?"""

from __future__ import annotations

from bench import tables
from bench.chapter.curves import draw_curves
from bench.chapter.section import (
    Section,
    have_a_seed_in_common,
    how_soon,
    interval,
    more_or_less,
    of_seeds,
    percent_apart,
    told_wrongly,
)
from bench.chapter.stored import Chapter, Learned, against, over_seeds
from bench.page_parts import Cell, Picture, Table

PART = "exercise-1"
IN_A_SENTENCE = {
    "printed": "the printed network",
    "right": "the one with recurrence in both layers",
}

NAMES = {
    "printed": "as printed: layer 2 without recurrence",
    "right": "as the equation says: both layers recurrent",
}
LEARNT = 10.0
"""A training perplexity that both reach early: how fast learning sets in."""


def section(chapter: Chapter) -> Section | None:
    """Printed against right; None before both have a seed."""
    learned = {role: found for role, found in chapter.learned(PART).items() if found}
    if len(learned) < 2 or not have_a_seed_in_common(learned):
        return None
    rows = []
    for role, found in learned.items():
        timed = chapter.speed(PART, role)
        reached = sorted(at for one in found if (at := one.epochs_to(LEARNT)) is not None)
        rows.append(
            (
                Cell(NAMES[role]),
                Cell(f"{found[0].workload['parameters']:,}"),
                Cell(tables.tokens(timed.tokens_per_second), timed.implementation)
                if timed
                else Cell(tables.MISSING),
                of_seeds(over_seeds(found, lambda one: one.train_perplexity), 3),
                of_seeds(over_seeds(found, lambda one: one.best_validation)),
                Cell(f"{reached[0]} to {reached[-1]}", f"{len(reached)} of {len(found)} seeds")
                if reached
                else Cell(tables.MISSING, "no seed"),
            )
        )
    epochs = learned["right"][0].epochs
    heads = (
        ("network", ""),
        ("parameters", ""),
        ("speed", "tokens/s"),
        ("text trained on", f"perplexity after {epochs} epochs"),
        ("other text", f"best perplexity within {epochs} epochs"),
        ("learning sets in", f"epochs to perplexity {LEARNT:g}"),
    )
    _, by_seed = against(learned["right"], learned["printed"], lambda one: one.train_perplexity)
    return Section(
        PART,
        "A two-layer network from scratch: does the recurrence that the printed one lacks matter?",
        _answer(chapter, learned, epochs),
        (
            Table(
                "Same sizes, same seeds",
                heads,
                tuple(rows),
                "Both layers have 512 units. The printed second layer is a perceptron applied at "
                "each time step: it looks at the first layer's state and has none of its own.",
            ),
        ),
        (
            Picture(
                "exercise_1",
                "Printed against right, by epoch",
                "A line a seed. Solid: text trained on; dotted: the 5,000 characters after it.",
                lambda: draw_curves({NAMES[role]: found for role, found in learned.items()}),
            ),
        ),
        told_wrongly(by_seed, "training perplexity"),
        len(learned["right"]),
    )


def _answer(chapter: Chapter, learned: dict[str, list[Learned]], epochs: int) -> tuple[str, ...]:
    def compare(figure: str) -> tuple[str, float, str]:
        ratio, _ = against(learned["right"], learned["printed"], lambda o: getattr(o, figure))
        assert ratio is not None
        word = more_or_less(ratio, "higher", "lower", "not told apart")
        return word, ratio.ratio, percent_apart(ratio.ratio)

    train, _, train_apart = compare("train_perplexity")
    other, _, other_apart = compare("best_validation")
    if train == "not told apart" and other == "not told apart":
        first = (
            f"It cannot be told from {len(learned['right'])} seeds: after {epochs} epochs neither "
            "training nor held-out perplexity differs by more than the seeds do."
        )
    else:
        told = {
            "higher": "is {} higher",
            "lower": "is {} lower",
            "not told apart": "cannot be told apart",
        }
        first = (
            f"With recurrence in the second layer as well, after {epochs} epochs, perplexity on "
            f"the text trained on {told[train].format(train_apart)}, and on other text it "
            f"{told[other].format(other_apart)}."
        )
    sentences = [first]
    ratio = chapter.faster(chapter.speed(PART, "printed"), chapter.speed(PART, "right"))
    if ratio is not None:
        more = learned["right"][0].workload["parameters"]
        fewer = learned["printed"][0].workload["parameters"]
        sentences.append(
            f"It costs {more - fewer:,} parameters, and the printed network trains "
            f"{ratio.ratio:.2f} times as fast ({interval(ratio)}) for leaving it out."
        )
    return (*sentences, *how_soon(chapter, learned, IN_A_SENTENCE))
