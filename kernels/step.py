"""One launch a time step: recurrent product, gates and state update fused; its backward too.

The grid is two-dimensional: a program owns a tile of (batch rows) × (hidden units), with all the
gates of those units, so nothing has to be exchanged inside a step. Between steps the end of a
launch is the barrier: the next launch reads what this one wrote.

    forward, step t     p = h_{t-1} W_hhᵀ + b_hh        all of h_{t-1}, this tile's rows of W_hh
                        h_t, c_t, saved = cell(x_t, p)
    backward, step t    dh_t = dy_t + dgates_{t+1} W_hh   all of dgates_{t+1}, this tile's columns
                        dgates_t = cell'(dh_t, saved)
                        … and one launch more, product alone, for the initial state's gradient

Buffers, all contiguous, time first:

    gates_x (T, B, G·H)    hs (T+1, B, H), slot 0 the initial state    cs (T+1, B, H), LSTM only
    saved (T, B, S·H)      dgates_x, dgates_p (T, B, G·H); one and the same unless the cell is a GRU
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from kernels import chips, tiling
from kernels.cells import GATES, SAVED, cell_backward, cell_forward
from kernels.gates import (
    load_biases,
    load_gates,
    load_saved,
    load_tile,
    store_gates,
    store_tile,
)
from kernels.product import add_shares


@triton.jit
def add_product(a, b, acc, SHARES: tl.constexpr, PRECISION: tl.constexpr, COMPUTE: tl.constexpr):
    """acc + a · b. With more than one share of K each has sums of its own: (SHARES, rows, columns).

    A thread that multiplies and adds by itself then has 4 × 4 of them, and uses what it reads four
    times.
    """
    if SHARES > 1:
        depth: tl.constexpr = b.shape[0] // SHARES
        a = tl.permute(tl.reshape(a, (a.shape[0], SHARES, depth)), (1, 0, 2))
        b = tl.reshape(b, (SHARES, depth, b.shape[1]))
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=COMPUTE)


@triton.jit
def no_product(SHARES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
               COMPUTE: tl.constexpr):  # fmt: skip
    """What `add_product` starts from."""
    if SHARES > 1:
        return tl.zeros((SHARES, ROWS, COLUMNS), dtype=COMPUTE)
    else:
        return tl.zeros((ROWS, COLUMNS), dtype=COMPUTE)


@triton.jit
def sum_of(product, SHARES: tl.constexpr):
    """(rows, columns) of what `add_product` has made."""
    if SHARES > 1:
        return add_shares(product, SHARES, product.shape[1], product.shape[2])
    else:
        return product


@triton.jit
def gate_weights(
    weight_ptr, k, units, gate, H: tl.constexpr, G: tl.constexpr, TURNED: tl.constexpr,
    UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """W_hh[gate·H + units, k]ᵀ. TURNED: the matrix is given as (H, G·H)."""
    row = (gate * H + units)[None, :]
    at = k[:, None] * (G * H) + row if TURNED else row * H + k[:, None]
    w = tl.load(weight_ptr + at, mask=(k[:, None] < H) & (units[None, :] < H), other=0.0)
    return w.to(COMPUTE) if UPCAST else w


@triton.jit(do_not_specialize=["t", "B"])
def step_forward_kernel(
    gates_x_ptr, weight_ptr, bias_ptr, hs_ptr, cs_ptr, saved_ptr, t, B,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr, SAVE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """One tile of one step. `t` is the step; hs and cs hold step t in slot t + 1.

    With more than one share the weights are given turned: plain multiply-adds take columns side by
    side, and so they lie side by side in shared memory.
    """
    rows = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    step = tl.cast(t, tl.int64) * B  # rows of a (T·B, ·) matrix before this step
    h_prev_ptr = hs_ptr + step * H

    # Asked for before the product, which does not need them, and so underway while it runs.
    x0, x1, x2, x3 = load_gates(gates_x_ptr + step * (G * H), rows, units, inside, G, H, COMPUTE)
    b0, b1, b2, b3 = load_biases(bias_ptr, units, G, H, COMPUTE)

    p0 = no_product(SHARES, BLOCK_B, BLOCK_H, COMPUTE)
    p1 = p0
    p2 = p0
    p3 = p0
    for start in range(0, H, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        at = rows[:, None] * H + k[None, :]
        h = tl.load(h_prev_ptr + at, mask=(rows[:, None] < B) & (k[None, :] < H), other=0.0)
        if UPCAST:
            h = h.to(COMPUTE)
        w = gate_weights(weight_ptr, k, units, 0, H, G, SHARES > 1, UPCAST, COMPUTE)
        p0 = add_product(h, w, p0, SHARES, PRECISION, COMPUTE)
        if G >= 3:
            w = gate_weights(weight_ptr, k, units, 1, H, G, SHARES > 1, UPCAST, COMPUTE)
            p1 = add_product(h, w, p1, SHARES, PRECISION, COMPUTE)
            w = gate_weights(weight_ptr, k, units, 2, H, G, SHARES > 1, UPCAST, COMPUTE)
            p2 = add_product(h, w, p2, SHARES, PRECISION, COMPUTE)
        if G >= 4:
            w = gate_weights(weight_ptr, k, units, 3, H, G, SHARES > 1, UPCAST, COMPUTE)
            p3 = add_product(h, w, p3, SHARES, PRECISION, COMPUTE)

    p0 = sum_of(p0, SHARES)
    p1 = sum_of(p1, SHARES)
    p2 = sum_of(p2, SHARES)
    p3 = sum_of(p3, SHARES)
    h_prev = p0
    c_prev = p0
    if CELL == "gru":
        h_prev = load_tile(h_prev_ptr, rows, units, H, inside, COMPUTE)
    if CELL == "lstm":
        c_prev = load_tile(cs_ptr + step * H, rows, units, H, inside, COMPUTE)
    h, c, s0, s1, s2, s3 = cell_forward(
        CELL, x0, x1, x2, x3, p0 + b0, p1 + b1, p2 + b2, p3 + b3, h_prev, c_prev
    )
    store_tile(hs_ptr + (step + B) * H, rows, units, H, inside, h)
    if CELL == "lstm":
        store_tile(cs_ptr + (step + B) * H, rows, units, H, inside, c)
    if SAVE and S == 4:
        store_gates(saved_ptr + step * (S * H), rows, units, inside, s0, s1, s2, s3, S, H)


@triton.jit(do_not_specialize=["t", "B"])
def step_backward_kernel(
    grad_y_ptr, weight_ptr, hs_ptr, cs_ptr, saved_ptr, dgates_x_ptr, dgates_p_ptr,
    dh_ptr, dc_ptr, t, B,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
    LAST: tl.constexpr, INITIAL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """One tile of one backward step.

    dh and dc (B, H) carry gradient from step t + 1 to step t in place: each element is read and
    written by the one program that owns it. LAST is the first step taken, t = T − 1, where they
    hold the final state's gradient and there is no product yet. INITIAL is t = −1: no gates any
    more, dh becomes the initial state's gradient.
    """
    rows = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (rows[:, None] < B) & (units[None, :] < H)
    step = tl.cast(t, tl.int64) * B

    dh = tl.zeros((BLOCK_B, BLOCK_H), dtype=COMPUTE)
    if not LAST:
        product = no_product(SHARES, BLOCK_B, BLOCK_H, COMPUTE)
        next_ptr = dgates_p_ptr + (step + B) * (G * H)
        for start in range(0, G * H, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            at = rows[:, None] * (G * H) + k[None, :]
            mask = (rows[:, None] < B) & (k[None, :] < G * H)
            dgates = tl.load(next_ptr + at, mask=mask, other=0.0)
            mask = (k[:, None] < G * H) & (units[None, :] < H)
            w = tl.load(weight_ptr + k[:, None] * H + units[None, :], mask=mask, other=0.0)
            if UPCAST:
                dgates = dgates.to(COMPUTE)
                w = w.to(COMPUTE)
            product = add_product(dgates, w, product, SHARES, PRECISION, COMPUTE)
        dh = sum_of(product, SHARES)
    if LAST or CELL == "gru":
        dh += load_tile(dh_ptr, rows, units, H, inside, COMPUTE)

    if INITIAL:
        store_tile(dh_ptr, rows, units, H, inside, dh)
    else:
        dh += load_tile(grad_y_ptr + step * H, rows, units, H, inside, COMPUTE)
        dc = dh
        if CELL == "lstm":
            dc = load_tile(dc_ptr, rows, units, H, inside, COMPUTE)
        s0, s1, s2, s3, h, h_prev, c, c_prev = load_saved(
            hs_ptr, cs_ptr, saved_ptr, step, B, rows, units, inside, CELL, H, S, COMPUTE
        )
        d0, d1, d2, d3, dp2, direct, dc = cell_backward(
            CELL, dh, dc, s0, s1, s2, s3, h, h_prev, c, c_prev
        )
        store_gates(dgates_x_ptr + step * (G * H), rows, units, inside, d0, d1, d2, d3, G, H)
        if CELL == "gru":
            store_gates(dgates_p_ptr + step * (G * H), rows, units, inside, d0, d1, dp2, d3, G, H)
            store_tile(dh_ptr, rows, units, H, inside, direct)
        if CELL == "lstm":
            store_tile(dc_ptr, rows, units, H, inside, dc)


def on_device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device: make that the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def compile_options(cell: str, H: int, dtype: torch.dtype, tile: tiling.Tile,
                    input_precision: str) -> dict[str, Any]:  # fmt: skip
    """The compile-time arguments that the forward and the backward kernel share."""
    return {
        "CELL": cell, "H": H, "G": GATES[cell], "S": SAVED[cell],
        "BLOCK_B": tile.block_b, "BLOCK_H": tile.block_h, "BLOCK_K": tile.block_k,
        "SHARES": tile.shares, "PRECISION": input_precision,
        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
        # the interpreter multiplies bfloat16 bit patterns, so it is given float32 there
        "UPCAST": chips.INTERPRETED, "num_warps": tile.num_warps, "num_stages": tile.num_stages,
        # a product and a sum in one instruction, which Triton 3.10 does no longer unasked
        "enable_fp_fusion": True,
    }  # fmt: skip


MOST_GROUPS = 65_535
"""Groups of rows in a grid, which its second dimension holds."""


def grid(B: int, H: int, G: int, tile: tiling.Tile) -> tuple[int, int]:
    """Slices of units × groups of rows. Raises ValueError for more rows than one launch takes."""
    groups = triton.cdiv(B, tile.block_b)
    # Within a step elements are counted in 32 bits.
    if groups > MOST_GROUPS or B * G * H >= 2**31:
        most = min(MOST_GROUPS * tile.block_b, (2**31 - 1) // (G * H))
        raise ValueError(f"B is {B}; a layer of this size takes {most} at once: split the batch")
    return triton.cdiv(H, tile.block_h), groups


def forward(cell: str, gates_x: torch.Tensor, weight_hh: torch.Tensor, bias_hh: torch.Tensor,
            first: Sequence[torch.Tensor], last: Sequence[torch.Tensor], hs: torch.Tensor,
            cs: torch.Tensor, saved: torch.Tensor, *, save: bool,
            input_precision: str) -> None:  # fmt: skip
    """Fill hs, cs, the `last` state and, if `save`, saved, T launches, from the `first` state."""
    for slots, state in zip((hs, cs), first, strict=False):
        slots[0].copy_(state)
    T, B = gates_x.shape[:2]
    H = weight_hh.shape[1]
    tile = tiling.step_tile(B, H, GATES[cell], gates_x.dtype, input_precision)
    options = compile_options(cell, H, gates_x.dtype, tile, input_precision)
    programs = grid(B, H, GATES[cell], tile)
    if tile.shares > 1:
        weight_hh = weight_hh.T.contiguous()
    with on_device_of(gates_x):
        for t in range(T):
            step_forward_kernel[programs](
                gates_x, weight_hh, bias_hh, hs, cs, saved, t, B, SAVE=save, **options
            )
    for slots, state in zip((hs, cs), last, strict=False):
        state.copy_(slots[T])


def backward(cell: str, grad_y: torch.Tensor, weight_hh: torch.Tensor, hs: torch.Tensor,
             cs: torch.Tensor, saved: torch.Tensor, dgates_x: torch.Tensor,
             dgates_p: torch.Tensor, dh: torch.Tensor, dc: torch.Tensor, *, initial: bool,
             input_precision: str) -> None:  # fmt: skip
    """Fill dgates_x and dgates_p, a launch for each of T steps.

    dh and dc (B, H), in the compute type, hold the final state's gradient on entry. With `initial`
    they hold the initial state's on return, which takes one step more; else nothing of use.
    """
    T, B, H = grad_y.shape
    tile = tiling.step_tile(B, H, GATES[cell], grad_y.dtype, input_precision, backward=True)
    options = compile_options(cell, H, grad_y.dtype, tile, input_precision)
    programs = grid(B, H, GATES[cell], tile)
    with on_device_of(grad_y):
        for t in range(T - 1, -2 if initial else -1, -1):
            step_backward_kernel[programs](
                grad_y, weight_hh, hs, cs, saved, dgates_x, dgates_p, dh, dc, t, B,
                LAST=t == T - 1, INITIAL=t == -1, **options,
            )  # fmt: skip
