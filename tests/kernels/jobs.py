"""Jobs for `emulate.py`, a process of its own because the one that tests interprets."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.verification import bound_for

ROOT = Path(__file__).parents[2]


def emulate(*jobs):
    """What came out of each job: a dictionary with "errors" and "launches", or with "raised"."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.emulate", *map(json.dumps, jobs)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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
