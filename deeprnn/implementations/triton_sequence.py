"""One Triton launch a sequence and layer, weights kept on the chip; interpreted without a GPU."""

from __future__ import annotations

import torch

from deeprnn.support import Request, Support, device_present
from deeprnn.triton_runtime import (
    INTERPRETED_ON,
    LayerByLayer,
    a_way_to_run_triton,
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


class TritonSequence(LayerByLayer):
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

    recurrent_layer = staticmethod(sequence_layer)

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
