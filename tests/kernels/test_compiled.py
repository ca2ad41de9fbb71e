"""The kernels as compiled for GPUs that are not here, run in Python: see `emulated_gpu.py`.

Tiles, grids, layouts, tensor-core instructions and barriers are those that a GPU would get.
`test_compiled_published.py` has the published sizes, `test_compiled_bugs.py` plants what must be
found.
"""

import itertools
import os
import subprocess
import sys

import pytest

from kernels.cells import GATES
from kernels.chips import CHIPS
from kernels.tiling import tiles_that_fit
from kernels.variants import PRECISIONS as COMPILED

from .jobs import ROOT, emulate, hold, job

KERNELS = ("step", "sequence", "wavefront")
PRECISIONS = ("ieee", "tf32", "bfloat16", "float16")  # float16: as bfloat16 but for rounding
SIZES = {  # rows, units and steps that no tile divides, on three chips
    "rnn_tanh": {"chip": "sm_90", "T": 2, "B": 3, "H": 48},
    "gru": {"chip": "sm_100", "T": 2, "B": 19, "H": 96},
    "lstm": {"chip": "sm_90", "T": 3, "B": 33, "H": 40},
    "rnn_relu": {"chip": "sm_80", "T": 1, "B": 1, "H": 32},
}


def left_out_unless(is_wanted, *values):
    """Values of a test that is exhaustive unless it is wanted every time."""
    return pytest.param(*values, marks=[] if is_wanted else pytest.mark.exhaustive)


def is_in_square(kernels, precision, cell):
    """A Latin square: each cell meets every kernel once, and every precision."""
    numbers = KERNELS.index(kernels) + PRECISIONS.index(precision)
    return precision != "float16" and (numbers - list(SIZES).index(cell)) % 3 == 0


@pytest.mark.parametrize("cell", SIZES)
def test_each_cell_meets_every_kernel_and_every_precision(cell):
    """Without the exhaustive tests, too."""
    pairs = itertools.product(KERNELS, PRECISIONS)
    met = [
        (kernels, precision)
        for kernels, precision in pairs
        if is_in_square(kernels, precision, cell)
    ]
    assert sorted(kernels for kernels, _ in met) == sorted(KERNELS)
    assert sorted(precision for _, precision in met) == sorted(PRECISIONS[:3])


@pytest.mark.parametrize(
    ("kernels", "precision", "cell"),
    [
        left_out_unless(is_in_square(*names), *names)
        for names in itertools.product(KERNELS, PRECISIONS, SIZES)
    ],
)
def test_every_cell_in_every_precision(kernels, precision, cell):
    asked = job(kernels, cell, precision, **SIZES[cell])
    hold(asked, *emulate(asked))


@pytest.mark.parametrize(
    ("kernels", "precision", "H", "left_out"),
    [
        ("step", "ieee", 40, ["grad c", "grad h"]),
        ("sequence", "ieee", 40, ["grad c", "grad h"]),
        ("sequence", "tf32", 40, ["grad c", "grad h"]),
        ("dataflow", "tf32", 256, ["grad c", "grad h"]),
        ("wavefront", "tf32", 40, ["grad state 0", "grad state 1"]),
        ("marked_wavefront", "bfloat16", 256, ["grad state 0", "grad state 1"]),
    ],
)
def test_as_in_training_without_the_initial_states_gradient(kernels, precision, H, left_out):
    """Some kernels leave out the step that makes it; what they give is the same."""
    asked = job(kernels, "lstm", precision, T=2, B=3, H=H)
    whole, training = emulate(asked, asked | {"training": True})
    hold(asked, training)
    assert (whole["left_out"], training["left_out"]) == ([], left_out)
    for name, error in training["errors"].items():
        assert error == whole["errors"][name], name


def test_rows_too_short_for_vectors_of_four():
    """Threads that multiply alone take vectors of four, and here H is no multiple of four."""
    asked = job("sequence", "gru", "ieee", T=2, B=5, H=42)
    hold(asked, *emulate(asked))


SIZES_WITH_MARKS = {  # the vectors that tensor cores take need a long row; 264 no tile divides
    "rnn_tanh": {"chip": "sm_90", "T": 2, "B": 3, "H": 256},
    "gru": {"chip": "sm_100", "T": 2, "B": 5, "H": 264},
    "lstm": {"chip": "sm_90", "T": 3, "B": 3, "H": 256},
    "rnn_relu": {"chip": "sm_80", "T": 1, "B": 1, "H": 256},
}


@pytest.mark.parametrize(
    ("precision", "cell"),
    [
        left_out_unless(cell == "lstm" or is_in_square("step", precision, cell), precision, cell)
        for precision, cell in itertools.product(PRECISIONS, SIZES_WITH_MARKS)
    ],
)
def test_rows_with_marks_in_every_cell_and_precision(precision, cell):
    asked = job("dataflow", cell, precision, **SIZES_WITH_MARKS[cell])
    hold(asked, *emulate(asked))


