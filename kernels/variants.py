"""Every kernel as it is launched at the published sizes: what is compiled without a GPU.

Each with its own launcher's compile-time arguments, on the tile that `kernels/tiling.py` chooses
for the target.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from kernels import floors, sequence, step, tiling, wavefront
from kernels.cells import GATES
from kernels.chips import CHIPS

# cell, H: the layers of the published runs, all at B 32
PUBLISHED = {"lstm": 256, "gru": 256, "rnn_tanh": 512}
BATCH = 32
WAVEFRONT_LAYERS = 2

PRECISIONS = {
    "ieee": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
}

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One kernel with its compile-time arguments."""

    kernel: str
    cell: str
    H: int
    precision: str
    target: str
    function: Any
    options: dict[str, Any]
    tile: tiling.Tile | None = None


def variants(kernels: Iterable[str], cells: Iterable[str], precisions: Iterable[str],
             targets: Iterable[str]) -> Iterator[Variant]:  # fmt: skip
    """Every kernel at the published size of its cell, for every precision and target asked for."""
    for target in targets:
        for cell in cells:
            for precision in precisions:
                for kernel in kernels:
                    yield from KERNELS[kernel](kernel, cell, PUBLISHED[cell], precision, target)


def step_variant(kernel: str, cell: str, H: int, precision: str,
                 target: str) -> Iterator[Variant]:  # fmt: skip
    """The step kernel as `kernels.step` launches it."""
    dtype, input_precision = PRECISIONS[precision]
    backward = kernel == "step_backward"
    tile = tiling.step_tile(BATCH, H, GATES[cell], dtype, input_precision, backward=backward)
    options = step.compile_options(cell, H, dtype, tile, input_precision)
    if backward:
        options |= {"LAST": False, "INITIAL": False}
        yield Variant(kernel, cell, H, precision, target, step.step_backward_kernel, options)
    else:
        options |= {"SAVE": True}
        yield Variant(kernel, cell, H, precision, target, step.step_forward_kernel, options)


def looping_variant(kernel: str, cell: str, H: int, precision: str,
                    target: str) -> Iterator[Variant]:  # fmt: skip
    """A kernel that loops over time, of a layer or of a stack, if it fits on the chip.

    With the options that `kernels.sequence` and `kernels.wavefront` launch it with.
    """
    dtype, input_precision = PRECISIONS[precision]
    marked = kernel.startswith(("dataflow", "marked"))
    is_wavefront, backward = "wavefront" in kernel, kernel.endswith("backward")
    tiles = tiling.sequence_tiles(
        BATCH, H, GATES[cell], dtype, input_precision, CHIPS[target],
        WAVEFRONT_LAYERS if is_wavefront else 1, marked,
    )  # fmt: skip
    if isinstance(tiles, str):
        return
    options = {"MARKED": marked} | sequence.launch_options(
        cell, H, dtype, tiles[backward], input_precision
    )
    if not is_wavefront:
        options |= {"COUNTERS": sequence.counters_of(H, tiles[backward])}
    if not backward:
        options |= {"SAVE": True}
    function = LOOPING[is_wavefront][backward]
    yield Variant(kernel, cell, H, precision, target, function, options, tiles[backward])


LOOPING: tuple[tuple[Any, Any], tuple[Any, Any]] = (
    (sequence.sequence_forward_kernel, sequence.sequence_backward_kernel),
    (wavefront.wavefront_forward_kernel, wavefront.wavefront_backward_kernel),
)


def floor_variant(kernel: str, cell: str, H: int, precision: str,
                  target: str) -> Iterator[Variant]:  # fmt: skip
    """A floor of `kernels.floors` on the grid of the backward kernel, whose rows are longest."""
    dtype, input_precision = PRECISIONS[precision]
    tiles = tiling.sequence_tiles(BATCH, H, GATES[cell], dtype, input_precision, CHIPS[target])
    if isinstance(tiles, str):
        return
    if kernel == "floor_barrier":
        function: Any = floors.barrier_floor_kernel
        options = floors.barrier_options(H, tiles[1])
    else:
        function = floors.traffic_floor_kernel
        options = floors.traffic_options(H, GATES[cell] * H, tiles[1], dtype.itemsize)
    yield Variant(kernel, cell, H, precision, target, function, options)


KERNELS = {
    "step_forward": step_variant,
    "step_backward": step_variant,
    "sequence_forward": looping_variant,
    "sequence_backward": looping_variant,
    "dataflow_forward": looping_variant,
    "dataflow_backward": looping_variant,
    "wavefront_forward": looping_variant,
    "wavefront_backward": looping_variant,
    "marked_wavefront_forward": looping_variant,
    "marked_wavefront_backward": looping_variant,
    "floor_barrier": floor_variant,
    "floor_traffic": floor_variant,
}


def exchanges(kernel: str) -> bool:
    """Whether a launch is a whole sequence that reads rows in every step."""
    return not kernel.startswith("step") and kernel != "floor_barrier"


def has_product(kernel: str) -> bool:
    """Whether there is a matrix product in a kernel at all."""
    return not kernel.startswith("floor")
