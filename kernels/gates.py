"""A tile's gates, to and from memory: what the step and the sequence kernel have in common.

Each makes the recurrent product in its own way; around it both read the rest of a step's operands,
apply the cell (`kernels.cells`) and write the results. Layouts are in `kernels/step.py`.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from kernels.chips import INTERPRETED

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
def store_gates(pointer, rows, units, inside, d0, d1, d2, d3, G: tl.constexpr, H: tl.constexpr):
    """The counterpart of `load_gates`; writes G of the four."""
    store_tile(pointer, rows, units, G * H, inside, d0)
    if G >= 3:
        store_tile(pointer + H, rows, units, G * H, inside, d1)
        store_tile(pointer + 2 * H, rows, units, G * H, inside, d2)
    if G >= 4:
        store_tile(pointer + 3 * H, rows, units, G * H, inside, d3)


@triton.jit
def take_first_state(
    first_h_ptr, first_c_ptr, hs_ptr, cs_ptr, rows, units, inside,
    CELL: tl.constexpr, H: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """This tile of the initial state, (h, c), which is also written to slot 0 for backward.

    A cell without c gets h twice. To be called before the weights are loaded: beside them it costs
    registers that there are not.
    """
    h = load_tile(first_h_ptr, rows, units, H, inside, COMPUTE)
    store_tile(hs_ptr, rows, units, H, inside, h)
    c = h
    if CELL == "lstm":
        c = load_tile(first_c_ptr, rows, units, H, inside, COMPUTE)
        store_tile(cs_ptr, rows, units, H, inside, c)
    return h, c


@triton.jit
def give_last_state(last_h_ptr, last_c_ptr, rows, units, inside, h, c,
                    CELL: tl.constexpr, H: tl.constexpr):  # fmt: skip
    """Write this tile of the final state."""
    store_tile(last_h_ptr, rows, units, H, inside, h)
    if CELL == "lstm":
        store_tile(last_c_ptr, rows, units, H, inside, c)


@triton.jit
def load_saved(
    hs_ptr, cs_ptr, saved_ptr, step, B, rows, units, inside,
    CELL: tl.constexpr, H: tl.constexpr, S: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """What `cell_backward` needs of a step: (s0, s1, s2, s3, h, h_prev, c, c_prev).

    `step` is the step's first row in a (T·B, ·) matrix. What the cell does not need is zero.
    """
    none = tl.zeros_like(inside.to(COMPUTE))
    s0 = none
    s1 = none
    s2 = none
    s3 = none
    h = none
    h_prev = none
    c = none
    c_prev = none
    if S == 4:
        s0, s1, s2, s3 = load_gates(saved_ptr + step * (S * H), rows, units, inside, S, H, COMPUTE)
    else:
        h = load_tile(hs_ptr + (step + B) * H, rows, units, H, inside, COMPUTE)
    if CELL == "gru":
        h_prev = load_tile(hs_ptr + step * H, rows, units, H, inside, COMPUTE)
    if CELL == "lstm":
        c = load_tile(cs_ptr + (step + B) * H, rows, units, H, inside, COMPUTE)
        c_prev = load_tile(cs_ptr + step * H, rows, units, H, inside, COMPUTE)
    return s0, s1, s2, s3, h, h_prev, c, c_prev
