"""Measures pairs: base, head and control in fresh processes, their rounds in turns.

The measuring code is the package that this module lies in, for every side; what is measured,
``deeprnn`` and ``kernels``, comes from the side's own source directory. This needs a process whose
``bench`` lies in a directory without those two packages: see ``bench/gate_driver.py``.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gate import CaseVerdict
from bench.gate_pairs import SIDES, Measurement, Pair, Side, combine, turn_order
from bench.gate_source import Source
from bench.worker_process import WorkerEnded, WorkerProcess

TURN_SECONDS = 0.25
MOST_EPOCHS_A_TURN = 25
MOST_REPEATS = 20  # of the turns there and back of one pair

SLICE_SECONDS = 0.03
"""Of a long epoch, before the next side goes on.

What disturbs a machine without a GPU of its own comes and goes within seconds: the sooner another
side is measured, the more of it they share. On two cores of a shared server, epochs of 0.17 s in
turns scattered by twice as much as slices of 0.04 s.
"""

COMPARED_EPOCHS = 50
"""After so many epochs of a pair perplexities are compared, or after all where it has fewer.

Code that rounds differently learns alike up to there: six implementations differ by 0.005 % after
60 epochs of the published runs, and by 2 to 9 % after 150 to 200, where networks that begin to know
their text by heart go ways of their own. A fast machine gets that far in one pair.
"""

_NEVER = 10**9  # epochs: no validation within a pair


def shared_processors(pair: int, threads: int) -> set[int]:
    """On which processors pair number ``pair`` is measured, all sides on the same.

    They take turns, so one needs no other's. On a shared server each processor has a speed of its
    own: sides on different ones differed by 2 %, which looks like a change of the code.
    """
    if hasattr(os, "sched_getaffinity"):
        here = sorted(os.sched_getaffinity(0))
    else:
        here = list(range(os.cpu_count() or 1))
    return {here[(pair * threads + i) % len(here)] for i in range(min(threads, len(here)))}


class SideFailed(Exception):
    """A process of a pair came to another end than figures; the message is one line."""


@dataclass
class PairedCase:
    """A case on its way through the gate."""

    measurement: Measurement
    workload: dict[str, Any]
    implementation: str
    execution: str
    epochs_a_turn: int = 1
    minibatches_a_slice: int = 0  # 0: an epoch is not cut
    pair_seconds: list[float] = field(default_factory=list)


class PairRunner:
    """Runs pairs of cases; a failure ends its case, never the others.

    Args:
        sources: by side; the control has base's.
        plan: the planner's, of base.
        text: the normalised text.
        logs: where processes write what they have to say.
        deadline: on the monotonic clock; no pair begins that would end after it.
        say: takes a line for whoever waits.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        plan: Mapping[str, Any],
        text: str,
        logs: Path,
        deadline: float,
        say: Callable[[str], None],
    ) -> None:
        self.sources = sources
        self.plan = plan
        self.text = text
        self.logs = logs
        self.deadline = deadline
        self.say = say
        self.is_out_of_time = False
        self._alive: list[WorkerProcess] = []

    def stop(self) -> None:
        """End every process that still runs."""
        for worker in self._alive:
            worker.stop()
        self._alive.clear()

    # What runs when

    def run(
        self,
        cases: Sequence[PairedCase],
        looks: Sequence[int],
        judge: Callable[[Measurement], CaseVerdict],
        is_settled: Callable[[CaseVerdict], bool],
    ) -> None:
        """Measure each case until a look settles it, the looks or the time are used up.

        Cases take turns pair by pair, so that each is spread over the whole run.
        """
        started = time.monotonic()
        for case in cases:
            if time.monotonic() < self.deadline:
                self.warm_up(case)
            else:
                self.is_out_of_time = True
        waiting = [case for case in cases if case.measurement.kind == "paired"]
        for look in looks:
            for sweep in range(look):
                for case in waiting:
                    if case.measurement.kind == "paired" and len(case.measurement.pairs) < look:
                        self._pair_in_time(case)
                if sweep == 0 and look == looks[0]:
                    self._foretell(waiting, look)
            verdicts = {
                case.measurement.case_id: judge(case.measurement)
                for case in waiting
                if len(case.measurement.pairs) >= look
            }
            for case_id, verdict in verdicts.items():
                self.say(f"  {look} pairs, {case_id}: {verdict.decision.replace('_', ' ')}")
            waiting = [
                case
                for case in waiting
                if case.measurement.case_id in verdicts
                and case.measurement.kind == "paired"
                and not is_settled(verdicts[case.measurement.case_id])
            ]
            if not waiting:
                break
        self.say(f"Measured for {time.monotonic() - started:.0f} s.")

    def _foretell(self, cases: Sequence[PairedCase], look: int) -> None:
        """Say early, after one pair of each case, when the time will not reach the first look."""
        needed = (look - 1) * sum(sum(case.pair_seconds) for case in cases)
        left = self.deadline - time.monotonic()
        about = f"{needed:.0f} seconds" if needed < 90 else f"{needed / 60:.0f} minutes"
        self.say(f"  the first look comes in about {about}")
        if needed > left:
            self.say(
                f"  that is beyond --max-minutes: some of these {len(cases)} cases will have too "
                "few pairs; give it more, or choose fewer by --only"
            )

    def _pair_in_time(self, case: PairedCase) -> None:
        needed = max(case.pair_seconds, default=0.0)
        if time.monotonic() + needed > self.deadline:
            self.is_out_of_time = True
            return
        measurement = case.measurement
        start = time.monotonic()
        try:
            measurement.pairs.append(self._pair(case, len(measurement.pairs)))
        except SideFailed as failed:
            measurement.kind, measurement.reason = "invalid", str(failed)
            self.say(f"  {measurement.case_id}: {failed}")
        case.pair_seconds.append(time.monotonic() - start)

    def warm_up(self, case: PairedCase) -> None:
        """Fill the compile caches of both sides, and see how long an epoch takes.

        The processes verify what they compute; one that is incorrect makes the case invalid.
        """
        measurement = case.measurement
        fastest = math.inf
        try:
            for side in ("base", "head"):
                with self._workers(case, (side,), self.plan["seed"]) as workers:
                    self._ask(workers, side, {"turn": 1})
                    rounds = self._ask(workers, side, {"turn": 1})["rounds"]
                    fastest = min(fastest, rounds[0]["seconds"])
                    tokens = rounds[0]["tokens"]
        except SideFailed as failed:
            measurement.kind, measurement.reason = "invalid", str(failed)
            self.say(f"  {measurement.case_id}: {failed}")
            return
        case.epochs_a_turn = max(1, min(MOST_EPOCHS_A_TURN, math.ceil(TURN_SECONDS / fastest)))
        minibatches = tokens // (case.workload["batch_size"] * case.workload["num_steps"])
        a_slice = math.ceil(SLICE_SECONDS / fastest * minibatches)
        case.minibatches_a_slice = a_slice if 2 * a_slice <= minibatches else 0
        self.say(f"  warm: {measurement.case_id}")

    def check(self, case: PairedCase) -> None:
        """Let head build, compile and verify a case that has no pairs; invalid if it fails."""
        try:
            with self._workers(case, ("head",), self.plan["seed"]):
                pass
        except SideFailed as failed:
            case.measurement.kind, case.measurement.reason = "invalid", str(failed)
            self.say(f"  {case.measurement.case_id}: {failed}")

    # One pair

    def _pair(self, case: PairedCase, number: int) -> Pair:
        """Fresh processes for all sides, their turns in the order of :func:`turn_order`."""
        seed = self.plan["seed"] + number
        order = turn_order(number)
        turns: dict[str, list[list[dict[str, Any]]]] = {side: [] for side in SIDES}
        started = time.monotonic()
        with self._workers(case, order[: len(SIDES)], seed) as workers:
            for side in order[: len(SIDES)]:
                self._ask(workers, side, {"turn": 1})  # warms caches and clocks; not counted
            processors = shared_processors(number, self.plan["threads"])
            for worker in workers.values():
                worker.pin(processors)
            prepared = time.monotonic()
            # What a moment's noise adds gets less with every turn, and processes are dear to start:
            # turns go on for as long as it took to start them, for all sides alike.
            for _ in range(MOST_REPEATS):
                for side, rounds in self._there_and_back(workers, order, case):
                    turns[side].append(rounds)
                if time.monotonic() - prepared >= prepared - started:
                    break
            ends = {side: self._ask(workers, side, {"finish": True}) for side in SIDES}
        counted = {side: [[r["tokens"] for r in turn] for turn in turns[side]] for side in SIDES}
        if counted["head"] != counted["base"]:
            # Speeds are tokens a second: of other counts they would say nothing.
            raise SideFailed("head counts other tokens in the same epochs than base")
        return Pair(seed, *(_summary(turns[side], ends[side]) for side in SIDES))

    def _there_and_back(
        self, workers: Mapping[str, WorkerProcess], order: Sequence[str], case: PairedCase
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Two turns a side, in ``order``, as each is finished.

        With epochs in slices ``order`` is gone through again and again, a slice at a time, so that
        the turns of all sides are under way together.
        """
        command = {"turn": case.epochs_a_turn, "slice": case.minibatches_a_slice}
        owed = Counter(order)
        paused: set[str] = set()
        while owed.total():
            for side in order:
                if not owed[side]:
                    continue
                answer = self._ask(workers, side, {"go": True} if side in paused else command)
                if "paused" in answer:
                    paused.add(side)
                    continue
                paused.discard(side)
                owed[side] -= 1
                yield side, answer["rounds"]

    @contextlib.contextmanager
    def _workers(
        self, case: PairedCase, sides: Sequence[str], seed: int
    ) -> Iterator[dict[str, WorkerProcess]]:
        """One prepared process a side, started together, ended when the block is left."""
        workers: dict[str, WorkerProcess] = {}
        try:
            for side in sides:
                workers[side] = self._start(case, side, seed)
            for side in sides:
                self._receive(workers, side)
            yield workers
        finally:
            for worker in workers.values():
                worker.stop()
                self._alive.remove(worker)

    def _start(self, case: PairedCase, side: str, seed: int) -> WorkerProcess:
        described = ("workload", "flops_per_token")
        job = {
            "workload": {k: v for k, v in case.workload.items() if k not in described}
            | {"epochs": _NEVER},
            "implementation": case.implementation,
            "execution": case.execution,
            "device": self.plan["device"],
            "seed": seed,
            "threads": self.plan["threads"],
            "text": self.text,
            "validate_every": _NEVER,
            "sample_prefix": "t",
            "sample_length": 1,
        }
        source = self.sources[side]
        log = self.logs / f"{case.measurement.case_id.replace('/', '__')}.{side}.log"
        limit = self.plan["case_seconds"]
        worker = WorkerProcess(job, log, limit, str(source.cache), source.directory, source.python)
        self._alive.append(worker)
        return worker

    def _ask(
        self, workers: Mapping[str, WorkerProcess], side: str, message: dict[str, Any]
    ) -> dict[str, Any]:
        workers[side].send(message)
        return self._receive(workers, side)

    def _receive(self, workers: Mapping[str, WorkerProcess], side: str) -> dict[str, Any]:
        name = "base" if side == "control" else side
        try:
            answer = workers[side].receive()
        except WorkerEnded as end:
            raise SideFailed(f"{name} {end.status}: {end}") from None
        if "status" in answer:
            raise SideFailed(f"{name} {answer['status']}: {answer['reason']}")
        return answer


def _summary(turns: Sequence[Sequence[Mapping[str, Any]]], end: Mapping[str, Any]) -> Side:
    rounds = [entry for turn in turns for entry in turn]
    return Side(
        tokens_per_second=combine([[r["tokens"] / r["seconds"] for r in turn] for turn in turns]),
        peak_memory_mib=end.get("peak_memory_mib"),
        train_perplexity=rounds[min(len(rounds), COMPARED_EPOCHS) - 1]["train_perplexity"],
        rounds=len(rounds),
        marked=sum(bool(entry["mark"]) for entry in rounds),
    )
