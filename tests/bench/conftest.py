"""What several tests of the kernels' table share: children that hang, die and crash."""

import time

import pytest

from bench import kernel_runner
from bench.kernel_rows import Row
from bench.kernel_runner import KernelRun
from bench.kernel_table import Spec

TINY = Spec("gru", 1, 16, 2, 3, "ieee")

CHILD = """
import json, os, sys, time
sys.stdin.readline()
names = "good hang hang-again die bad last".split()
rows = [
    {"row_id": name, "kernel": name[:4], "status": "", "reason": ""} for name in names
]
rows.append(
    {"row_id": "refused", "kernel": "k", "status": "unsupported", "reason": "not here"}
)
of_all = {"part": "stack", "cell": "gru", "num_layers": 1, "hidden_size": 16, "batch_size": 2}
of_all |= {"num_steps": 3, "dtype": "float32", "matmul_precision": "ieee"}
of_all |= {"execution": "cuda_graph", "mode": "forward"}
rows = [{**row, **of_all} for row in rows]
about = {"device": "d", "machine": "m", "commit": "c", "compile_at_once": 1}
about["environment"] = {"GPU": {"Name": "d"}}
print(json.dumps({"rows": rows, **about}), flush=True)
message = json.loads(sys.stdin.readline())
while "compile" in message:
    if message["compile"] == "hang":
        time.sleep(600)
    if message["compile"] == "die":
        os._exit(9)
    os.makedirs(os.path.join(os.environ["TRITON_CACHE_DIR"], message["compile"]), exist_ok=True)
    print(json.dumps({"compiled": message["compile"]}), flush=True)
    message = json.loads(sys.stdin.readline())
for name in message["fill"]:
    print(json.dumps({"doing": name}), flush=True)
    if name == "hang":
        time.sleep(600)
    if name == "die":
        os._exit(9)
    status = "crashed" if name == "bad" else "ok"
    (row,) = [{**row, "status": status, "reason": "r"} for row in rows if row["row_id"] == name]
    if status == "ok":
        row |= {f"microseconds_per_step{end}": 1.0 for end in ("", "_low", "_high")}
    print(json.dumps({"row": row}), flush=True)
    if name == "bad":
        sys.exit(3)
print(json.dumps({"done": True}), flush=True)
"""


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """start(seconds): a run whose children hang, die and crash at a row each."""
    (tmp_path / "misbehaving_child.py").write_text(CHILD, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    runs = []

    def start(seconds):
        runs.append(
            KernelRun([TINY], "cpu", 1, time.monotonic() + seconds, tmp_path / "log",
                      module="misbehaving_child")
        )  # fmt: skip
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def hurried(monkeypatch):
    """A child is given up after a second."""
    monkeypatch.setattr(kernel_runner, "ROW_SECONDS", 1.0)
    monkeypatch.setattr(kernel_runner, "FIRST_ROW_SECONDS", 1.0)


def filled(kernel, part="stack", mode="forward", **changes):
    """A row of ``kernels.csv`` that was timed: a captured LSTM 2 × 256."""
    row = Row(Spec("lstm", 2, 256, 32, 35, "tf32"), part, kernel, "cuda_graph", mode).columns()
    figures = {"microseconds_per_step": 4.25, "microseconds_per_step_low": 4.125,
               "microseconds_per_step_high": 4.5, "gradient_error": 2e-4}  # fmt: skip
    return {**row, "status": "ok", "device": "A GPU", "commit": "abc", **figures, **changes}


def timed(kernel, median, low, high, part="stack", execution="cuda_graph", **changes):
    """The same, forward + backward, with these figures and an id that says what it is."""
    figures = dict(zip(("", "_low", "_high"), (median, low, high), strict=True))
    row = filled(kernel, part, "forward_backward")
    row["row_id"] = f"{part}/{kernel}/{execution}"
    row |= {f"microseconds_per_step{end}": value for end, value in figures.items()}
    return {**row, "execution": execution, **changes}
