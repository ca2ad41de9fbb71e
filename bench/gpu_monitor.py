"""Was the GPU throttled during a round, or busy for somebody else? Asked of the driver (NVML).

The driver counts by itself how long it held clocks down, and keeps samples of what each process
used. Both are read before and after a round, outside of its timing: nothing runs meanwhile, so
nothing is slowed. In a process that does not use CUDA, nothing is imported and nothing asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

THROTTLED_ABOVE = 0.05
"""A round is marked when clocks were held down for more than this share of it."""

FOREIGN_ABOVE = 5
"""A round is marked when another process used more than this percentage of the GPU."""

_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""The bits of ``nvmlClocksEventReasons`` that mean clocks below what was asked for."""

_POLICIES = (0, 1)  # power, thermal: NVML_PERF_POLICY_*


@dataclass(frozen=True)
class Reading:
    """The state of the GPU at one moment. None where the driver does not tell."""

    held_down_seconds: float | None  # since the driver was loaded
    reasons: tuple[str, ...]  # why clocks are held down just now
    sm_clock_mhz: int | None
    temperature_celsius: int | None
    power_watts: float | None
    newest_sample: int  # time stamp of the last sample of processes, microseconds


@dataclass
class GpuMonitor:
    """Reads one GPU. Every question that its driver cannot answer is left out."""

    nvml: Any  # the module pynvml
    handle: Any
    own_pid: int = field(default_factory=os.getpid)

    def _ask(self, question: str, *arguments: Any) -> Any:
        """The driver's answer, or None: old drivers, small GPUs and containers lack some."""
        try:
            return getattr(self.nvml, question)(self.handle, *arguments)
        except (self.nvml.NVMLError, AttributeError):
            return None

    def read(self) -> Reading:
        """The state now; takes about a millisecond."""
        held = [self._ask("nvmlDeviceGetViolationStatus", policy) for policy in _POLICIES]
        known = [status.violationTime / 1e9 for status in held if status is not None]
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        samples = self._ask("nvmlDeviceGetProcessUtilization", 0) or []
        return Reading(
            held_down_seconds=sum(known) if known else None,
            reasons=tuple(name for bit, name in _THROTTLING.items() if (bits or 0) & bit),
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", 1),  # 1: streaming multiprocessors
            temperature_celsius=self._ask("nvmlDeviceGetTemperature", 0),  # 0: of the chip
            power_watts=None if milliwatts is None else milliwatts / 1000,
            newest_sample=max((sample.timeStamp for sample in samples), default=0),
        )

    def mark(self, before: Reading, seconds: float) -> str:
        """``throttled``, ``contended``, or nothing, for a round since ``before``."""
        after = self.read()
        if before.held_down_seconds is not None and after.held_down_seconds is not None:
            held = after.held_down_seconds - before.held_down_seconds
            is_throttled = held > THROTTLED_ABOVE * seconds
        else:
            is_throttled = bool(before.reasons and after.reasons)
        if is_throttled:
            return "throttled"
        return "contended" if self._foreign_share(before.newest_sample) > FOREIGN_ABOVE else ""

    def _foreign_share(self, since: int) -> int:
        """The most that another process used, in percent of the multiprocessors."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        if self.own_pid not in {process.pid for process in processes}:
            return 0  # a container hides who is who: better no answer than a wrong one
        samples = self._ask("nvmlDeviceGetProcessUtilization", since) or []
        return max(
            (s.smUtil for s in samples if s.pid != self.own_pid and s.timeStamp > since), default=0
        )


_monitor: GpuMonitor | None = None
_is_sought = False


def current() -> GpuMonitor | None:
    """The monitor of the GPU that this process computes on; None without one.

    Looks only once CUDA is in use, and once: processes that never touch a GPU pay nothing.
    """
    global _monitor, _is_sought
    if not _is_sought:
        import torch

        if not torch.cuda.is_initialized():
            return None
        _is_sought, _monitor = (
            True,
            _open(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)),
        )
    return _monitor


def _open(uuid: str) -> GpuMonitor | None:
    """By its identity: the driver counts GPUs from 0 whatever ``CUDA_VISIBLE_DEVICES`` says."""
    try:
        import pynvml
    except ImportError:
        return None
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    try:
        pynvml.nvmlInit()
        return GpuMonitor(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
    except pynvml.NVMLError:
        return None
