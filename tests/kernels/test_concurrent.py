"""The kernels' own source with all programs of a launch at once: see `concurrent_interpreter.py`.

Here slices, groups of rows and layers really exchange what they compute: the results are those of
float64 `torch.nn`, the same bits under every schedule, and every bug planted into the sources'
protocol is found.
"""

import importlib.util
import inspect

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from kernels import (
    chips,
    floors,
    gates,
    grid_barrier,
    multiply_adds,
    product,
    sequence,
    step,
    tiling,
    wavefront,
)
from kernels.cells import GATES
from kernels.function import sequence_layer, step_layer

from .concurrent_interpreter import concurrently
from .stacks import Stack, hold
from .watched_memory import Hang, OutOfBounds, Race

pytestmark = [
    pytest.mark.skipif(
        not chips.INTERPRETED, reason="a GPU runs programs at once by itself: see test_gpu.py"
    ),
    # what a planted bug reads may be anything
    pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning"),
]

CELLS = tuple(GATES)
TILE = tiling.Tile(block_b=16, block_h=16, block_k=16, num_warps=2, num_stages=1)
T, B, H, L = 3, 19, 40, 2  # three slices, the last one with 8 units; two groups, one with 3 rows
GRID = (3, 2, 1)
USERS = (floors, gates, grid_barrier, multiply_adds, product, sequence, step, wavefront)


@pytest.fixture(autouse=True)
def several_programs(monkeypatch):
    """Tiles as a GPU has them: not one program for everything."""
    monkeypatch.setattr(tiling, "sequence_tiles", lambda *arguments, **options: (TILE, TILE))
    monkeypatch.setattr(tiling, "step_tile", lambda *arguments, **options: TILE)


@pytest.mark.parametrize("cell", CELLS)
def test_sequence(cell, make_case, check, poisoned):
    with concurrently() as launches:
        check(sequence_layer, make_case(cell, T, B, H))
    assert [launch.grid for launch in launches] == [GRID, GRID]
    assert all(launch.switches > 10 * T for launch in launches), launches


def threads_alone(monkeypatch, G):
    """Tiles of plain multiply-adds by threads, which an H100 has in IEEE float32."""
    tiles = tuple(
        tiling.Tile(4, 16, tiling.QUAD, 4, 1, shares=512 // columns, staged=False, in_registers=1)
        for columns in (16 if G == 1 else 64, 16)
    )
    monkeypatch.setattr(tiling, "sequence_tiles", lambda *arguments, **options: tiles)


@pytest.mark.parametrize("cell", CELLS)
def test_sequence_by_threads_alone(cell, make_case, check, poisoned, monkeypatch):
    threads_alone(monkeypatch, GATES[cell])
    with concurrently() as launches:
        check(sequence_layer, make_case(cell, T, 7, H))  # the second group has three rows
    assert [launch.grid for launch in launches] == [(3, 2, 1)] * 2


@pytest.mark.parametrize("cell", CELLS)
def test_wavefront(cell, poisoned):
    with concurrently() as launches:
        hold(Stack(cell, T, B, H, L), "cpu")
    assert [launch.grid for launch in launches] == [(3, 2, L)] * 2
    assert all(launch.switches > 10 * T for launch in launches), launches


@pytest.mark.parametrize("cell", CELLS)
def test_step(cell, make_case, check, poisoned):
    """Programs of a step share nothing that one of them writes, dh and dc in place included."""
    with concurrently() as launches:
        check(step_layer, make_case(cell, 2, B, H))
    assert [launch.grid for launch in launches] == [GRID] * 5


def everything(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "schedules"),
    [
        ("lstm", 2),
        pytest.param("lstm", 10, marks=pytest.mark.exhaustive),
        pytest.param("gru", 10, marks=pytest.mark.exhaustive),
    ],
)
def test_every_schedule_gives_the_same_bits(cell, schedules, make_case):
    case, stack = make_case(cell, T, 3, H), Stack(cell, T, 3, H, 3)
    first = None
    for seed in range(0, 10 * schedules, 10):  # a launch adds its number
        with concurrently(seed):
            outputs, gradients = case.run(sequence_layer, torch.float32, "cpu")
            found = everything(outputs | gradients) | everything(stack.run("cpu"))
        first = first or found
        for name, tensor in found.items():
            assert torch.equal(tensor, first[name]), f"{name} with seed {seed}"


def test_the_barrier_floor():
    where = torch.device("cpu")
    with concurrently() as launches:
        floors.barrier("lstm", B, H, 5, torch.float32, "ieee", where)
    assert launches[0].grid == GRID


# Planted bugs


