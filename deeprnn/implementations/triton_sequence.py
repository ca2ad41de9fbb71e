"""One Triton launch a sequence and layer, weights kept on the chip; interpreted without a GPU."""

from __future__ import annotations

from deeprnn.stack import TileChoices
from deeprnn.support import Request, Support, device_present
from deeprnn.triton_runtime import (
    INTERPRETED_ON,
    LayerByLayer,
    a_way_to_run_triton,
    choices_of_tiles,
    loops_in_the_interpreter,
    predicted_steps,
    room_on_the_chip,
)
from kernels.function import sequence_layer


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
            room_on_the_chip(marked=False),
        ),
        interpreted_on=INTERPRETED_ON,
    )

    recurrent_layer = staticmethod(sequence_layer)

    @classmethod
    def predicted_microseconds(cls, request: Request) -> dict[str, float]:
        return predicted_steps(request, marked=False)

    @classmethod
    def tile_choices(cls, request: Request) -> TileChoices:
        return choices_of_tiles(request, marked=False)
