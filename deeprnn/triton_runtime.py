"""What Triton implementations share: where kernels can run, layer after layer, what ran them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import GATES, State
from deeprnn.precision import get_matmul_precision
from deeprnn.stack import DeepRNN, TileChoices
from deeprnn.support import Request, Requirement
from kernels.chips import INTERPRETED, chip_of
from kernels.function import why_no_sequence
from kernels.prediction import predict
from kernels.tiling import taking, tiles_that_fit

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
    if INTERPRETED and _version(triton) < (3, 9) and _version(numpy) >= (2, 4):
        return (
            f"the interpreter of Triton {triton.__version__} cannot loop with NumPy "
            f"{numpy.__version__}: install triton>=3.9 or numpy<2.4"
        )
    return None


def a_gpu_to_train_on(request: Request) -> str | None:
    """Not an interpreter: there one Triton implementation of each kind is trained, not all."""
    if request.device == "cuda":
        return None
    return "needs a GPU; in the interpreter its kernel is checked by the tests alone"


def room_on_the_chip(*, marked: bool) -> Requirement:
    """All programs of the sequence kernel at once, or of the dataflow kernel, if ``marked``."""

    def room(request: Request) -> str | None:
        return why_no_sequence(
            request.cell,
            request.batch_size,
            request.hidden_size,
            getattr(torch, request.dtype),
            request.matmul_precision,
            torch.device(request.device),
            marked=marked,
        )

    return room


def predicted_steps(request: Request, *, marked: bool) -> dict[str, float]:
    """Microseconds a step by direction, reckoned before measuring (``kernels/prediction.py``)."""
    parts = predict(
        request.cell,
        request.batch_size,
        request.hidden_size,
        getattr(torch, request.dtype),
        request.matmul_precision,
        marked=marked,
    )
    return {direction: figures["step"] for direction, figures in parts.items()}


def choices_of_tiles(request: Request, *, marked: bool, layers: int = 1) -> TileChoices:
    """``DeepRNN.tile_choices`` of a kernel that keeps its weights on the chip."""
    fitting = tiles_that_fit(
        request.batch_size,
        request.hidden_size,
        GATES[request.cell],
        getattr(torch, request.dtype),
        request.matmul_precision,
        chip_of(torch.device(request.device)),
        layers,
        marked,
    )
    if isinstance(fitting, str):
        return {}
    return {
        f"{direction} {tile.name}": partial(taking, tile, backward=direction == "backward")
        for direction, tiles in zip(("forward", "backward"), fitting, strict=True)
        if len(tiles) > 1
        for tile in tiles
    }


def describe_backend(y: Tensor) -> str:
    """Triton's version and the GPU, or that it was interpreted."""
    how = "interpreted" if INTERPRETED else torch.cuda.get_device_name(y.device)
    return f"Triton {triton.__version__}, {how}"


def gates_and_bias(
    cell: str, x: Tensor, weight_ih: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> tuple[Tensor, Tensor]:
    """The input product of all steps ``(T, B, G·H)``, and the bias that a kernel is to add to it.

    Where a cell only ever adds both biases, the kernel gets their sum: they have one gradient, and
    its sum over time and batch is made once, not twice. A GRU's reset gate acts on one of them.
    """
    if cell == "gru":
        return F.linear(x, weight_ih, bias_ih), bias_hh
    return F.linear(x, weight_ih), bias_ih + bias_hh


class LayerByLayer(DeepRNN):
    """The input product of all steps at once, then ``recurrent_layer`` for what lies inside time.

    Float32 products inside the kernels follow the precision set for the products around them.
    """

    recurrent_layer: ClassVar[Callable[..., tuple[Tensor, Tensor | tuple[Tensor, Tensor]]]]
    """One of ``kernels.function``, as a ``staticmethod``."""

    timed_parts = ("stack", "recurrence")
    has_gradient_by_hand = True

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        weight_ih, _, bias_ih, bias_hh = self.parameters_of(layer)
        gates_x, bias = gates_and_bias(self.cell, x, weight_ih, bias_ih, bias_hh)
        return self._recurrence(layer, gates_x, bias, state)

    def recurrence(self, layer: int, gates_x: Tensor, state: State) -> tuple[Tensor, State]:
        return self._recurrence(layer, gates_x, self.parameters_of(layer)[3], state)

    def _recurrence(
        self, layer: int, gates_x: Tensor, bias: Tensor, state: State
    ) -> tuple[Tensor, State]:
        y, final = self.recurrent_layer(
            self.cell,
            gates_x,
            self.parameters_of(layer)[1],
            bias,
            (state[0], state[1]) if len(state) == 2 else state[0],
            input_precision=get_matmul_precision(),
        )
        return y, final if isinstance(final, tuple) else (final,)

    def backend(self, y: Tensor) -> str:
        return describe_backend(y)


def _version(package: object) -> tuple[int, int]:
    major, minor = str(package.__version__).split(".")[:2]  # type: ignore[attr-defined]
    return int(major), int(minor)
