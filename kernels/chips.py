"""What a kernel that keeps its weights on chip must know of the GPU it runs on."""

import dataclasses
import functools
import os
from typing import Literal

import torch

# Triton decides once, when a kernel is defined, whether it is interpreted.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on")

# Shared memory that the driver of an NVIDIA GPU keeps for itself of every program, bytes. Source:
# CUDA C++ Programming Guide, compute capability 8.x, shared memory.
DRIVERS_SHARE = 1024


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a kernel that keeps its weights on chip must know of a GPU.

    `shared_memory` is the most one program may have, in bytes. `keeps_in` says where Triton puts
    an operand that a loop uses again and again.
    """

    name: str
    multiprocessors: int
    shared_memory: int
    keeps_in: Literal["shared memory", "registers"] = "shared memory"

    def programs_each(self, needed: int) -> int:
        """How many programs a multiprocessor has shared memory for, if each wants `needed` bytes.

        A multiprocessor has as much as one program may have, and what the driver takes of each.
        """
        share = DRIVERS_SHARE if self.keeps_in == "shared memory" else 0  # AMD's keeps none
        return (self.shared_memory + share) // (needed + share)


# Published figures, for compiling without the device: A100, H100 and H200, B200, MI300X.
# Sources: CUDA C++ Programming Guide, table of compute capabilities; AMD CDNA 3 white paper.
CHIPS = {
    "sm_80": Chip("A100", 108, 163 * 1024),
    "sm_90": Chip("H100/H200", 132, 227 * 1024),
    "sm_100": Chip("B200", 148, 227 * 1024),
    "gfx942": Chip("MI300X", 304, 64 * 1024, "registers"),
}


NEEDS_GPU = "kernels need a GPU or TRITON_INTERPRET=1 set before import"

# Nothing limits the interpreter, but its programs run one after another: one slice of units.
INTERPRETER = Chip("interpreter", 1, 1 << 40)


@functools.cache
def chip_of(device: torch.device) -> Chip:
    """What is known of the GPU behind `device`; nothing limits the interpreter.

    Raises ValueError for another device, outside of the interpreter.
    """
    if INTERPRETED:
        return INTERPRETER
    if device.type != "cuda":
        raise ValueError(f"{NEEDS_GPU}; got {device}")
    properties = torch.cuda.get_device_properties(device)
    # the most that a program may ask for; AMD has no larger amount to opt in to
    shared = getattr(properties, "shared_memory_per_block_optin", 0)
    return Chip(
        properties.name,
        properties.multi_processor_count,
        shared or properties.shared_memory_per_block,
        "registers" if torch.version.hip else "shared memory",
    )
