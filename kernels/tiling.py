"""Block sizes: which tile of the work one program takes, from B, H, the type and the device.

The time loop at B 32 is bound by latency, not by arithmetic: a step is fast when many programs
each do little. So tiles are small, a few tens of batch rows by 16 units with all their gates, and
one program walks the whole of K (H forward, G·H backward) because splitting K would need another
exchange.
"""

import dataclasses
import os

import torch
import triton

# Triton decides once, when a kernel is defined, whether it is interpreted.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on")


@dataclasses.dataclass(frozen=True)
class Tile:
    """One program's share: block_b batch rows × block_h units, walking K by block_k."""

    block_b: int
    block_h: int
    block_k: int
    num_warps: int
    num_stages: int


def step_tile(B: int, H: int, G: int, dtype: torch.dtype, input_precision: str, *,
              backward: bool = False) -> Tile:  # fmt: skip
    """Tile of the step kernel for a layer of G gates and H units over B sequences.

    `tl.dot` wants at least 16 in each dimension, so 16 is the smallest block; masks cover the rest.
    """
    if INTERPRETED:
        # No parallelism to gain: few programs with large blocks, still more than one where H > 64.
        return Tile(16 if B <= 16 else 32, 32 if H <= 32 else 64, 64, 4, 1)
    on_tensor_cores = uses_tensor_cores(dtype, input_precision)
    # Without tensor cores the arithmetic is what takes time: half as many rows, twice the programs.
    block_b = min(max(16, triton.next_power_of_2(B)), 32 if on_tensor_cores else 16)
    # 16 units give H/16 programs; a wide layer fills the card anyway and takes 32.
    block_h = 16 if H <= 2048 else 32
    block_k = 64 if on_tensor_cores else 32
    block_k = min(block_k, max(16, triton.next_power_of_2(G * H if backward else H)))
    return Tile(block_b, block_h, block_k, 4, 3)


def uses_tensor_cores(dtype: torch.dtype, input_precision: str) -> bool:
    """Half precision always does, float32 as TF32 only; IEEE float32 is plain multiply-adds."""
    return dtype.itemsize == 2 or (dtype == torch.float32 and input_precision == "tf32")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a kernel that keeps its weights on chip must know of a GPU.

    `shared_memory` is the most one program may have, in bytes.
    """

    name: str
    multiprocessors: int
    shared_memory: int


# Published figures, for compiling without the device: A100, H100 and H200, B200, MI300X.
# Sources: CUDA C++ Programming Guide, table of compute capabilities; AMD CDNA 3 white paper.
CHIPS = {
    "sm_80": Chip("A100", 108, 163 * 1024),
    "sm_90": Chip("H100/H200", 132, 227 * 1024),
    "sm_100": Chip("B200", 148, 227 * 1024),
    "gfx942": Chip("MI300X", 304, 64 * 1024),
}
