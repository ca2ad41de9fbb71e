"""`sequence_layer` against `torch.nn` in float64. In the interpreter: a grid of one slice."""

import pytest
import torch

from kernels import chips, sequence, tiling
from kernels.cells import GATES
from kernels.function import sequence_layer, step_layer, why_no_sequence

CELLS = tuple(GATES)


def covering_sizes():
    """Every T, B and H, every cell with T 1 and 7; T 35 where the interpreter is quick."""
    small = [(1, 1, 32), (2, 3, 48), (7, 32, 96)]
    odd = {
        "lstm": [(35, 3, 48), (7, 1, 1)],
        "gru": [(35, 1, 96), (2, 32, 32)],
        "rnn_tanh": [(35, 32, 32), (1, 3, 96)],
        "rnn_relu": [(35, 3, 48), (2, 1, 5)],
    }
    for cell in CELLS:
        for T, B, H in small + odd[cell]:
            yield pytest.param(cell, T, B, H, id=f"{cell}-T{T}-B{B}-H{H}")


@pytest.mark.parametrize(("cell", "T", "B", "H"), list(covering_sizes()))
def test_outputs_and_gradients(cell, T, B, H, make_case, check, poisoned):
    check(sequence_layer, make_case(cell, T, B, H))


@pytest.mark.parametrize("cell", CELLS)
def test_groups_of_rows_are_independent(cell, make_case, check, poisoned, monkeypatch):
    """More rows than one program takes: each group of rows has its own counter."""
    if not chips.INTERPRETED:
        pytest.skip("the interpreter's tiles")
    tile = tiling.Tile(block_b=16, block_h=32, block_k=16, num_warps=2, num_stages=1)
    monkeypatch.setattr(tiling, "sequence_tiles", lambda *arguments, **options: (tile, tile))
    check(sequence_layer, make_case(cell, 3, 40, 20))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("upstream", ["y", "final_h", "final_c"])
def test_gradient_through_one_output_only(cell, upstream, make_case, check, poisoned):
    if upstream == "final_c" and cell != "lstm":
        pytest.skip("only an LSTM has c")
    check(sequence_layer, make_case(cell, 3, 2, 20), upstream=(upstream,))


@pytest.mark.parametrize("cell", CELLS)
def test_extreme_inputs(cell, make_case, check, poisoned):
    check(sequence_layer, make_case(cell, 4, 3, 48, scale=50.0))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_bfloat16(cell, make_case, check, poisoned):
    case = make_case(cell, 5, 3, 48, dtype=torch.bfloat16)
    check(sequence_layer, case, bound=5e-2, dtype=torch.bfloat16)


@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients(cell, make_case, device):
    """The forward pass that saves nothing gives the same outputs."""
    case = make_case(cell, 3, 2, 20)
    with_gradients, _ = case.run(sequence_layer, torch.float32, device)
    inputs = {name: tensor.float().to(device) for name, tensor in case.inputs.items()}
    state = (inputs["h"], inputs["c"]) if cell == "lstm" else inputs["h"]
    gates_x = inputs["x"] @ inputs["weight_ih"].T + inputs["bias_ih"]
    y, _ = sequence_layer(cell, gates_x, inputs["weight_hh"], inputs["bias_hh"], state)
    assert torch.equal(y, with_gradients["y"])


def test_one_launch_each_way(make_case, device, monkeypatch):
    """Whatever T is: that is what the kernel is for."""
    launches = []

    class Counting:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launches.append(grid)
            return self.kernel[grid]

    for name in ("sequence_forward_kernel", "sequence_backward_kernel"):
        monkeypatch.setattr(sequence, name, Counting(getattr(sequence, name)))
    make_case("gru", 9, 2, 20).run(sequence_layer, torch.float32, device)
    assert len(launches) == 2
    if chips.INTERPRETED:
        assert launches == [(1, 1), (1, 1)]


def test_counters_are_cleared_for_every_launch(make_case, device, monkeypatch):
    """A second run would pass its barriers at once on counters left by the first."""
    made = []
    plain = sequence.counters
    monkeypatch.setattr(
        sequence, "counters", lambda *arguments: made.append(plain(*arguments)) or made[-1]
    )
    for _ in range(2):
        made.clear()
        make_case("lstm", 4, 2, 20).run(sequence_layer, torch.float32, device)
        # after T steps each of the slices has arrived T times
        slices = 1 if chips.INTERPRETED else None
        assert len(made) == 2
        for counter in made:
            assert counter[0].item() % 4 == 0
            assert slices is None or counter[0].item() == 4 * slices


@pytest.mark.parametrize(
    ("cell", "H", "dtype", "precision", "marked", "count"),
    [
        ("lstm", 256, torch.float32, "tf32", False, 4),
        ("gru", 256, torch.bfloat16, "ieee", False, 4),
        ("rnn_tanh", 512, torch.float32, "tf32", False, 4),
        ("lstm", 768, torch.bfloat16, "ieee", False, 4),
        ("lstm", 256, torch.float32, "tf32", True, 1),  # nobody arrives
        ("lstm", 256, torch.float32, "ieee", False, 1),  # a thread has a share of its own
        ("lstm", 192, torch.float32, "tf32", False, 1),  # gates would begin in different shares
        ("lstm", 250, torch.float32, "tf32", False, 1),
    ],
)  # fmt: skip
def test_a_warp_has_a_counter_where_a_share_is_whole_slices(
    cell, H, dtype, precision, marked, count
):
    tiles = tiling.sequence_tiles(
        16, H, GATES[cell], dtype, precision, chips.CHIPS["sm_90"], marked=marked
    )
    for backward, tile in enumerate(tiles):
        assert sequence.counters_of(H, tile) == count
        slices, groups = sequence.grid(16, H, tile)
        counters = sequence.counters(16, H, tile, torch.device("cpu"))
        assert len(counters) == groups * count * sequence.STRIDE
        if count > 1:
            # As many slices at each, and all gates of a slice in the same warp's share.
            own = [s * tile.block_h // tile.block_k % count for s in range(slices)]
            assert {own.count(share) for share in range(count)} == {slices // count}
            gates = range(GATES[cell] if backward else 1)
            for s in range(slices):
                units = range(s * tile.block_h, (s + 1) * tile.block_h)
                shares = {(g * H + u) // tile.block_k % count for g in gates for u in units}
                assert shares == {own[s]}


def test_a_layer_that_does_not_fit_is_refused_with_the_reason(device, monkeypatch):
    monkeypatch.setattr(
        tiling, "sequence_tiles", lambda *arguments, **options: "too wide for this test"
    )
    h = torch.zeros(2, 16, device=device)
    arguments = (torch.zeros(3, 2, 16), torch.zeros(16, 16), torch.zeros(16), h)
    arguments = tuple(tensor.to(device) for tensor in arguments)
    assert why_no_sequence("rnn_tanh", 2, 16, torch.float32, "ieee", h.device) == (
        "too wide for this test"
    )
    with pytest.raises(ValueError, match="too wide for this test"):
        sequence_layer("rnn_tanh", *arguments)
    step_layer("rnn_tanh", *arguments)
