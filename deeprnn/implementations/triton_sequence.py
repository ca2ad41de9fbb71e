"""One Triton launch a sequence and layer, weights kept on the chip; interpreted without a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import State
from deeprnn.precision import get_matmul_precision
from deeprnn.stack import DeepRNN
from deeprnn.support import Request, Support, device_present
from deeprnn.triton_runtime import (
    INTERPRETED_ON,
    a_way_to_run_triton,
    describe_backend,
    loops_in_the_interpreter,
)
from kernels.function import sequence_layer, why_no_sequence
from kernels.prediction import predict


def room_on_the_chip(request: Request) -> str | None:
    """All programs at once, each with its slice of the weights."""
    return why_no_sequence(
        request.cell,
        request.batch_size,
        request.hidden_size,
        getattr(torch, request.dtype),
        request.matmul_precision,
        torch.device(request.device),
    )


class TritonSequence(DeepRNN):
    """The input product of all steps at once, then one kernel for all of time, each way.

    Programs own slices of hidden units and meet at a grid barrier after every step. In the
    interpreter there is one program a group of rows, and nobody to meet.
    """

    support = Support(
        requirements=(
            device_present,
            a_way_to_run_triton,
            loops_in_the_interpreter,
            room_on_the_chip,
        ),
        interpreted_on=INTERPRETED_ON,
    )

    timed_parts = ("stack", "recurrence")

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        weight_ih, _, bias_ih, _ = self.parameters_of(layer)
        return self.recurrence(layer, F.linear(x, weight_ih, bias_ih), state)

    def recurrence(self, layer: int, gates_x: Tensor, state: State) -> tuple[Tensor, State]:
        _, weight_hh, _, bias_hh = self.parameters_of(layer)
        y, final = sequence_layer(
            self.cell,
            gates_x,
            weight_hh,
            bias_hh,
            (state[0], state[1]) if len(state) == 2 else state[0],
            input_precision=get_matmul_precision(),
        )
        return y, final if isinstance(final, tuple) else (final,)

    @classmethod
    def predicted_microseconds(cls, request: Request) -> dict[str, float]:
        parts = predict(
            request.cell,
            request.batch_size,
            request.hidden_size,
            getattr(torch, request.dtype),
            request.matmul_precision,
        )
        return {direction: figures["step"] for direction, figures in parts.items()}

    def backend(self, y: Tensor) -> str:
        return describe_backend(y)
