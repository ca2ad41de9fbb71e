"""What an implementation can do, as data: asked before anything runs, answered with a reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch

from deeprnn.cells import GATES


class Unsupported(RuntimeError):
    """An implementation found at run time that it would not be what its name says."""


@dataclass(frozen=True)
class Request:
    """What somebody wants an implementation to run. Sizes in the symbols of the project."""

    cell: str
    device: str = "cpu"  # "cpu" or "cuda"
    dtype: str = "float32"
    matmul_precision: str = "ieee"  # of float32 products: "ieee" or "tf32"
    execution: str = "eager"  # "eager" or "cuda_graph"
    input_size: int = 28
    hidden_size: int = 256
    num_layers: int = 1
    batch_size: int = 32
    num_steps: int = 35
    recurrent: tuple[bool, ...] | None = None  # by layer; None: every layer


Requirement = Callable[[Request], str | None]
"""Says why it is not met, in one line; None when it is."""


@dataclass(frozen=True)
class Support:
    """The combinations an implementation runs; everything else has a reason.

    ``requirements`` are looked at in order, after the plain lists; the first that is not met gives
    the reason. ``interpreted_on`` names the devices where it runs only in an interpreter: right
    for checking, meaningless for speed.
    """

    cells: tuple[str, ...] = tuple(GATES)
    devices: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16", "float16")
    executions: tuple[str, ...] = ("eager", "cuda_graph")
    requirements: tuple[Requirement, ...] = ()
    interpreted_on: tuple[str, ...] = ()

    def refusal(self, request: Request) -> str | None:
        """Why ``request`` cannot be run, or None."""
        for asked, accepted, what in (
            (request.cell, self.cells, "cell"),
            (request.device, self.devices, "device"),
            (request.dtype, self.dtypes, "dtype"),
            (request.execution, self.executions, "execution"),
        ):
            if asked not in accepted:
                return f"{what} {asked} is not implemented here, only {', '.join(accepted)}"
        if request.execution == "cuda_graph" and request.device != "cuda":
            return "a CUDA graph needs a CUDA device"
        if request.matmul_precision == "tf32" and request.device != "cuda":
            return "TF32 products need a CUDA device"
        for requirement in self.requirements:
            reason = requirement(request)
            if reason is not None:
                return reason
        return None


def cxx_compiler(request: Request) -> str | None:
    """A C++ compiler, which Inductor needs to generate code for the CPU."""
    if request.device != "cpu":
        return None
    asked = os.environ.get("CXX", "")
    if any(shutil.which(name) for name in (asked, "g++", "clang++", "cl") if name):
        return None
    return "Inductor needs a C++ compiler on a CPU: install g++, or point CXX at one"


def device_present(request: Request) -> str | None:
    """The device asked for."""
    if request.device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible to PyTorch"
    return None
