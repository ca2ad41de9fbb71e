"""Writes a report directory with plausible figures, so that rendering can be tried without a run.

``python tests/bench/example_report.py DIR [cpu|gpu]`` writes one to look at. None of its numbers
were measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.results import CURVES, LAYERS, ROUNDS, TRAINING, write_json
from bench.statistics import factors_over, median_interval

RUN_ID = "20261123-104500"
IMPLEMENTATIONS = (
    "manual_gradient",
    "python_loop",
    "torch_compile_step",
    "torch_compile_unrolled",
    "torch_nn",
    "torchscript",
    "triton_step",
)

# cell, layers, hidden, batch, steps, learning rate, published tokens/s, title
CPU = (
    ("lstm", 2, 256, 32, 35, 2.0, 116173.5, "LSTM, 2 layers of 256 units"),
    ("rnn_tanh", 2, 256, 32, 35, 1.0, None, "tanh RNN, 2 layers of 256 units"),
    ("gru", 1, 256, 32, 35, 2.0, 230590.6, "GRU, 1 layer of 256 units"),
)
GPU = (
    *CPU,
    ("lstm", 2, 1024, 64, 35, 2.0, None, "LSTM, 2 layers of 1024 units"),
    ("lstm", 1, 512, 128, 128, 2.0, None, "LSTM, 1 layer of 512 units, long sequences"),
)
# tokens/s on the first workload, cold start in seconds, memory in MiB
CPU_SPEED = {
    "manual_gradient": (28100.0, 0.31, 412.0),
    "python_loop": (16050.0, 0.24, 655.0),
    "torch_compile_step": (20700.0, 4.4, 702.0),
    "torch_compile_unrolled": (27900.0, 48.2, 803.0),
    "torch_nn": (29400.0, 0.21, 398.0),
    "torchscript": (17900.0, 0.92, 668.0),
    "triton_step": (14.0, 6.1, 512.0),
}
GPU_SPEED = {
    "manual_gradient": (171000.0, 0.82, 71.0),
    "python_loop": (61000.0, 0.61, 118.0),
    "torch_compile_step": (148000.0, 21.5, 96.0),
    "torch_compile_unrolled": (402000.0, 96.0, 152.0),
    "torch_nn": (912000.0, 0.55, 64.0),
    "torchscript": (83000.0, 1.9, 121.0),
    "triton_step": (265000.0, 7.4, 68.0),
}
GRAPH_GAIN = {"python_loop": 6.1, "torchscript": 4.9, "manual_gradient": 3.4, "triton_step": 3.7}


def plan(kind: str = "cpu", epochs: int = 30) -> dict[str, Any]:
    """The ``plan.json`` of a small run on two cores, or of a larger one on a GPU."""
    workloads, cases = [], []
    for cell, layers, hidden, batch, steps, rate, published, title in CPU if kind == "cpu" else GPU:
        workload = f"{cell}-L{layers}-H{hidden}-B{batch}-T{steps}-fp32"
        workloads.append(
            {
                "workload": workload,
                "title": title,
                "cell": cell,
                "num_layers": layers,
                "hidden_size": hidden,
                "batch_size": batch,
                "num_steps": steps,
                "dtype": "float32",
                "matmul_precision": "ieee" if kind == "cpu" else "tf32",
                "epochs": epochs,
                "learning_rate": rate,
                "published_tokens_per_second": published,
                "published_perplexity": 1.0 if published else None,
                "published_note": "one layer, as printed" if cell == "gru" else "",
            }
        )
        for execution in ("eager",) if kind == "cpu" else ("eager", "cuda_graph"):
            for implementation in IMPLEMENTATIONS:
                reason = ""
                if kind == "cpu" and implementation == "torch_compile_step" and cell == "gru":
                    reason = "no C++ compiler: install g++ or clang"
                if execution == "cuda_graph" and implementation.startswith("torch_compile"):
                    reason = "Inductor captures its own graphs; not combined here"
                cases.append(
                    {
                        "case_id": f"{workload}/{implementation}/{execution}",
                        "workload": workload,
                        "implementation": implementation,
                        "execution": execution,
                        "interpreted": kind == "cpu" and implementation == "triton_step",
                        "unsupported": reason,
                    }
                )
    return {
        "schema": 1,
        "profile": "quick" if kind == "cpu" else "full",
        "purpose": "An example that nobody measured: it shows what a report looks like.",
        "notes": [
            "500 epochs: perplexity is shown after the few that were run",
            "one size a cell; the other sizes are in the profile `full`",
        ],
        "device": "cpu" if kind == "cpu" else "cuda",
        "seed": 0,
        "threads": 2,
        "only": [],
        "commit": "0123abc",
        "run_id": RUN_ID,
        "corpus": {
            "name": "timemachine",
            "title": "The Time Machine, by H. G. Wells",
            "sha256": "0" * 64,
            "origin": "download",
            "is_published": True,
            "note": "",
        },
        "workloads": workloads,
        "cases": cases,
    }


def environment(kind: str = "cpu") -> dict[str, Any]:
    machine: dict[str, Any] = {"Processor": "Example 9000", "Cores": 2, "Memory (GiB)": 23.4}
    if kind == "gpu":
        machine["GPU"] = "Example Accelerator, 80 GiB"
    return {
        "Machine": machine,
        "Versions": {"Python": "3.11.7", "torch": "2.11.0", "Features": ["AVX2", "FMA"]},
        "Measured": {"float32 matrix product, two threads (GFLOP/s)": 260.1},
        "Run": {"Started": "2026-11-23 10:45:00", "Wall time (s)": 212},
    }


Change = Callable[[dict[str, Any]], None]


def write(
    directory: Path,
    kind: str = "cpu",
    *,
    change: Change | None = None,
    change_plan: Change | None = None,
    keep: Callable[[str], bool] = lambda case_id: True,
    turns: int = 7,
    epochs: int = 30,
    layers: bool = True,
    workloads: int | None = None,
) -> dict[str, Any]:
    """Write every stored file of a report into ``directory``; returns the plan.

    ``keep`` says which cases have a row yet; ``change`` may alter each row before it is stored, and
    ``change_plan`` the plan. ``workloads`` keeps only the first few.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = plan(kind, epochs)
    content["workloads"] = content["workloads"][:workloads]
    kept = {workload["workload"] for workload in content["workloads"]}
    content["cases"] = [case for case in content["cases"] if case["workload"] in kept]
    if change_plan is not None:
        change_plan(content)
    write_json(directory / "plan.json", content)
    write_json(directory / "environment.json", environment(kind))
    rng = np.random.default_rng(7)
    for number, workload in enumerate(content["workloads"]):
        cases = [c for c in content["cases"] if c["workload"] == workload["workload"]]
        rows, rounds = [], []
        learned = np.cumsum(rng.normal(0, 0.01, epochs))
        for case in cases:
            speed = _speed(kind, case, number)
            noise = np.random.default_rng([number, *case["case_id"].encode()])
            timed = list(_rounds(case["case_id"], speed, turns, noise))
            row = _row(content, workload, case, speed, timed)
            curve = list(_curve(case["case_id"], speed, epochs, learned, rng))
            if not case["unsupported"]:
                row["train_perplexity"] = curve[-1]["train_perplexity"]
                row["validation_perplexity"] = curve[-1]["validation_perplexity"]
                reached = [p["seconds"] for p in curve if p["train_perplexity"] <= 1.1]
                row["seconds_to_target"] = reached[0] if reached else None
            if change is not None:
                change(row)
            if row["status"] != "ok":  # only what was trained to its end says how long
                row["rounds"] = row["epochs"] = None
            if keep(case["case_id"]):
                rows.append(row)
                if row["status"] == "ok":
                    rounds += timed
                    CURVES.append(directory, curve)
        ROUNDS.append(directory, rounds)
        frame = pd.DataFrame(rows, columns=list(TRAINING.columns))
        factors = factors_over("torch_nn", frame, pd.DataFrame(rounds)) if rounds else {}
        for row in rows:
            factor = factors.get(row["case_id"])
            row["speedup_over_torch_nn"] = factor.ratio if factor else None
        TRAINING.append(directory, rows)
    if layers:
        LAYERS.append(directory, _layers(kind))
    return content


