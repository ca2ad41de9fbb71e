"""The kernels as compiled for GPUs that are not here, run in Python: see `emulated_gpu.py`.

Tiles, grids, layouts, tensor-core instructions and barriers are those that a GPU would get.
`test_compiled_published.py` has the published sizes, `test_compiled_bugs.py` plants what must be
found.
"""

import os
import subprocess
import sys

import pytest

from .jobs import ROOT, emulate, hold, job


@pytest.mark.parametrize("kernels", ["step", "sequence", "wavefront"])
@pytest.mark.parametrize(
    "precision",
    # float16: as bfloat16 but for rounding
    ["ieee", "tf32", "bfloat16", pytest.param("float16", marks=pytest.mark.exhaustive)],
)
def test_every_cell_in_every_precision(kernels, precision):
    """Rows, units and steps that no tile divides, on three chips."""
    jobs = [
        job(kernels, cell, precision, chip, T=T, B=B, H=H)
        for cell, chip, T, B, H in (
            ("rnn_tanh", "sm_90", 2, 3, 48), ("rnn_relu", "sm_80", 1, 1, 32),
            ("gru", "sm_100", 2, 19, 96), ("lstm", "sm_90", 3, 33, 40),
        )
    ]  # fmt: skip
    if (kernels, precision) == ("sequence", "ieee"):  # no vectors of four, so no threads alone
        jobs += [job(kernels, "gru", precision, T=2, B=5, H=42)]
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bfloat16", "float16"])
def test_rows_with_marks_in_every_cell_and_precision(precision):
    """The vectors that tensor cores take need a long row; there is one that no tile divides."""
    sizes = [("rnn_tanh", "sm_90", 2, 3, 256), ("rnn_relu", "sm_80", 1, 1, 256),
             ("gru", "sm_100", 2, 5, 264), ("lstm", "sm_90", 3, 3, 256)]  # fmt: skip
    if precision == "float16":  # as bfloat16 but for rounding
        sizes = sizes[-1:]
    if precision in ("ieee", "tf32"):  # words, staged
        sizes += [("lstm", "sm_90", 3, 5, 42), ("gru", "sm_80", 3, 17, 96)]
    jobs = [job("dataflow", cell, precision, chip, T=T, B=B, H=H) for cell, chip, T, B, H in sizes]
    # In IEEE float32 there are no registers for a wavefront's.
    if precision == "tf32":
        jobs += [job("marked_wavefront", "gru", precision, B=1, H=256, L=3)]
    if precision == "bfloat16":
        jobs += [job("marked_wavefront", "lstm", precision, "sm_80", B=1, H=256)]
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize(
    ("kernels", "precision"), [("wavefront", "ieee"), ("marked_wavefront", "tf32")]
)
def test_a_stack_of_one_layer(kernels, precision):
    """It is a layer: at H 256 one whose IEEE float32 products threads make alone."""
    jobs = [job(kernels, "lstm", precision, B=3, H=256, L=1)]
    if kernels == "wavefront":
        jobs += [job(kernels, "gru", precision, B=5, H=48, L=1)]
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize("kernels", ["dataflow", "marked_wavefront"])
def test_an_initial_state_that_begins_anywhere(kernels):
    """A view into a larger tensor need not lie where vectors of 16 bytes do."""
    jobs = [job(kernels, "rnn_tanh", "bfloat16", B=1, H=256, shift=1)]
    for asked, found in zip(jobs, emulate(*jobs), strict=True):
        hold(asked, found)


@pytest.mark.parametrize(
    ("kernels", "B", "H"),
    [("wavefront", 17, 64), ("dataflow", 3, 256), ("marked_wavefront", 1, 256),
     ("sequence", 5, 64)],
)  # fmt: skip
@pytest.mark.parametrize("seeds", [2, pytest.param(10, marks=pytest.mark.exhaustive)])
def test_every_order_gives_the_same_bits(kernels, B, H, seeds):
    """What depends on who comes first would differ in some of these."""
    precision = "ieee" if kernels == "sequence" else "tf32"
    cell = "rnn_tanh" if kernels == "marked_wavefront" else "lstm"  # a fourth of the columns
    asked = job(kernels, cell, precision, T=3, B=B, H=H)
    results = emulate(*(asked | {"seed": seed} for seed in range(seeds)))
    assert len({launch["steps"] for found in results for launch in found["launches"][:1]}) > 1
    assert len({found["sha256"] for found in results}) == 1


def test_tensor_cores_are_not_as_good_as_ieee():
    """The bounds tell them apart: TF32 where IEEE float32 was asked for does not pass."""
    asked = job("sequence", "lstm", "tf32", H=64)
    (found,) = emulate(asked)
    hold(asked, found)
    with pytest.raises(AssertionError, match="relative errors above 1e-05"):
        hold(asked | {"precision": "ieee"}, found)


def test_tests_run_as_on_a_gpu():
    """What is interpreted here is compiled there: the plugin that shows it beforehand works."""
    plugin = ["-p", "tests.kernels.as_on_a_gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, "tests/kernels/test_floors.py"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
