"""How a kernel is timed on a GPU: CUDA events around many calls, eager or replayed as a graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

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
"""By how much a replay may differ from the call, in any precision: the inputs are the same. What a
graph forgets to do is off by far more."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, one figure a sample."""

    milliseconds: list[float]
    calls_per_sample: int


def time_on_gpu(call: Callable[[], object], execution: str) -> Timing:
    """Time ``call``, which works on buffers of its own and does not wait for the device.

    Nothing clears the L2 cache between calls: in training, too, a step finds there what the one
    before it left.
    """
    run = _captured(call) if execution == "cuda_graph" else call
    until = time.monotonic() + WARM_UP_SECONDS
    while True:
        for _ in range(CALLS_AT_ONCE):
            run()
        torch.cuda.synchronize()
        if time.monotonic() >= until:
            break
    calls = 1
    while True:  # double until a sample is long enough; the first ones also warm up
        milliseconds = _sample(run, calls)
        if milliseconds >= SAMPLE_MILLISECONDS or calls >= 4096:
            break
        missing = SAMPLE_MILLISECONDS / max(milliseconds, 1e-3)
        calls = min(4096, calls * max(2, math.ceil(missing)))
    samples: list[float] = []
    start = time.monotonic()
    while len(samples) < SAMPLES:
        if len(samples) >= FEWEST_SAMPLES and time.monotonic() - start > MOST_SECONDS:
            break
        samples.append(_sample(run, calls) / calls)
    return Timing(samples, calls)


def _sample(run: Callable[[], object], calls: int) -> float:
    """Milliseconds of ``calls`` calls, from before the first to after the last on the device.

    It leaves the device with nothing to do, and is to find it so.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()  # so that the device is at work when the first call comes: it is not timed while it waits
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


class ReplayDiffers(RuntimeError):
    """A graph does not do what was captured in it."""


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    """``call`` as a CUDA graph; buffers and autotuned choices are made before the capture.

    Raises ``ReplayDiffers`` where a replay gives other numbers than the call itself.
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
    hold_to(eager, replayed)
    return graph.replay


def tensors_in(made: object) -> list[torch.Tensor]:
    """The tensors that a call returned, alone or in tuples and lists."""
    if isinstance(made, torch.Tensor):
        return [made]
    if isinstance(made, (tuple, list)):
        return [tensor for part in made for tensor in tensors_in(part)]
    return []


def hold_to(eager: Sequence[torch.Tensor], replayed: Sequence[torch.Tensor]) -> None:
    """Raises ``ReplayDiffers`` unless both are the same numbers but for rounding."""
    for number, (wanted, found) in enumerate(zip(eager, replayed, strict=True)):
        error = relative_error(found, wanted)
        if not error <= MOST_ROUNDING:
            raise ReplayDiffers(
                f"a replayed graph's result {number} is off by {error:.2g} from the eager call's"
            )
