"""Bugs planted into the kernels as compiled, and what else must be refused: all of it is found."""

import functools
import json
import math

import pytest

from .jobs import emulate, job

WAYS = ("forward", "backward")
CELLS = ("lstm", "gru")


@functools.cache
def barriers(asked):
    """How many barriers each kernel of a job has; it is in JSON, so that it can be remembered."""
    (whole,) = emulate(json.loads(asked))
    return whole["barriers"]


@pytest.mark.parametrize(
    ("kernels", "precision", "H", "least", "where"),
    [
        *(
            ("sequence", precision, 64, 2, where)
            for precision in ("tf32", "ieee")
            for where in WAYS
        ),
        *(("wavefront", "tf32", 64, 5, where) for where in WAYS),
        *(("dataflow", "tf32", 256, 2, where) for where in WAYS),
        *(("marked_wavefront", "tf32", 256, 4, where) for where in WAYS),
    ],
)
def test_every_barrier_is_missed_if_it_is_left_out(kernels, precision, H, least, where):
    """Triton's own as much as ours: the emulation sees what each of them is for."""
    is_marked = kernels in ("dataflow", "marked_wavefront")
    cell = "rnn_tanh" if kernels == "marked_wavefront" else "lstm"  # a fourth of the columns
    asked = job(kernels, cell, precision, T=3, B=3 if is_marked else 16, H=H)
    kernel = kernels.replace("dataflow", "sequence").removeprefix("marked_")
    count = barriers(json.dumps(asked))[f"{kernel}_{where}_kernel"]
    assert count >= least
    jobs = [asked | {"where": where, "plant": [number]} for number in range(count)]
    raised = [found.get("raised", "nothing") for found in emulate(*jobs)]
    if is_marked:
        assert set(raised) == {"SharedRace"}, raised
    else:
        assert set(raised) == {"SharedRace", "Race"}, raised
        assert raised.count("Race") == 1  # the one before the arrival orders global memory


def test_a_relaxed_arrival_is_found():
    (found,) = emulate(job("sequence", "gru", "ieee", T=3, plant=[[r"\.release", ".relaxed"]]))
    assert found["raised"] == "Race", found


COUNTERS = {
    "a warp that looks at another's counter": r"shr\.u32 warp, warp, 5;=shr.u32 warp, warp, 6;",
    "a warp that does not wait": r"@!%?\w+ bra\s+there;=bra there;",
    "a look without order": r"ld\.global\.gpu\.acquire=ld.relaxed.gpu.global",
}


@pytest.mark.parametrize("bug", COUNTERS)
def test_a_bug_in_the_counters_of_warps_is_found(bug):
    """H 256 has a counter for each of the four; of the GRU a program's gates lie in one share."""
    old, new = COUNTERS[bug].split("=")
    jobs = [job("sequence", cell, "tf32", T=3, B=8, H=256, plant=[[old, new]]) for cell in CELLS]
    for found in emulate(*jobs):
        assert found["raised"] == "Race", found


def test_a_copy_that_is_not_waited_for_is_found():
    """What has not arrived is what was in shared memory before: here all bits set, NaN."""
    plant = [[r"cp\.async\.wait_group[^;]*;", ""]]
    (found,) = emulate(job("step", "lstm", "tf32", H=256, plant=plant))
    assert math.isnan(found["errors"]["y"]), found


def test_an_arrival_that_is_left_out_is_found():
    plant = [[r"@\S+ (red|atom)\.global[^;]*;", ""]]
    (found,) = emulate(job("sequence", "gru", "tf32", T=3, plant=plant))
    assert found["raised"] == "Hang", found


PLANTED = {
    "a mark that is taken for a number": ([[r"@!%?\w+ bra\s+whole;", "bra whole;"]], "NaN"),
    "a row that is not written": ([[r"@\w+ st\.relaxed[^;]*;", ""]], "Hang"),
    "a weak store": ([[r"st\.relaxed\.gpu\.global", "st.global"]], "Race"),
    "weak looks": ([[r"ld\.relaxed\.gpu\.global", "ld.global"]], "Race"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_in_the_marks_is_found(bug):
    """Words of a layer, and the vectors that tensor cores take of a stack."""
    plant, found_as = PLANTED[bug]
    jobs = (
        job("dataflow", "gru", "ieee", T=3, B=3, H=64, plant=plant),
        job("marked_wavefront", "rnn_tanh", "tf32", T=2, B=1, H=256, plant=plant),
    )
    for found in emulate(*jobs):
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


def test_what_the_translator_does_not_know_is_said():
    (found,) = emulate(
        job("sequence", "lstm", "ieee", plant=[[r"ex2\.approx\.f32", "sin.approx.f32"]])
    )
    assert found["raised"] == "Unknown", found
    assert "sin.approx.f32" in found["message"]
