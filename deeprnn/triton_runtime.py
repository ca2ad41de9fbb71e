"""What the Triton implementations share: where their kernels can run, and what ran them."""

from __future__ import annotations

import numpy
import torch
import triton
from torch import Tensor

from deeprnn.support import Request
from kernels.tiling import INTERPRETED

INTERPRETED_ON = ("cpu", "cuda") if INTERPRETED else ()


def a_way_to_run_triton(request: Request) -> str | None:
    """A GPU, or Triton's interpreter, which is chosen before Triton is first imported."""
    if request.device == "cpu" and not INTERPRETED:
        return "Triton needs a GPU; to interpret its kernels on a CPU set TRITON_INTERPRET=1"
    if request.dtype == "float64" and not INTERPRETED:
        return "float64 runs in Triton's interpreter only"
    return None


def loops_in_the_interpreter(request: Request) -> str | None:
    """An interpreter that can read the bound of a loop from an argument."""
    if INTERPRETED and _version(triton) < (3, 9) and _version(numpy) >= (2, 5):
        return (
            f"the interpreter of Triton {triton.__version__} cannot loop with NumPy "
            f"{numpy.__version__}: install triton>=3.9 or numpy<2.5"
        )
    return None


def describe_backend(y: Tensor) -> str:
    """Triton's version and the GPU, or that it was interpreted."""
    how = "interpreted" if INTERPRETED else torch.cuda.get_device_name(y.device)
    return f"Triton {triton.__version__}, {how}"


def _version(package: object) -> tuple[int, int]:
    major, minor = str(package.__version__).split(".")[:2]  # type: ignore[attr-defined]
    return int(major), int(minor)
