"""What needs no network: n-gram models and compressors on the same texts, as floors.

They are computed once, after the training, and stored; the page reads the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.chapter import compressors, ngram
from bench.chapter.ngram import SMOOTHINGS
from bench.chapter.texts import held_out_text, training_text, validation_text
from bench.results import Table

FLOORS = Table(
    "floors.csv",
    {
        "model": str,  # kneser_ney | witten_bell | lzma | bz2
        "order": int,  # of an n-gram model: it looks at order - 1 characters
        "training": str,  # which texts, and how many characters of each
        "training_characters": int,
        "text": str,  # the held-out text
        "bits_per_character": float,
        "seconds": float,
        "run_id": str,
    },
)


def measure(
    plan: dict[str, Any], texts: dict[str, str], directory: Path, say: Callable[[str], None]
) -> None:
    """Append to ``floors.csv`` what it still lacks for the cases that train on texts of choice."""
    FLOORS.drop_half_line(directory)
    stored = FLOORS.load(directory)
    done = set(zip(stored["model"], stored["training"], stored["text"], strict=True))
    workloads = {w["workload"]: w for w in plan["workloads"]}
    length = plan["held_out_characters"]
    wanted: dict[str, tuple[list[tuple[str, int]], str, list[str]]] = {}
    for case in plan["cases"]:
        training = workloads[case["workload"]]["training"]
        if training:
            key = "+".join(f"{name}{count}" for name, count in training)
            wanted[key] = (training, case["validation"], case["held_out"])
    lacking = [
        key
        for key, (_, _, names) in wanted.items()
        if any(
            (model, key, name) not in done
            for model in (*SMOOTHINGS, *compressors.NAMES)
            for name in names
        )
    ]
    if lacking:
        say(f"n-gram models and compressors on {len(lacking)} training texts")
    for key in lacking:
        training, validation, names = wanted[key]
        text = training_text(training, texts)
        chosen_by = validation_text(validation, texts, length)
        orders = {model: ngram.best_order(text, chosen_by, model) for model in SMOOTHINGS}
        rows = []
        for model in (*SMOOTHINGS, *compressors.NAMES):
            for name in names:
                if (model, key, name) in done:
                    continue
                judged = held_out_text(name, texts, length)
                start = time.perf_counter()
                if model in orders:
                    bits = ngram.held_out_bits(text, judged, orders[model], model)
                else:
                    bits = compressors.held_out_bits(model, text, judged)
                rows.append(
                    {
                        "model": model,
                        "order": orders.get(model),
                        "training": key,
                        "training_characters": len(text),
                        "text": name,
                        "bits_per_character": bits,
                        "seconds": time.perf_counter() - start,
                        "run_id": plan["run_id"],
                    }
                )
        FLOORS.append(directory, rows)
