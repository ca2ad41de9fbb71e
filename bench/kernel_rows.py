"""The rows that a layer has in the tuning table: what is timed of it, how, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench.kernel_table import PRECISIONS, Spec, row_id
from deeprnn import implementations
from deeprnn.support import Request

EXECUTIONS = ("eager", "cuda_graph")
MODES = ("forward", "forward_backward")
MANY_LAUNCHES = ("launch", "product")
"""Floors that cost something else when each of their launches comes from Python."""


@dataclass(frozen=True)
class Row:
    """A row to come: its identity, why it cannot be filled, and what was reckoned for it."""

    spec: Spec
    part: str
    kernel: str
    execution: str
    mode: str
    refusal: str | None = None
    predicted: float | None = None
    tile: str = ""

    @property
    def id(self) -> str:
        return row_id(self.spec, self.part, self.kernel, self.execution, self.mode, self.tile)

    @classmethod
    def predicted_of(cls, spec: Spec, name: str) -> list[Row]:
        """The recurrence of ``name``, both ways, where somebody has reckoned what it takes."""
        try:
            found = implementations.load(name).predicted_microseconds(request_of(spec, "cuda"))
        except implementations.MissingPackage:
            found = {}
        if not found:
            return []
        both = found["forward"] + found["backward"]
        return [
            cls(spec, "recurrence", name, "cuda_graph", mode, predicted=value)
            for mode, value in zip(MODES, (found["forward"], both), strict=True)
        ]

    def columns(self) -> dict[str, Any]:
        return {
            "row_id": self.id,
            "part": self.part,
            "kernel": self.kernel,
            "execution": self.execution,
            "mode": self.mode,
            "tile": self.tile,
            **self.spec.columns(),
            "predicted_microseconds_per_step": self.predicted,
            "status": "unsupported" if self.refusal else "",
            "reason": self.refusal or "",
        }


def request_of(spec: Spec, device: str, execution: str = "eager") -> Request:
    dtype, matmul_precision = PRECISIONS[spec.precision]
    return Request(
        cell=spec.cell,
        device=device,
        dtype=dtype,
        matmul_precision=matmul_precision,
        execution=execution,
        input_size=spec.hidden_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        batch_size=spec.batch_size,
        num_steps=spec.num_steps,
    )


def rows_of(spec: Spec, device: str, with_tiles: bool = False) -> Iterator[Row]:
    """Every row of a layer: the kernels of all implementations that have some, then the floors.

    Stacks eager and as a CUDA graph, what lies inside of them as a graph alone, where there is one;
    ``with_tiles`` also each tile with which a kernel fits. At last the reference is timed once
    more: rows follow each other, and what a machine's speed did meanwhile shows in the two.
    """
    executions = EXECUTIONS if device == "cuda" else EXECUTIONS[:1]
    for name in implementations.names():
        try:
            kind = implementations.load(name)
        except implementations.MissingPackage:
            continue
        for execution in executions:
            request = request_of(spec, device, execution)
            refusal = kind.support.refusal(request)
            if "stack" in kind.timed_parts:
                for mode in MODES:
                    yield Row(spec, "stack", name, execution, mode, refusal)
            if "recurrence" in kind.timed_parts and execution == executions[-1]:
                predicted = {row.mode: row.predicted for row in Row.predicted_of(spec, name)}
                for mode in MODES:
                    value = predicted.get(mode)
                    yield Row(spec, "recurrence", name, execution, mode, refusal, value)
    from deeprnn.kernel_floors import floors_of

    for floor in floors_of(request_of(spec, device), torch.device(device)):
        for execution in executions if floor.name in MANY_LAUNCHES else executions[-1:]:
            yield Row(spec, "floor", floor.name, execution, floor.mode, floor.refusal)
    last = executions[-1]
    for name in implementations.names() if with_tiles else ():
        yield from _tiles_of(spec, name, device, last)
    refusal = implementations.why_unsupported(
        implementations.REFERENCE, request_of(spec, device, last)
    )
    yield Row(spec, "control", implementations.REFERENCE, last, MODES[-1], refusal)


def _tiles_of(spec: Spec, name: str, device: str, execution: str) -> Iterator[Row]:
    """A kernel with each of its tiles in turn, the usual one first, one direction at a time.

    A tile of the backward pass is timed forward + backward.
    """
    request = request_of(spec, device, execution)
    if implementations.why_unsupported(name, request):
        return
    for tile in implementations.load(name).tile_choices(request):
        mode = MODES[0] if tile.startswith("forward ") else MODES[1]
        yield Row(spec, "tile", name, execution, mode, tile=tile)