def _speed(kind: str, case: dict[str, Any], number: int) -> tuple[float, float, float]:
    tokens, cold, memory = (CPU_SPEED if kind == "cpu" else GPU_SPEED)[case["implementation"]]
    tokens *= (1.0, 2.9, 2.4, 0.35, 1.9)[number]
    if number == 1 and case["implementation"] == "manual_gradient":
        tokens *= 1.15
    if case["execution"] == "cuda_graph":
        tokens *= GRAPH_GAIN.get(case["implementation"], 1.06)
        cold *= 1.4
    return tokens, cold, memory * (1.0, 0.6, 0.5, 4.2, 2.7)[number]


def _rounds(
    case_id: str, speed: tuple[float, float, float], turns: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for turn in range(turns):
        tokens_per_second = speed[0] * float(np.exp(rng.normal(0, 0.012)))
        yield {
            "case_id": case_id,
            "epoch": turn + 1,
            "turn": turn,
            "warm_up": turn == 0 and turns > 1,
            "tokens": 8960,
            "seconds": 8960 / tokens_per_second,
            "tokens_per_second": tokens_per_second,
            "other_cpu": 0.03,
            "mark": "",
            "run_id": RUN_ID,
        }


def _curve(
    case_id: str,
    speed: tuple[float, float, float],
    epochs: int,
    learned: np.ndarray,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        train = 1.03 + 20 * float(np.exp(-5.5 * progress + learned[epoch - 1]))
        held_out = 6.0 + 14 * float(np.exp(-6 * progress)) + 9 * progress**2
        yield {
            "case_id": case_id,
            "epoch": epoch,
            "seconds": epoch * 8960 / speed[0],
            "train_perplexity": train * float(np.exp(rng.normal(0, 1e-4))),
            "validation_perplexity": held_out if epoch % 5 == 0 or epoch == epochs else None,
            "run_id": RUN_ID,
        }


def _row(
    content: dict[str, Any],
    workload: dict[str, Any],
    case: dict[str, Any],
    speed: tuple[float, float, float],
    timed: list[dict[str, Any]],
) -> dict[str, Any]:
    shape = ("cell", "num_layers", "hidden_size", "batch_size", "num_steps", "dtype")
    is_cpu = content["device"] == "cpu"
    row: dict[str, Any] = {
        "case_id": case["case_id"],
        "status": "unsupported" if case["unsupported"] else "ok",
        "reason": case["unsupported"],
        "implementation": case["implementation"],
        **{name: workload[name] for name in shape},
        "matmul_precision": workload["matmul_precision"],
        "execution": case["execution"],
        "device": content["device"],
        "interpreted": case["interpreted"],
        "published_tokens_per_second": workload["published_tokens_per_second"],
        "published_perplexity": workload["published_perplexity"],
        "corpus": content["corpus"]["name"],
        "corpus_sha256": content["corpus"]["sha256"],
        "seed": content["seed"],
        "run_id": RUN_ID,
        "commit": content["commit"],
        "command": f"python -m bench run --only '{case['case_id']}' --seed 0",
    }
    if case["unsupported"]:
        return row
    counted = [r["tokens_per_second"] for r in timed if not r["warm_up"]]
    interval = median_interval(counted)
    flops = 6.0 * workload["num_layers"] * workload["hidden_size"] ** 2 * 8
    return row | {
        "backend": "ATen" if is_cpu else "cuDNN 9.10",
        "tokens_per_second": interval.median,
        "tokens_per_second_low": interval.low,
        "tokens_per_second_high": interval.high,
        "rounds": len(counted),
        "step_milliseconds": 1000 * 32 * 35 / interval.median,
        "cold_start_seconds": speed[1],
        "peak_memory_mib": speed[2],
        "peak_memory_kind": "resident set" if is_cpu else "allocated by torch",
        "epochs": workload["epochs"],
        "learning_rate": workload["learning_rate"],
        "target_perplexity": 1.1,
        "gradient_error": 3.1e-7,
        "flops_per_token": flops,
        "fraction_of_peak": interval.median * flops / (260.1e9 if is_cpu else 3.2e14),
        "sample": "time traveller for so it will be convenient to speak of him",
    }


def _layers(kind: str) -> Iterator[dict[str, Any]]:
    for implementation in IMPLEMENTATIONS:
        for mode, factor in (("forward", 1.0), ("forward_backward", 3.1)):
            speed = (CPU_SPEED if kind == "cpu" else GPU_SPEED)[implementation][0]
            milliseconds = factor * 1000 * 32 * 35 / speed / 4
            yield {
                "benchmark": f"test_{mode}[lstm-H256-{implementation}]",
                "implementation": implementation,
                "cell": "lstm",
                "mode": mode,
                "hidden_size": 256,
                "batch_size": 32,
                "num_steps": 35,
                "dtype": "float32",
                "device": "cpu" if kind == "cpu" else "cuda",
                "interpreted": kind == "cpu" and implementation == "triton_step",
                "rounds": 20,
                "milliseconds": milliseconds,
                "milliseconds_low": milliseconds * 0.98,
                "milliseconds_high": milliseconds * 1.03,
                "microseconds_per_step": milliseconds * 1000 / 35,
                "run_id": RUN_ID,
            }


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:3])
