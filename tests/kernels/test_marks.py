"""The mark that says that nothing was written yet, and layers without a barrier, interpreted."""

import pytest
import torch

from kernels import chips, tiling
from kernels.cells import GATES
from kernels.function import dataflow_layer, sequence_layer, why_no_sequence
from kernels.marks import look_until_written, mark

CHIP = chips.CHIPS["sm_90"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_mark_is_a_nan_that_arithmetic_does_not_make(dtype):
    buffer = torch.zeros(2, 3, dtype=dtype)
    mark(buffer[1:])
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = buffer.view(kinds[buffer.itemsize])
    assert buffer[1].isnan().all()
    assert (bits[1] == -1).all()
    assert (bits[0] == 0).all()
    zero = torch.zeros((), dtype=dtype)
    assert (zero / zero).view(bits.dtype) != -1


def test_who_pauses_does_so_before_the_first_look_and_only_if_he_waits():
    hasty, patient = (look_until_written(2, 1, 4, False, pause) for pause in (0, 300))
    assert "%clock" not in hasty
    assert patient.index("%clock") < patient.index("ld.relaxed")
    assert "setp.lt.u32 p, now, 300;\nand.pred p, p, q;" in patient


@pytest.mark.parametrize("cell", tuple(GATES))
def test_outputs_and_gradients(cell, make_case, check, poisoned):
    check(dataflow_layer, make_case(cell, 4, 3, 48))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_bits_as_with_a_barrier(cell, make_case, device):
    """In the interpreter nothing is different but who waits."""
    if not chips.INTERPRETED:
        pytest.skip("compiled, the products are divided differently")
    case = make_case(cell, 3, 2, 40)
    ours, our_gradients = case.run(dataflow_layer, torch.float32, device)
    theirs, their_gradients = case.run(sequence_layer, torch.float32, device)
    for name, tensor in (theirs | their_gradients).items():
        assert torch.equal((ours | our_gradients)[name], tensor), name


def tiles(H, dtype, precision="tf32", chip=CHIP):
    return tiling.sequence_tiles(32, H, 4, dtype, precision, chip, marked=True)


def test_vectors_where_rows_are_long_and_aligned():
    for tile in tiles(256, torch.float32):
        assert tile.marked
        assert not tile.staged
        assert tile.block_k >= 64


@pytest.mark.parametrize("H", [48, 258])
def test_words_elsewhere(H):
    assert tiles(H, torch.float32)[0].staged


@pytest.mark.parametrize("H", [48, 260])
def test_halves_have_no_words(H):
    assert "a multiple of 8" in tiles(H, torch.bfloat16)


def test_it_is_nvidias(monkeypatch):
    chip = chips.CHIPS["gfx942"]
    assert "AMD" in tiles(256, torch.float32, chip=chip)
    monkeypatch.setattr(chips, "chip_of", lambda device: chip)
    reason = why_no_sequence(
        "lstm", 32, 256, torch.float32, "ieee", torch.device("cuda"), marked=True
    )
    assert "AMD" in reason
    plain = why_no_sequence("lstm", 32, 256, torch.float32, "ieee", torch.device("cuda"))
    assert plain is None
