"""The kernels as compiled for GPUs that are not here, run in Python: see `emulated_gpu.py`.

Tiles, grids, layouts, tensor-core instructions and barriers are those that a GPU would get. Every
job is a process of its own, `emulate.py`, because this one interprets.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.verification import bound_for

ROOT = Path(__file__).parents[2]
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")
WAYS = ("forward", "backward")


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


PUBLISHED = [
    job("sequence", "lstm", "tf32", B=32, H=256),
    job("marked_wavefront", "lstm", "tf32", B=32, H=256),
    job("wavefront", "lstm", "ieee", B=32, H=256),
    job("wavefront", "gru", "bfloat16", B=32, H=256),
    job("sequence", "gru", "ieee", B=32, H=256),
    job("sequence", "rnn_tanh", "tf32", B=32, H=512),
    job("step", "gru", "tf32", B=32, H=256),
    job("dataflow", "lstm", "tf32", B=32, H=256),
]


def label(asked):
    return "-".join(str(asked[name]) for name in ("kernels", "cell", "precision", "H"))


@pytest.mark.parametrize("asked", PUBLISHED, ids=label)
def test_published_sizes(asked):
    """On the grids of an H100, all programs at once; a race or a hang would be raised."""
    (found,) = emulate(asked)
    hold(asked, found)
    for launch in found["launches"]:
        assert launch["cooperative"] == (asked["kernels"] != "step")
        assert launch["grid"][0] > 1
        if asked["kernels"] != "step":
            # Nobody waits for a bank of shared memory that somebody else of the warp wants. (In
            # IEEE float32 two layers do not fit with 32 columns a program, and rows meet in pairs.)
            least = launch["shared_cycles_without_conflicts"]
            allowed = 1.6 if asked["precision"] == "ieee" else 1.2
            assert launch["shared_cycles"] <= allowed * least, launch


@pytest.mark.parametrize("kernels", ["step", "sequence", "wavefront"])
@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16", "float16"])
def test_every_cell_in_every_precision(kernels, precision):
    """Rows, units and steps that no tile divides, on three chips."""
    jobs = [
        job(kernels, cell, precision, chip, T=T, B=B, H=H)
        for cell, chip, T, B, H in (
            ("rnn_tanh", "sm_90", 2, 3, 48), ("rnn_relu", "sm_80", 1, 1, 32),
            ("gru", "sm_100", 2, 19, 96), ("lstm", "sm_90", 3, 33, 40),
        )
    ]  # fmt: skip
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16", "float16"])
def test_rows_with_marks_in_every_cell_and_precision(precision):
    """The vectors that tensor cores take need a long row; there is one that no tile divides."""
    sizes = [("rnn_tanh", "sm_90", 2, 3, 256), ("rnn_relu", "sm_80", 1, 1, 256),
             ("gru", "sm_100", 2, 9, 264), ("lstm", "sm_90", 3, 3, 256)]  # fmt: skip
    if precision == "float16":  # as bfloat16 but for rounding
        sizes = sizes[-1:]
    if precision in ("ieee", "tf32"):  # words, staged
        sizes += [("lstm", "sm_90", 3, 5, 42), ("gru", "sm_80", 3, 17, 96)]
    jobs = [job("dataflow", cell, precision, chip, T=T, B=B, H=H) for cell, chip, T, B, H in sizes]
    # In IEEE float32 there are no registers for a wavefront's.
    if precision == "tf32":
        jobs += [job("marked_wavefront", "gru", precision, B=3, H=256, L=3)]
    if precision == "bfloat16":
        jobs += [job("marked_wavefront", "lstm", precision, "sm_80", B=1, H=256)]
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize(
    ("kernels", "B", "H", "seeds"),
    [("wavefront", 17, 64, 4), ("dataflow", 3, 256, 4), ("marked_wavefront", 1, 256, 2)],
)
def test_every_order_gives_the_same_bits(kernels, B, H, seeds):
    """What depends on who comes first would differ in some of these."""
    asked = job(kernels, "lstm", "tf32", T=3, B=B, H=H)
    results = emulate(*(asked | {"seed": seed} for seed in range(seeds)))
    assert len({launch["steps"] for found in results for launch in found["launches"][:1]}) > 1
    assert len({found["sha256"] for found in results}) == 1


@pytest.mark.parametrize(
    ("kernels", "precision", "H", "least", "where"),
    [
        *(
            ("sequence", precision, 64, 5, where)
            for precision in ("tf32", "ieee")
            for where in WAYS
        ),
        *(("wavefront", "tf32", 64, 5, where) for where in WAYS),
        *(("dataflow", "tf32", 256, 2, where) for where in WAYS),
        ("marked_wavefront", "tf32", 256, 4, "forward"),  # backward: as many, a minute more
    ],
)
def test_every_barrier_is_missed_if_it_is_left_out(kernels, precision, H, least, where):
    """Triton's own as much as ours: the emulation sees what each of them is for."""
    is_marked = kernels in ("dataflow", "marked_wavefront")
    B = 3 if is_marked else 16
    asked = job(kernels, "lstm", precision, T=3, B=B, H=H, where=where)
    (whole,) = emulate(asked)
    kernel = kernels.replace("dataflow", "sequence").removeprefix("marked_")
    count = whole["barriers"][f"{kernel}_{where}_kernel"]
    assert count >= least
    jobs = [asked | {"plant": [number]} for number in range(count)]
    raised = [found.get("raised", "nothing") for found in emulate(*jobs)]
    if is_marked:
        assert set(raised) == {"SharedRace"}, raised
    else:
        assert set(raised) == {"SharedRace", "Race"}, raised
        assert raised.count("Race") == 1  # the one before the arrival orders global memory


