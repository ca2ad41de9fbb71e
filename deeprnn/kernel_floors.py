"""What a recurrent layer on a GPU cannot be faster than, as functions to time.

Each does T times what one step has to do, and nothing else: the grid barrier, a launch, the
recurrent matrix product, the traffic between programs (``kernels/floors.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from deeprnn.cells import GATES
from deeprnn.support import Request
from kernels import floors
from kernels.function import why_no_sequence


@dataclass(frozen=True)
class Floor:
    """``run`` does T steps of ``name``; ``refusal`` says in one line why it cannot."""

    name: str
    mode: str  # "forward" or "backward": whose shapes
    run: Callable[[], None]
    refusal: str | None = None


def floors_of(request: Request, device: torch.device) -> list[Floor]:
    """The floors of one layer of ``request``; buffers are allocated on ``device`` when they run.

    Barrier and traffic use the grid of the sequence kernel and are refused where it does not fit.
    ``traffic_apart`` is ``traffic`` without programs that meet at the same rows.
    """
    cell, B, H, T = request.cell, request.batch_size, request.hidden_size, request.num_steps
    dtype, precision = getattr(torch, request.dtype), request.matmul_precision
    refusal = why_no_sequence(cell, B, H, dtype, precision, device)
    found = [Floor("launch", "forward", _launches(T, device))]
    for mode, backward in (("forward", False), ("backward", True)):
        wide = GATES[cell] * H
        rows, columns = (wide, H) if backward else (H, wide)

        def barrier(backward: bool = backward) -> None:
            floors.barrier(cell, B, H, T, dtype, precision, device, backward=backward)

        found += [
            Floor("barrier", mode, barrier, refusal),
            Floor("product", mode, _products(T, B, rows, columns, dtype, device)),
        ]
        for name, apart in (("traffic", False), ("traffic_apart", True)):
            run = _traffic(cell, (T, B, rows), H, dtype, precision, device, backward, apart)
            found.append(Floor(name, mode, run, refusal))
    return found


def _launches(T: int, device: torch.device) -> Callable[[], None]:
    made: list[torch.Tensor] = []

    def run() -> None:
        if not made:
            made.append(torch.zeros(1, dtype=torch.int32, device=device))
        floors.launch(made[0], T)

    return run


def _products(
    T: int, B: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    made: list[torch.Tensor] = []

    def run() -> None:
        if not made:
            made.append(torch.randn(B, rows, device=device, dtype=dtype))
            made.append(torch.randn(columns, rows, device=device, dtype=dtype))
            made.append(torch.empty(B, columns, device=device, dtype=dtype))
        for _ in range(T):
            torch.mm(made[0], made[1].t(), out=made[2])

    return run


def _traffic(
    cell: str,
    shape: tuple[int, int, int],
    H: int,
    dtype: torch.dtype,
    precision: str,
    device: torch.device,
    backward: bool,
    apart: bool,
) -> Callable[[], None]:
    made: list[torch.Tensor] = []

    def run() -> None:
        if not made:
            rows = (floors.ROWS_IN_L2, *shape[1:])
            made.append(torch.randn(rows, device=device, dtype=dtype))
            made.append(torch.empty(*shape[:2], H, device=device, dtype=dtype))
        floors.traffic(cell, made[0], made[1], precision, backward=backward, apart=apart)

    return run
