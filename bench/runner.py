"""Schedules workers, interleaves their rounds, holds time limits, writes rows, resumes."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from bench import rows
from bench.progress import RunProgress
from bench.results import CURVES, HELD_OUT, ROUNDS, SAMPLES, TRAINING
from bench.stored import load_tables, log_of
from bench.wording import counted
from bench.worker_process import CACHE_PREFIX, WorkerEnded, WorkerProcess
from bench.workloads import Profile, Workload

Item = TypeVar("Item")

WORKLOAD_FIELDS = [field.name for field in fields(Workload)]

SAMPLE_PREFIX = "time traveller"
SAMPLE_LENGTH = 50

TURN_SECONDS = 0.25
"""A turn of the fastest case lasts about this long: several rounds, where rounds are short."""

MOST_EPOCHS_A_TURN = 25

FEWEST_TURNS = 20  # where there are as many epochs: two for each stretch of an interval

PREPARATION_SECONDS = 6.0
"""A guess, for the progress display alone."""


@dataclass
class ActiveCase:
    """A case whose worker is alive, and what it has answered so far."""

    case: dict[str, Any]
    workload: dict[str, Any]
    worker: WorkerProcess
    figures: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # of training
    is_over: bool = False  # it has trained as long as it should


class Runner:
    """Runs the cases of a plan that have no row yet: what is learned, then what is timed.

    Args:
        plan: as stored in ``plan.json``.
        profile: the profile it was made from.
        text: the normalised text.
        peaks: floating-point operations a second by ``dtype/precision``.
        directory: where the tables are.
        progress_for: makes what says how it goes, from the estimated seconds of the whole run.
        more_for_job: what the worker of a case is told beyond the ordinary.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        profile: Profile,
        text: str,
        peaks: dict[str, float],
        directory: Path,
        progress_for: Callable[[float], RunProgress],
        more_for_job: Callable[[dict[str, Any]], dict[str, Any]] = lambda case: {},
    ) -> None:
        self.plan = plan
        self.profile = profile
        self.text = text
        self.peaks = peaks
        self.directory = directory
        self.more_for_job = more_for_job
        self.workloads = {w["workload"]: w for w in plan["workloads"]}
        self.logs = directory / "logs"
        for table in (TRAINING, ROUNDS, CURVES, HELD_OUT, SAMPLES):
            table.drop_half_line(directory)
        self.done = self._whole_groups(load_tables(directory).training)
        # An interrupted case left rounds and no row: they would be counted twice.
        for table in (ROUNDS, CURVES, HELD_OUT, SAMPLES):
            table.keep(directory, self.done)
        self.missing = [c for c in plan["cases"] if c["case_id"] not in self.done]
        self._alive: list[WorkerProcess] = []
        self._is_stopping = False
        self._shared_cache = tempfile.mkdtemp(prefix=CACHE_PREFIX) if profile.hurried else None
        self.progress = progress_for(sum(self._estimate(c) for c in self.missing))

    def _whole_groups(self, training: pd.DataFrame) -> set[str]:
        """The cases that have a row to stay; rows of groups that lack one are dropped.

        Factors are paired by turn, and turns of two sessions are no pairs: a group of which a case
        must run again is measured again, but for what failed.
        """
        done = set(training["case_id"])
        lacking = {
            case.get("group", case["workload"])
            for case in self.plan["cases"]
            if self._is_compared(case) and case["case_id"] not in done
        }
        ok = set(training["case_id"][training["status"] == "ok"])
        again = {
            case["case_id"]
            for case in self.plan["cases"]
            if self._is_compared(case) and case.get("group", case["workload"]) in lacking
        } & ok
        if again:
            TRAINING.keep(self.directory, done - again)
        return done - again

    @staticmethod
    def _is_compared(case: dict[str, Any]) -> bool:
        return not case["unsupported"] and bool(case.get("timed", True))

    def run(self) -> None:
        """Run what is missing. On any exception all workers are stopped before it leaves."""
        self.logs.mkdir(exist_ok=True)
        try:
            for case in self.missing:
                if case["unsupported"]:
                    self._write_row(case, "unsupported", case["unsupported"], {})
            runnable = [c for c in self.missing if not c["unsupported"]]
            groups: dict[str, list[dict[str, Any]]] = {}
            for case in runnable:
                if case.get("timed", True):
                    groups.setdefault(case.get("group", case["workload"]), []).append(case)
            self._run_untimed([c for c in runnable if not c.get("timed", True)])
            for together in self._as_many_as_fit(groups):
                self._run_side_by_side({group: groups[group] for group in together})
        finally:
            self._stop_all()
            self.progress.close()
            if self._shared_cache is not None:
                shutil.rmtree(self._shared_cache, ignore_errors=True)
            if not any(self.logs.iterdir()):
                self.logs.rmdir()

    def _stop_all(self) -> None:
        self._is_stopping = True
        # All at once: a driver takes its time to end a process, and there may be dozens.
        for worker in list(self._alive):
            worker.kill()
        for worker in list(self._alive):
            worker.stop()

    # Cases that are compared: their rounds take turns

    def _as_many_as_fit(self, groups: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
        """Groups in their order, in lots whose workers may all be alive at once."""
        lots: list[list[str]] = []
        alive = 0
        for group, cases in groups.items():
            if not lots or alive + len(cases) > self.plan["workers_at_most"]:
                lots.append([])
                alive = 0
            lots[-1].append(group)
            alive += len(cases)
        return lots

    def _run_side_by_side(self, groups: dict[str, list[dict[str, Any]]]) -> None:
        for group, cases in groups.items():
            title = self.workloads[group]["title"] + ": " if group in self.workloads else ""
            self.progress.say(f"{title}{group}, {counted(len(cases), 'case')}")
        # What is slow to compile is so for every workload: begun together, they end together.
        cases = sorted((c for cs in groups.values() for c in cs), key=lambda c: c["implementation"])
        prepared = {a.case["case_id"]: a for a in self._all(cases, self._prepare)}
        for cases in groups.values():
            ids = [c["case_id"] for c in cases]
            self._take_turns([prepared[case_id] for case_id in ids if case_id in prepared])

    def _take_turns(self, active: list[ActiveCase]) -> None:
        turn = 0
        while any(not a.is_over for a in active):
            epochs = self._epochs_a_turn(active)
            if self.profile.hurried:
                active = self._all(active, partial(self._turn, turn=turn, epochs=epochs))
            else:  # one at a time, each with the machine to itself
                active = [a for a in active if self._turn(a, turn=turn, epochs=epochs)]
            turn += 1
        finished = self._all(active, self._finish)
        found = {a.case["case_id"]: self._figures(a) for a in finished}
        factors = rows.factors(
            [a.case for a in finished], found, [r for a in finished for r in a.rounds]
        )
        done = []
        for a in finished:
            case_id = a.case["case_id"]
            factor = {"speedup_over_torch_nn": factors.get(case_id)}
            row = rows.row(self.plan, a.workload, a.case, "ok", "")
            done.append(row | found[case_id] | factor)
            self.progress.say(f"  {case_id}: {self._headline(a)}")
        # At once: resumed with some of them, the others' turns would not be those of these.
        TRAINING.append(self.directory, done)

    def _figures(self, active: ActiveCase) -> dict[str, Any]:
        workload = active.workload
        measured = rows.figures(workload, active.case, active.rounds, self._peak(workload))
        return {k: v for k, v in active.figures.items() if k in TRAINING.columns} | measured

    # Cases of which only what they learn counts: as many at a time as there is room for

    def _run_untimed(self, cases: list[dict[str, Any]]) -> None:
        if not cases:
            return
        self.progress.say(
            f"{len(cases)} cases for what they learn, {self.plan['learn_at_once']} at a time: "
            "their speeds are not kept"
        )
        self._all(cases, self._learn, self.plan["learn_at_once"])

    def _learn(self, case: dict[str, Any]) -> ActiveCase | None:
        active = self._prepare(case)
        turn = 0
        while active is not None and not active.is_over:
            active = self._turn(active, turn=turn, epochs=self._epochs_a_turn([active]))
            turn += 1
        active = active and self._finish(active)
        if active is not None:
            common = {"case_id": case["case_id"], "run_id": self.plan["run_id"]}
            HELD_OUT.append(self.directory, [{**common, **r} for r in active.figures["held_out"]])
            SAMPLES.append(self.directory, [{**common, **r} for r in active.figures["samples"]])
            self._write_row(case, "ok", "", self._figures(active))
            self.progress.say(f"  {case['case_id']}: {self._headline(active)}")
        return active

    def _all(
        self,
        items: Sequence[Item],
        do: Callable[[Item], ActiveCase | None],
        at_once: int | None = None,
    ) -> list[ActiveCase]:
        """Those that ``do`` returned, of several at a time."""
        with ThreadPoolExecutor(at_once or self.plan["prepare_at_once"]) as pool:
            try:
                done = list(pool.map(do, items))
            except BaseException:
                # Ctrl-C arrives in this thread alone; the others wait for their workers.
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop_all()
                raise
        return [active for active in done if active is not None]

    def _prepare(self, case: dict[str, Any]) -> ActiveCase | None:
        if self._is_stopping:
            return None
        workload = self.workloads[case["workload"]]
        is_timed = case.get("timed", True)
        self.progress.doing(f"preparing {case['case_id']}")
        job = {
            "workload": {k: v for k, v in workload.items() if k in WORKLOAD_FIELDS},
            "implementation": case["implementation"],
            "execution": case["execution"],
            "device": self.plan["device"],
            "seed": self.plan["seed"] if workload["seed"] is None else workload["seed"],
            "threads": self.plan["threads"] if is_timed else self.plan["learn_threads"],
            "text": self.text,
            "validate_every": workload["validate_every"] or self.profile.validate_every,
            "sample_prefix": SAMPLE_PREFIX,
            "sample_length": SAMPLE_LENGTH,
            **self.more_for_job(case),
        }
        log = log_of(self.directory, case["case_id"])
        worker = WorkerProcess(job, log, self.plan["case_seconds"], self._shared_cache)
        self._alive.append(worker)
        if self._is_stopping:
            worker.stop()  # begun while the others were being stopped
        active = ActiveCase(case, workload, worker)
        answer = self._ask(active)
        if answer is None:
            return None
        active.figures = answer
        self.progress.doing(f"prepared {case['case_id']}", PREPARATION_SECONDS)
        return active

    def _turn(self, active: ActiveCase, turn: int, epochs: int) -> ActiveCase | None:
        if active.is_over:
            return active
        case_id, workload, done = active.case["case_id"], active.workload, len(active.rounds)
        self.progress.doing(f"epoch {done + 1} of {workload['epochs']}, {case_id}")
        active.worker.send({"turn": min(epochs, workload["epochs"] - done)})
        answer = self._ask(active, turn)
        if answer is None:
            return None
        self._keep_rounds(active, turn, answer["rounds"])
        active.is_over = answer["is_over"] or len(active.rounds) >= workload["epochs"]
        left_out = workload["epochs"] - len(active.rounds) if active.is_over else 0
        counted = len(active.rounds) - done + left_out
        self.progress.doing(case_id, counted * self._epoch_estimate(active.case))
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
        is_timed = active.case.get("timed", True)
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
            seconds = active.seconds if is_timed else None  # beside others they mean nothing
            curve.append({**common, "epoch": entry["epoch"], "seconds": seconds, **perplexities})
            active.rounds.append({**row, **perplexities, "training_seconds": active.seconds})
        if is_timed:
            ROUNDS.append(self.directory, timed)
        CURVES.append(self.directory, curve)

    def _epochs_a_turn(self, active: list[ActiveCase]) -> int:
        if any(not a.rounds for a in active):
            return 1  # the warm-up, and the first look at how long an epoch takes
        fastest = min(a.rounds[-1]["seconds"] for a in active)
        # Factors are paired by turn: however short an epoch is, there are turns to pair.
        longest = min(MOST_EPOCHS_A_TURN, max(a.workload["epochs"] for a in active) // FEWEST_TURNS)
        return max(1, min(longest, math.ceil(TURN_SECONDS / fastest)))

    def _headline(self, active: ActiveCase) -> str:
        last = active.rounds[-1]
        text = f"training perplexity {last['train_perplexity']:.3f} after {last['epoch']} epochs"
        if active.case["interpreted"]:
            return f"checked in the interpreter, {text}"
        if not active.case.get("timed", True):
            return text
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
        epochs = self.workloads[case["workload"]]["epochs"]
        return PREPARATION_SECONDS + epochs * self._epoch_estimate(case)

    def _epoch_estimate(self, case: dict[str, Any]) -> float:
        workload = self.workloads[case["workload"]]
        characters = sum(n for _, n in workload["training"]) or workload["num_train"]
        peak = self._peak(workload) or 1e11
        seconds = workload["flops_per_token"] * characters / peak / 0.4
        return float(seconds + 2e-5 * characters / workload["batch_size"])


def wall_time(seconds_ago: float = 0.0) -> str:
    """Now, or so many seconds ago, in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() - seconds_ago))
