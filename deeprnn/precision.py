"""One switch for the precision of float32 matrix products, the same for every implementation."""

from __future__ import annotations

import torch

PRECISIONS = ("ieee", "tf32")


def set_matmul_precision(precision: str) -> None:
    """Set how float32 products are computed by cuBLAS, cuDNN, Inductor and the Triton kernels.

    TF32 keeps 10 of float32's 23 mantissa bits and exists on CUDA alone; elsewhere the setting
    changes nothing.

    Raises:
        ValueError: ``precision`` is neither ``"ieee"`` nor ``"tf32"``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; use {' or '.join(PRECISIONS)}")
    # Not the newer fp32_precision: once it is set, Inductor's look at these flags raises an error.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def get_matmul_precision() -> str:
    """``"ieee"`` or ``"tf32"``: what was set last, here or by torch's own switches, old or new."""
    try:
        allowed = torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # the new switch was used, after which the old one refuses to answer
        allowed = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"
