"""One launch a stack: layers as a wavefront, layer l at step t beside layer l + 1 at step t − 1.

`kernels/sequence.py` runs one layer after the other, a chain of T·L steps. But layer l at step t
needs only its own step t − 1 and step t of the layer below, so all layers can be under way at once:

    step      0    1    2    3             a chain of T + L − 1 steps instead of T·L
    layer 0   ■ →  ■ →  ■ →  ■
                ↘    ↘    ↘    ↘
    layer 1        ■ →  ■ →  ■ →  ■

The grid is (slices of units) × (groups of rows) × (layers). A program keeps two sets of weights on
the chip, those of its own state and those of the layer below, so the input product of all layers
but the first moves into the kernel. Each layer has a counter of its own for each group of rows:

    forward l, t     wait until layer l − 1 has arrived t + 1 times → its part of the gates
                     wait until layer l has arrived t times → the recurrent part → write → arrive
    backward l, t    wait until layer l + 1 has written step t → its part of dh_t
                     wait until layer l has written step t + 1 → the recurrent part of dh_t
                     → write dgates_t → arrive

Or rows are marked (`kernels/marks.py`): then both waits are for the rows themselves, there are no
counters and nobody arrives.

Nobody waits for a layer that waits for him: forward, layers wait below themselves, backward above.
Everything has a fresh address, sums have a fixed order, there are no floating-point atomics.

Buffers are those of `kernels/step.py`, with the layer in front; gates_x belongs to the first layer.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

from collections.abc import Sequence

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
from kernels.marks import mark, store_for_others, store_gates_for_others
from kernels.product import apart, product_with_exchanged
from kernels.sequence import launch_options
from kernels.step import on_device_of
from kernels.weights import kept_weights

COUNTER_STRIDE = tl.constexpr(STRIDE)


@triton.jit(do_not_specialize=["T", "B"])
def wavefront_forward_kernel(
    gates_x_ptr, weight_ih_ptr, weight_ptr, bias_ih_ptr, bias_ptr, first_h_ptr, first_c_ptr,
    last_h_ptr, last_c_ptr, hs_ptr, cs_ptr, saved_ptr, counter_ptr, T, B,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr, SAVE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
    AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
    IN_REGISTERS: tl.constexpr, MARKED: tl.constexpr,
):  # fmt: skip
    """All T steps of one slice of units, one group of rows and one layer.

    weight_ih holds those of the second layer on. The first layer multiplies rows of zeros instead:
    it has to keep pace with the others, not to be ahead of them.
    """
    layer = tl.program_id(2)
    is_first = layer == 0
    below = tl.maximum(layer, 1) - 1
    slice = tl.program_id(0)
    group = tl.program_id(1)
    rows = group * BLOCK_B + tl.arange(0, BLOCK_B)
    units = slice * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    slices = tl.num_programs(0)
    counters = counter_ptr + group * tl.num_programs(2) * COUNTER_STRIDE
    rows_below = tl.where(is_first, 0, B)
    given = (rows[:, None] < B - rows_below) & (units[None, :] < H)  # gates_x: the first layer's

    one_layer = tl.cast(T + 1, tl.int64) * B * H
    below_ptr = hs_ptr + below * one_layer + B * H  # its step t stands in slot t + 1
    hs_ptr += layer * one_layer
    cs_ptr += layer * one_layer
    saved_ptr += layer * (tl.cast(T, tl.int64) * B * S * H)
    first_h_ptr += layer * B * H
    first_c_ptr += layer * B * H
    last_h_ptr += layer * B * H
    last_c_ptr += layer * B * H

    h, c = take_first_state(
        first_h_ptr, first_c_ptr, hs_ptr, cs_ptr, rows, units, inside, CELL, H, COMPUTE
    )

    P: tl.constexpr = 1 if G == 1 else 4
    WORDS: tl.constexpr = 4 if MARKED and PTX and not STAGED else 1
    w = kept_weights(
        weight_ptr + layer * (G * H * H), slice, False, H, G, BLOCK_H, BLOCK_K, SHARES,
        UPCAST, COMPUTE, STAGED, WORDS, IN_REGISTERS > 0,
    )  # fmt: skip
    w_ih = kept_weights(
        weight_ih_ptr + below * (G * H * H), slice, False, H, G, BLOCK_H, BLOCK_K, SHARES,
        UPCAST, COMPUTE, STAGED, WORDS, IN_REGISTERS > 1,
    )  # fmt: skip
    b0, b1, b2, b3 = load_biases(bias_ptr + layer * (G * H), units, G, H, COMPUTE)
    i0, i1, i2, i3 = load_biases(bias_ih_ptr + layer * (G * H), units, G, H, COMPUTE)
    seen = 0  # arrivals of the layer below
    before_ptr = first_h_ptr  # the rows of the step before
    for t in range(T):
        step = tl.cast(t, tl.int64) * B
        x0, x1, x2, x3 = load_gates(gates_x_ptr + step * (G * H), rows, units, given, G, H, COMPUTE)
        # The layer below is ahead, most of the time: its part is done while one's own is not whole.
        if not MARKED:
            needed = tl.where(is_first, 0, (t + 1) * slices)
            seen = wait(counters + below * COUNTER_STRIDE, needed, seen, PTX)
        product = product_with_exchanged(
            below_ptr + step * H, w_ih, group, rows_below, H, BLOCK_B, BLOCK_H * P, BLOCK_K, SHARES,
            PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED, MARKED,
        )  # fmt: skip
        y0, y1, y2, y3 = apart(product, P, BLOCK_B, BLOCK_H)
        if not MARKED:
            wait(counters + layer * COUNTER_STRIDE, t * slices, PTX=PTX)
        product = product_with_exchanged(
            before_ptr, w, group, B, H, BLOCK_B, BLOCK_H * P, BLOCK_K, SHARES,
            PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED, MARKED, t > 0,
        )  # fmt: skip
        p0, p1, p2, p3 = apart(product, P, BLOCK_B, BLOCK_H)
        h, c, s0, s1, s2, s3 = cell_forward(
            CELL, x0 + y0 + i0, x1 + y1 + i1, x2 + y2 + i2, x3 + y3 + i3,
            p0 + b0, p1 + b1, p2 + b2, p3 + b3, h, c,
        )  # fmt: skip
        if MARKED:
            store_for_others(hs_ptr + (step + B) * H, rows, units, H, inside, h)
        else:
            store_tile(hs_ptr + (step + B) * H, rows, units, H, inside, h)
            arrive(counters + layer * COUNTER_STRIDE, PTX)
        if CELL == "lstm":
            store_tile(cs_ptr + (step + B) * H, rows, units, H, inside, c)
        if SAVE and S == 4:
            store_gates(saved_ptr + step * (S * H), rows, units, inside, s0, s1, s2, s3, S, H)
        before_ptr = hs_ptr + (step + B) * H

    give_last_state(last_h_ptr, last_c_ptr, rows, units, inside, h, c, CELL, H)


@triton.jit(do_not_specialize=["T", "B", "passes"])
def wavefront_backward_kernel(
    grad_y_ptr, weight_ih_ptr, weight_ptr, hs_ptr, cs_ptr, saved_ptr, dgates_x_ptr, dgates_p_ptr,
    dh_ptr, dc_ptr, counter_ptr, T, B, passes,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
    AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
    IN_REGISTERS: tl.constexpr, MARKED: tl.constexpr,
):  # fmt: skip
    """All T steps backward of one slice, one group of rows and one layer, the last layer ahead.

    dh and dc (L, B, H) hold the final state's gradient, then the initial one's, which takes T + 1
    passes. With T of them what dh holds then is none.
    """
    layer = tl.num_programs(2) - 1 - tl.program_id(2)
    is_last = tl.program_id(2) == 0
    above = tl.where(is_last, layer, layer + 1)
    slice = tl.program_id(0)
    group = tl.program_id(1)
    rows = group * BLOCK_B + tl.arange(0, BLOCK_B)
    units = slice * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    slices = tl.num_programs(0)
    counters = counter_ptr + group * tl.num_programs(2) * COUNTER_STRIDE
    rows_above = tl.where(is_last, 0, B)
    given = (rows[:, None] < B - rows_above) & (units[None, :] < H)  # grad_y: the last layer's

    one_layer = tl.cast(T + 1, tl.int64) * B * H
    hs_ptr += layer * one_layer
    cs_ptr += layer * one_layer
    saved_ptr += layer * (tl.cast(T, tl.int64) * B * S * H)
    dh_ptr += layer * B * H
    dc_ptr += layer * B * H
    one_layer = tl.cast(T, tl.int64) * B * G * H
    above_ptr = dgates_x_ptr + above * one_layer
    dgates_x_ptr += layer * one_layer
    dgates_p_ptr += layer * one_layer

    # Before the weights come: beside them it costs registers that there are not.
    direct = load_tile(dh_ptr, rows, units, H, inside, COMPUTE)
    dh = direct
    dc = direct
    if CELL == "lstm":
        dc = load_tile(dc_ptr, rows, units, H, inside, COMPUTE)
    WORDS: tl.constexpr = 4 if MARKED and PTX and not STAGED else 1
    w = kept_weights(
        weight_ptr + layer * (G * H * H), slice, True, H, G, BLOCK_H, BLOCK_K, SHARES,
        UPCAST, COMPUTE, STAGED, WORDS, IN_REGISTERS > 0,
    )  # fmt: skip
    # weight_ih holds those of the second layer on: its entry l leads from layer l to layer l + 1
    w_ih = kept_weights(
        weight_ih_ptr + (tl.maximum(above, 1) - 1) * (G * H * H), slice, True, H, G,
        BLOCK_H, BLOCK_K, SHARES, UPCAST, COMPUTE, STAGED, WORDS, IN_REGISTERS > 1,
    )  # fmt: skip

    last = tl.cast(T - 1, tl.int64) * B
    dy = load_tile(grad_y_ptr + last * H, rows, units, H, given, COMPUTE)
    s0, s1, s2, s3, h, h_prev, c, c_prev = load_saved(
        hs_ptr, cs_ptr, saved_ptr, last, B, rows, units, inside, CELL, H, S, COMPUTE
    )

    seen = 0  # arrivals of the layer above
    # Pass T, after all steps, makes the initial state's gradient, and no gates. So each set of
    # weights is used in one place; used in two, the compiler moves it about.
    for past in range(passes):
        step = tl.cast(T - 1 - past, tl.int64) * B
        is_over = past == T
        # The layer above is ahead, most of the time: its part is done while one's own is not whole.
        if not MARKED:
            needed = tl.where(is_last | is_over, 0, (past + 1) * slices)
            seen = wait(counters + above * COUNTER_STRIDE, needed, seen, PTX)
        dy += product_with_exchanged(
            above_ptr + step * (G * H), w_ih, group, tl.where(is_over, 0, rows_above), G * H,
            BLOCK_B, BLOCK_H, BLOCK_K, SHARES, PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED,
            MARKED,
        )  # fmt: skip
        if not MARKED:
            wait(counters + layer * COUNTER_STRIDE, past * slices, PTX=PTX)
        dh = direct + product_with_exchanged(
            dgates_p_ptr + (step + B) * (G * H), w, group, tl.where(past == 0, 0, B), G * H,
            BLOCK_B, BLOCK_H, BLOCK_K, SHARES, PRECISION, UPCAST, COMPUTE, AHEAD, PTX, STAGED,
            MARKED,
        )  # fmt: skip
        d0, d1, d2, d3, dp2, direct, dc_before = cell_backward(
            CELL, dh + dy, dc, s0, s1, s2, s3, h, h_prev, c, c_prev
        )
        dc = tl.where(is_over, dc, dc_before)
        if CELL != "gru":
            dp2 = d2
        now = inside & (rows[:, None] < tl.where(is_over, 0, B))
        mine = step * (G * H)
        if MARKED:
            store_gates_for_others(dgates_p_ptr + mine, rows, units, now, d0, d1, dp2, d3, G, H)
            if CELL == "gru":  # what the layer below reads
                store_gates_for_others(dgates_x_ptr + mine, rows, units, now, d0, d1, d2, d3, G, H)
        else:
            store_gates(dgates_p_ptr + mine, rows, units, now, d0, d1, dp2, d3, G, H)
            if CELL == "gru":
                store_gates(dgates_x_ptr + mine, rows, units, now, d0, d1, d2, d3, G, H)
            arrive(counters + layer * COUNTER_STRIDE, PTX)
        before = step - B
        there = inside & (rows[:, None] < step)  # at the first step, nobody
        dy = load_tile(grad_y_ptr + before * H, rows, units, H, there & given, COMPUTE)
        s0, s1, s2, s3, h, h_prev, c, c_prev = load_saved(
            hs_ptr, cs_ptr, saved_ptr, before, B, rows, units, there, CELL, H, S, COMPUTE
        )

    store_tile(dh_ptr, rows, units, H, inside, dh)
    if CELL == "lstm":
        store_tile(dc_ptr, rows, units, H, inside, dc)


def tiles(B: int, H: int, L: int, cell: str, dtype: torch.dtype, input_precision: str,
          device: torch.device, *, marked: bool) -> tuple[tiling.Tile, tiling.Tile]:  # fmt: skip
    """Tiles forward and backward. Raises ValueError with the reason where the grid cannot run."""
    chip = chips.chip_of(device)
    found = tiling.sequence_tiles(B, H, GATES[cell], dtype, input_precision, chip, L, marked)
    if isinstance(found, str):
        raise ValueError(found)
    return tiling.taken(found)


def counters(B: int, L: int, tile: tiling.Tile, device: torch.device) -> torch.Tensor:
    """A cleared counter for each group of rows and layer; a CUDA graph clears them, too."""
    groups = triton.cdiv(B, tile.block_b)
    return torch.zeros(groups * L * STRIDE, dtype=torch.int32, device=device)


def grid(B: int, H: int, L: int, tile: tiling.Tile) -> tuple[int, int, int]:
    """Slices of units × groups of rows × layers."""
    return triton.cdiv(H, tile.block_h), triton.cdiv(B, tile.block_b), L


def forward(cell: str, gates_x: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
            bias_ih: torch.Tensor, bias_hh: torch.Tensor, first: Sequence[torch.Tensor],
            last: Sequence[torch.Tensor], hs: torch.Tensor, cs: torch.Tensor,
            saved: torch.Tensor, *, save: bool, input_precision: str,
            marked: bool) -> None:  # fmt: skip
    """Fill hs, cs, the `last` state and, if `save`, saved in one launch, from the `first` state.

    With `marked` rows, or counters.

    weight_ih (L−1, G·H, H), those of the second layer on; weight_hh (L, G·H, H), bias_ih and
    bias_hh (L, G·H); hs, cs (L, T+1, B, H), the first state in slot 0; saved (L, T, B, S·H).
    """
    T, B = gates_x.shape[:2]
    L, _, H = weight_hh.shape
    tile, _ = tiles(B, H, L, cell, gates_x.dtype, input_precision, gates_x.device, marked=marked)
    with on_device_of(gates_x):
        counter = hs  # a pointer, for which marked rows have no use
        if marked:
            mark(hs[:, 1:])
        else:
            counter = counters(B, L, tile, gates_x.device)
        wavefront_forward_kernel[grid(B, H, L, tile)](
            gates_x, weight_ih, weight_hh, bias_ih, bias_hh, first[0], first[-1], last[0], last[-1],
            hs, cs, saved, counter, T, B, SAVE=save, MARKED=marked,
            **launch_options(cell, H, gates_x.dtype, tile, input_precision),
        )  # fmt: skip


def backward(cell: str, grad_y: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
             hs: torch.Tensor, cs: torch.Tensor, saved: torch.Tensor, dgates: torch.Tensor,
             dh: torch.Tensor, dc: torch.Tensor, *, initial: bool,
             input_precision: str, marked: bool) -> None:  # fmt: skip
    """Fill dgates in one launch; dh, dc (L, B, H) and `initial` as in `kernels.step.backward`.

    dgates (2, L, T, B, G·H): of the input's part of the gates and of the product; one where they
    are the same.
    """
    T, B, H = grad_y.shape
    L = weight_hh.shape[0]
    _, tile = tiles(B, H, L, cell, grad_y.dtype, input_precision, grad_y.device, marked=marked)
    with on_device_of(grad_y):
        counter = hs
        if marked:
            mark(dgates)
        else:
            counter = counters(B, L, tile, grad_y.device)
        wavefront_backward_kernel[grid(B, H, L, tile)](
            grad_y, weight_ih, weight_hh, hs, cs, saved, dgates[0], dgates[-1], dh, dc, counter,
            T, B, T + 1 if initial else T, MARKED=marked,
            **launch_options(cell, H, grad_y.dtype, tile, input_precision),
        )  # fmt: skip
