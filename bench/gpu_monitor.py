"""Was the GPU throttled during a round, or busy for somebody else? Asked of the driver (NVML).

The driver counts by itself how long it held clocks down, and keeps samples of what each process
used. Both are read before and after a round, outside of its timing: nothing runs meanwhile, so
nothing is slowed. In a process that does not use CUDA, nothing is imported and nothing asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import psutil

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
_SM_CLOCK = 1  # NVML_CLOCK_SM
_GPU_SENSOR = 0  # NVML_TEMPERATURE_GPU


@dataclass(frozen=True)
class Reading:
    """The state of the GPU at one moment. None where the driver does not tell."""

    held_down_seconds: float | None  # since the driver was loaded
    reasons: tuple[str, ...]  # why clocks are held down just now
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
        samples = self._ask("nvmlDeviceGetProcessUtilization", 0) or []
        return Reading(
            held_down_seconds=sum(known) if known else None,
            reasons=tuple(name for bit, name in _THROTTLING.items() if (bits or 0) & bit),
            newest_sample=max((sample.timeStamp for sample in samples), default=0),
        )

    def state(self) -> dict[str, float | None]:
        """Clock, temperature and power now, by column of ``rounds.csv``; None is not told.

        The driver averages power over up to a second, so on short rounds it lags behind.
        """
        clock = self._ask("nvmlDeviceGetClockInfo", _SM_CLOCK)
        temperature = self._ask("nvmlDeviceGetTemperature", _GPU_SENSOR)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return {
            "sm_clock_mhz": None if clock is None else float(clock),
            "temperature_celsius": None if temperature is None else float(temperature),
            "power_watts": None if milliwatts is None else milliwatts / 1000,
        }

    def mark(self, before: Reading, seconds: float) -> str:
        """For a round since ``before``: ``throttled`` and why, ``contended``, or nothing."""
        after = self.read()
        if before.held_down_seconds is not None and after.held_down_seconds is not None:
            held = after.held_down_seconds - before.held_down_seconds
            is_throttled = held > THROTTLED_ABOVE * seconds
        else:
            is_throttled = bool(before.reasons and after.reasons)
        if is_throttled:
            reasons = " and ".join(dict.fromkeys([*before.reasons, *after.reasons]))
            return f"throttled ({reasons})" if reasons else "throttled"
        return "contended" if self._foreign_share(before.newest_sample) > FOREIGN_ABOVE else ""

    def _foreign_share(self, since: int) -> int:
        """The most that another process used, in percent of the multiprocessors."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        if self.own_pid not in {process.pid for process in processes}:
            return 0  # a container hides who is who: better no answer than a wrong one
        samples = self._ask("nvmlDeviceGetProcessUtilization", since) or []
        # A sample reaches back into the turn before, which was that of a fellow worker.
        shares = [s.smUtil for s in samples if s.timeStamp > since and self.is_foreign(s.pid)]
        return max(shares, default=0)

    def is_foreign(self, pid: int) -> bool:
        """Whether a process is neither this one nor another child of the same parent."""
        if pid == self.own_pid:
            return False
        try:
            return bool(psutil.Process(pid).ppid() != os.getppid())
        except psutil.Error:
            return False  # gone already, or not to be seen: nothing can be said


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
