"""How a kernel is timed, on an emulated GPU whose clock is told how long a call takes."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

from bench import kernel_timing
from bench.kernel_timing import ResultDiffers, hold_to, tensors_in, time_on_gpu
from tests.emulated_cuda_graph import emulated


def test_what_a_graph_leaves_out_is_found():
    y, gradients = torch.randn(3, 2), (torch.randn(2), torch.randn(4))
    eager = tensors_in((y, gradients))
    assert [tensor.shape for tensor in eager] == [(3, 2), (2,), (4,)]
    assert tensors_in(None) == []
    rounded = [tensor * (1 + 1e-3) for tensor in eager]
    hold_to(eager, rounded, 5e-2, "a", "b")
    unwritten = [y, gradients[0], torch.full((4,), math.nan)]
    with pytest.raises(ResultDiffers, match=r"^a result 2 is off by nan from b; at most 0\.05 is"):
        hold_to(eager, unwritten, 5e-2, "a", "b")
    with pytest.raises(ResultDiffers, match="result 0 is off by 1 from"):
        hold_to(eager, [torch.zeros_like(y), *gradients], 5e-2, "a", "b")
    hold_to(eager, [tensor.clone() for tensor in eager], 0.0, "a", "b")
    with pytest.raises(ResultDiffers, match=r"result 0 is off by 0\.001 from b; at most 0 is"):
        hold_to(eager, rounded, 0.0, "a", "b")
    with pytest.raises(ResultDiffers, match="off by nan"):  # where the first was wrong already
        hold_to(unwritten, unwritten, 0.0, "a", "b")


def test_a_replay_computes_anew_what_the_call_computed():
    x, seen = torch.ones(3), torch.zeros(3)
    with emulated() as device:
        x.fill_(2.0)  # the calls before the capture have to wait for it
        replay = kernel_timing._captured(lambda: (x * 2, [seen.copy_(x * 3)]))
        assert [event for event, _ in device.events] == ["capture", "replay"]
        x.fill_(5.0)
        replay()
    assert seen.tolist() == [15, 15, 15]


def test_what_is_not_captured_is_found():
    """Written by the calls before the capture, and by nothing in the graph."""
    x, y = torch.ones(3), torch.zeros(3)
    calls = []

    def call():
        calls.append(x)
        return y.copy_(x) if len(calls) < 4 else y

    with emulated(), pytest.raises(ResultDiffers, match="result 0 is off by nan"):
        kernel_timing._captured(call)


def test_other_numbers_in_a_replay_are_found():
    x, y, calls = torch.ones(3), torch.zeros(3), []

    def call():
        calls.append(x)
        return y.copy_(x * (2 if len(calls) > 3 else 1))

    with emulated(), pytest.raises(ResultDiffers, match="result 0 is off by 1 from the eager"):
        kernel_timing._captured(call)


class Clock:
    """A device that is busy for so many milliseconds a call, and a host that waits for it."""

    def __init__(self, milliseconds: float) -> None:
        self.now = 0.0  # of the device, milliseconds
        self.milliseconds = milliseconds
        self.calls = 0
        self.is_idle = True
        self.calls_while_idle: list[int] = []

    def call(self) -> None:
        if self.is_idle:
            self.calls_while_idle.append(self.calls)
        self.is_idle = False
        self.calls += 1
        self.now += self.milliseconds

    def wait(self) -> None:
        self.is_idle = True

    def event(self, enable_timing: bool):
        assert enable_timing
        event = SimpleNamespace(at=math.nan, synchronize=self.wait)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda other: other.at - event.at if self.is_idle else math.nan
        return event


@pytest.fixture
def clock_of(monkeypatch):
    def make(milliseconds):
        clock = Clock(milliseconds)
        monkeypatch.setattr(torch.cuda, "Event", clock.event)
        monkeypatch.setattr(torch.cuda, "synchronize", clock.wait)
        monkeypatch.setattr(time, "monotonic", lambda: clock.now / 1e3)
        return clock

    return make


@pytest.mark.parametrize(
    ("milliseconds", "samples", "calls"),
    [
        (0.25, 15, 6),
        (1.5, 15, 1),
        (1.4, 15, 2),
        (3e-4, 15, 4096),
        (70.0, 8, 1),  # the second sample after a second is none
        (400.0, 6, 1),
    ],
)
def test_a_sample_is_long_enough_and_the_samples_are_not_too_many(
    milliseconds, samples, calls, clock_of
):
    clock = clock_of(milliseconds)
    timing = time_on_gpu(clock.call, "eager")
    assert timing.milliseconds == pytest.approx(samples * [milliseconds])
    assert timing.calls_per_sample == calls


def test_a_call_that_is_held_up_does_not_make_samples_short(clock_of):
    """The first sample is of one call: were it believed, all would be."""
    clock, plain = clock_of(0.25), Clock.call

    def call():
        plain(clock)
        if clock.calls == 1 + 800 + 2:
            clock.now += 5.0

    timing = time_on_gpu(call, "eager")
    assert timing.calls_per_sample == 6


def test_nothing_is_timed_while_the_device_waits_for_the_host(clock_of):
    """Each sample begins with a call that is not counted; the warm-up comes before all of them."""
    clock = clock_of(0.25)
    time_on_gpu(clock.call, "eager")
    warm_up = 1 + 800  # one call to be compared with, then some of 0.25 ms until 0.2 s are over
    first_of_samples = [warm_up, warm_up + 2]  # of one call, twice
    first_of_samples += [warm_up + 4, warm_up + 11]  # and of six: that is enough
    first_of_samples += [warm_up + 18 + 7 * number for number in range(15)]
    assert clock.calls_while_idle == [0, *range(21, warm_up, 20), *first_of_samples]


@pytest.mark.parametrize("execution", ["eager", "cuda_graph"])
def test_a_result_that_moves_while_it_is_timed_is_found(execution, clock_of, monkeypatch):
    """However late, and in one bit where none may change."""
    clock, x = clock_of(0.25), torch.ones(1000)
    monkeypatch.setattr(kernel_timing, "_captured", lambda call: call)

    def moves_at(number, by):
        clock.calls = 0

        def call():
            clock.call()
            y = x.clone()
            y[0] += by if clock.calls >= number else 0.0
            return x, (y,)

        return call

    last = 1 + 800 + 2 * (2 + 7) + 15 * 7
    repeated = r"^a repeated call's result 1 is off by \S+ from the first one's; at most"
    for number, by, most_error in ((last, 1e-6, 0.0), (last, 10.0, 0.05), (400, math.nan, 0.05)):
        with pytest.raises(ResultDiffers, match=repeated):
            time_on_gpu(moves_at(number, by), execution, most_error)
    for number, by, most_error in ((last + 1, 10.0, 0.0), (last, 1e-6, 0.05), (1, 10.0, 0.0)):
        timing = time_on_gpu(moves_at(number, by), execution, most_error)
        assert timing.milliseconds == pytest.approx(15 * [0.25])


def test_what_the_driver_says_meanwhile_is_kept(clock_of, monkeypatch):
    clock, asked = clock_of(0.25), []
    monitor = SimpleNamespace(
        read=lambda: asked.append(clock.calls) or "before",
        state=lambda: {"sm_clock_mhz": 1410.0, "power_watts": 280.0},
        mark=lambda before, seconds: f"{before} {seconds:.4f}",
    )
    monkeypatch.setattr(kernel_timing.gpu_monitor, "current", lambda: monitor)
    timing = time_on_gpu(clock.call, "eager")
    assert timing.sm_clock_mhz == 1410.0
    assert asked == [1]
    # from after the first call to after the last sample: warm-up, sizes, and 15 × 7 calls
    assert timing.mark == f"before {(800 + 2 * (2 + 7) + 15 * 7) * 0.25e-3:.4f}"
    monkeypatch.setattr(kernel_timing.gpu_monitor, "current", lambda: None)
    timing = time_on_gpu(clock.call, "eager")
    assert (timing.sm_clock_mhz, timing.mark) == (None, "")


def test_a_graph_is_timed_by_its_replays(clock_of, monkeypatch):
    clock, other = clock_of(0.25), []
    monkeypatch.setattr(
        kernel_timing, "_captured", lambda call: (other.append(call), clock.call)[1]
    )
    assert time_on_gpu(print, "cuda_graph").milliseconds == pytest.approx(15 * [0.25])
    assert other == [print]
