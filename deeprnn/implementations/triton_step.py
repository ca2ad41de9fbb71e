"""One fused Triton launch a time step; interpreted where there is no GPU."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import State
from deeprnn.precision import get_matmul_precision
from deeprnn.stack import DeepRNN
from deeprnn.support import Support, device_present
from deeprnn.triton_runtime import INTERPRETED_ON, a_way_to_run_triton, describe_backend
from kernels.function import step_layer


class TritonStep(DeepRNN):
    """The input product of all steps at once, then one kernel launch a step, forward and backward.

    Float32 products inside the kernel follow the precision set for the products around it.
    """

    support = Support(
        requirements=(device_present, a_way_to_run_triton),
        interpreted_on=INTERPRETED_ON,
    )

    timed_parts = ("stack", "recurrence")

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        weight_ih, _, bias_ih, _ = self.parameters_of(layer)
        return self.recurrence(layer, F.linear(x, weight_ih, bias_ih), state)

    def recurrence(self, layer: int, gates_x: Tensor, state: State) -> tuple[Tensor, State]:
        _, weight_hh, _, bias_hh = self.parameters_of(layer)
        y, final = step_layer(
            self.cell,
            gates_x,
            weight_hh,
            bias_hh,
            (state[0], state[1]) if len(state) == 2 else state[0],
            input_precision=get_matmul_precision(),
        )
        return y, final if isinstance(final, tuple) else (final,)

    def backend(self, y: Tensor) -> str:
        return describe_backend(y)
