"""One Triton launch a sequence and layer, and no barrier: rows say whether they are there."""

from __future__ import annotations

from deeprnn.stack import TileChoices
from deeprnn.support import Request, Support, device_present
from deeprnn.triton_runtime import (
    INTERPRETED_ON,
    LayerByLayer,
    a_gpu_to_train_on,
    a_way_to_run_triton,
    choices_of_tiles,
    loops_in_the_interpreter,
    predicted_steps,
    room_on_the_chip,
)
from kernels.function import dataflow_layer


class TritonDataflow(LayerByLayer):
    """``triton_sequence`` without its grid barrier.

    A program reads the rows that it needs until they are written, and waits for nobody else.
    """

    support = Support(
        requirements=(
            device_present,
            a_gpu_to_train_on,
            a_way_to_run_triton,
            loops_in_the_interpreter,
            room_on_the_chip(marked=True),
        ),
        interpreted_on=INTERPRETED_ON,
    )

    recurrent_layer = staticmethod(dataflow_layer)

    @classmethod
    def predicted_microseconds(cls, request: Request) -> dict[str, float]:
        return predicted_steps(request, marked=True)

    @classmethod
    def tile_choices(cls, request: Request) -> TileChoices:
        return choices_of_tiles(request, marked=True)
