"""Words around figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def precision(dtype: str, matmul_precision: str | None) -> str:
    """What matrix products are made in: ``IEEE float32``, ``TF32``, or the type, ``bfloat16``."""
    names = {"ieee": "IEEE float32", "tf32": "TF32"}
    return names.get(matmul_precision or "", dtype) if dtype == "float32" else dtype


def plain(sentence: str) -> str:
    """A sentence without the backticks around its names."""
    return sentence.replace("`", "")


def purpose(plan: Mapping[str, Any]) -> str:
    """What a run is for, and whose cases alone were run where ``--only`` chose some.

    Names stand between backticks.
    """
    said = str(plan.get("purpose") or "")
    if not plan.get("only"):
        return said
    names = sorted({c["implementation"] for c in plan["cases"] if not c.get("unsupported")})
    chosen = ", ".join(f"`{name}`" for name in names) or "nothing that can run here"
    patterns = " ".join(f"`--only {pattern}`" for pattern in plan["only"])
    return f"{said} Of that only what {patterns} matches: {chosen}.".strip()
