"""One fused Triton launch a time step; interpreted where there is no GPU."""

from __future__ import annotations

from deeprnn.support import Support, device_present
from deeprnn.triton_runtime import INTERPRETED_ON, LayerByLayer, a_way_to_run_triton
from kernels.function import step_layer


class TritonStep(LayerByLayer):
    """The input product of all steps at once, then one kernel launch a step, each way."""

    support = Support(
        requirements=(device_present, a_way_to_run_triton),
        interpreted_on=INTERPRETED_ON,
    )

    recurrent_layer = staticmethod(step_layer)
