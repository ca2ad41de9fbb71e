"""What a step of the sequence kernel should take on an H100 or H200, reckoned before measuring.

A step is a chain, one part after the other:

    barrier     everybody arrives, everybody sees it; with marked rows there is none
    exchange    the rows of h (or dgates) come from L2: a latency, then bytes; with marked rows
                also the way of what is written to L2, and the look that came too early
    product     arithmetic, or what it needs from shared memory, if that takes longer
    rest        the warps' sums meet, gates, the write of the new slice
    below       in a wavefront: rows and product of the other layer, as far as they take longer than
                it takes for one's own rows to come

The figures below are assumptions, by others or from data sheets; none was measured by this
project. The reckoning is there to be held against a measurement: the part that is off by most is
the one to look at.
"""

import torch

from kernels.cells import GATES
from kernels.chips import CHIPS
from kernels.tiling import Tile, columns_of, sequence_tiles, uses_tensor_cores

CLOCK = 1700.0  # cycles a microsecond under load; the H100 data sheet allows up to 1980
BARRIER = 0.6  # microseconds, a grid barrier on a recent card; by others. It took 0.9 on an H200
# Cycles, to the half of L2 that is near; published microbenchmarks of the H100, by which the far
# half takes some 200 more.
L2_LATENCY = 270.0
WRITE_TRIPS = 1.0  # of the same latency, until others can see what was written; a guess
# A cycle and multiprocessor, when all of them read: 64 is what the path takes, measured by others
# were 35 (H100 PCIe) to 43 (H200).
L2_BYTES = 38.0
SHARED_BYTES = 128.0  # a cycle and multiprocessor
# One 16×8×8 TF32 (or 16×8×16 bfloat16) instruction of a warp. By the data sheet's rate it is four,
# of which `mma.sync` is said to reach six tenths on Hopper.
TENSOR_CORE_CYCLES = 8.0
MULTIPLY_ADDS = 128.0  # float32, a cycle and multiprocessor, if nothing is in the way
REST = 400.0  # cycles; a guess


def microseconds_a_step(tile: Tile, H: int, G: int, dtype: torch.dtype, input_precision: str,
                        backward: bool, layers: int = 1) -> dict[str, float]:  # fmt: skip
    """The parts of one step and their sum, in microseconds. Independent of B while a grid fits.

    With more than one of `layers`: of one link of a wavefront, of which there are T + layers − 1.
    """
    k = G * H if backward else H
    columns = columns_of(tile.block_h, G, backward)
    exchanged = tile.block_b * k * dtype.itemsize
    on_tensor_cores = uses_tensor_cores(dtype, input_precision)
    # Plain multiply-adds read both numbers from shared memory, and use each as often as a thread
    # has columns or rows: four times, or two where there is not enough for all threads.
    uses = 4 if tile.block_b * columns * tile.shares >= 16 * 128 else 2
    plain = tile.block_b * k * columns * 2 * dtype.itemsize / uses
    if tile.in_registers and not on_tensor_cores:
        plain = 0.0  # weights are there, and rows come as fast from L2 as they are used
    kept = 0.0 if tile.in_registers else k * columns * dtype.itemsize
    through_shared = kept if on_tensor_cores else plain
    through_shared += exchanged if tile.staged else 0
    if tile.staged and on_tensor_cores:
        through_shared += exchanged  # written, then read
    through_shared /= SHARED_BYTES
    if on_tensor_cores:
        depth = 8 if dtype.itemsize == 4 else 16
        instructions = (k / tile.num_warps / depth) * max(1, tile.block_b / 16) * (columns / 8)
        arithmetic = instructions * TENSOR_CORE_CYCLES
    else:
        arithmetic = tile.block_b * columns * k / MULTIPLY_ADDS
    look = L2_LATENCY + exchanged / L2_BYTES
    # With marks programs look again and again, at all rows: when the last one is there, a look is
    # half over on average.
    before = WRITE_TRIPS * L2_LATENCY + look / 2 if tile.marked else 0.0
    parts = {
        "barrier": 0.0 if tile.marked else BARRIER,
        "exchange": (before + look) / CLOCK,
        "product": max(through_shared, arithmetic) / CLOCK,
        "rest": REST / CLOCK,
    }
    # The other layer is ahead: its rows are there. While they come and are multiplied, one's own
    # are on their way.
    below = look / CLOCK + parts["product"]
    on_the_way = parts["barrier"] + before / CLOCK
    parts["below"] = max(0.0, below - on_the_way) if layers > 1 else 0.0
    return parts | {"step": sum(parts.values())}


def predict(cell: str, B: int, H: int, dtype: torch.dtype, input_precision: str, *,
            marked: bool = False, layers: int = 1) -> dict[str, dict[str, float]]:  # fmt: skip
    """The parts of a step by direction, "forward" and "backward"; empty where it does not fit.

    Of the sequence kernel, or of the dataflow kernel, if rows are `marked`; with more `layers` of
    a link of the wavefront, with counters or with marked rows.
    """
    G = GATES[cell]
    tiles = sequence_tiles(B, H, G, dtype, input_precision, CHIPS["sm_90"], layers, marked)
    if isinstance(tiles, str):
        return {}
    return {
        direction: microseconds_a_step(
            tile, H, G, dtype, input_precision, direction == "backward", layers
        )
        for direction, tile in zip(("forward", "backward"), tiles, strict=True)
    }


def main() -> None:
    """Print the reckoning for the published sizes."""
    from kernels.variants import BATCH, PRECISIONS, PUBLISHED, WAVEFRONT_LAYERS

    print(
        "| kernel | cell | H | precision | direction | barrier | exchange | product | rest | below "
        "| µs a step |"
    )
    print("|---" * 11 + "|")
    kernels = {"sequence": (False, 1), "dataflow": (True, 1)}
    kernels |= {
        "wavefront": (False, WAVEFRONT_LAYERS),
        "marked wavefront": (True, WAVEFRONT_LAYERS),
    }
    for kernel, (marked, layers) in kernels.items():
        for cell, H in PUBLISHED.items():
            for precision, (dtype, input_precision) in PRECISIONS.items():
                found = predict(
                    cell, BATCH, H, dtype, input_precision, marked=marked, layers=layers
                )
                for direction, parts in found.items():
                    figures = " | ".join(f"{value:.2f}" for value in parts.values())
                    print(f"| {kernel} | {cell} | {H} | {precision} | {direction} | {figures} |")


if __name__ == "__main__":
    main()
