"""Which characters of which text a case of the chapter trains on and is judged by."""

from __future__ import annotations

from typing import Any

PREFIXES = ("time traveller", "traveller")
"""What the chapter lets its networks continue."""

PASSAGE = 500
"""Characters of a held-out passage whose author is to be told (exercise 4)."""


def training_text(training: list[tuple[str, int]], texts: dict[str, str]) -> str:
    """The first characters of each text, one after the other."""
    return "".join(texts[name][:count] for name, count in training)


def held_out_text(name: str, texts: dict[str, str], length: int) -> str:
    """The last ``length`` characters: what networks are judged by."""
    return texts[name][-length:]


def validation_text(name: str, texts: dict[str, str], length: int) -> str:
    """The ``length`` characters before those: what epochs are chosen by."""
    return texts[name][-2 * length : -length]


def texts_for_job(
    plan: dict[str, Any], texts: dict[str, str], case: dict[str, Any]
) -> dict[str, Any]:
    """What a worker is told beyond the ordinary: its texts, what to judge by, what to continue."""
    if case["timed"]:
        return {}
    length = plan["held_out_characters"]
    workload = next(w for w in plan["workloads"] if w["workload"] == case["workload"])
    job: dict[str, Any] = {
        "held_out": {name: held_out_text(name, texts, length) for name in case["held_out"]},
        "passage": PASSAGE if len(case["held_out"]) > 2 else 0,
        "more_prefixes": PREFIXES[1:],
    }
    if workload["training"]:
        job["training_text"] = training_text(workload["training"], texts)
        job["validation_text"] = validation_text(case["validation"], texts, length)
    return job
