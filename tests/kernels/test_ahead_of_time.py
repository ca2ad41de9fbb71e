"""Kernels compile for GPUs that are not here, within bounds; and the bounds do fire."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import ahead_of_time, variants
from kernels.ahead_of_time import Compiled, broken_bounds
from kernels.chips import CHIPS

ROOT = Path(__file__).parents[2]


def run(*arguments):
    """The command in a process of its own: this one may interpret, and that cannot compile."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "kernels.ahead_of_time", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


# A part of the table that meets every kernel, cell, precision and target; the command makes it all.
REPRESENTATIVE = [
    ("lstm", "tf32", "sm_90"),
    ("lstm", "ieee", "sm_100"),
    ("gru", "bfloat16", "sm_80"),
    ("rnn_tanh", "tf32", "gfx942"),
]


@pytest.mark.parametrize(
    ("cell", "precision", "target"), REPRESENTATIVE, ids=["-".join(row) for row in REPRESENTATIVE]
)
def test_published_sizes_compile_within_bounds(cell, precision, target):
    done = run("--cell", cell, "--precision", precision, "--target", target, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    # Rows with marks are NVIDIA's, and in IEEE float32 there are no registers for a wavefront's.
    left_out = ("dataflow", "marked") if target == "gfx942" else ()
    left_out += ("marked",) if precision == "ieee" else ()
    there = [k for k in variants.KERNELS if not k.startswith(left_out)]
    assert [row["kernel"] for row in rows] == there
    for row in rows:
        assert row["broken"] == ""
        assert row["spills"] == 0
        assert 0 < row["registers"] <= 255
        assert row["shared"] <= CHIPS[target].shared_memory
        if variants.has_product(row["kernel"]):
            assert row["shared"] > 0
            assert row["instruction"] or precision == "ieee"
        elif target != "gfx942":
            assert row["instruction"] == ""
        if variants.exchanges(row["kernel"]) and target != "gfx942":
            is_kernel = variants.has_product(row["kernel"])  # not the floor, which only reads
            assert row["step_instructions"] > (100 if is_kernel else 20)
            assert row["step_barriers"] >= (2 if is_kernel else 0)
            assert row["in_flight"] >= row["expected_in_flight"] > 0


GOOD = Compiled("sequence_forward", "lstm", 256, "tf32", "sm_90", "16x8x64", 64, 4, 85, 0, 49152,
                "mma.sync", 65536, False, 309, 2, 8, 8, 0, "")  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"spills": 24}, "24 bytes spilled"),
        ({"shared": 300_000}, "300000 bytes of shared memory, 232448 available"),
        ({"expected_shared": 4096}, "49152 bytes of shared memory, tiling.py expects 4096"),
        ({"instruction": ""}, "no tensor-core instruction"),
        ({"precision": "ieee"}, "mma.sync where IEEE float32 was asked for"),
        ({"step_barriers": 3}, "3 barriers a step, 2 at most"),
        ({"step_barriers": 10, "staged": True}, ""),
        ({"step_barriers": 11, "staged": True}, "11 barriers a step, 10 at most"),
        ({"in_flight": 5}, "5 loads in flight, 8 asked for"),
        ({"step_shuffles": 64}, "64 shuffles a step, of what should come as it is needed"),
        ({"step_shuffles": 64, "staged": True}, ""),
    ],
    ids=[
        "good",
        "spill",
        "shared",
        "more-than-expected",
        "no-tensor-cores",
        "tensor-cores-in-ieee",
        "barriers",
        "staged",
        "staged-barriers",
        "loads-one-after-the-other",
        "shuffles",
        "staged-shuffles",
    ],
)
def test_a_broken_bound_is_said(changed, message):
    assert "; ".join(broken_bounds(dataclasses.replace(GOOD, **changed))) == message


def test_interpreted_kernels_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(ahead_of_time.chips, "INTERPRETED", True)
    assert ahead_of_time.main([]) == 2
    assert "unset TRITON_INTERPRET" in capsys.readouterr().err
