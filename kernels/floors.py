"""What a step cannot be faster than: the parts of the sequence kernel, each alone.

    barrier    every program arrives and waits, T times; nothing else
    launch     a kernel that does nothing
    traffic    every program reads the rows that it would exchange and writes its slice; no waiting
               apart: the same, but neighbours never read the same rows at once

Measured beside the kernels, they tell which part of a step is worth work. Grids are those of the
sequence kernel, so they cost what they cost there. The fourth part, the matrix product alone, is
torch's own.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from kernels import chips, sequence, tiling
from kernels.cells import GATES
from kernels.gates import store_tile
from kernels.grid_barrier import STRIDE, arrive, wait
from kernels.product import under_way
from kernels.step import on_device_of

COUNTER_STRIDE = tl.constexpr(STRIDE)

ROWS_IN_L2 = 8
"""Steps whose rows the traffic floor reads: a few MiB of them."""

RING = tl.constexpr(ROWS_IN_L2)


@triton.jit
def launch_floor_kernel(counter_ptr):
    """Nothing. The argument makes it an ordinary launch, with a pointer to hand over."""


@triton.jit(do_not_specialize=["T"])
def barrier_floor_kernel(counter_ptr, T, PTX: tl.constexpr, COUNTERS: tl.constexpr):
    """T barriers among the slices of a group of rows, as `kernels/sequence.py` takes them.

    Who arrives at which counter is not the same, how many do is.
    """
    counter_ptr += tl.program_id(1) * (COUNTERS * COUNTER_STRIDE)
    slices = tl.num_programs(0) // COUNTERS
    for t in range(T):
        arrive(counter_ptr + tl.program_id(0) % COUNTERS * COUNTER_STRIDE, PTX)
        wait(counter_ptr, (t + 1) * slices, 0, PTX, COUNTERS)


@triton.jit(do_not_specialize=["T", "B"])
def traffic_floor_kernel(
    exchanged_ptr, out_ptr, T, B,
    H: tl.constexpr, K: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr, PTX: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """For each step: read rows of (RING, B, K) past L1, write this slice of (T, B, H).

    What is written is the rows' sum, so that the compiler cannot drop the reads. Steps do not wait
    for each other: this is what the bytes cost, without the latency of a chain. The rows that a
    step reads were written just before it and are in L2: so a few steps' rows are read over and
    over, because those of a long sequence would have to come from memory. As in the kernel all
    loads of a row are under way before the first is waited for, where registers suffice.

    In a step all programs read the same rows, and so they do here; unless APART, where each slice
    begins with rows of its own. What that is faster by is the price of meeting at the same lines.
    """
    rows = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    for t in range(T):
        step = tl.cast(t, tl.int64) * B
        there = tl.cast(t + (tl.program_id(0) if APART else 0), tl.int64) % RING * B
        total = tl.zeros((BLOCK_B,), dtype=tl.float32)
        for start in tl.static_range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            at = rows[:, None] * K + k[None, :]
            mask = (rows[:, None] < B) & (k[None, :] < K)
            tile = tl.load(
                exchanged_ptr + there * K + at, mask=mask, other=0.0, cache_modifier=".cg"
            )
            total += tl.sum(under_way(tile, PTX).to(tl.float32), axis=1)
        whole = tl.broadcast_to(total[:, None], (BLOCK_B, BLOCK_H))
        store_tile(out_ptr + step * H, rows, units, H, inside, whole)


def barrier(cell: str, B: int, H: int, T: int, dtype: torch.dtype, input_precision: str,
            device: torch.device, *, backward: bool = False) -> None:  # fmt: skip
    """T barriers on the sequence kernel's grid. Raises ValueError where that does not fit."""
    tile = sequence.tiles(B, H, cell, dtype, input_precision, device)[backward]
    counter = sequence.counters(B, H, tile, device)
    with on_device_of(counter):
        barrier_floor_kernel[sequence.grid(B, H, tile)](counter, T, **barrier_options(H, tile))


def launch(counter: torch.Tensor, T: int) -> None:
    """T launches of a kernel that does nothing, one program each."""
    with on_device_of(counter):
        for _ in range(T):
            launch_floor_kernel[(1,)](counter, num_warps=4, enable_fp_fusion=True)


def traffic(cell: str, exchanged: torch.Tensor, out: torch.Tensor, input_precision: str, *,
            backward: bool = False, apart: bool = False) -> None:  # fmt: skip
    """Read (ROWS_IN_L2, B, K) again and again and write (T, B, H), as the sequence kernel does.

    K is H, or backward G·H. With `apart` each slice of units begins at other rows. Raises
    ValueError where that kernel's grid does not fit.
    """
    T, B, H = out.shape
    K = GATES[cell] * H if backward else H
    tile = sequence.tiles(B, H, cell, out.dtype, input_precision, out.device)[backward]
    with on_device_of(out):
        traffic_floor_kernel[sequence.grid(B, H, tile)](
            exchanged, out, T, B, **traffic_options(H, K, tile, out.itemsize, apart=apart)
        )


def barrier_options(H: int, tile: tiling.Tile) -> dict[str, Any]:
    """What the barrier floor is launched with."""
    options = {"PTX": tile.ptx, "COUNTERS": sequence.counters_of(H, tile)}
    options |= {"num_warps": tile.num_warps, "enable_fp_fusion": True}
    return options | ({} if chips.INTERPRETED else {"launch_cooperative_grid": True})


def traffic_options(H: int, K: int, tile: tiling.Tile, itemsize: int, *,
                    apart: bool = False) -> dict[str, Any]:  # fmt: skip
    """What the traffic floor is launched with; rows of `itemsize` bytes an element.

    A row is read in one piece, unless that takes more registers than the kernel would use for it.
    """
    longest = tiling.REGISTERS_AHEAD * 4 * 32 * tile.num_warps // (tile.block_b * itemsize)
    options = {
        "H": H,
        "K": K,
        "BLOCK_B": tile.block_b,
        "BLOCK_H": tile.block_h,
        "BLOCK_K": min(triton.next_power_of_2(K), longest),
        "PTX": tile.ptx,
        "APART": apart,
        "num_warps": tile.num_warps,
        "enable_fp_fusion": True,
    }
    return options | ({"maxnreg": 255} if tile.ptx else {})
