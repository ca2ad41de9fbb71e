"""How a round is timed, and how memory is read."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from bench import gpu_monitor
from deeprnn.precision import set_matmul_precision

CONTENDED_ABOVE = 0.10
"""A round is marked when others used more than this share of the machine's processors."""


@dataclass
class Timing:
    """A stopwatch; the rest is filled in when the timed block ends."""

    seconds: float = 0.0  # without pauses
    other_cpu: float = 0.0  # share of all processors, 0 to 1
    mark: str = ""
    state: dict[str, float | None] = field(default_factory=dict)
    """By column of ``rounds.csv``: load and clocks right after the block; None is not told."""
    others_seconds: float = 0.0  # processor time that others used
    _since: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def resume(self) -> None:
        """Go on; the time is looked at last."""
        self._since = (_busy_seconds(), time.process_time(), time.perf_counter())

    def pause(self) -> None:
        """Stop until :meth:`resume`; the time is looked at first."""
        now = time.perf_counter()
        busy, own, start = self._since
        self.seconds += now - start
        self.others_seconds += (_busy_seconds() - busy) - (time.process_time() - own)


def set_precision(matmul_precision: str, dtype: str) -> None:
    """The precision of float32 products, and tensor cores for a type that is nothing without them.

    PyTorch gives a bfloat16 RNN to cuDNN, and takes tensor cores away from it wherever TF32 is not
    allowed (``ATen/cudnn/Descriptors.h``); from float16 it does not.
    """
    set_matmul_precision(matmul_precision)
    if dtype == "bfloat16":
        torch.backends.cudnn.allow_tf32 = True


@contextmanager
def timed() -> Iterator[Timing]:
    """Time a block that ends by waiting for its device, and note who else used the processors.

    Time that a hypervisor gave to other guests counts as used by others. A GPU is asked before and
    after, never meanwhile. Within the block the stopwatch may be paused and resumed.
    """
    timing = Timing()
    gpu = gpu_monitor.current()
    gpu_before = gpu.read() if gpu is not None else None
    cores = psutil.cpu_count() or 1
    began = time.perf_counter()
    timing.resume()
    yield timing
    timing.pause()
    timing.other_cpu = min(1.0, max(0.0, timing.others_seconds / (timing.seconds * cores)))
    if is_contended(timing.others_seconds, timing.seconds):
        timing.mark = "contended"
    if gpu is not None and gpu_before is not None:
        timing.state |= gpu.state()  # first of all: clocks fall again once nothing runs
        timing.mark = gpu.mark(gpu_before, time.perf_counter() - began) or timing.mark
    timing.state |= {"load_average": _load_average(), "cpu_mhz": _cpu_mhz()}


def is_contended(others_seconds: float, seconds: float) -> bool:
    """Whether others used too much of the processors during so many seconds."""
    # The kernel counts in ticks of 10 ms: over a shorter time the share is mostly rounding.
    cores = psutil.cpu_count() or 1
    return seconds > 0.2 and others_seconds > CONTENDED_ABOVE * seconds * cores


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guest time within user time; the sum must not count it twice.
    double = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - double)


def _load_average() -> float | None:
    """Processes that ran or waited for a processor, on average over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None  # this system does not count


def _cpu_mhz() -> float | None:
    """The mean frequency over the processors just now, where the system tells one."""
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError):
        return None
    return float(frequency.current) if frequency and frequency.current > 0 else None


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far: what comes after is what the task needs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        except OSError:
            return  # a hardened kernel: peak_memory says that its figure is for the whole life


def peak_memory(device: torch.device) -> tuple[float, str]:
    """The peak in MiB and its kind.

    ``cuda_allocated``: device memory held by tensors, and by cuBLAS, which keeps a workspace for
    each thread and stream (32 MiB on Hopper, of which a training step has two).
    ``process_resident``: memory of the whole process, Python and PyTorch included (some 300 MiB),
    since the last reset where the system can reset it, else over its whole life. How much of its
    libraries a system holds in memory differs between installations of the same, by 90 MiB seen.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20, "cuda_allocated"
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024, "process_resident"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024), "process_resident"
