"""The tuning table: which layers are timed, and the columns of ``kernels.csv``.

A row is one figure: microseconds a step of one part (a stack of layers with all its products, the
recurrence alone, a floor, or a kernel with another tile) of one kernel, one way of running it, one
direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.results import Table

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")

PRECISIONS = {
    "ieee": ("float32", "ieee"),
    "tf32": ("float32", "tf32"),
    "bfloat16": ("bfloat16", "ieee"),
    "float16": ("float16", "ieee"),
}
"""What ``--precision`` accepts: the type, and how its float32 products are made."""

KERNELS = Table(
    "kernels.csv",
    {
        "row_id": str,
        "status": str,
        "reason": str,
        # stack | recurrence | floor | control: the first kernel's stack once more | tile: a
        # recurrence, or where a kernel has none by itself a stack, with a tile of its own
        "part": str,
        "kernel": str,  # an implementation, or a floor's name
        "backend": str,
        "cell": str,
        "num_layers": int,  # of the stack; recurrences and floors are one layer
        "hidden_size": int,  # and the input's size
        "batch_size": int,
        "num_steps": int,
        "dtype": str,
        "matmul_precision": str,
        "execution": str,  # eager | cuda_graph
        "mode": str,  # forward | backward | forward_backward
        "tile": str,  # of the part "tile": its direction, rows x units of a program, what differs
        "device": str,
        "microseconds_per_step": float,  # median: the whole part's time over T
        "microseconds_per_step_low": float,  # 95 % interval of the median
        "microseconds_per_step_high": float,
        "samples": int,
        "calls_per_sample": int,
        "sm_clock_mhz": float,  # after the last sample
        "mark": str,  # "", throttled (why) or contended, as in rounds.csv
        "gradient_error": float,  # the largest relative error that was found before timing
        "predicted_microseconds_per_step": float,  # reckoned for an H100 or H200
        "run_id": str,
        "commit": str,
    },
    added=("tile",),
)


@dataclass(frozen=True)
class Spec:
    """Layers as wide inside as their input, in the symbols of the project."""

    cell: str
    num_layers: int
    hidden_size: int
    batch_size: int
    num_steps: int
    precision: str

    @property
    def id(self) -> str:
        return (
            f"{self.cell}-L{self.num_layers}-H{self.hidden_size}-B{self.batch_size}"
            f"-T{self.num_steps}-{self.precision}"
        )

    def columns(self) -> dict[str, object]:
        """Its part of a row."""
        dtype, matmul_precision = PRECISIONS[self.precision]
        fields = asdict(self)
        del fields["precision"]
        return {**fields, "dtype": dtype, "matmul_precision": matmul_precision}


PUBLISHED = (("lstm", 256), ("gru", 256), ("rnn_tanh", 512))

DEFAULT_SPECS = (
    *(Spec(cell, 2, hidden_size, 32, 35, "tf32") for cell, hidden_size in PUBLISHED),
    # where others have published microseconds a step, on an H100
    Spec("lstm", 1, 768, 16, 1024, "bfloat16"),
    *(Spec(cell, 2, hidden_size, 32, 35, "ieee") for cell, hidden_size in PUBLISHED),
    Spec("lstm", 1, 768, 16, 1024, "float16"),
    Spec("lstm", 2, 256, 32, 35, "float16"),
    # four times as many steps: what they add is a step without the launch
    Spec("lstm", 2, 256, 32, 140, "tf32"),
)
"""The published layers, the sizes and types at which the vendor's library is fastest, and one layer
with another T. The last come last: where time is short, they are what is left out."""


def specs(
    cells: Sequence[str],
    hidden: Sequence[int],
    batch: Sequence[int],
    steps: Sequence[int],
    precisions: Sequence[str],
    layers: Sequence[int],
) -> list[Spec]:
    """The default set, or, where anything is given, all combinations of it.

    What is not given is then the published layer's: its H, B 32, T 35, one layer, TF32.

    Raises:
        ValueError: an unknown cell or precision, or a size below 1; what is accepted is named.
    """
    for option, given, accepted in (
        ("--cell", cells, CELLS),
        ("--precision", precisions, tuple(PRECISIONS)),
    ):
        for value in given:
            if value not in accepted:
                raise ValueError(f"{option} {value!r} is unknown; use {', '.join(accepted)}")
    for option, sizes in (
        ("--hidden", hidden),
        ("--batch", batch),
        ("--steps", steps),
        ("--layers", layers),
    ):
        for size in sizes:
            if size < 1:
                raise ValueError(f"{option} {size} is too small; give 1 or more")
    if not (cells or hidden or batch or steps or precisions or layers):
        return list(DEFAULT_SPECS)
    published = dict(PUBLISHED)
    return [
        Spec(cell, num_layers, size, batch_size, num_steps, precision)
        for cell in cells or published
        for size in hidden or (published.get(cell, published["rnn_tanh"]),)
        for batch_size, num_steps, precision, num_layers in itertools.product(
            batch or (32,), steps or (35,), precisions or ("tf32",), layers or (1,)
        )
    ]


def row_id(spec: Spec, part: str, kernel: str, execution: str, mode: str, tile: str = "") -> str:
    """Stable and readable: ``lstm-L2-H256-B32-T35-tf32/stack/torch_nn/cuda_graph/forward``."""
    parts = (spec.id, part, kernel, execution, mode, tile.replace(", ", "-").replace(" ", "-"))
    return "/".join(filter(None, parts))
