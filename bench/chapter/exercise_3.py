"""Exercise 3: more training data. How low can perplexity go?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import tables
from bench.chapter.exercises import ALL_OF_IT, HELD_OUT_CHARACTERS, MORE_WELLS, WELLS
from bench.chapter.ngram import SMOOTHINGS
from bench.chapter.power_law import PowerLaw, fit
from bench.chapter.section import Section, mean_and_half, of_bits
from bench.chapter.stored import Chapter, Learned
from bench.page_parts import Cell, Picture, Table
from bench.plots.style import INK, PALETTE, legend_above, panels

PART = "exercise-3"
MODELS = {
    "kneser_ney": "n-gram, Kneser–Ney",
    "witten_bell": "n-gram, Witten–Bell",
    "lzma": "lzma",
    "bz2": "bz2",
}


def section(chapter: Chapter) -> Section | None:
    """Held-out perplexity by size of the training text; None before three sizes are there."""
    learned = {role: found for role, found in chapter.learned(PART).items() if found}
    if len(sizes(chapter, learned)) < 3:
        return None
    rows = []
    for role, found in learned.items():
        on_train = [math.log2(_train_perplexity(one)) for one in found]
        wells = [chapter.bits(one, WELLS) for one in found]
        more = [chapter.bits(one, MORE_WELLS) for one in found]
        floors = _floors(chapter, found[0], WELLS) or _floors(chapter, found[0], MORE_WELLS)
        best = sorted({one.best_epoch for one in found})
        epochs = f"{best[0]} to {best[-1]}" if len(best) > 1 else str(best[0])
        rows.append(
            (
                Cell(role, f"{epochs} epochs, {_chosen(found)}"),
                with_perplexity(on_train),
                with_perplexity(wells),
                with_perplexity(more),
                *(
                    Cell(f"{floors[model]:.3f}") if model in floors else Cell(tables.MISSING)
                    for model in MODELS
                ),
            )
        )
    heads = (
        ("trained on", ""),
        ("that text", "bits; perplexity, ± bits"),
        ("held-out Time Machine", "bits; perplexity, ± bits"),
        ("held-out other book", "bits; perplexity, ± bits"),
        *((title, "bits") for title in MODELS.values()),
    )
    law = _law(chapter, learned)
    return Section(
        PART,
        "With more training data, how low can perplexity go?",
        _answer(chapter, learned, law),
        (
            Table(
                "Bits a character by training text",
                heads,
                tuple(rows),
                "The network reads the last "
                f"{HELD_OUT_CHARACTERS:,} characters of a book from their beginning, one stream. "
                "n-gram models and compressors stand for the same training and held-out text as "
                "the network in their row, the Time Machine's where it is held out; a "
                "compressor's figure is what the held-out text adds to the compressed training "
                "text. A bit a character is a perplexity of 2.",
            ),
        ),
        (
            Picture(
                "exercise_3",
                "Bits a character by training characters",
                "Held-out text of The Time Machine. Points: seeds of the network, and the line a "
                "power law through their means.",
                lambda: _draw(chapter, learned, law),
            ),
        ),
        _one_seed(chapter, learned),
        max(len(found) for found in learned.values()),
    )


def sizes(chapter: Chapter, learned: dict[str, list[Learned]]) -> dict[int, list[Learned]]:
    """By training characters, what was trained on The Time Machine alone and judged by it."""
    found = {}
    for seeds in learned.values():
        training = seeds[0].workload["training"]
        if len(training) == 1 and chapter.bits(seeds[0], WELLS) is not None:
            found[int(training[0][1])] = seeds
    return found


def _train_perplexity(one: Learned) -> float:
    at_best = one.curve[one.curve["epoch"] == one.best_epoch]
    return float(at_best["train_perplexity"].iloc[0])


def with_perplexity(bits: Sequence[float | None]) -> Cell:
    """Bits, and the same as perplexity beneath."""
    cell = of_bits(bits)
    known = [value for value in bits if value is not None]
    if not known:
        return cell
    perplexity = 2 ** (sum(known) / len(known))
    return Cell(cell.main, f"{tables.decimals(perplexity, 2)}, {cell.detail}")


def _floors(chapter: Chapter, one: Learned, text: str) -> dict[str, float]:
    key = "+".join(f"{name}{count}" for name, count in one.workload["training"])
    found = chapter.floors[(chapter.floors["training"] == key) & (chapter.floors["text"] == text)]
    return dict(zip(found["model"], found["bits_per_character"], strict=True))


def _law(chapter: Chapter, learned: dict[str, list[Learned]]) -> PowerLaw | str:
    """The fitted law, or why there is none."""
    characters, bits = [], []
    for size, seeds in sizes(chapter, learned).items():
        for one in seeds:
            value = chapter.bits(one, WELLS)
            if value is not None:
                characters.append(float(size))
                bits.append(value)
    try:
        return fit(characters, bits)
    except ValueError as error:
        return str(error)


def _chosen(found: list[Learned]) -> str:
    """How it was decided where training ends."""
    ended = sum(one.best_epoch == one.workload["epochs"] for one in found)
    if ended == 0:
        return "chosen by validation"
    who = "all seeds" if ended == len(found) else f"{ended} of {len(found)} seeds"
    return f"chosen by validation; for {who} the last of the budget"


def _answer(
    chapter: Chapter, learned: dict[str, list[Learned]], law: PowerLaw | str
) -> tuple[str, ...]:
    judged = {
        role: _mean([chapter.bits(one, WELLS) for one in found])
        for role, found in learned.items()
        if chapter.bits(found[0], WELLS) is not None
    }
    role = min(judged, key=lambda r: judged[r])
    best = judged[role]
    smallest = min(sizes(chapter, learned))
    first = sizes(chapter, learned)[smallest]
    start = _mean([chapter.bits(one, WELLS) for one in first])
    answer = [
        f"Held-out perplexity falls from {2**start:.1f} with {smallest:,} characters to "
        f"{2**best:.2f} ({best:.2f} bits) with {role}: far from the 1 that the chapter prints, "
        "which is the training text learned by heart."
    ]
    floors = _floors(chapter, learned[role][0], WELLS)
    if floors:
        learnt = _mean([math.log2(_train_perplexity(one)) for one in learned[role]])
        below = [MODELS[m] for m, bits in floors.items() if bits < best]
        models = {MODELS[m]: bits for m, bits in floors.items()}
        strongest = min(models, key=lambda m: models[m])
        if below:
            if all(one.best_epoch == one.workload["epochs"] for one in learned[role]):
                why = (
                    "The network was still getting better when the budget ended its training, "
                    f"after {learned[role][0].best_epoch} epochs."
                )
            else:
                why = (
                    f"At its best epoch the network needs only {learnt:.2f} bits for the text it "
                    f"trains on: the {best - learnt:.2f} bits between are what it has begun to "
                    "learn by heart, and longer training widens them."
                )
            answer.append(
                f"{len(below)} of the {len(models)} simple models need fewer bits; {strongest} "
                f"needs {models[strongest]:.2f} for the same text after the same characters. {why}"
            )
        else:
            answer.append(
                f"All {len(models)} simple models need more; the nearest, {strongest}, "
                f"needs {models[strongest]:.2f} bits."
            )
    if isinstance(law, str):
        answer.append(f"No power law was fitted: {law}.")
    else:
        low, high = law.exponent_interval
        end = f"{law.floor:.2f} bits" if law.floor_is_resolved else "a floor not told apart from 0"
        answer.append(
            f"Bits fall with the length of the text to the power of −{law.exponent:.2f} "
            f"({'any' if math.isinf(high) else f'−{high:.2f}'} to −{low:.2f}) towards {end}; "
            f"at all {ALL_OF_IT:,} characters the law says {law.predict(ALL_OF_IT):.2f}."
        )
    return tuple(answer)


def _one_seed(chapter: Chapter, learned: dict[str, list[Learned]]) -> str:
    spreads = []
    for role, seeds in learned.items():
        bits = [value for one in seeds if (value := chapter.bits(one, WELLS)) is not None]
        if len(bits) > 1:
            spreads.append((max(bits) - min(bits), role))
    if not spreads:
        return ""
    widest, role = max(spreads)
    return (
        f"On held-out text of The Time Machine, single seeds differ by up to {widest:.3f} bits "
        f"({role}). The ± of a mean is half of its 95 % interval over seeds."
    )


def _mean(bits: list[float | None]) -> float:
    return mean_and_half([value for value in bits if value is not None])[0]


def _draw(chapter: Chapter, learned: dict[str, list[Learned]], law: PowerLaw | str) -> Figure:
    by_size = sizes(chapter, learned)
    figure, (axes,) = panels([3.4], len(MODELS) + 2)
    network, *others = PALETTE
    for size, seeds in by_size.items():
        bits = [value for one in seeds if (value := chapter.bits(one, WELLS)) is not None]
        axes.plot([size] * len(bits), bits, "o", color=network, ms=4.5, zorder=3)
    handles = [Line2D([], [], color=network, marker="o", ls="", label="network, each seed")]
    if not isinstance(law, str):
        low, high = min(by_size), ALL_OF_IT
        at = [low * (high / low) ** (i / 60) for i in range(61)]
        axes.plot(at, [law.predict(n) for n in at], color=INK, lw=1.2)
        handles.append(Line2D([], [], color=INK, lw=1.2, label="power law"))
    for (model, title), colour in zip(MODELS.items(), others, strict=False):
        points = sorted(
            (size, _floors(chapter, seeds[0], WELLS)[model])
            for size, seeds in by_size.items()
            if model in _floors(chapter, seeds[0], WELLS)
        )
        if not points:
            continue
        style = "-" if model in SMOOTHINGS else "--"
        axes.plot(*zip(*points, strict=True), style, color=colour, marker=".", lw=1.4)
        handles.append(Line2D([], [], color=colour, ls=style, marker=".", lw=1.6, label=title))
    axes.set_xscale("log")
    axes.set_xticks(list(by_size), [f"{size:,}" for size in by_size], rotation=30, ha="right")
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training characters (log scale)")
    axes.set_ylabel("bits a character")
    legend_above(figure, handles)
    return figure
