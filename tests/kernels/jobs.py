"""Jobs for `emulate.py`, a process of its own because the one that tests interprets."""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from bench.verification import bound_for

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""After so long without an answer the process is ended; the longest job takes a tenth of it."""


class Emulator:
    """The process, started when the first job comes: it imports and compiles once for all jobs."""

    def __init__(self):
        self.process = None

    def ask(self, asked):
        if self.process is None:
            environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.kernels.emulate", "-"],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            atexit.register(self.stop)
        watch = threading.Timer(SECONDS, self.process.kill)
        watch.start()
        try:
            print(json.dumps(asked), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            watch.cancel()
        if not answer:
            code, self.process = self.process.wait(), None
            raise AssertionError(f"the emulation ended with exit code {code}: {json.dumps(asked)}")
        return json.loads(answer)

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


_emulator = Emulator()


def emulate(*jobs):
    """What came out of each job: a dictionary with "errors" and "launches", or with "raised"."""
    return [_emulator.ask(asked) for asked in jobs]


def job(kernels, cell, precision, chip="sm_90", *, T=2, B=3, H=48, **more):
    return {"kernels": kernels, "cell": cell, "precision": precision, "chip": chip,
            "T": T, "B": B, "H": H} | more  # fmt: skip


def hold(asked, found):
    """Every output and gradient is within the bound that a benchmark would hold it to."""
    assert "errors" in found, found
    is_half = asked["precision"].endswith("16")
    dtype, matmul = (asked["precision"], "ieee") if is_half else ("float32", asked["precision"])
    bound = bound_for(dtype, matmul, asked["cell"])
    wrong = {name: error for name, error in found["errors"].items() if not error <= bound}
    assert not wrong, f"relative errors above {bound}: {wrong}"
