"""One Triton launch a stack: all layers at once, each a step behind the one below it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import State
from deeprnn.precision import get_matmul_precision
from deeprnn.stack import DeepRNN, TileChoice, TileChoices
from deeprnn.support import Request, Support, device_present
from deeprnn.triton_runtime import (
    INTERPRETED_ON,
    a_gpu_to_train_on,
    a_way_to_run_triton,
    choices_of_tiles,
    describe_backend,
    loops_in_the_interpreter,
)
from kernels.stack import counting, takes_marks, wavefront_stack, why_no_wavefront


def neighbours(recurrent: tuple[bool, ...]) -> list[tuple[bool, list[int]]]:
    """Runs of neighbouring layers that are recurrent, or are not."""
    runs = groupby(range(len(recurrent)), lambda layer: recurrent[layer])
    return [(is_recurrent, list(layers)) for is_recurrent, layers in runs]


def longest_run(request: Request) -> int:
    """How many neighbouring layers are recurrent, at most."""
    recurrent = request.recurrent or (True,) * request.num_layers
    return max((len(layers) for is_on, layers in neighbours(recurrent) if is_on), default=0)


def a_layer_behind_another(request: Request) -> str | None:
    """Two recurrent layers or more, one upon the other."""
    if longest_run(request) >= 2:
        return None
    return "a wavefront takes two neighbouring recurrent layers or more; triton_sequence runs one"


def room_for_all_layers(request: Request) -> str | None:
    """All programs of all layers at once, each with two slices of weights."""
    layers = (
        request.cell,
        request.batch_size,
        request.hidden_size,
        longest_run(request),
        getattr(torch, request.dtype),
        request.matmul_precision,
        torch.device(request.device),
    )
    return None if takes_marks(*layers) else why_no_wavefront(*layers)


def _counted(take: TileChoice) -> TileChoice:
    """The tile ``take`` of a stack that counts arrivals instead of marking rows."""

    @contextmanager
    def both() -> Iterator[None]:
        with counting(), take():
            yield

    return both


class TritonWavefront(DeepRNN):
    """The first layer's input product, then one kernel for all layers and all of time, each way.

    Layers that have no recurrence stand outside of the kernel and divide the stack.
    """

    support = Support(
        requirements=(
            device_present,
            a_gpu_to_train_on,
            a_way_to_run_triton,
            loops_in_the_interpreter,
            a_layer_behind_another,
            room_for_all_layers,
        ),
        interpreted_on=INTERPRETED_ON,
    )
    timed_parts = ("stack",)
    has_gradient_by_hand = True

    @classmethod
    def tile_choices(cls, request: Request) -> TileChoices:
        layers = longest_run(request)
        size = (request.cell, request.batch_size, request.hidden_size, layers)
        kind = (getattr(torch, request.dtype), request.matmul_precision)
        if layers < 2:
            return {}
        counted = choices_of_tiles(request, marked=False, layers=layers)
        if not takes_marks(*size, *kind, torch.device(request.device)):
            return counted
        found = choices_of_tiles(request, marked=True, layers=layers)
        return found | {f"{name}, counters": _counted(take) for name, take in counted.items()}

    def stack(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        finals: list[State] = []
        for is_recurrent, layers in neighbours(self.recurrent):
            part = tuple(s[layers[0] : layers[-1] + 1] for s in state)
            if is_recurrent:
                x, final = self._together(layers, x, part)
                finals.append(final)
            else:
                for layer in layers:
                    x, final = self.any_layer(layer, x, ())
                    finals.append(tuple(s.unsqueeze(0) for s in final))
        if len(finals) == 1:  # all layers: nothing to put together, and a copy of it costs a kernel
            return x, finals[0]
        return x, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _together(self, layers: list[int], x: Tensor, state: State) -> tuple[Tensor, State]:
        """Neighbouring recurrent layers: ``x (T, B, ·)``, a state of ``(L, B, H)`` each."""
        weight_ih, *parameters = (p for layer in layers for p in self.parameters_of(layer))
        y, final = wavefront_stack(
            self.cell,
            F.linear(x, weight_ih),
            parameters,
            (state[0], state[1]) if len(state) == 2 else state[0],
            input_precision=get_matmul_precision(),
            marked=self._is_marked(len(layers), state[0]),
        )
        return y, final if isinstance(final, tuple) else (final,)

    def _is_marked(self, num_layers: int, h: Tensor) -> bool:
        """Whether rows say if they are written; else arrivals are counted. ``h (·, B, H)``."""
        B, H = h.shape[1:]
        precision = get_matmul_precision()
        return takes_marks(self.cell, B, H, num_layers, h.dtype, precision, h.device)

    def backend(self, y: Tensor) -> str:
        num_layers = max(len(run) for is_on, run in neighbours(self.recurrent) if is_on)
        how = "marked rows" if self._is_marked(num_layers, y) else "counters"
        return f"{describe_backend(y)}, {how}"