def plant(monkeypatch, tmp_path, module, *changes):
    """Replace lines of a kernel module's source by others; everybody who uses it gets the mutant.

    A change is a pair of texts. The first must stand in the source, so that no bug is planted
    nowhere; a text that stands there twice, forward and backward, is changed twice.
    """
    source = inspect.getsource(module)
    for old, new in changes:
        assert old in source, f"{module.__name__} has no {old!r} any more"
        source = source.replace(old, new)
    file = tmp_path / "planted.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("planted", file)
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    for name, value in vars(planted).items():
        if isinstance(value, InterpretedFunction) and value.fn.__module__ == "planted":
            for user in USERS:
                if hasattr(user, name):
                    monkeypatch.setattr(user, name, value)


def found_by(run, seeds=range(0, 60, 10)):
    """What is raised under some schedules; a bug need not show under every one."""
    found = set()
    for seed in seeds:
        try:
            with concurrently(seed):
                run()
        except (Race, Hang, OutOfBounds) as error:
            found.add(type(error))
            break
    return found


ARRIVE = '        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")\n'
LOOK = 'tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")'
BEFORE_ARRIVAL = "    tl.debug_barrier()  # every thread"
AFTER_WAIT = "        tl.debug_barrier()  # no thread"
WRITE_H = "            store_tile(hs_ptr + (step + B) * H, rows, units, H, inside, h)\n"

IN_THE_BARRIER = {
    "arrival-without-a-barrier-in-the-program": (BEFORE_ARRIVAL, "    # every thread", Race),
    "wait-without-a-barrier-in-the-program": (AFTER_WAIT, "        # no thread", Race),
    "relaxed-arrival": (ARRIVE, ARRIVE.replace("release", "relaxed"), Race),
    "relaxed-wait": (LOOK, LOOK.replace("acquire", "relaxed"), Race),
    "lost-update": (ARRIVE, "        tl.store(counter_ptr, tl.load(counter_ptr) + 1)\n", Race),
    "no-arrival": (ARRIVE, "        pass\n", Hang),
    "arrival-counted-twice": (ARRIVE, 2 * ARRIVE, Race),
}


def test_a_row_too_many_for_threads_alone_is_found(make_case, monkeypatch, tmp_path):
    threads_alone(monkeypatch, 1)
    plant(monkeypatch, tmp_path, multiply_adds, ("B - 1) * K", "B) * K"))
    case = make_case("rnn_tanh", T, 7, H)
    (found,) = found_by(lambda: case.run(sequence_layer, torch.float32, "cpu"))
    assert found in (Race, OutOfBounds)


@pytest.mark.parametrize("bug", IN_THE_BARRIER)
def test_a_bug_in_the_barrier_is_found(bug, make_case, monkeypatch, tmp_path):
    old, new, found_as = IN_THE_BARRIER[bug]
    plant(monkeypatch, tmp_path, grid_barrier, (old, new))
    case = make_case("rnn_tanh", T, 2, H)
    assert found_by(lambda: case.run(sequence_layer, torch.float32, "cpu")) == {found_as}


WAIT = "wait(counter_ptr, t * slices, 0, PTX, COUNTERS)"
WAIT_BACKWARD = "wait(counter_ptr, (past + 1) * slices, 0, PTX, COUNTERS)"

