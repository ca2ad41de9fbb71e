"""What a worker makes sure of before it times anything, and what rounds amount to. No processes."""

import json
import math
from dataclasses import asdict, replace

import psutil
import pytest
import torch

from bench import measurement, rows
from bench.statistics import block_medians, median_interval, throughput
from bench.worker import CaseRun, Failed, Job
from bench.workloads import PROFILES
from deeprnn import training

TEXT = "time traveller for so it will be convenient to speak of him " * 5
TINY = PROFILES["smoke"].workloads[0]


@pytest.fixture(autouse=True)
def put_back(precision_as_before):
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def case(execution: str = "eager", **changes) -> CaseRun:
    job = {
        "workload": asdict(replace(TINY, **changes)),
        "implementation": "torch_nn",
        "execution": execution,
        "device": "cpu",
        "seed": 0,
        "threads": 1,
        "text": TEXT,
        "validate_every": 1,
        "sample_prefix": "time",
        "sample_length": 5,
    }
    return CaseRun(Job.from_json(json.dumps(job)))


def too_large_by(part: float, run: CaseRun) -> None:
    """Plant a mistake: the output of the recurrent layers is off by so much."""
    build = run._build

    def mistaken(*arguments, **options):
        model = build(*arguments, **options)
        model.rnn.register_forward_hook(lambda rnn, given, made: (made[0] * (1 + part), made[1]))
        return model

    run._build = mistaken


@pytest.mark.parametrize(("part", "passes"), [(1e-7, True), (1e-3, False)])
def test_a_case_is_checked_before_it_is_timed(part, passes):
    run = case()
    too_large_by(part, run)
    if passes:
        assert run.prepare()["gradient_error"] < 1e-5
    else:
        with pytest.raises(Failed, match=r"output is off by 0\.001") as caught:
            run.prepare()
        assert caught.value.status == "incorrect"


@pytest.mark.parametrize("changes", [{"matmul_precision": "tf32"}, {"dtype": "bfloat16"}])
def test_a_loose_bound_is_for_rounding_alone(changes):
    """1e-3 is less than TF32 and bfloat16 may be off; in IEEE float32 it is a mistake."""
    run = case(**changes)
    assert run._bound > 1e-3
    too_large_by(1e-3, run)
    with pytest.raises(Failed, match="1e-05 is allowed"):
        run.prepare()


class Captured(training._EagerSteps):
    """Stands for a captured step on a machine without a GPU."""


class CapturedWithoutState(Captured):
    def run(self, x, y):
        super().run(x, y)
        self.state = None


def test_a_captured_step_is_checked_too(monkeypatch):
    monkeypatch.setattr(training, "_GraphedSteps", Captured)
    run = case("cuda_graph")
    assert run.prepare()["gradient_error"] < 1e-5
    fresh = case()
    fresh.prepare()
    for after, other in zip(run.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(after, other)  # it starts afresh, as every case does


def test_a_captured_step_that_does_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(training, "_GraphedSteps", CapturedWithoutState)
    with pytest.raises(Failed, match="replayed, is off by") as caught:
        case("cuda_graph").prepare()
    assert caught.value.status == "incorrect"


def test_intervals_of_many_rounds_know_that_neighbours_resemble_each_other():
    """A machine that gets faster and faster: rounds taken for independent claim to know more."""
    speeds = [400.0 + i for i in range(61)]
    rounds = [
        {
            "epoch": epoch,
            "tokens_per_second": speed,
            "warm_up": False,
            "train_perplexity": 2.0,
            "validation_perplexity": None,
            "training_seconds": 1.0,
        }
        for epoch, speed in enumerate(speeds, start=1)
    ]
    workload = {"batch_size": 4, "num_steps": 25, "flops_per_token": 2e6}
    found = rows.figures(workload, {"interpreted": False}, rounds, peak=None)
    interval = throughput(speeds)
    assert found["tokens_per_second_low"] == interval.low
    assert found["tokens_per_second_high"] == interval.high
    assert interval.low == median_interval(block_medians(speeds)).low
    assert interval.low < median_interval(speeds).low
    assert interval.high > median_interval(speeds).high


def test_what_rounds_amount_to():
    rounds = [
        {
            "epoch": epoch,
            "tokens_per_second": speed,
            "warm_up": epoch == 1,
            "train_perplexity": perplexity,
            "validation_perplexity": None,
            "training_seconds": float(epoch),
        }
        for epoch, speed, perplexity in [(1, 10.0, 9.0), (2, 400.0, 5.0), (3, 500.0, 1.05)]
    ]
    workload = {"batch_size": 4, "num_steps": 25, "flops_per_token": 2e6}
    found = rows.figures(workload, {"interpreted": False}, rounds, peak=1e10)
    assert found["tokens_per_second"] == 450
    assert found["rounds"] == 2
    assert found["step_milliseconds"] == pytest.approx(1e3 * 4 * 25 / 450)
    assert found["fraction_of_peak"] == pytest.approx(450 * 2e6 / 1e10)
    assert found["seconds_to_target"] == 3.0
    assert found["epochs"] == 3
    assert math.isclose(found["train_perplexity"], 1.05)
    interpreted = rows.figures(workload, {"interpreted": True}, rounds, peak=1e10)
    assert "tokens_per_second" not in interpreted


def test_a_turn_of_short_rounds_is_judged_as_one():
    """Rounds of 0.1 s say nothing one by one; a second of them does."""
    cores = psutil.cpu_count() or 1
    assert not measurement.is_contended(0.1 * cores, 0.1)
    assert measurement.is_contended(1.0 * cores, 1.0)
    assert not measurement.is_contended(0.05 * cores, 1.0)
