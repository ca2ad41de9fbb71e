"""Schedules workers, interleaves their rounds, holds time limits, writes rows, resumes."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import rows
from bench.progress import RunProgress
from bench.results import CURVES, ROUNDS, TRAINING
from bench.worker_process import CACHE_PREFIX, WorkerEnded, WorkerProcess
from bench.workloads import Profile

Item = TypeVar("Item")

SAMPLE_PREFIX = "time traveller"
SAMPLE_LENGTH = 50

TURN_SECONDS = 0.25
"""A turn of the fastest case lasts about this long: several rounds, where rounds are short."""

MOST_EPOCHS_A_TURN = 25

PREPARATION_SECONDS = 6.0
"""A guess, for the progress display alone."""


@dataclass
class ActiveCase:
    """A case whose worker is alive, and what it has answered so far."""

    case: dict[str, Any]
    worker: WorkerProcess
    figures: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # of training


class Runner:
    """Runs the cases of a plan that have no row yet, workload by workload.

    Args:
        plan: as stored in ``plan.json``.
        profile: the profile it was made from.
        text: the normalised text.
        peaks: floating-point operations a second by ``dtype/precision``.
        directory: where the tables are.
        progress: where to say what happens.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        profile: Profile,
        text: str,
        peaks: dict[str, float],
        directory: Path,
        progress_for: Callable[[float], RunProgress],
    ) -> None:
        self.plan = plan
        self.profile = profile
        self.text = text
        self.peaks = peaks
        self.directory = directory
        self.workloads = {w["workload"]: w for w in plan["workloads"]}
        self.logs = directory / "logs"
        done = TRAINING.load(directory)["case_id"]
        self.done = set(done)
        # An interrupted case left rounds and no row: they would be counted twice.
        for table in (ROUNDS, CURVES):
            table.keep(directory, self.done)
        self.missing = [c for c in plan["cases"] if c["case_id"] not in self.done]
        self._alive: list[WorkerProcess] = []
        self._is_stopping = False
        self._shared_cache = tempfile.mkdtemp(prefix=CACHE_PREFIX) if profile.hurried else None
        self.progress = progress_for(sum(self._estimate(c) for c in self.missing))

    def run(self) -> None:
        """Run what is missing. On any exception all workers are stopped before it leaves."""
        self.logs.mkdir(exist_ok=True)
        try:
            for case in self.missing:
                if case["unsupported"]:
                    self._write_row(case, "unsupported", case["unsupported"], {})
            for workload in self.workloads.values():
                cases = [
                    c
                    for c in self.missing
                    if c["workload"] == workload["workload"] and not c["unsupported"]
                ]
                if cases:
                    self._run_workload(workload, cases)
        finally:
            self._stop_all()
            self.progress.close()
            if self._shared_cache is not None:
                shutil.rmtree(self._shared_cache, ignore_errors=True)
            if not any(self.logs.iterdir()):
                self.logs.rmdir()

    def _stop_all(self) -> None:
        self._is_stopping = True
        for worker in list(self._alive):
            worker.stop()

    # One workload

    def _run_workload(self, workload: dict[str, Any], cases: list[dict[str, Any]]) -> None:
        self.progress.say(f"{workload['title']} ({workload['workload']}): {len(cases)} cases")
        active = self._all(cases, lambda case: self._prepare(workload, case))
        turn = 0
        while any(len(a.rounds) < workload["epochs"] for a in active):
            epochs = min(self._epochs_a_turn(active), workload["epochs"] - len(active[0].rounds))
            if self.profile.hurried:
                take_turn = partial(self._turn, workload, turn=turn, epochs=epochs)
                active = self._all(active, take_turn)
            else:  # one at a time, each with the machine to itself
                active = [a for a in active if self._turn(workload, a, turn=turn, epochs=epochs)]
            turn += 1
        finished = self._all(active, self._finish)
        found = {
            a.case["case_id"]: a.figures
            | rows.figures(workload, a.case, a.rounds, self._peak(workload))
            for a in finished
        }
        factors = rows.factors(
            [a.case for a in finished], found, [r for a in finished for r in a.rounds]
        )
        for a in finished:
            case_id = a.case["case_id"]
            factor = {"speedup_over_torch_nn": factors.get(case_id)}
            self._write_row(a.case, "ok", "", found[case_id] | factor)
            self.progress.say(f"  {case_id}: {self._headline(a)}")

    def _all(
        self, items: Sequence[Item], do: Callable[[Item], ActiveCase | None]
    ) -> list[ActiveCase]:
        """Those that ``do`` returned, of several at a time."""
        with ThreadPoolExecutor(self.plan["prepare_at_once"]) as pool:
            try:
                done = list(pool.map(do, items))
            except BaseException:
                # Ctrl-C arrives in this thread alone; the others wait for their workers.
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop_all()
                raise
        return [active for active in done if active is not None]

    def _prepare(self, workload: dict[str, Any], case: dict[str, Any]) -> ActiveCase | None:
        if self._is_stopping:
            return None
        self.progress.doing(f"preparing {case['case_id']}")
        job = {
            "workload": {
                k: v for k, v in workload.items() if k not in ("workload", "flops_per_token")
            },
            "implementation": case["implementation"],
            "execution": case["execution"],
            "device": self.plan["device"],
            "seed": self.plan["seed"],
            "threads": self.plan["threads"],
            "text": self.text,
            "validate_every": self.profile.validate_every,
            "sample_prefix": SAMPLE_PREFIX,
            "sample_length": SAMPLE_LENGTH,
        }
        log = self.logs / (case["case_id"].replace("/", "__") + ".log")
        worker = WorkerProcess(job, log, self.plan["case_seconds"], self._shared_cache)
        self._alive.append(worker)
        active = ActiveCase(case, worker)
        answer = self._ask(active)
        if answer is None:
            return None
        active.figures = answer
        self.progress.doing(f"prepared {case['case_id']}", PREPARATION_SECONDS)
        return active

    def _turn(
        self, workload: dict[str, Any], active: ActiveCase, turn: int, epochs: int
    ) -> ActiveCase | None:
        case_id = active.case["case_id"]
        self.progress.doing(f"epoch {len(active.rounds) + 1} of {workload['epochs']}, {case_id}")
        active.worker.send({"turn": epochs})
        answer = self._ask(active, turn)
        if answer is None:
            return None
        self._keep_rounds(active, turn, answer["rounds"])
        self.progress.doing(case_id, epochs * self._epoch_estimate(workload))
        return active

    def _finish(self, active: ActiveCase) -> ActiveCase | None:
        active.worker.send({"finish": True})
        answer = self._ask(active)
        if answer is None:
            return None
        active.figures |= answer
        self._end(active, keep_log=False)
        return active

    def _ask(self, active: ActiveCase, turn: int = 0) -> dict[str, Any] | None:
        """The worker's answer; None, with the row written, if the case ends here instead."""
        try:
            answer = active.worker.receive()
        except WorkerEnded as end:
            if self._is_stopping:
                return None  # it was stopped, it did not fail: it has no row and can be resumed
            answer = {"status": end.status, "reason": str(end)}
        if "status" not in answer:
            return answer
        status, reason = answer.pop("status"), answer.pop("reason")
        self._keep_rounds(active, turn, answer.pop("rounds", []))
        figures = {k: v for k, v in (active.figures | answer).items() if k in TRAINING.columns}
        self._write_row(active.case, status, reason, figures)
        self.progress.say(f"  {active.case['case_id']}: {status}: {reason}")
        self._end(active, keep_log=True)
        return None

    def _end(self, active: ActiveCase, keep_log: bool) -> None:
        active.worker.stop()
        self._alive.remove(active.worker)
        if not keep_log or active.worker.log.stat().st_size == 0:
            active.worker.log.unlink()

    # What is measured

    def _keep_rounds(self, active: ActiveCase, turn: int, rounds: list[dict[str, Any]]) -> None:
        common = {"case_id": active.case["case_id"], "run_id": self.plan["run_id"]}
        timed, curve = [], []
        for entry in rounds:
            active.seconds += entry["seconds"]
            row = {
                **common,
                **{k: entry[k] for k in ("epoch", "tokens", "seconds", "other_cpu", "mark")},
                **{k: entry.get(k) for k in ROUNDS.added},  # the machine's state
                "turn": turn,
                "warm_up": entry["epoch"] <= self.profile.warm_up_epochs,
                "tokens_per_second": entry["tokens"] / entry["seconds"],
            }
            timed.append(row)
            perplexities = {k: entry[k] for k in ("train_perplexity", "validation_perplexity")}
            curve.append(
                {**common, "epoch": entry["epoch"], "seconds": active.seconds, **perplexities}
            )
            active.rounds.append({**row, **perplexities, "training_seconds": active.seconds})
        ROUNDS.append(self.directory, timed)
        CURVES.append(self.directory, curve)

    def _epochs_a_turn(self, active: list[ActiveCase]) -> int:
        if not active[0].rounds:
            return 1  # the warm-up, and the first look at how long an epoch takes
        fastest = min(a.rounds[-1]["seconds"] for a in active)
        return max(1, min(MOST_EPOCHS_A_TURN, math.ceil(TURN_SECONDS / fastest)))

    def _headline(self, active: ActiveCase) -> str:
        last = active.rounds[-1]
        text = f"training perplexity {last['train_perplexity']:.3f} after {last['epoch']} epochs"
        if active.case["interpreted"]:
            return f"checked in the interpreter, {text}"
        counted = [r["tokens_per_second"] for r in active.rounds if not r["warm_up"]]
        return f"{np.median(counted):,.0f} tokens/s, {text}" if counted else text

    def _write_row(
        self, case: dict[str, Any], status: str, reason: str, figures: dict[str, Any]
    ) -> None:
        row = rows.row(self.plan, self.workloads[case["workload"]], case, status, reason)
        TRAINING.append(self.directory, [{**row, **figures}])

    def _peak(self, workload: dict[str, Any]) -> float | None:
        return self.peaks.get(f"{workload['dtype']}/{workload['matmul_precision']}")

    # How long it will take, roughly, for the progress display alone

    def _estimate(self, case: dict[str, Any]) -> float:
        if case["unsupported"]:
            return 0.0
        workload = self.workloads[case["workload"]]
        return PREPARATION_SECONDS + workload["epochs"] * self._epoch_estimate(workload)

    def _epoch_estimate(self, workload: dict[str, Any]) -> float:
        flops = workload["flops_per_token"] * workload["num_train"]
        peak = self._peak(workload) or 1e11
        return float(flops / peak / 0.4 + 2e-5 * workload["num_train"] / workload["batch_size"])


def wall_time() -> str:
    """Now, in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
