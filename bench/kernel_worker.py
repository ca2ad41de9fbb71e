"""The child process that times kernels, row by row.

It is started as ``python -m bench.kernel_worker`` and speaks JSON, one object a line: the job comes
in, the rows that it could fill go out. Then either ids of rows come in, and each is announced
before it is measured and sent when it is; or one row after the other whose kernel is to be
compiled, and each is answered when it is. So the parent knows what hung or crashed, and goes on
behind it with another child.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench import environment, measurement, verification
from bench.kernel_rows import Row, request_of, rows_of
from bench.kernel_table import PRECISIONS, Spec
from bench.kernel_timing import MOST_ROUNDING, ResultDiffers, Timing, time_on_gpu
from bench.statistics import median_interval
from bench.worker import failure
from deeprnn import implementations
from deeprnn.stack import DeepRNN

SEED = 1
MOST_STEPS_CHECKED = 64
"""Longer layers are checked over so many steps: T is an argument of the kernels, and the reference
runs in float64 on a CPU."""

Timer = Callable[[Callable[[], object], str, float], Timing]


class Bench:
    """Fills rows. What rows of one kernel share, built and checked, is kept until the next kernel.

    Args:
        device: ``"cuda"``; tests give ``"cpu"`` with a timer of their own.
        timer: times a call that is eager or to be captured.
    """

    def __init__(self, device: str, timer: Timer = time_on_gpu) -> None:
        self.device = torch.device(device)
        self.timer = timer
        self._built: tuple[tuple[Spec, str, str], _Checked] | None = None

    def compile(self, row: Row) -> None:
        """Build and check what ``row`` times, so that its kernels lie in the compilers' cache.

        Errors are kept quiet: the row meets them again, where they become its status.
        """
        with contextlib.suppress(Exception), self._tile_of(row):
            self._set_precision(row)
            if row.part == "floor":
                self._floor(row)()
            else:
                self._checked(row)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

    def fill(self, row: Row) -> dict[str, Any]:
        """The measured columns of ``row``; a failure is a status with its reason."""
        try:
            self._set_precision(row)
            with self._tile_of(row):
                return {**row.columns(), **self._measure(row)}
        except ResultDiffers as error:
            return {**row.columns(), "status": "incorrect", "reason": str(error)}
        except Exception as error:
            self._built = None
            return {**row.columns(), **failure(error)}

    def _tile_of(self, row: Row) -> contextlib.AbstractContextManager[None]:
        """Within it kernels take the tile that ``row`` is about, if it is about one."""
        if not row.tile:
            return contextlib.nullcontext()
        request = request_of(row.spec, self.device.type, row.execution)
        return implementations.load(row.kernel).tile_choices(request)[row.tile]()

    def _set_precision(self, row: Row) -> None:
        dtype, matmul_precision = PRECISIONS[row.spec.precision]
        measurement.set_precision(matmul_precision, dtype)

    def _measure(self, row: Row) -> dict[str, Any]:
        figures: dict[str, Any] = {"status": "ok"}
        call: Callable[[], object]
        most_error = MOST_ROUNDING
        if row.part == "floor":
            call = self._floor(row)
        else:
            checked = self._checked(row)
            figures |= {"gradient_error": checked.error, "backend": checked.backend}
            if checked.reason:
                return {**figures, "status": "incorrect", "reason": checked.reason}
            call = checked.call(row.part, row.mode)
            if checked.is_inside(row.part):
                # No kernel of this project adds in an order of chance: a recurrence, which is all
                # kernel, gives the same bits every time, or there is a race in it.
                most_error = 0.0
        timing = self.timer(call, row.execution, most_error)
        interval = median_interval(
            1e3 * milliseconds / row.spec.num_steps for milliseconds in timing.milliseconds
        )
        return figures | {
            "microseconds_per_step": interval.median,
            "microseconds_per_step_low": interval.low,
            "microseconds_per_step_high": interval.high,
            "samples": len(timing.milliseconds),
            "calls_per_sample": timing.calls_per_sample,
            "sm_clock_mhz": timing.sm_clock_mhz,
            "mark": timing.mark,
        }

    def _floor(self, row: Row) -> Callable[[], None]:
        from deeprnn.kernel_floors import floors_of

        for floor in floors_of(request_of(row.spec, self.device.type), self.device):
            if (floor.name, floor.mode) == (row.kernel, row.mode):
                return floor.run
        raise ValueError(f"there is no floor {row.kernel} {row.mode}")

    def _checked(self, row: Row) -> _Checked:
        key = (row.spec, row.kernel, row.tile)
        if self._built is None or self._built[0] != key:
            self._built = None  # the memory of the one before goes first
            self._built = (key, _Checked(row.spec, row.kernel, self.device, bool(row.tile)))
        return self._built[1]


class _Checked:
    """One implementation of a layer: compared with the reference, and ready to be timed."""

    def __init__(self, spec: Spec, name: str, device: torch.device, has_tile: bool = False) -> None:
        self.spec = spec
        dtype = getattr(torch, PRECISIONS[spec.precision][0])
        H, B, T = spec.hidden_size, spec.batch_size, spec.num_steps
        self.stack: DeepRNN = implementations.build(name, spec.cell, H, H, spec.num_layers)
        self.stack = self.stack.to(device, dtype)
        bound = verification.bound_for(*PRECISIONS[spec.precision], spec.cell)
        outcome = verification.verify(self.stack, B, min(T, MOST_STEPS_CHECKED), SEED, bound)
        self.error = outcome.error
        if outcome.passed and bound > verification.BOUNDS["ieee"] and not has_tile:
            # A loose bound is for rounding, not for bugs: what precisions share must be exact in
            # float32. (A kernel's product may be another one there: tests/kernels looks at those.
            # And a tile of one precision is none of another.)
            outcome = self._exact(name, device)
        self.reason = "" if outcome.passed else str(outcome)
        generator = torch.Generator().manual_seed(SEED)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.x = normal(T, B, H).requires_grad_()
        self.upstream = normal(T, B, H)
        count = 2 if spec.cell == "lstm" else 1
        states = [0.5 * normal(spec.num_layers, B, H) for _ in range(count)]
        self.state = (states[0], states[1]) if count == 2 else states[0]
        self.first_state = tuple(state[0] for state in states)
        rows = self.stack.parameters_of(0)[0].shape[0]
        self.gates_x = normal(T, B, rows).requires_grad_()
        self.backend = self.stack.backend(self.stack(self.x[:1], self.state)[0])

    def _exact(self, name: str, device: torch.device) -> verification.Verification:
        """The same implementation in IEEE float32, held to that bound; precisions are set back."""
        spec = self.spec
        H, steps = spec.hidden_size, min(spec.num_steps, MOST_STEPS_CHECKED)
        request = dataclasses.replace(
            request_of(spec, device.type), dtype="float32", matmul_precision="ieee"
        )
        if implementations.why_unsupported(name, request):
            return verification.Verification(0.0, "", verification.BOUNDS["ieee"])
        dtype, matmul_precision = PRECISIONS[spec.precision]
        measurement.set_precision("ieee", "float32")
        try:
            stack = implementations.build(name, spec.cell, H, H, spec.num_layers).to(device)
            return verification.verify(
                stack, spec.batch_size, steps, SEED, verification.BOUNDS["ieee"]
            )
        finally:
            measurement.set_precision(matmul_precision, dtype)

    def is_inside(self, part: str) -> bool:
        """Whether only what lies inside of a layer's time loop is timed."""
        return part == "recurrence" or (part == "tile" and "recurrence" in self.stack.timed_parts)

    def call(self, part: str, mode: str) -> Callable[[], object]:
        """One forward pass as training runs it, or that and its gradients.

        Of a recurrence only what lies inside time is asked for: the gradient of the gates. Of a
        stack, those of its input and of every parameter.
        """
        is_stack = not self.is_inside(part)
        # A weight that needs no gradient costs no product for it after the loop.
        self.stack.requires_grad_(is_stack)
        if is_stack:
            leaves = [self.x, *self.stack.parameters()]
            run = self._run_stack
        else:
            leaves, run = [self.gates_x], self._run_recurrence
        if mode == "forward":
            return run
        return lambda: torch.autograd.grad(run(), leaves, self.upstream)

    def _run_stack(self) -> Tensor:
        y: Tensor = self.stack(self.x, self.state)[0]
        return y

    def _run_recurrence(self) -> Tensor:
        return self.stack.recurrence(0, self.gates_x, self.first_state)[0]


