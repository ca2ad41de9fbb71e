"""One launch a sequence and layer: the recurrent weights stay on the chip for all T steps.

The grid is (slices of units) × (groups of batch rows). A program owns `block_h` units with all
their gates, for `block_b` rows, and keeps for the whole sequence

    its rows of W_hh (forward) or its columns (backward), its biases, its part of c and of dc.

Only h (forward) or dgates (backward) is exchanged: every program needs all of it and owns a slice.
Each step writes it to a fresh address, so nobody can overwrite what a slower program still reads,
and one barrier a step is enough:

    forward t     wait until h_{t-1} is whole → read it → product, gates → write my h_t → arrive
    backward t    wait until dgates_{t+1} is whole → read it → my dh_t → write my dgates_t → arrive

Rows of the batch never meet, so each group of rows has a barrier of its own among its slices. Where
a warp multiplies the rows of some slices alone it waits for those alone (`counters_of`). There are
no floating-point atomics and every sum has a fixed order: results are the same bit for bit every
time. Buffers are those of `kernels/step.py`.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from kernels import chips, tiling
from kernels.cells import GATES, cell_backward, cell_forward
from kernels.gates import (
    give_last_state,
    load_biases,
    load_gates,
    load_saved,
    load_tile,
    store_gates,
    store_tile,
    take_first_state,
)
from kernels.grid_barrier import STRIDE, arrive, wait
from kernels.marks import (
    PAUSE_BACKWARD,
    PAUSE_FORWARD,
    mark,
    store_for_others,
    store_gates_for_others,
)
from kernels.product import apart, product_with_exchanged
from kernels.step import compile_options, on_device_of
from kernels.weights import kept_weights

COUNTER_STRIDE = tl.constexpr(STRIDE)


@triton.jit(do_not_specialize=["T", "B"])
def sequence_forward_kernel(
    gates_x_ptr, weight_ptr, bias_ptr, first_h_ptr, first_c_ptr, last_h_ptr, last_c_ptr,
    hs_ptr, cs_ptr, saved_ptr, counter_ptr, T, B,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr, SAVE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
    AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
    IN_REGISTERS: tl.constexpr, MARKED: tl.constexpr, COUNTERS: tl.constexpr,
):  # fmt: skip
    """All T steps of one slice of units and one group of rows."""
    slice = tl.program_id(0)
    group = tl.program_id(1)
    rows = group * BLOCK_B + tl.arange(0, BLOCK_B)
    units = slice * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    counter_ptr += group * (COUNTERS * COUNTER_STRIDE)
    mine_ptr = counter_ptr + slice * BLOCK_H // BLOCK_K % COUNTERS * COUNTER_STRIDE
    slices = tl.num_programs(0) // COUNTERS  # that arrive at a counter

    h, c = take_first_state(
        first_h_ptr, first_c_ptr, hs_ptr, cs_ptr, rows, units, inside, CELL, H, COMPUTE
    )

    P: tl.constexpr = 1 if G == 1 else 4
    w = kept_weights(
        weight_ptr, slice, False, H, G, BLOCK_H, BLOCK_K, SHARES, UPCAST, COMPUTE, STAGED,
        4 if MARKED and PTX and not STAGED else 1, IN_REGISTERS > 0,
    )  # fmt: skip
    b0, b1, b2, b3 = load_biases(bias_ptr, units, G, H, COMPUTE)
    before_ptr = first_h_ptr  # the rows of the step before
    for t in range(T):
        step = tl.cast(t, tl.int64) * B
        # Nobody else writes these: asked for before the wait, they arrive during it.
        x0, x1, x2, x3 = load_gates(
            gates_x_ptr + step * (G * H), rows, units, inside, G, H, COMPUTE
        )
        if not MARKED:
            wait(counter_ptr, t * slices, 0, PTX, COUNTERS)
        product = product_with_exchanged(
            before_ptr, w, group, B, H, BLOCK_B, BLOCK_H * P, BLOCK_K, SHARES,
            PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED, MARKED, t > 0, PAUSE_FORWARD,
        )  # fmt: skip
        p0, p1, p2, p3 = apart(product, P, BLOCK_B, BLOCK_H)
        h, c, s0, s1, s2, s3 = cell_forward(
            CELL, x0, x1, x2, x3, p0 + b0, p1 + b1, p2 + b2, p3 + b3, h, c
        )
        if MARKED:
            store_for_others(hs_ptr + (step + B) * H, rows, units, H, inside, h)
        else:
            store_tile(hs_ptr + (step + B) * H, rows, units, H, inside, h)
            arrive(mine_ptr, PTX)
        # Nobody waits for these: written while the others catch up.
        if CELL == "lstm":
            store_tile(cs_ptr + (step + B) * H, rows, units, H, inside, c)
        if SAVE and S == 4:
            store_gates(saved_ptr + step * (S * H), rows, units, inside, s0, s1, s2, s3, S, H)
        before_ptr = hs_ptr + (step + B) * H

    give_last_state(last_h_ptr, last_c_ptr, rows, units, inside, h, c, CELL, H)


@triton.jit(do_not_specialize=["T", "B"])
def sequence_backward_kernel(
    grad_y_ptr, weight_ptr, hs_ptr, cs_ptr, saved_ptr, dgates_x_ptr, dgates_p_ptr,
    dh_ptr, dc_ptr, counter_ptr, T, B,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
    AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
    IN_REGISTERS: tl.constexpr, MARKED: tl.constexpr, COUNTERS: tl.constexpr,
):  # fmt: skip
    """All T steps backward. dh and dc hold the final state's gradient, then the initial one's."""
    slice = tl.program_id(0)
    group = tl.program_id(1)
    rows = group * BLOCK_B + tl.arange(0, BLOCK_B)
    units = slice * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    counter_ptr += group * (COUNTERS * COUNTER_STRIDE)
    mine_ptr = counter_ptr + slice * BLOCK_H // BLOCK_K % COUNTERS * COUNTER_STRIDE
    slices = tl.num_programs(0) // COUNTERS  # that arrive at a counter

    w = kept_weights(
        weight_ptr, slice, True, H, G, BLOCK_H, BLOCK_K, SHARES, UPCAST, COMPUTE, STAGED,
        4 if MARKED and PTX and not STAGED else 1, IN_REGISTERS > 0,
    )  # fmt: skip
    dh = load_tile(dh_ptr, rows, units, H, inside, COMPUTE)
    dc = dh
    if CELL == "lstm":
        dc = load_tile(dc_ptr, rows, units, H, inside, COMPUTE)

    last = tl.cast(T - 1, tl.int64) * B
    dy = load_tile(grad_y_ptr + last * H, rows, units, H, inside, COMPUTE)
    s0, s1, s2, s3, h, h_prev, c, c_prev = load_saved(
        hs_ptr, cs_ptr, saved_ptr, last, B, rows, units, inside, CELL, H, S, COMPUTE
    )

    for past in range(T):
        step = tl.cast(T - 1 - past, tl.int64) * B
        d0, d1, d2, d3, dp2, direct, dc = cell_backward(
            CELL, dh + dy, dc, s0, s1, s2, s3, h, h_prev, c, c_prev
        )
        if CELL != "gru":
            dp2 = d2
        mine = dgates_p_ptr + step * (G * H)
        if MARKED:
            store_gates_for_others(mine, rows, units, inside, d0, d1, dp2, d3, G, H)
        else:
            store_gates(mine, rows, units, inside, d0, d1, dp2, d3, G, H)
            arrive(mine_ptr, PTX)
        # Nobody waits for these: written and asked for while the others catch up.
        if CELL == "gru":
            store_gates(dgates_x_ptr + step * (G * H), rows, units, inside, d0, d1, d2, d3, G, H)
        before = step - B
        there = inside & (rows[:, None] < step)  # step is 0 or at least B: nobody at the first
        dy = load_tile(grad_y_ptr + before * H, rows, units, H, there, COMPUTE)
        s0, s1, s2, s3, h, h_prev, c, c_prev = load_saved(
            hs_ptr, cs_ptr, saved_ptr, before, B, rows, units, there, CELL, H, S, COMPUTE
        )
        if not MARKED:
            wait(counter_ptr, (past + 1) * slices, 0, PTX, COUNTERS)
        dh = direct + product_with_exchanged(
            dgates_p_ptr + step * (G * H), w, group, B, G * H, BLOCK_B, BLOCK_H, BLOCK_K, SHARES,
            PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED, MARKED, True, PAUSE_BACKWARD,
        )  # fmt: skip

    store_tile(dh_ptr, rows, units, H, inside, dh)
    if CELL == "lstm":
        store_tile(dc_ptr, rows, units, H, inside, dc)


def tiles(B: int, H: int, cell: str, dtype: torch.dtype, input_precision: str,
          device: torch.device, *,
          marked: bool = False) -> tuple[tiling.Tile, tiling.Tile]:  # fmt: skip
    """Tiles of the forward and the backward kernel.

    Raises ValueError with the reason where the sequence kernel cannot run; `kernels.step` can.
    """
    chip = chips.chip_of(device)
    found = tiling.sequence_tiles(B, H, GATES[cell], dtype, input_precision, chip, marked=marked)
    if isinstance(found, str):
        raise ValueError(found)
    return tiling.taken(found)


def counters_of(H: int, tile: tiling.Tile) -> int:
    """Counters of a group of rows: one, or one for each warp of those who wait.

    A warp multiplies its share of K only, so it need not wait for programs that write another's
    units; and who looks at one counter is in the way of those who look, and arrive, there. It takes
    tensor cores' layout, in which the shares are the warps', and slices that lie within one share.
    """
    is_a_warps = tile.ptx and not tile.staged and tile.shares == tile.num_warps
    whole = H % (tile.shares * tile.block_k) == 0 and tile.block_k % tile.block_h == 0
    return tile.num_warps if is_a_warps and whole and not tile.marked else 1


def counters(B: int, H: int, tile: tiling.Tile, device: torch.device) -> torch.Tensor:
    """Cleared counters of all groups of rows; a CUDA graph clears them, too."""
    each = triton.cdiv(B, tile.block_b) * STRIDE
    return torch.zeros(each * counters_of(H, tile), dtype=torch.int32, device=device)


def forward(cell: str, gates_x: torch.Tensor, weight_hh: torch.Tensor, bias_hh: torch.Tensor,
            first: Sequence[torch.Tensor], last: Sequence[torch.Tensor], hs: torch.Tensor,
            cs: torch.Tensor, saved: torch.Tensor, *, save: bool, input_precision: str,
            marked: bool = False) -> None:  # fmt: skip
    """Fill hs, cs, the `last` state and, if `save`, saved in one launch, from the `first` state.

    With `marked` rows, which are marked here, instead of a barrier between steps.
    """
    T, B = gates_x.shape[:2]
    H = weight_hh.shape[1]
    tile, _ = tiles(B, H, cell, gates_x.dtype, input_precision, gates_x.device, marked=marked)
    with on_device_of(gates_x):
        counter = hs  # a pointer, for which marked rows have no use
        if marked:
            mark(hs[1:])
        else:
            counter = counters(B, H, tile, gates_x.device)
        sequence_forward_kernel[grid(B, H, tile)](
            gates_x, weight_hh, bias_hh, first[0], first[-1], last[0], last[-1], hs, cs, saved,
            counter, T, B, SAVE=save, MARKED=marked, COUNTERS=counters_of(H, tile),
            **launch_options(cell, H, gates_x.dtype, tile, input_precision),
        )  # fmt: skip


def backward(cell: str, grad_y: torch.Tensor, weight_hh: torch.Tensor, hs: torch.Tensor,
             cs: torch.Tensor, saved: torch.Tensor, dgates_x: torch.Tensor,
             dgates_p: torch.Tensor, dh: torch.Tensor, dc: torch.Tensor, *, initial: bool,
             input_precision: str, marked: bool = False) -> None:  # fmt: skip
    """Fill dgates_x and dgates_p in one launch; other arguments as of `kernels.step.backward`.

    The gradient of the initial state is made in any case: to ask in every step whether there is one
    more exchange costs about as much as that exchange.
    """
    del initial
    T, B, H = grad_y.shape
    _, tile = tiles(B, H, cell, grad_y.dtype, input_precision, grad_y.device, marked=marked)
    with on_device_of(grad_y):
        counter = hs
        if marked:
            mark(dgates_p)
        else:
            counter = counters(B, H, tile, grad_y.device)
        sequence_backward_kernel[grid(B, H, tile)](
            grad_y, weight_hh, hs, cs, saved, dgates_x, dgates_p, dh, dc, counter, T, B,
            MARKED=marked, COUNTERS=counters_of(H, tile),
            **launch_options(cell, H, grad_y.dtype, tile, input_precision),
        )  # fmt: skip


def grid(B: int, H: int, tile: tiling.Tile) -> tuple[int, int]:
    """Slices of units × groups of rows."""
    return triton.cdiv(H, tile.block_h), triton.cdiv(B, tile.block_b)


def launch_options(cell: str, H: int, dtype: torch.dtype, tile: tiling.Tile,
                   input_precision: str) -> dict[str, Any]:  # fmt: skip
    """Cooperative: the driver refuses a grid that is not on the chip all at once."""
    options = compile_options(cell, H, dtype, tile, input_precision)
    options |= {"AHEAD": tile.ahead, "PTX": tile.ptx}
    options |= {"STAGED": tile.staged, "IN_REGISTERS": tile.in_registers}
    if tile.ptx:
        # Left to itself ptxas spares registers, for programs that this grid does not have.
        options["maxnreg"] = 255
    return options | ({} if chips.INTERPRETED else {"launch_cooperative_grid": True})