def fitting(asked):
    """The tiles that `emulate.py` has to choose from, forward and backward."""
    dtype, products = COMPILED[asked["precision"]]
    layers = asked["L"] if asked["kernels"].endswith("wavefront") else 1
    marked = asked["kernels"] in ("dataflow", "marked_wavefront")
    return tiles_that_fit(
        asked["B"], asked["H"], GATES[asked["cell"]], dtype, products, CHIPS[asked["chip"]], layers,
        marked,
    )  # fmt: skip


def hold_with_tiles(asked, numbers):
    (found,) = emulate(asked | {"tiles": numbers})
    hold(asked, found)
    for launch, tiles, number in zip(found["launches"], fitting(asked), numbers, strict=True):
        tile = tiles[number]
        slices, groups = asked["H"] // tile.block_h, -(-asked["B"] // tile.block_b)
        assert launch["grid"][:2] == [slices, groups]
        assert launch["warps"] == tile.num_warps


@pytest.mark.parametrize(
    ("kernels", "precision", "number"),
    [
        left_out_unless(number == 3, kernels, precision, number)
        for kernels, precision in (
            ("sequence", "tf32"), ("sequence", "ieee"), ("dataflow", "bfloat16"),
            ("wavefront", "tf32"),
        )
        for number in range(1, 8)
    ],
)  # fmt: skip
def test_other_tiles_that_fit(kernels, precision, number):
    """What `bench kernels --tiles` times: the number-th of them, or the last one."""
    asked = job(kernels, "lstm", precision, B=32, H=256 if kernels == "dataflow" else 64, L=2)
    hold_with_tiles(asked, [min(number, len(tiles) - 1) for tiles in fitting(asked)])


@pytest.mark.parametrize(
    ("kernels", "cell", "precision", "H"),
    [
        left_out_unless(precision == "bfloat16" or cell == "gru", kernels, cell, precision, H)
        for kernels, cell, precision, H in (
            ("sequence", "lstm", "bfloat16", 768), ("sequence", "lstm", "tf32", 256),
            ("dataflow", "lstm", "bfloat16", 768), ("dataflow", "lstm", "tf32", 256),
            ("wavefront", "lstm", "bfloat16", 256), ("wavefront", "lstm", "tf32", 256),
            ("marked_wavefront", "gru", "tf32", 256), ("marked_wavefront", "rnn_tanh", "tf32", 512),
        )
    ],
)  # fmt: skip
def test_twice_the_warps(kernels, cell, precision, H):
    """Where only then all weights lie in registers: nothing of a set passes through a product."""
    asked = job(kernels, cell, precision, B=8, H=H, L=2)
    numbers = [
        next((number for number, tile in enumerate(tiles) if tile.num_warps == 8), 0)
        for tiles in fitting(asked)
    ]
    assert any(numbers)
    for tiles, number in zip(fitting(asked), numbers, strict=True):
        sets = 2 if kernels.endswith("wavefront") else 1
        assert number == 0 or tiles[number].in_registers == sets
    hold_with_tiles(asked, numbers)


SHORT_ROWS = {"lstm": {"T": 3, "B": 5, "H": 42}, "gru": {"chip": "sm_80", "T": 3, "B": 17, "H": 96}}


@pytest.mark.parametrize(
    ("precision", "cell"),
    [
        left_out_unless(names in (("tf32", "lstm"), ("ieee", "gru")), *names)
        for names in itertools.product(("ieee", "tf32"), SHORT_ROWS)
    ],
)
def test_marks_in_rows_too_short_for_vectors(precision, cell):
    """They come word by word, staged."""
    asked = job("dataflow", cell, precision, **SHORT_ROWS[cell])
    hold(asked, *emulate(asked))


@pytest.mark.parametrize(
    ("precision", "cell", "sizes"),
    [("tf32", "gru", {"L": 3}), ("bfloat16", "lstm", {"chip": "sm_80"})],
)
def test_stacks_with_marks(precision, cell, sizes):
    """In IEEE float32 there are no registers for them."""
    asked = job("marked_wavefront", cell, precision, B=1, H=256, **sizes)
    hold(asked, *emulate(asked))


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
    asked = job(kernels, "rnn_tanh", "bfloat16", B=1, H=256, shift=1)
    hold(asked, *emulate(asked))


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
    orders = {tuple(launch["steps"] for launch in found["launches"]) for found in results}
    assert len(orders) > 1
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
    test = "tests/kernels/test_floors.py::test_every_program_arrives_at_every_barrier"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, test],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