def is_usable(device: torch.device) -> bool:
    """Whether the device still computes: after some errors nothing does in this process."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return torch.ones(2, device=device).sum().item() == 2
    except RuntimeError:
        return False


def _compile_at_once(device: str) -> int:
    """How many children may build and check kernels at once, as many as fit into both memories."""
    if device == "cpu":
        return 1
    fit = environment.workers_at_most(device)
    return max(1, min(environment.prepare_at_once(device, 1, hurried=False), fit))


def main() -> int:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    rows = {
        row.id: row
        for fields in job["specs"]
        for row in rows_of(Spec(**fields), job["device"], job["tiles"])
    }
    about = {
        "device": torch.cuda.get_device_name() if job["device"] == "cuda" else "",
        "machine": environment.machine_name(job["device"]),
        "commit": environment.commit(),
        "environment": environment.describe(job["device"], job["threads"]),
        "compile_at_once": _compile_at_once(job["device"]),
    }
    answer({"rows": [row.columns() for row in rows.values()], **about})
    bench = Bench(job["device"])
    message = json.loads(sys.stdin.readline())
    while "compile" in message:
        bench.compile(rows[message["compile"]])
        if not is_usable(bench.device):
            return 3
        answer({"compiled": message["compile"]})
        message = json.loads(sys.stdin.readline())
    for asked in message["fill"]:
        answer({"doing": asked})
        filled = bench.fill(rows[asked])
        answer({"row": filled})
        is_spoilt = rows[asked].execution == "cuda_graph" or not is_usable(bench.device)
        if filled["status"] == "crashed" and is_spoilt:
            # A capture that failed leaves its stream and the random generator in it; other errors
            # may leave a device that computes no longer.
            return 3
    answer({"done": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
