"""The runner's end of a worker: start it, ask it, never wait for it longer than allowed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

CACHE_PREFIX = "deeprnn-bench-"

PROJECT = Path(__file__).resolve().parent.parent

LEFT_OUT = (
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TRITON_INTERPRET",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
)
"""Variables of the caller's that workers do not get: with them another thing would be measured."""


def worker_environment(
    device: str,
    threads: int,
    cache: str | None = None,
    source: Path | None = None,
    has_own_packages: bool = False,
) -> dict[str, str]:
    """The environment variables of a child process: what would change what is measured is fixed.

    Waiting threads sleep instead of spinning, so that a worker that waits for its turn costs
    nothing. ``cache`` gives compilers an empty directory, so that a cold start is cold. ``source``
    is a directory to import packages from that do not lie beside this one. A child that
    ``has_own_packages``, because its Python is another, does not look where this process looks.
    """
    inherited = None if has_own_packages else os.environ.get("PYTHONPATH")
    fixed = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (PROJECT, source, inherited) if path),
    }
    if device == "cpu":
        fixed["TRITON_INTERPRET"] = "1"
        fixed["CUDA_VISIBLE_DEVICES"] = ""
    else:  # many compile side by side there; each would take as many processes as there are cores
        fixed["TORCHINDUCTOR_COMPILE_THREADS"] = str(threads)
    if cache is not None:
        fixed["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(cache, "inductor")
        fixed["TRITON_CACHE_DIR"] = os.path.join(cache, "triton")
    return {**{k: v for k, v in os.environ.items() if k not in LEFT_OUT}, **fixed}


LONGEST_WAIT = threading.TIMEOUT_MAX


class WorkerEnded(Exception):
    """The worker is gone, or was stopped; carries a status and a one-line reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class WorkerProcess:
    """One worker.

    ``limit`` is in seconds and counts only the time spent waiting for answers. Without a ``cache``
    the compilers of this worker start with an empty one. ``python`` is another one than this
    process's, with packages of its own. ``module`` is what it runs.
    """

    def __init__(
        self,
        job: Mapping[str, Any],
        log: Path,
        limit: float,
        cache: str | None = None,
        source: Path | None = None,
        python: str | None = None,
        module: str = "bench.worker",
    ) -> None:
        self.log = log
        self.limit = limit
        self.used = 0.0
        self._is_stopped = False
        self._own_cache = tempfile.mkdtemp(prefix=CACHE_PREFIX) if cache is None else None
        self._log_file = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            text=True,
            env=worker_environment(
                job["device"],
                job["threads"],
                cache or self._own_cache,
                source,
                has_own_packages=python is not None,
            ),
            start_new_session=True,  # Ctrl-C reaches the runner alone; it stops the workers
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        # Beside: a text is longer than a pipe holds, and a child that hangs never reads it.
        threading.Thread(target=self.send, args=(job,), daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def pin(self, processors: Collection[int]) -> None:
        """Let all threads that it has run on these processors alone, where the system can do so."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        if not hasattr(os, "sched_setaffinity") or not tasks.is_dir():
            return
        pinned: set[str] = set()
        with contextlib.suppress(OSError):  # the worker has just ended
            # Again, until there is no new one: a thread that was just started is found, too.
            while new := {task.name for task in tasks.iterdir()} - pinned:
                for name in new:
                    with contextlib.suppress(OSError):  # a thread that has just ended
                        os.sched_setaffinity(int(name), processors)
                pinned |= new

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand over one message; a worker that is gone is noticed by :meth:`receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerEnded: the time limit is used up, or the worker died without an answer.
        """
        start = time.monotonic()
        try:
            line = self._lines.get(timeout=min(LONGEST_WAIT, max(0.0, self.limit - self.used)))
        except queue.Empty:
            self.stop()
            raise WorkerEnded(
                "timeout", f"took longer than the {self.limit:g} s a case may take"
            ) from None
        finally:
            self.used += time.monotonic() - start
        if line is None:
            raise WorkerEnded("crashed", self._last_words())
        try:
            return dict(json.loads(line))
        except ValueError:  # it died within its answer
            self.stop()
            raise WorkerEnded("crashed", self._last_words()) from None

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; the system does so when memory runs out" if name == "SIGKILL" else ""
            return f"the worker was ended by {name}{hint}"
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        return f"the worker ended without an answer, exit code {code}{last}"

    def kill(self) -> None:
        """End the worker and all it started, without waiting for it; :meth:`stop` is still due."""
        # The whole group, also when the worker itself is gone: compilers start processes too.
        if not self._is_stopped:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the worker and all it started, and remove what it compiled."""
        if self._is_stopped:
            return
        self.kill()
        self._is_stopped = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)  # a driver may have to end a kernel first, and may not manage
        self._log_file.close()
        if self._own_cache is not None:
            shutil.rmtree(self._own_cache, ignore_errors=True)
