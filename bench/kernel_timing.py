"""How a kernel is timed on a GPU: CUDA events around many calls, eager or replayed as a graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench import gpu_monitor
from bench.verification import relative_error

SAMPLES = 15
SAMPLE_MILLISECONDS = 1.5
"""A sample is as many calls as last so long: an event resolves about half a microsecond."""

MOST_SECONDS = 1.0
"""Samples end after so long, once there are enough of them for an interval."""

FEWEST_SAMPLES = 6

WARM_UP_SECONDS = 0.2
"""Calls before the first sample: a GPU that was idle has yet to raise its clocks."""

CALLS_AT_ONCE = 20
"""Of the warm-up, before it waits: an idle GPU between calls would keep its clocks low."""

MOST_ROUNDING = 5e-2
"""By how much a result may differ from the first one, in any precision: the inputs are the same,
and only libraries that add in no fixed order may differ at all. What a graph forgets to do is off
by far more."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, one figure a sample, and what the GPU's driver said meanwhile."""

    milliseconds: list[float]
    calls_per_sample: int
    sm_clock_mhz: float | None = None  # after the last sample
    mark: str = ""  # as of a round: throttled and why, contended, or nothing


class ResultDiffers(RuntimeError):
    """Equal calls gave different results: a graph that forgets something, or a race."""


def time_on_gpu(
    call: Callable[[], object], execution: str, most_error: float = MOST_ROUNDING
) -> Timing:
    """Time ``call``, which works on buffers of its own and does not wait for the device.

    Nothing clears the L2 cache between calls: in training, too, a step finds there what the one
    before it left. After each sample its last result is held to the first of all, not timed.

    Args:
        call: what is timed; returns its results.
        execution: ``"eager"`` or ``"cuda_graph"``.
        most_error: by how much results may differ from the first, relative; 0: not in one bit.

    Raises:
        ResultDiffers: they differ by more.
    """
    run = _captured(call) if execution == "cuda_graph" else call
    first = [tensor.detach().clone() for tensor in tensors_in(run())]
    monitor = gpu_monitor.current()
    before, start = monitor.read() if monitor else None, time.monotonic()
    _warm_up(run)
    calls = 1
    while True:  # double until a sample is long enough; the first ones also warm up
        # Of two: one call alone that something held up would seem long enough.
        milliseconds = min(_sample(run, calls)[0] for _ in range(2))
        if milliseconds >= SAMPLE_MILLISECONDS or calls >= 4096:
            break
        missing = SAMPLE_MILLISECONDS / max(milliseconds, 1e-3)
        calls = min(4096, calls * max(2, math.ceil(missing)))
    samples: list[float] = []
    first_sample = time.monotonic()
    while len(samples) < SAMPLES:
        if len(samples) >= FEWEST_SAMPLES and time.monotonic() - first_sample > MOST_SECONDS:
            break
        milliseconds, made = _sample(run, calls)
        samples.append(milliseconds / calls)
        hold_to(first, tensors_in(made), most_error, "a repeated call's", "the first one's")
    if monitor is None or before is None:
        return Timing(samples, calls)
    clock = monitor.state()["sm_clock_mhz"]
    return Timing(samples, calls, clock, monitor.mark(before, time.monotonic() - start))


def _warm_up(run: Callable[[], object]) -> None:
    until = time.monotonic() + WARM_UP_SECONDS
    while True:
        for _ in range(CALLS_AT_ONCE):
            run()
        torch.cuda.synchronize()
        if time.monotonic() >= until:
            break


def _sample(run: Callable[[], object], calls: int) -> tuple[float, object]:
    """Milliseconds of ``calls`` calls, from before the first to after the last on the device.

    With them comes what the last call returned. The device is to be idle before, and is after.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # so that the device is at work when the first call comes: it is not timed while it waits
    start.record()
    for _ in range(calls):
        made = run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)), made


def _captured(call: Callable[[], object]) -> Callable[[], list[torch.Tensor]]:
    """``call`` as a CUDA graph; buffers and autotuned choices are made before the capture.

    Raises ``ResultDiffers`` where a replay gives other numbers than the call itself.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            eager = call()
    torch.cuda.current_stream().wait_stream(stream)
    eager = [tensor.clone() for tensor in tensors_in(eager)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        made = call()
    replayed = tensors_in(made)
    for tensor in replayed:
        tensor.detach().fill_(math.nan)  # what the graph does not write stays like that
    graph.replay()
    hold_to(eager, replayed, MOST_ROUNDING, "a replayed graph's", "the eager call's")

    def replay() -> list[torch.Tensor]:
        graph.replay()
        return replayed

    return replay


def tensors_in(made: object) -> list[torch.Tensor]:
    """The tensors that a call returned, alone or in tuples and lists."""
    if isinstance(made, torch.Tensor):
        return [made]
    if isinstance(made, (tuple, list)):
        return [tensor for part in made for tensor in tensors_in(part)]
    return []


def hold_to(
    wanted: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    most_error: float,
    whose: str,
    than: str,
) -> None:
    """Raises ``ResultDiffers`` unless both are the same numbers up to ``most_error``, relative."""
    for number, (expected, actual) in enumerate(zip(wanted, found, strict=True)):
        if torch.equal(expected, actual):  # on the device, and so without a copy
            continue
        error = relative_error(actual, expected)
        if not error <= most_error or most_error == 0:
            raise ResultDiffers(
                f"{whose} result {number} is off by {error:.2g} from {than}; at most "
                f"{most_error:g} is rounding"
            )