IN_THE_SEQUENCE = {
    "no-wait-forward": ([(WAIT, "pass")], Race),
    "no-wait-backward": ([(WAIT_BACKWARD, "pass")], Race),
    "arrival-before-the-write": (
        [(f"{WRITE_H}            arrive(mine_ptr, PTX)\n",
          f"            arrive(mine_ptr, PTX)\n{WRITE_H}")],
        Race,
    ),
    "target-one-too-low": ([(WAIT, WAIT.replace("slices,", "slices - 1,"))], Race),
    "target-one-too-high": ([(WAIT, WAIT.replace("slices,", "slices + 1,"))], Hang),
    "one-address-for-h": (
        [("hs_ptr + (step + B) * H", "hs_ptr")], Race,  # where it is written and read
    ),
    "slices-that-overlap": (
        [("units = slice * BLOCK_H", "units = slice * (BLOCK_H - 1)")], Race,
    ),
    "groups-that-share-a-counter": (
        [("counter_ptr += group * (COUNTERS * COUNTER_STRIDE)", "counter_ptr += 0")], Race,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", IN_THE_SEQUENCE)
def test_a_bug_in_the_sequence_kernels_is_found(bug, make_case, monkeypatch, tmp_path):
    changes, found_as = IN_THE_SEQUENCE[bug]
    plant(monkeypatch, tmp_path, sequence, *changes)
    # Two groups where groups are what the bug is about, else few rows: the interpreter is slow.
    case = make_case("lstm", T, B if "groups" in bug else 2, H)
    found = found_by(lambda: case.run(sequence_layer, torch.float32, "cpu"))
    assert found == {found_as}


def test_rows_without_a_mask_are_found(make_case, monkeypatch, tmp_path):
    change = ("(row < B) & (k < K)", "(row >= 0) & (k < K)")
    plant(monkeypatch, tmp_path, product, change)
    case = make_case("lstm", T, 2, H)
    found = found_by(lambda: case.run(sequence_layer, torch.float32, "cpu"))
    assert found == {OutOfBounds}


def test_counters_that_were_not_cleared_are_found(make_case, monkeypatch):
    monkeypatch.setattr(
        sequence, "counters", lambda *a: torch.full((sequence.STRIDE,), 9, dtype=torch.int32)
    )
    case = make_case("rnn_tanh", T, 2, H)
    assert found_by(lambda: case.run(sequence_layer, torch.float32, "cpu")) == {Race}


def test_a_grid_that_is_not_on_the_chip_at_once_is_found(make_case):
    case = make_case("rnn_tanh", T, 2, H)
    waiting = r"program \(0, 0, 0\), program \(1, 0, 0\) wait for ever"
    with pytest.raises(Hang, match=waiting), concurrently(resident=2):
        case.run(sequence_layer, torch.float32, "cpu")


OWN_WAIT = "wait(counters + layer * COUNTER_STRIDE, t * slices, PTX=PTX)"
BELOW = "tl.where(is_first, 0, (t + 1) * slices)"
BELOW_WAIT = "seen = wait(counters + below * COUNTER_STRIDE, needed, seen, PTX)"
ABOVE = "tl.where(is_last | is_over, 0, (past + 1) * slices)"
OWN_BACKWARD = "wait(counters + layer * COUNTER_STRIDE, past * slices, PTX=PTX)"
ARRIVAL = "        arrive(counters + layer * COUNTER_STRIDE, PTX)\n"
GRU_WRITE = (
    '            if CELL == "gru":\n'
    "                store_gates(dgates_x_ptr + mine, rows, units, now, d0, d1, d2, d3, G, H)\n"
)

IN_THE_WAVEFRONT = {
    "no-wait-for-the-layer-below": ([(BELOW, "0")], Race),
    "no-wait-for-the-own-layer": ([(OWN_WAIT, "pass")], Race),
    "no-wait-for-the-layer-above": ([(ABOVE, "0")], Race),
    "no-wait-for-the-own-layer-backward": ([(OWN_BACKWARD, "pass")], Race),
    "target-above-one-too-low": ([(ABOVE, ABOVE.replace("* slices)", "* slices - 1)"))], Race),
    "waiting-for-more-steps-than-there-are": (
        [(ABOVE, ABOVE.replace("is_last | is_over", "is_last").replace("+ 1", "+ 2"))], Hang,
    ),
    "target-below-one-too-low": ([(BELOW, BELOW.replace("* slices)", "* slices - 1)"))], Race),
    "looked-for-at-the-wrong-counter": (
        [(BELOW_WAIT, BELOW_WAIT.replace("below", "layer"))], Hang,
    ),
    "remembering-what-was-never-counted": (
        [(BELOW_WAIT, BELOW_WAIT.replace("seen,", "seen + 1,"))], Race,
    ),
    "target-below-one-too-high": ([(BELOW, BELOW.replace("* slices)", "* slices + 1)"))], Hang),
    "arrival-at-another-layers-counter": ([(ARRIVAL, ARRIVAL.replace("layer", "below"))], Race),
    "waiting-in-a-circle": (
        [(BELOW, BELOW.replace("is_first", "False")),
         (BELOW_WAIT, BELOW_WAIT.replace("below", "(1 - layer)"))], Hang,
    ),
    "written-after-the-arrival": (
        [(f"{GRU_WRITE}    {ARRIVAL}", f"    {ARRIVAL}{GRU_WRITE}")], Race,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", IN_THE_WAVEFRONT)
def test_a_bug_in_the_wavefront_is_found(bug, monkeypatch, tmp_path):
    changes, found_as = IN_THE_WAVEFRONT[bug]
    if bug == "arrival-at-another-layers-counter":  # of the forward kernel alone
        source = inspect.getsource(wavefront)
        changes = [(source, source.replace(*changes[0], 1))]
    plant(monkeypatch, tmp_path, wavefront, *changes)
    stack = Stack("gru", T, 2, H, L)
    assert found_by(lambda: stack.run("cpu")) == {found_as}
