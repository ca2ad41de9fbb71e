"""The order of a run: who is prepared when, and whose turn it is. Workers here only pretend."""

from dataclasses import asdict
from pathlib import Path

import pytest

from bench import runner as module
from bench.results import ROUNDS, TRAINING
from bench.runner import Runner
from bench.workloads import PROFILES, Profile, Workload

WORKLOADS = [
    Workload(cell=cell, num_layers=1, hidden_size=8, learning_rate=1.0, epochs=2, title=cell)
    for cell in ("lstm", "gru", "rnn_tanh")
]
IMPLEMENTATIONS = ("quick_one", "slow_one")


class Progress:
    def __init__(self, seconds: float) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def doing(self, text: str, estimated_seconds: float = 0.0) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, str]]:
    """What happens, in its order: (what, case id), by workers that only pretend to train."""
    happened: list[tuple[str, str]] = []

    class Worker:
        def __init__(self, job, log: Path, limit: float, cache: str | None) -> None:
            self.case_id = "/".join(
                [Workload(**job["workload"]).id, job["implementation"], job["execution"]]
            )
            self.log = log
            log.touch()
            self.epoch = 0
            happened.append(("prepare", self.case_id))
            self.answer = {"backend": "none", "cold_start_seconds": 1.0, "gradient_error": 0.0}
            if job["implementation"] == "wrong_one":
                self.answer = {"status": "incorrect", "reason": "planted"}

        def send(self, message) -> None:
            if "finish" in message:
                happened.append(("finish", self.case_id))
                self.answer = {"peak_memory_mib": 1.0, "peak_memory_kind": "cpu", "sample": "x"}
                return
            happened.append(("turn", self.case_id))
            rounds = []
            for _ in range(message["turn"]):
                self.epoch += 1
                rounds.append(
                    {
                        "epoch": self.epoch,
                        "tokens": 100,
                        "seconds": 0.1,
                        "other_cpu": 0.0,
                        "mark": "",
                        "train_perplexity": 2.0,
                        "validation_perplexity": None,
                    }
                )
            self.answer = {"rounds": rounds, "is_over": False}

        def receive(self):
            return self.answer

        def kill(self) -> None:
            pass

        def stop(self) -> None:
            happened.append(("end", self.case_id))

    monkeypatch.setattr(module, "WorkerProcess", Worker)
    return happened


def plan(workers_at_most: int, implementations=IMPLEMENTATIONS) -> dict:
    return {
        "profile": "smoke",
        "run_id": "run",
        "commit": "none",
        "device": "cpu",
        "seed": 0,
        "threads": 1,
        "prepare_at_once": 1,
        "workers_at_most": workers_at_most,
        "case_seconds": PROFILES["smoke"].case_seconds,
        "corpus": {"title": "a text", "sha256": "0", "asked": "timemachine"},
        "workloads": [
            {"workload": w.id, **asdict(w), "flops_per_token": w.flops_per_token(28)}
            for w in WORKLOADS
        ],
        "cases": [
            {
                "case_id": f"{workload.id}/{name}/eager",
                "workload": workload.id,
                "implementation": name,
                "execution": "eager",
                "interpreted": False,
                "unsupported": "",
            }
            for workload in WORKLOADS
            for name in implementations
        ],
    }


def run(directory: Path, the_plan: dict) -> None:
    profile = Profile(name="smoke", purpose="", workloads=tuple(WORKLOADS))
    Runner(the_plan, profile, "a text", {}, directory, Progress).run()


def most_alive(events: list[tuple[str, str]]) -> int:
    alive = most = 0
    for what, _ in events:
        alive += {"prepare": 1, "end": -1}.get(what, 0)
        most = max(most, alive)
    assert alive == 0
    return most


@pytest.mark.parametrize(("workers_at_most", "alive"), [(0, 2), (3, 2), (4, 4), (5, 4), (99, 6)])
def test_as_many_workloads_are_prepared_ahead_as_fit(events, tmp_path, workers_at_most, alive):
    run(tmp_path, plan(workers_at_most))
    assert most_alive(events) == alive
    assert len(TRAINING.load(tmp_path)) == 6
    assert len(ROUNDS.load(tmp_path)) == 12


@pytest.mark.parametrize("workers_at_most", [0, 4, 99])
def test_nothing_is_prepared_while_something_is_timed(events, tmp_path, workers_at_most):
    run(tmp_path, plan(workers_at_most))
    alive_with_turns: set[str] = set()
    for what, case_id in events:
        if what == "turn":
            alive_with_turns.add(case_id)
        elif what == "end":
            alive_with_turns.discard(case_id)
        elif what == "prepare":
            assert not alive_with_turns


@pytest.mark.parametrize("workers_at_most", [0, 4, 99])
def test_turns_are_taken_within_a_workload_alone(events, tmp_path, workers_at_most):
    the_plan = plan(workers_at_most)
    run(tmp_path, the_plan)
    turns = [case_id for what, case_id in events if what == "turn"]
    expected = [
        c["case_id"]
        for workload in WORKLOADS
        for _ in range(workload.epochs)
        for c in the_plan["cases"]
        if c["workload"] == workload.id
    ]
    assert turns == expected


def test_what_is_slow_for_one_workload_is_begun_for_all_of_them_together(events, tmp_path):
    run(tmp_path, plan(99))
    prepared = [case_id.split("/")[1] for what, case_id in events if what == "prepare"]
    assert prepared == ["quick_one"] * 3 + ["slow_one"] * 3


def test_one_that_fails_while_it_is_prepared_ahead_leaves_the_others(events, tmp_path):
    run(tmp_path, plan(99, ("quick_one", "wrong_one")))
    rows = TRAINING.load(tmp_path).set_index("case_id")["status"]
    assert len(rows) == 6
    assert (rows[rows.index.str.contains("wrong_one")] == "incorrect").all()
    assert (rows[rows.index.str.contains("quick_one")] == "ok").all()
    assert most_alive(events) <= 6
