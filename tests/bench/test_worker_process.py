"""A worker is asked, never waited for too long, and never outlives the runner."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import psutil
import pytest

from bench import worker
from bench.worker_process import LEFT_OUT, WorkerEnded, WorkerProcess, worker_environment
from bench.workloads import PROFILES

TEXT = "time traveller for so it will be convenient to speak of him " * 5


def job(**changes):
    return {
        "workload": asdict(PROFILES["smoke"].workloads[0]),
        "implementation": "torch_nn",
        "execution": "eager",
        "device": "cpu",
        "seed": 0,
        "threads": 1,
        "text": TEXT,
        "validate_every": 1,
        "sample_prefix": "time",
        "sample_length": 5,
        **changes,
    }


@pytest.fixture
def start(tmp_path):
    workers = []

    def started(limit: float = 60.0, **changes) -> WorkerProcess:
        workers.append(WorkerProcess(job(**changes), tmp_path / "log", limit))
        return workers[-1]

    yield started
    for one in workers:
        one.stop()


def test_what_would_change_the_measurement_is_not_inherited(monkeypatch):
    for name in LEFT_OUT:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DEEPRNN_SOMETHING_ELSE", "kept")
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    for device in ("cpu", "cuda"):
        environment = worker_environment(device, 1)
        assert environment["DEEPRNN_SOMETHING_ELSE"] == "kept"
        left = set(LEFT_OUT) & set(environment)
        assert left == ({"TRITON_INTERPRET"} if device == "cpu" else set())
        # Beside a GPU many compile at once: none of them takes all processors for itself.
        threads = environment.get("TORCHINDUCTOR_COMPILE_THREADS")
        assert threads == (None if device == "cpu" else "1")


def test_a_thread_that_ends_keeps_no_other_from_being_pinned(start, monkeypatch):
    """The first of them has ended when it is its turn; all others are pinned all the same."""
    process = start()
    process.receive()
    tried = []

    def affinity(thread, processors):
        tried.append(thread)
        if len(tried) == 1:
            raise ProcessLookupError

    monkeypatch.setattr(os, "sched_setaffinity", affinity)
    process.pin({0})
    tasks = os.listdir(f"/proc/{process._process.pid}/task")
    assert {int(task) for task in tasks} <= set(tried)


def test_a_turn_in_slices_is_the_same_turn(start):
    whole, sliced = start(), start()
    for process in (whole, sliced):
        process.receive()
    whole.send({"turn": 2})
    expected = whole.receive()["rounds"]
    sliced.send({"turn": 2, "slice": 1})
    pauses, started = 0, time.monotonic()
    while "paused" in (answer := sliced.receive()):
        pauses += 1
        time.sleep(0.2)
        sliced.send({"go": True})
    waited = time.monotonic() - started
    minibatches = [
        r["tokens"] // (workload["batch_size"] * workload["num_steps"])
        for workload in (job()["workload"],)
        for r in expected
    ]
    assert pauses == sum(minibatches) - len(expected) > 0
    for key in ("epoch", "tokens", "train_perplexity", "validation_perplexity"):
        assert [r[key] for r in answer["rounds"]] == [r[key] for r in expected]
    assert sum(r["seconds"] for r in answer["rounds"]) < waited - 0.2 * pauses


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinities")
def test_a_pinned_worker_stays_where_it_is_put(start):
    process = start()
    process.receive()
    processor = max(os.sched_getaffinity(0))
    process.pin({processor})
    assert os.sched_getaffinity(process._process.pid) == {processor}
    process.send({"turn": 1})
    assert process.receive()["rounds"]


def test_a_whole_case(start):
    process = start()
    prepared = process.receive()
    assert prepared["gradient_error"] < 1e-5
    assert prepared["cold_start_seconds"] > 0
    process.send({"turn": 2})
    rounds = process.receive()["rounds"]
    assert [r["epoch"] for r in rounds] == [1, 2]
    assert all(r["seconds"] > 0 and r["validation_perplexity"] > 1 for r in rounds)
    process.send({"finish": True})
    finished = process.receive()
    assert finished["peak_memory_mib"] > 50
    assert finished["sample"].startswith("time")
    assert len(finished["sample"]) == 9


def test_a_limit_ends_it(start):
    process = start(limit=0.05)
    with pytest.raises(WorkerEnded, match=r"took longer than the 0\.05 s") as caught:
        process.receive()
    assert caught.value.status == "timeout"
    assert not psutil.pid_exists(process._process.pid)


def test_texts_of_its_own_and_held_out_text(start):
    process = start(
        training_text=TEXT[:200],
        validation_text=TEXT[50:150],
        held_out={"one": TEXT[:50], "two": TEXT[7:57]},
        passage=20,
        more_prefixes=["traveller"],
    )
    process.receive()
    process.send({"turn": 3})
    rounds = process.receive()["rounds"]
    best = min(rounds, key=lambda entry: entry["validation_perplexity"])
    process.send({"finish": True})
    finished = process.receive()
    found = finished["held_out"]
    assert len(found) == 2 * 2 * 3  # weights, texts, passages
    assert {(r["weights"], r["epoch"]) for r in found} == {("last", 3), ("best", best["epoch"])}
    assert [r["characters"] for r in found if r["text"] == "two"] == 2 * [20, 20, 10]
    assert all(r["bits"] > 0 for r in found)
    for sample, prefix in zip(finished["samples"], ["time", "traveller"], strict=True):
        assert sample["prefix"] == prefix
        written = sample["text"].removeprefix(prefix)
        assert len(written) == 5
        assert written[: sample["verbatim"]] in TEXT[:200]
        assert sample["verbatim"] == 5 or written[: sample["verbatim"] + 1] not in TEXT[:200]


def test_training_ends_when_patience_does(start):
    workload = asdict(PROFILES["smoke"].workloads[0])
    # Steps this large overshoot at once: no validation is better than the first for long.
    process = start(workload={**workload, "learning_rate": 50.0, "patience": 2, "epochs": 40})
    process.receive()
    process.send({"turn": 40})
    answer = process.receive()
    perplexities = [r["validation_perplexity"] for r in answer["rounds"]]
    assert answer["is_over"]
    assert len(perplexities) < 40
    assert min(perplexities[-2:]) >= min(perplexities[:-2])


def test_a_killed_worker_is_named(start):
    process = start()
    process._process.send_signal(signal.SIGKILL)
    with pytest.raises(WorkerEnded, match="ended by SIGKILL") as caught:
        process.receive()
    assert caught.value.status == "crashed"


def test_a_worker_that_cannot_start_tells_why(start):
    process = start(workload={"cell": "gru", "recurrent": None})
    answer = process.receive()
    assert answer["status"] == "crashed"
    assert "TypeError" in answer["reason"]


def test_a_worker_ends_with_its_runner(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=worker_environment("cpu", 1),
    )
    process.stdin.write(json.dumps(job()) + "\n")
    process.stdin.flush()
    assert "cold_start_seconds" in process.stdout.readline()
    process.stdin.close()  # what the system does when the runner dies
    assert process.wait(timeout=10) == 0


def test_waiting_costs_nothing(start):
    process = start(threads=2)
    process.receive()
    process.send({"turn": 1})
    process.receive()
    child = psutil.Process(process._process.pid)
    before = sum(child.cpu_times()[:2])
    time.sleep(1.0)
    assert sum(child.cpu_times()[:2]) - before < 0.1


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (MemoryError(), "oom", "MemoryError: no message"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), "oom", "allocate"),
        (RuntimeError("shapes differ\nmore"), "crashed", "RuntimeError: shapes differ"),
        (worker.Failed("diverged", "inf"), "diverged", "inf"),
        (worker.Unsupported("nothing was compiled"), "unsupported", "nothing was compiled"),
    ],
)
def test_errors_become_a_status_and_one_line(error, status, reason):
    outcome = worker.failure(error)
    assert outcome["status"] == status
    assert reason in outcome["reason"]
    assert "\n" not in outcome["reason"]
