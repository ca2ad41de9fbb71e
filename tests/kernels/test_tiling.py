"""Which tiles are chosen for which sizes, and what is said where there is none."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import triton

from kernels import chips, tiling
from kernels.cells import GATES
from kernels.chips import CHIPS
from kernels.tiling import (
    Tile,
    sequence_tiles,
    shared_memory,
    step_tile,
    taken,
    taking,
    tiles_that_fit,
)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(tiling, "INTERPRETED", False)


SIZES = [(B, H) for B in (1, 3, 32, 256) for H in (32, 48, 96, 256, 512, 768, 1024)]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("marked", [False, True])
def test_every_tile_fits_the_chip_and_the_grid_is_co_resident(cell, chip, layers, marked):
    G, chip = GATES[cell], CHIPS[chip]
    for B, H in SIZES:
        for dtype, precision in (
            (torch.float32, "ieee"), (torch.float32, "tf32"), (torch.bfloat16, "ieee"),
        ):  # fmt: skip
            tiles = sequence_tiles(B, H, G, dtype, precision, chip, layers, marked)
            if isinstance(tiles, str):
                if "fit" in tiles:
                    assert f"H {H}, B {B}" in tiles
                    assert chip.name in tiles
                continue
            fitting = tiles_that_fit(B, H, G, dtype, precision, chip, layers, marked)
            assert tiles == (fitting[0][0], fitting[1][0])
            assert all(len({tile.name for tile in found}) == len(found) for found in fitting)
            for backward, tile in [(b, tile) for b in (0, 1) for tile in fitting[b]]:
                kept = 1 if layers == 1 else 2
                needed = shared_memory(tile, H, G, dtype, bool(backward), chip, kept)
                programs = layers * triton.cdiv(H, tile.block_h) * triton.cdiv(B, tile.block_b)
                together = min(chip.programs_each(needed), 2)
                assert tile.marked is marked
                assert needed <= chip.shared_memory
                assert programs <= together * chip.multiprocessors
                assert tile.block_k >= 16 or tile.block_k == tiling.QUAD


def test_a_grid_that_fills_the_chip_fits_and_one_more_does_not():
    """Of 128 programs: where 127 have room, each takes more than before."""
    chip = CHIPS["sm_90"]
    chosen = sequence_tiles(32, 256, 4, torch.float32, "tf32", chip)
    full = dataclasses.replace(chip, multiprocessors=128)
    assert {t.block_b * t.block_h for t in chosen} == {64}
    assert sequence_tiles(32, 256, 4, torch.float32, "tf32", full) == chosen
    short = dataclasses.replace(chip, multiprocessors=127)
    others = sequence_tiles(32, 256, 4, torch.float32, "tf32", short)
    assert all(a != b for a, b in zip(others, chosen, strict=True))


def test_rows_with_marks_are_not_for_amd():
    said = sequence_tiles(32, 256, 4, torch.float32, "tf32", CHIPS["gfx942"], marked=True)
    assert "AMD does not have" in said
    assert isinstance(sequence_tiles(32, 256, 4, torch.float32, "tf32", CHIPS["gfx942"]), tuple)


def test_the_interpreter_has_one_slice_of_units():
    """Programs run one after another there, and none may wait for a later one."""
    for B, H, rows, units in ((1, 3, 16, 16), (16, 48, 16, 64), (17, 96, 32, 128)):
        tiles = sequence_tiles(B, H, 4, torch.float32, "ieee", chips.INTERPRETER)
        assert {(t.block_b, t.block_h) for t in tiles} == {(rows, units)}


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize(("cell", "H"), [("lstm", 256), ("gru", 256), ("rnn_tanh", 512)])
def test_published_sizes_fit(cell, H, chip):
    for precision in ("ieee", "tf32"):
        tiles = sequence_tiles(32, H, GATES[cell], torch.float32, precision, CHIPS[chip])
        assert not isinstance(tiles, str), tiles


def test_what_does_not_fit_says_by_how_much():
    small = dataclasses.replace(CHIPS["sm_90"], name="small", multiprocessors=16)
    assert sequence_tiles(256, 256, 4, torch.float32, "tf32", small) == (
        "the sequence kernel does not fit at H 256, B 256, torch.float32: "
        "64 programs must run at once, small holds 16"
    )
    tight = dataclasses.replace(CHIPS["sm_90"], name="tight", shared_memory=48 * 1024)
    reason = sequence_tiles(32, 1024, 4, torch.float32, "tf32", tight)
    assert "KiB of shared memory, tight has 48" in reason


def test_plain_multiply_adds_have_sixteen_sums_a_thread():
    for B, H in SIZES:
        tile = step_tile(B, H, 3, torch.float32, "ieee")
        assert tile.block_b * tile.block_h * tile.shares >= 16 * 128
        assert tile.block_k // tile.shares >= 16  # the least that a product takes along K


def test_step_tiles_hold_to_what_a_product_needs():
    for B, H in [*SIZES, (1, 1), (2, 5)]:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                tile = step_tile(B, H, 3, dtype, "tf32", backward=backward)
                sizes = (tile.block_b, tile.block_h, tile.block_k)
                assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)


def test_a_wavefront_has_marks_on_tensor_cores_alone():
    chip = CHIPS["sm_90"]
    sizes = (32, 256, 4, torch.float32)
    assert "needs more registers" in tiling.sequence_tiles(*sizes, "ieee", chip, 2, True)
    for precision, layers, marked in (("ieee", 1, True), ("ieee", 2, False), ("tf32", 2, True)):
        tiles = tiling.sequence_tiles(*sizes, precision, chip, layers, marked)
        assert [tile.marked for tile in tiles] == [marked] * 2


def test_weights_of_tensor_cores_stay_in_registers_where_those_suffice():
    for cell, H in (("lstm", 256), ("gru", 256), ("rnn_tanh", 512)):
        for precision, dtype in (("tf32", torch.float32), ("ieee", torch.bfloat16)):
            sizes = (32, H, GATES[cell], dtype, precision, CHIPS["sm_90"])
            for marked in (False, True):
                assert all(tile.in_registers for tile in sequence_tiles(*sizes, marked=marked))
                forward, backward = sequence_tiles(*sizes, layers=2, marked=marked)
                assert forward.in_registers
                assert not backward.in_registers
    on_amd = sequence_tiles(32, 256, 4, torch.float32, "tf32", CHIPS["gfx942"])
    too_long = sequence_tiles(32, 1024, 4, torch.bfloat16, "ieee", CHIPS["sm_90"])
    for tiles in (on_amd, too_long):
        assert not any(tile.in_registers for tile in tiles)


def test_plain_multiply_adds_are_left_to_threads_where_their_registers_suffice():
    """Four rows and four columns a thread, all threads with something of their own to do."""
    sizes = {"dtype": torch.float32, "input_precision": "ieee", "chip": CHIPS["sm_90"]}
    for cell, H in (("lstm", 256), ("gru", 256), ("rnn_tanh", 512), ("lstm", 48), ("gru", 36)):
        G = GATES[cell]
        for backward, tile in enumerate(sequence_tiles(32, H, G, **sizes)):
            assert (tile.block_b, tile.block_k, tile.in_registers) == (4, tiling.QUAD, 1)
            columns = tiling.columns_of(tile.block_h, G, bool(backward))
            assert tile.shares * columns // 4 == 32 * tile.num_warps
            kept = tiling.kept_bytes(tile, H, G, torch.float32, bool(backward))
            assert kept // (4 * 128) <= tiling.REGISTERS_OF_THREADS
    others = [
        sequence_tiles(32, 42, 4, **sizes),  # rows that begin between vectors of 16 bytes
        sequence_tiles(32, 512, 4, **sizes),  # more weights than registers
        sequence_tiles(32, 256, 4, marked=True, **sizes),
        sequence_tiles(32, 256, 4, layers=2, **sizes),
        sequence_tiles(32, 256, 4, **{**sizes, "input_precision": "tf32"}),
        sequence_tiles(32, 256, 4, **{**sizes, "chip": CHIPS["gfx942"]}),
    ]
    for tiles in others:
        assert not isinstance(tiles, str)
        assert all(tile.block_k >= 16 for tile in tiles)


def test_a_program_in_registers_needs_shared_memory_for_its_sums_alone():
    chip = CHIPS["sm_90"]
    forward, _ = sequence_tiles(32, 256, 4, torch.float32, "tf32", chip)
    of_sums = 4 * forward.block_b * 4 * forward.block_h * 4  # warps, rows, columns, bytes
    needed = shared_memory(forward, 256, 4, torch.float32, False, chip)
    elsewhere = dataclasses.replace(forward, in_registers=0)
    assert needed == of_sums
    weights = shared_memory(elsewhere, 256, 4, torch.float32, False, chip) - needed
    assert weights == 256 * 4 * forward.block_h * 4


def test_launches_take_another_tile_within_the_block_alone():
    usual = Tile(8, 8, 32, 4, 1), Tile(8, 16, 32, 4, 1)
    one, two = Tile(16, 8, 32, 4, 1), Tile(32, 8, 32, 4, 1)
    with taking(one, backward=False):
        assert taken(usual) == (one, usual[1])
        with taking(two, backward=False), taking(two, backward=True):
            assert taken(usual) == (two, two)
        assert taken(usual) == (one, usual[1])
    assert taken(usual) == usual
    with pytest.raises(ValueError, match="too many"), taking(one, backward=True):
        raise ValueError("too many programs")  # as a launch does
    assert taken(usual) == usual


def test_another_thread_takes_it_too():
    """Autograd runs backward passes on a GPU in threads of its own."""
    usual, other = (Tile(8, 8, 32, 4, 1),) * 2, Tile(16, 8, 32, 4, 1)
    with taking(other, backward=True), ThreadPoolExecutor(1) as pool:
        assert pool.submit(taken, usual).result() == (usual[0], other)
