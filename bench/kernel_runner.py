"""The parent of ``bench kernels``: it hands out rows, and outlives whatever they do.

First every kernel is compiled, by several children beside each other: a compiler takes one
processor for seconds. Then a single child times row after row with the machine to itself. A row
that hangs or crashes costs itself alone. Its child is ended with all that it holds on the device,
and another goes on with the next row. No child is left behind, whatever happens.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.kernel_table import Spec
from bench.worker_process import CACHE_PREFIX, WorkerEnded, WorkerProcess

ROW_SECONDS = 45.0
"""What a row may take, capturing included."""

FIRST_ROW_SECONDS = 120.0
"""What compiling and checking a kernel may take, and its first row, where that is done with it."""

PLAN_SECONDS = 120.0

SAME_KERNEL = (
    "kernel", "cell", "num_layers", "hidden_size", "batch_size", "num_steps", "dtype",
    "matmul_precision", "tile",
)  # fmt: skip
"""Rows that agree in these run the same kernels."""

MODULE = "bench.kernel_worker"


def _kernel_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in SAME_KERNEL)


class PlanFailed(RuntimeError):
    """The child ended before it said which rows there are."""


class KernelRun:
    """One run over the rows of ``specs``.

    Args:
        specs: the layers.
        device, threads: of the child.
        deadline: on ``time.monotonic``; no row begins after it and none goes on.
        log: a file for what the child writes on standard error.
        module: what the child runs; tests give one that misbehaves.
        cache: a directory for what is compiled, which stays; else one that goes with the run.
        tiles: whether kernels are also timed with the other tiles that fit.
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        device: str,
        threads: int,
        deadline: float,
        log: Path,
        module: str | None = None,
        cache: Path | None = None,
        tiles: bool = False,
    ) -> None:
        self.job = {
            "specs": [asdict(spec) for spec in specs],
            "device": device,
            "threads": threads,
            "tiles": tiles,
        }
        self.deadline = deadline
        self.log = log
        self.module = module or MODULE
        self.about: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix=CACHE_PREFIX)
        self._cache = str(cache) if cache is not None else self._scratch.name
        self._child: WorkerProcess | None = None
        self._compile_at_once = 1
        self._compilers: list[WorkerProcess] = []
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._beginning = threading.Lock()
        self._is_stopping = False
        self._hung: list[str] = []
        self._reported_crash = False
        self._seen: set[tuple[Any, ...]] = set()

    def close(self) -> None:
        """End all children and remove what they compiled, unless that has a place of its own."""
        self._end_child()
        self._end_compilers()
        self._scratch.cleanup()

    def plan(self) -> None:
        """Ask a child which rows there are. Raises ``PlanFailed``."""
        try:
            self._start()
        except WorkerEnded as ended:
            raise PlanFailed(str(ended)) from None

    def kernels(self) -> list[str]:
        """One row of each kernel that is worth compiling beforehand: all, or none."""
        one_of_each: dict[tuple[Any, ...], str] = {}
        for row_id, row in self.rows.items():
            if not row["status"]:
                one_of_each.setdefault(_kernel_of(row), row_id)
        # With one child at a time the one that times them compiles as it goes.
        return list(one_of_each.values()) if self._compile_at_once > 1 else []

    def compile(self, done: Callable[[], None]) -> None:
        """Fill the compilers' cache, several :meth:`kernels` at a time, and say when one is done.

        :meth:`run` does not try again what hung; what failed fails there once more, and says why.
        """
        kernels = self.kernels()
        if not kernels:
            return
        with ThreadPoolExecutor(min(self._compile_at_once, len(kernels))) as pool:
            try:
                for _ in pool.map(self._compile_one, kernels):
                    done()
            except BaseException:  # Ctrl-C arrives in this thread alone; the others wait
                pool.shutdown(wait=False, cancel_futures=True)
                self._end_compilers()
                raise
        self._end_compilers()

    def _compile_one(self, row_id: str) -> None:
        if self._is_stopping or self._time_left() <= 0:
            return
        with contextlib.suppress(WorkerEnded):
            child = self._idle_compiler()
            child.send({"compile": row_id})
            try:
                self._hear(child, FIRST_ROW_SECONDS)
            except WorkerEnded as ended:
                if ended.status == "timeout" and self._time_left() > 0:
                    self._hung.append(row_id)
            else:
                self._idle.put(child)

    def _idle_compiler(self) -> WorkerProcess:
        """A child that has nothing to compile. Raises ``WorkerEnded``."""
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._beginning:
            log = self.log.with_name(f"{self.log.name}-{len(self._compilers)}")
            # One thread each: there are as many of them as processors.
            job = {**self.job, "threads": 1}
            child = WorkerProcess(job, log, PLAN_SECONDS, self._cache, module=self.module)
            self._compilers.append(child)
        if self._is_stopping:
            child.stop()  # begun while the others were being stopped
        self._hear(child, PLAN_SECONDS)  # the rows, once more
        return child

    def _end_compilers(self) -> None:
        self._is_stopping = True
        for child in self._compilers:  # all at once: a driver takes its time to end a process
            child.kill()
        for child in self._compilers:
            child.stop()

    def run(
        self,
        keep: Callable[[Mapping[str, Any]], None],
        doing: Callable[[str, int, int], None] = lambda row_id, done, total: None,
    ) -> None:
        """Hand every row to ``keep``, refused ones first; ``doing`` hears which one runs."""
        for row in self.rows.values():
            if row["status"]:
                keep(row)
        waiting = [row_id for row_id, row in self.rows.items() if not row["status"]]
        for hung in self._hung:
            reason = f"compiling and checking it took longer than {FIRST_ROW_SECONDS:.0f} s"
            keep({**self.rows[hung], "status": "timeout", "reason": reason})
            waiting.remove(hung)
            self._give_up_like(hung, waiting, keep)
        total = len(waiting)
        while waiting and self._time_left() > 0:
            current = waiting[0]
            try:
                child = self._child or self._start()
                child.send({"fill": waiting})
                while True:
                    said = self._receive(child, self._seconds_for(current))
                    if "doing" in said:
                        current = said["doing"]
                        doing(current, total - len(waiting), total)
                    elif "row" in said:
                        self._seen.add(_kernel_of(said["row"]))
                        keep(said["row"])
                        waiting.remove(said["row"]["row_id"])
                        current = waiting[0] if waiting else current
                    else:
                        break
            except WorkerEnded as ended:
                out_of_time = ended.status == "timeout" and self._time_left() <= 0
                # A child that reported a crash ends itself: the next row has not begun.
                if not out_of_time and not self._reported_crash:
                    reason = str(ended)
                    if ended.status == "timeout":
                        seconds = self._seconds_for(current)
                        reason = f"took longer than the {seconds:.0f} s a row may take"
                    keep({**self.rows[current], "status": ended.status, "reason": reason})
                    waiting.remove(current)
                    if ended.status == "timeout":
                        self._give_up_like(current, waiting, keep)
            self._end_child()
        for row_id in waiting:
            reason = "the run's time was used up: give --max-minutes more, or fewer layers"
            keep({**self.rows[row_id], "status": "timeout", "reason": reason})

    def _give_up_like(
        self, hung: str, waiting: list[str], keep: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """What hung once would hang again: other rows of the same kernels are not tried."""
        for row_id in list(waiting):
            row = self.rows[row_id]
            if _kernel_of(row) == _kernel_of(self.rows[hung]):
                keep({**row, "status": "timeout", "reason": f"not tried: {hung} took too long"})
                waiting.remove(row_id)

    def _start(self) -> WorkerProcess:
        """A child that has said its rows."""
        self._reported_crash = False
        # Its compilers share the cache of the run.
        self._child = WorkerProcess(
            self.job, self.log, PLAN_SECONDS, self._cache, module=self.module
        )
        answer = self._receive(self._child, PLAN_SECONDS)
        self.rows = self.rows or {row["row_id"]: row for row in answer["rows"]}
        about = ("device", "machine", "commit", "environment")
        self.about = {key: answer[key] for key in about}
        self._compile_at_once = answer["compile_at_once"]
        return self._child

    def _hear(self, child: WorkerProcess, seconds: float) -> dict[str, Any]:
        """An answer within so many seconds, and the run's. Raises ``WorkerEnded``."""
        child.used, child.limit = 0.0, min(seconds, max(0.0, self._time_left()))
        return child.receive()

    def _receive(self, child: WorkerProcess, seconds: float) -> dict[str, Any]:
        said = self._hear(child, seconds)
        self._reported_crash = "row" in said and said["row"]["status"] == "crashed"
        return said

    def _seconds_for(self, row_id: str) -> float:
        """What this row may take."""
        is_first = _kernel_of(self.rows[row_id]) not in self._seen
        return FIRST_ROW_SECONDS if is_first else ROW_SECONDS

    def _time_left(self) -> float:
        return self.deadline - time.monotonic()

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop()
        self._child = None
