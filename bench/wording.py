"""Words around figures."""


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def precision(dtype: str, matmul_precision: str | None) -> str:
    """What matrix products are made in: ``IEEE float32``, ``TF32``, or the type, ``bfloat16``."""
    names = {"ieee": "IEEE float32", "tf32": "TF32"}
    return names.get(matmul_precision or "", dtype) if dtype == "float32" else dtype
