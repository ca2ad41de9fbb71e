"""A tile's gates, from memory to memory: what the step and the sequence kernel have in common.

Both compute a recurrent product in their own way and then do the same: read the rest of the step's
operands, apply the cell (`kernels.cells`), write the results. Layouts are in `kernels/step.py`.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from kernels.cells import cell_backward
from kernels.tiling import INTERPRETED

# The interpreter cuts a float32 off to bfloat16 where a GPU rounds: a bias of half a unit.
ROUND_BY_HAND = tl.constexpr(INTERPRETED)


@triton.jit
def load_tile(pointer, rows, columns, stride, mask, COMPUTE: tl.constexpr):
    """Tile (rows, columns) of a row-major matrix, zero outside the mask, in the compute type."""
    at = rows[:, None].to(tl.int64) * stride + columns[None, :]
    return tl.load(pointer + at, mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def store_tile(pointer, rows, columns, stride, mask, value):
    """Write a tile, rounded to the buffer's type."""
    if ROUND_BY_HAND and pointer.dtype.element_ty == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000  # to nearest, ties to even
        value = bits.to(tl.float32, bitcast=True)
    at = rows[:, None].to(tl.int64) * stride + columns[None, :]
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_gates(pointer, rows, units, inside, G: tl.constexpr, H: tl.constexpr,
               COMPUTE: tl.constexpr):  # fmt: skip
    """This tile of each gate from a (·, G·H) matrix; spare gates repeat the first."""
    x0 = load_tile(pointer, rows, units, G * H, inside, COMPUTE)
    x1 = x0
    x2 = x0
    x3 = x0
    if G >= 3:
        x1 = load_tile(pointer + H, rows, units, G * H, inside, COMPUTE)
        x2 = load_tile(pointer + 2 * H, rows, units, G * H, inside, COMPUTE)
    if G >= 4:
        x3 = load_tile(pointer + 3 * H, rows, units, G * H, inside, COMPUTE)
    return x0, x1, x2, x3


@triton.jit
def load_biases(pointer, units, G: tl.constexpr, H: tl.constexpr, COMPUTE: tl.constexpr):
    """Each gate's bias as a row (1, units), ready to be added to a tile."""
    inside = units < H
    b0 = tl.load(pointer + units, mask=inside, other=0.0).to(COMPUTE)[None, :]
    b1 = b0
    b2 = b0
    b3 = b0
    if G >= 3:
        b1 = tl.load(pointer + H + units, mask=inside, other=0.0).to(COMPUTE)[None, :]
        b2 = tl.load(pointer + 2 * H + units, mask=inside, other=0.0).to(COMPUTE)[None, :]
    if G >= 4:
        b3 = tl.load(pointer + 3 * H + units, mask=inside, other=0.0).to(COMPUTE)[None, :]
    return b0, b1, b2, b3


@triton.jit
def store_saved(pointer, rows, units, inside, s0, s1, s2, s3, S: tl.constexpr, H: tl.constexpr):
    """Keep what the backward pass needs; nothing for an RNN, whose h says it all."""
    if S == 4:
        store_tile(pointer, rows, units, S * H, inside, s0)
        store_tile(pointer + H, rows, units, S * H, inside, s1)
        store_tile(pointer + 2 * H, rows, units, S * H, inside, s2)
        store_tile(pointer + 3 * H, rows, units, S * H, inside, s3)


@triton.jit
def backward_through_gates(
    h_prev_ptr, h_ptr, c_prev_ptr, c_ptr, saved_ptr, dgates_x_ptr, dgates_p_ptr,
    rows, units, inside, dh, dc,
    CELL: tl.constexpr, H: tl.constexpr, G: tl.constexpr, S: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Read what the forward pass saved, write this step's gate gradients.

    Returns what flows on to the step before without a product: (direct part of dh, dc). Every
    pointer stands at the start of its step.
    """
    s0 = dh
    s1 = dh
    s2 = dh
    s3 = dh
    h = dh
    h_prev = dh
    c = dh
    c_prev = dh
    if S == 4:
        s0, s1, s2, s3 = load_gates(saved_ptr, rows, units, inside, S, H, COMPUTE)
    else:
        h = load_tile(h_ptr, rows, units, H, inside, COMPUTE)
    if CELL == "gru":
        h_prev = load_tile(h_prev_ptr, rows, units, H, inside, COMPUTE)
    if CELL == "lstm":
        c = load_tile(c_ptr, rows, units, H, inside, COMPUTE)
        c_prev = load_tile(c_prev_ptr, rows, units, H, inside, COMPUTE)

    d0, d1, d2, d3, dp2, direct, dc_prev = cell_backward(
        CELL, dh, dc, s0, s1, s2, s3, h, h_prev, c, c_prev
    )

    wide = G * H
    store_tile(dgates_x_ptr, rows, units, wide, inside, d0)
    if G >= 3:
        store_tile(dgates_x_ptr + H, rows, units, wide, inside, d1)
        store_tile(dgates_x_ptr + 2 * H, rows, units, wide, inside, d2)
    if G >= 4:
        store_tile(dgates_x_ptr + 3 * H, rows, units, wide, inside, d3)
    if CELL == "gru":
        store_tile(dgates_p_ptr, rows, units, wide, inside, d0)
        store_tile(dgates_p_ptr + H, rows, units, wide, inside, d1)
        store_tile(dgates_p_ptr + 2 * H, rows, units, wide, inside, dp2)
    return direct, dc_prev