def test_a_relaxed_arrival_is_found():
    (found,) = emulate(job("sequence", "gru", "ieee", T=3, plant=[[r"\.release", ".relaxed"]]))
    assert found["raised"] == "Race", found


def test_a_copy_that_is_not_waited_for_is_found():
    """What has not arrived is what was in shared memory before: here all bits set, NaN."""
    plant = [[r"cp\.async\.wait_group[^;]*;", ""]]
    (found,) = emulate(job("step", "lstm", "tf32", H=256, plant=plant))
    assert math.isnan(found["errors"]["y"]), found


def test_an_arrival_that_is_left_out_is_found():
    plant = [[r"@%p\d+ (red|atom)\.global[^;]*;", ""]]
    (found,) = emulate(job("sequence", "gru", "tf32", T=3, plant=plant))
    assert found["raised"] == "Hang", found


MARKED = {"T": 3, "B": 3, "H": 64}  # ieee: what is planted is the same in every precision

PLANTED = {
    "a mark that is taken for a number": ([[r"@!%?\w+ bra\s+whole;", "bra whole;"]], "NaN"),
    "a row that is not written": ([[r"@\w+ st\.relaxed[^;]*;", ""]], "Hang"),
    "a weak store": ([[r"st\.relaxed\.gpu\.global", "st.global"]], "Race"),
    "weak looks": ([[r"ld\.relaxed\.gpu\.global", "ld.global"]], "Race"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_in_the_marks_is_found(bug):
    plant, found_as = PLANTED[bug]
    (found,) = emulate(job("dataflow", "gru", "ieee", plant=plant, **MARKED))
    if found_as == "NaN":
        assert math.isnan(found["errors"]["y"]), found
    else:
        assert found["raised"] == found_as, found


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_nan_is_not_taken_for_the_mark(precision):
    """All bits set in the initial state: the sequence ends, and other rows do not notice."""
    asked = job("dataflow", "rnn_relu", precision, poison=True, T=3, B=3, H=256)
    (found,) = emulate(asked)
    assert "errors" in found, found
    assert found["nan_rows"] == [0]


def test_a_grid_that_the_chip_does_not_hold_is_refused():
    """As the driver refuses a cooperative launch: twelve programs, and room for four."""
    (found,) = emulate(job("sequence", "gru", "tf32", H=96, multiprocessors=1))
    assert found["raised"] == "RuntimeError", found
    assert "too many blocks in cooperative launch" in found["message"]


def test_tensor_cores_are_not_as_good_as_ieee():
    """The bounds tell them apart: TF32 where IEEE float32 was asked for does not pass."""
    asked = job("sequence", "lstm", "tf32", H=64)
    (found,) = emulate(asked)
    hold(asked, found)
    with pytest.raises(AssertionError, match="relative errors above 1e-05"):
        hold(asked | {"precision": "ieee"}, found)


def test_what_the_translator_does_not_know_is_said():
    (found,) = emulate(
        job("sequence", "lstm", "ieee", plant=[[r"ex2\.approx\.f32", "sin.approx.f32"]])
    )
    assert found["raised"] == "Unknown", found
    assert "sin.approx.f32" in found["message"]
