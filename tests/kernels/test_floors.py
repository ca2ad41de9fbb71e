"""The floors do what they say: arrivals are counted, bytes are read and written."""

import pytest
import torch

from kernels import chips, floors, sequence, tiling
from kernels.cells import GATES


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("T", [1, 7])
def test_every_program_arrives_at_every_barrier(T, backward, device, monkeypatch):
    made = []
    plain = sequence.counters
    monkeypatch.setattr(
        sequence, "counters", lambda *arguments: made.append(plain(*arguments)) or made[-1]
    )
    device = torch.device(device)
    floors.barrier("lstm", 40, 48, T, torch.float32, "ieee", device, backward=backward)
    tile = sequence.tiles(40, 48, "lstm", torch.float32, "ieee", device)[backward]
    slices, groups = sequence.grid(40, 48, tile)
    assert [made[0][group * sequence.STRIDE].item() for group in range(groups)] == [
        T * slices
    ] * groups
    if chips.INTERPRETED:
        assert slices == 1  # programs run one after another there


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn_tanh"])
def test_traffic_reads_every_byte_and_writes_every_slice(cell, backward, device):
    T, B, H = floors.ROWS_IN_L2 + 2, 5, 48
    K = GATES[cell] * H if backward else H
    exchanged = torch.randn(floors.ROWS_IN_L2, B, K, device=device)
    out = torch.full((T, B, H), float("nan"), device=device)
    floors.traffic(cell, exchanged, out, "ieee", backward=backward)
    sums = exchanged.double().sum(-1, keepdim=True)
    wanted = torch.cat([sums, sums[:2]]).expand(T, B, H)  # and again from the first
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-4)


def test_apart_each_slice_begins_with_other_rows(device, monkeypatch):
    """Its slices are wide where one program runs after the other: narrower ones are asked for."""
    T, B, H = floors.ROWS_IN_L2 + 2, 5, 48
    narrow = tiling.Tile(16, 16, 16, 4, 1)
    monkeypatch.setattr(sequence, "tiles", lambda *arguments, **options: (narrow, narrow))
    exchanged = torch.randn(floors.ROWS_IN_L2, B, H, device=device)
    out = torch.full((T, B, H), float("nan"), device=device)
    floors.traffic("rnn_tanh", exchanged, out, "ieee", apart=True)
    sums = exchanged.double().sum(-1, keepdim=True)
    for program in range(H // 16):
        wanted = torch.cat([sums.roll(-program, 0), sums.roll(-program, 0)[:2]]).expand(T, B, 16)
        found = out[..., program * 16 : (program + 1) * 16]
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_launches_are_as_many_as_asked_for(device, monkeypatch):
    launches = []

    class Counting:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launches.append(grid)

    monkeypatch.setattr(floors, "launch_floor_kernel", Counting())
    floors.launch(torch.zeros(1, dtype=torch.int32, device=device), 9)
    assert launches == [(1,)] * 9


def test_the_empty_kernel_leaves_memory_alone(device):
    counter = torch.ones(1, dtype=torch.int32, device=device)
    floors.launch(counter, 2)
    assert counter.item() == 1


def test_a_grid_that_does_not_fit_is_refused(device, monkeypatch):
    monkeypatch.setattr(
        tiling, "sequence_tiles", lambda *arguments, **options: "too wide for this test"
    )
    with pytest.raises(ValueError, match="too wide for this test"):
        floors.barrier("lstm", 2, 16, 3, torch.float32, "ieee", torch.device(device))
