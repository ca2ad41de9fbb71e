"""Marks from what a driver tells, with a driver that is made up."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import gpu_monitor, measurement
from bench.gpu_monitor import GpuMonitor
from bench.results import ROUNDS

OWN, OTHER = 100, 200


class Driver:
    """Answers like ``pynvml``; what is not given is not supported."""

    class NVMLError(Exception):
        pass

    def __init__(self, held=None, reasons=0, processes=(OWN,), samples=()):
        self.held = held  # seconds, by power and thermal policy
        self.reasons = reasons
        self.processes = processes
        self.samples = list(samples)

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        if self.held is None:
            raise self.NVMLError("not supported")
        return SimpleNamespace(violationTime=int(self.held[policy] * 1e9), referenceTime=0)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        found = [s for s in self.samples if s.timeStamp > since]
        if not found:
            raise self.NVMLError("not found")
        return found


def sample(pid, share, at):
    return SimpleNamespace(pid=pid, smUtil=share, timeStamp=at)


class TellingDriver(Driver):
    """One that also knows the state of its GPU."""

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return {1: 1410}[clock]  # of the streaming multiprocessors

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return {0: 63}[sensor]

    def nvmlDeviceGetPowerUsage(self, handle):
        return 287_500  # milliwatts


def mark(driver, then, seconds=1.0):
    """The mark of a round, of ``seconds``, during which ``then`` happens to the driver."""
    monitor = GpuMonitor(driver, None, OWN)
    before = monitor.read()
    then(driver)
    return monitor.mark(before, seconds)


def test_a_quiet_round_has_no_mark():
    assert mark(Driver(held=[3.0, 0.0]), lambda driver: None) == ""
    assert mark(Driver(), lambda driver: None) == ""


@pytest.mark.parametrize("policy", [0, 1])
def test_clocks_held_down_within_the_round_mark_it(policy):
    def throttle(driver):
        driver.held[policy] += 0.2

    assert mark(Driver(held=[3.0, 5.0]), throttle) == "throttled"
    assert mark(Driver(held=[3.0, 5.0]), throttle, seconds=10) == ""


def test_without_counters_the_reasons_at_both_ends_count():
    throttled = "throttled (hardware thermal slowdown)"
    assert mark(Driver(reasons=0x40), lambda driver: None) == throttled
    assert mark(Driver(reasons=0x01), lambda driver: None) == ""  # idle
    assert mark(Driver(reasons=0x40), lambda driver: setattr(driver, "reasons", 0)) == ""


def test_work_of_another_process_within_the_round_marks_it(monkeypatch):
    def other_works(driver):
        driver.samples += [sample(OWN, 90, 20), sample(OTHER, 30, 20)]

    monkeypatch.setattr(GpuMonitor, "is_foreign", lambda monitor, pid: pid == OTHER)
    earlier = [sample(OTHER, 90, 10)]  # before the round: not its business
    both = (OWN, OTHER)
    assert mark(Driver(processes=both, samples=earlier), other_works) == "contended"
    assert mark(Driver(processes=both, samples=earlier), lambda driver: None) == ""


def test_where_process_ids_are_hidden_nobody_is_accused():
    def someone_works(driver):
        driver.samples.append(sample(4242, 90, 20))

    assert mark(Driver(processes=(4242,)), someone_works) == ""


def test_who_counts_as_a_stranger():
    monitor = GpuMonitor(Driver(), None)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert not monitor.is_foreign(os.getpid())
        assert monitor.is_foreign(child.pid)  # a child is no fellow: it has another parent
        assert not monitor.is_foreign(2**30)
    finally:
        child.communicate("")


def test_the_state_is_in_the_columns_of_rounds():
    told = GpuMonitor(TellingDriver(), None, OWN).state()
    assert told == {"sm_clock_mhz": 1410, "temperature_celsius": 63, "power_watts": 287.5}
    assert set(told) <= set(ROUNDS.added)


def test_a_driver_that_does_not_tell_leaves_them_empty():
    assert set(GpuMonitor(Driver(), None, OWN).state().values()) == {None}


def test_a_round_knows_the_state_of_the_machine(monkeypatch):
    monkeypatch.setattr(gpu_monitor, "_is_sought", True)
    monkeypatch.setattr(gpu_monitor, "_monitor", GpuMonitor(TellingDriver(), None, OWN))
    with measurement.timed() as timing:
        pass
    assert set(timing.state) == set(ROUNDS.added)
    assert timing.state["power_watts"] == 287.5
    monkeypatch.setattr(gpu_monitor, "_monitor", None)
    with measurement.timed() as timing:
        pass
    assert set(timing.state) == {"load_average", "cpu_mhz"}
    if hasattr(os, "getloadavg"):
        assert timing.state["load_average"] >= 0


@pytest.mark.parametrize("answer", [None, NotImplementedError, FileNotFoundError])
def test_a_system_that_tells_no_frequency_leaves_it_empty(monkeypatch, answer):
    def cpu_freq():
        if answer is None:
            return None
        raise answer

    monkeypatch.setattr(measurement.psutil, "cpu_freq", cpu_freq)
    with measurement.timed() as timing:
        pass
    assert timing.state["cpu_mhz"] is None


class OpeningDriver(Driver):
    """One that is opened, and asked for its GPU by name; it counts how often."""

    opened = 0

    def nvmlInit(self):
        self.opened += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if not self.opened or uuid != "GPU-1f":
            raise self.NVMLError("no such device")
        return "handle"


@pytest.fixture
def cuda_in_use(monkeypatch):
    """A process that computes on the GPU of that name, by a driver that is made up."""
    import torch

    def use(driver, uuid):
        properties = SimpleNamespace(uuid=uuid)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.setattr(torch.cuda, "get_device_properties", {3: properties}.get)
        monkeypatch.setattr(gpu_monitor, "_is_sought", False)
        monkeypatch.setattr(gpu_monitor, "_monitor", None)
        monkeypatch.setitem(sys.modules, "pynvml", driver)

    return use


@pytest.mark.parametrize("uuid", ["1f", "GPU-1f"])
def test_the_gpu_in_use_is_found_by_its_name_once(cuda_in_use, uuid):
    driver = OpeningDriver()
    cuda_in_use(driver, uuid)
    first = gpu_monitor.current()
    assert (first.nvml, first.handle, first.own_pid) == (driver, "handle", os.getpid())
    assert gpu_monitor.current() is first
    assert driver.opened == 1


@pytest.mark.parametrize("driver", [None, OpeningDriver()], ids=["not installed", "without it"])
def test_a_gpu_that_the_driver_does_not_have_is_not_watched(cuda_in_use, driver):
    cuda_in_use(driver, "another")
    assert gpu_monitor.current() is None
    cuda_in_use(OpeningDriver(), "1f")
    gpu_monitor._is_sought = True  # it was sought already
    assert gpu_monitor.current() is None


def test_without_cuda_nothing_is_asked():
    import torch

    if torch.cuda.is_initialized():
        pytest.skip("this process uses CUDA")
    assert gpu_monitor.current() is None
