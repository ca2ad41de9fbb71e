"""Exercise 2: a GRU instead of the LSTM, as printed and in fair comparisons."""

from __future__ import annotations

from functools import partial

from bench import tables
from bench.chapter.curves import draw_curves
from bench.chapter.section import (
    PAIRED,
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
from bench.statistics import Ratio

PART = "exercise-2"
LSTM, PRINTED, EQUAL_SIZE, EQUAL_PARAMETERS = (
    "lstm",
    "printed gru",
    "gru of equal layers and width",
    "gru of equal parameters",
)

IN_A_SENTENCE = {
    LSTM: "the LSTM",
    PRINTED: "the GRU as printed",
    EQUAL_SIZE: "the GRU of equal layers and width",
    EQUAL_PARAMETERS: "the GRU of equal parameters",
}


def name(role: str, workload: dict[str, object]) -> str:
    """What the page calls a network."""
    if role == LSTM:
        return "LSTM, 2 × 256"
    why = {
        PRINTED: "as printed",
        EQUAL_SIZE: "equal layers and width",
        EQUAL_PARAMETERS: "equal parameters",
    }[role]
    return f"{size(workload)}, {why}"


def size(workload: dict[str, object]) -> str:
    """Cell, layers and width."""
    cell = str(workload["cell"]).upper()
    return f"{cell}, {workload['num_layers']} × {workload['hidden_size']}"


def section(chapter: Chapter) -> Section | None:
    """LSTM against GRUs; None before each network has a seed."""
    learned = chapter.learned(PART)
    if len(learned) < 4 or not all(learned.values()) or not have_a_seed_in_common(learned):
        return None
    in_time = _after_equal_time(chapter, learned)
    rows = []
    for role, found in learned.items():
        cells = []
        for timed, rival in zip(
            chapter.own_and_library(PART, role), chapter.own_and_library(PART, LSTM), strict=True
        ):
            if timed is None:
                cells.append(Cell(tables.MISSING))
                continue
            ratio = chapter.faster(timed, rival)
            times = ""
            if ratio is not None and role != LSTM:
                times = f", {ratio.ratio:.2f} × the LSTM ({interval(ratio)})"
            cells.append(Cell(tables.tokens(timed.tokens_per_second), timed.implementation + times))
        rows.append(
            (
                Cell(name(role, found[0].workload)),
                Cell(f"{found[0].workload['parameters']:,}"),
                *cells,
                of_seeds(over_seeds(found, lambda one: one.train_perplexity)),
                of_seeds(in_time.get(role)),
                of_seeds(over_seeds(found, lambda one: one.best_validation)),
            )
        )
    epochs = learned[LSTM][0].epochs
    heads = (
        ("network", ""),
        ("parameters", ""),
        ("speed, own", "tokens/s"),
        ("speed, library", "tokens/s"),
        ("text trained on", f"perplexity after {epochs} epochs"),
        ("text trained on", "after equal time"),
        ("other text", f"best perplexity within {epochs} epochs"),
    )
    _, by_seed = against(learned[EQUAL_PARAMETERS], learned[LSTM], lambda one: one.best_validation)
    return Section(
        PART,
        "Replace the LSTM by a GRU: what becomes of accuracy and training speed?",
        _answer(chapter, learned, epochs),
        (
            Table(
                "One recipe, learning rate 2",
                heads,
                tuple(rows),
                "Equal time: each network trains for as long as the fastest of them takes for its "
                f"{epochs} epochs, by the speeds measured here. The library's networks compute "
                "the same as ours, so each is trained once. " + PAIRED,
            ),
        ),
        (
            Picture(
                "exercise_2",
                "LSTM and GRUs by epoch",
                "A line a seed. Solid: text trained on; dotted: the 5,000 characters after it.",
                lambda: draw_curves({size(found[0].workload): found for found in learned.values()}),
            ),
        ),
        told_wrongly(by_seed, "held-out perplexity at equal parameters"),
        len(learned[LSTM]),
    )


def _after_equal_time(
    chapter: Chapter, learned: dict[str, list[Learned]]
) -> dict[str, Ratio | None]:
    """Training perplexity once as many seconds are spent as the fastest needs for all epochs."""
    speeds = {role: chapter.speed(PART, role) for role in learned}
    if not all(speeds.values()):
        return {}
    rates = {role: timed.tokens_per_second for role, timed in speeds.items() if timed}
    fastest = max(rates.values())
    found: dict[str, Ratio | None] = {}
    for role, seeds in learned.items():
        epochs = max(1, int(seeds[0].epochs * rates[role] / fastest))
        found[role] = over_seeds(seeds, partial(_train_perplexity_after, epochs))
    return found


def _train_perplexity_after(epochs: int, one: Learned) -> float:
    return float(one.curve["train_perplexity"].iloc[epochs - 1])


def _answer(chapter: Chapter, learned: dict[str, list[Learned]], epochs: int) -> tuple[str, ...]:
    sentences = []
    for role, fair in (
        (EQUAL_SIZE, "With equal layers and width"),
        (EQUAL_PARAMETERS, "With as many parameters"),
        (PRINTED, "As printed, one layer against two,"),
    ):
        train, _ = against(learned[role], learned[LSTM], lambda one: one.train_perplexity)
        other, _ = against(learned[role], learned[LSTM], lambda one: one.best_validation)
        speed = chapter.faster(chapter.speed(PART, role), chapter.speed(PART, LSTM))
        assert train is not None
        assert other is not None
        faster = "" if speed is None else _speed(speed)
        sentences.append(
            f"{fair} the GRU {faster}has {_apart(train)} perplexity after {epochs} epochs and "
            f"{_apart(other)} best perplexity on other text."
        )
    return (*sentences, *how_soon(chapter, learned, IN_A_SENTENCE))


def _speed(ratio: Ratio) -> str:
    """What may be said of the speeds, each network as it ran fastest."""
    times = f"{ratio.ratio:.2f} times, 95 % interval {interval(ratio)}, each as it ran fastest"
    told = more_or_less(ratio, "faster", "slower", "")
    if not told:
        return f"cannot be told from the LSTM in speed ({times}), and "
    return f"trains {told} than the LSTM ({times}), and "


def _apart(ratio: Ratio) -> str:
    word = more_or_less(ratio, "higher", "lower", "no clearly different")
    return word if word.startswith("no") else f"{percent_apart(ratio.ratio)} {word}"
