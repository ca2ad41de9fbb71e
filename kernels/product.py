"""The recurrent product: rows that other programs wrote, times weights that stay on the chip.

What `kernels/sequence.py` and `kernels/wavefront.py` do in every step, and what is done for it to
take little time: how the rows come, and how K is divided. (Where the weights lie is in
`kernels/weights.py`.) A product is divided into SHARES along K, each summed by itself; `add_shares`
adds them up. `kernels/README.md` says why.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

import triton
import triton.language as tl

from kernels.marks import elements_of, look_constraints, look_until_written, words_of
from kernels.multiply_adds import ROWS, multiply_adds
from kernels.weights import QUAD, elements


@triton.jit
def places(pointer, group, start, B, K: tl.constexpr, BLOCK_B: tl.constexpr,
           BLOCK_K: tl.constexpr, SHARES: tl.constexpr, STAGED: tl.constexpr,
           STRIDE: tl.constexpr):  # fmt: skip
    """Where a group's rows lie, K from `start`: every STRIDE-th element, and whether it exists.

    Staged, as (SHARES, BLOCK_B, BLOCK_K / STRIDE), one share of K after the other. For tensor cores
    as two dimensions, so that Triton can lay them out in one way only: four lanes side by side,
    VECTOR neighbours along K each, eight rows, then warps.
    """
    if STAGED:
        row = group * BLOCK_B + tl.arange(0, BLOCK_B)[None, :, None]
        k = tl.arange(0, BLOCK_K // STRIDE) * STRIDE
        k = start + tl.arange(0, SHARES)[:, None] * BLOCK_K + k[None, :]
        k = k[:, None, :]
    else:
        VECTOR: tl.constexpr = elements(pointer, 16)
        BLOCKS: tl.constexpr = BLOCK_K // (4 * VECTOR)
        at = tl.arange(0, BLOCKS * BLOCK_B * SHARES)[:, None]
        row = group * BLOCK_B + at // (8 * SHARES) % (BLOCK_B // 8) * 8 + at % 8
        block = at // (SHARES * BLOCK_B) * (4 * VECTOR)
        k = start + at // 8 % SHARES * BLOCK_K + block
        k += tl.arange(0, 4 * VECTOR // STRIDE)[None, :] * STRIDE
    return pointer + row * K + k, (row < B) & (k < K)


@triton.jit
def load_exchanged(pointer, group, start, B, K: tl.constexpr, BLOCK_B: tl.constexpr,
                   BLOCK_K: tl.constexpr, SHARES: tl.constexpr, UPCAST: tl.constexpr,
                   COMPUTE: tl.constexpr, STAGED: tl.constexpr):  # fmt: skip
    """A group's rows, K from `start`, as other programs wrote them: past L1, from L2.

    (SHARES, BLOCK_B, BLOCK_K), one share of K after the other. Staged, they go through shared
    memory to the product. For tensor cores they need not: a thread has VECTOR neighbours along K of
    one row, and the product wants each thread to have elements 4·PAIR apart. Which is which does
    not matter as long as the weights agree (`weights.number_of`), so K is renumbered and every
    thread keeps what it has.
    """
    where, mask = places(pointer, group, start, B, K, BLOCK_B, BLOCK_K, SHARES, STAGED, 1)
    tile = tl.load(where, mask=mask, other=0.0, cache_modifier=".cg")
    if not STAGED:
        PAIR: tl.constexpr = elements(pointer, 4)
        VECTOR: tl.constexpr = elements(pointer, 16)
        BLOCKS: tl.constexpr = BLOCK_K // (4 * VECTOR)
        tile = tl.reshape(tile, (BLOCKS, BLOCK_B // 8, SHARES, 8, 4, VECTOR // PAIR, PAIR))
        tile = tl.reshape(tl.permute(tile, (2, 1, 3, 0, 5, 4, 6)), (SHARES, BLOCK_B, BLOCK_K))
    return tile.to(COMPUTE) if UPCAST else tile


@triton.jit
def load_when_written(pointer, group, start, B, waits, K: tl.constexpr, PIECES: tl.constexpr,
                      BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                      STAGED: tl.constexpr, PAUSE: tl.constexpr):  # fmt: skip
    """PIECES pieces of a group's rows, each element once it is no mark, if `waits`.

    For tensor cores a piece comes as four, one for each word of the vectors: (SHARES, BLOCK_B,
    BLOCK_K / 4), so that no thread has to give away or to put together anything, and the weights
    are divided in the same way (`weights.number_of`). K is a multiple of VECTOR then, so that
    vectors of 16 bytes lie at addresses that are one, too.
    """
    WORDS: tl.constexpr = 1 if STAGED else 4
    VECTOR: tl.constexpr = elements(pointer, 4 * WORDS)
    BLOCKS: tl.constexpr = BLOCK_K // (4 * VECTOR)  # VECTOR is four lanes' words of 4 bytes, too
    waits = tl.cast(waits, tl.int32)
    anchor = waits
    if not STAGED:
        # Triton keeps the layout that it gives to a load, and what is read below gets the same:
        # four lanes side by side, one vector each. This load never happens, which Triton cannot
        # know; the odd address keeps it from taking more than one side by side.
        row = tl.arange(0, BLOCKS * BLOCK_B * SHARES)[:, None]
        nowhere = pointer + waits + (row * 4 + tl.arange(0, 4)[None, :])
        anchor = tl.load(nowhere, mask=(row >= 0) & (B < 0), other=0.0).to(tl.float32)
    addresses = ()
    for piece in tl.static_range(PIECES):
        where, mask = places(
            pointer, group, start + piece * SHARES * BLOCK_K, B, K, BLOCK_B, BLOCK_K, SHARES,
            STAGED, VECTOR,
        )  # fmt: skip
        where = tl.where(mask, where.to(tl.int64), 0)
        addresses = addresses + (where,)  # noqa: RUF005
    THREADS: tl.constexpr = 128 if STAGED else 32 * SHARES
    PACK: tl.constexpr = BLOCK_B * BLOCK_K * SHARES // VECTOR // THREADS  # a thread's, of a piece
    words = tl.inline_asm_elementwise(
        look_until_written(PIECES, PACK, WORDS, elements(pointer, 4) == 2, PAUSE),
        look_constraints(PIECES, PACK, WORDS),
        addresses + (waits, anchor),  # noqa: RUF005
        dtype=words_of(pointer.dtype.element_ty, WORDS * PIECES), is_pure=False, pack=PACK,
    )  # fmt: skip
    tiles = ()
    for word in tl.static_range(WORDS * PIECES):
        tile = elements_of(words[word], pointer.dtype.element_ty)
        if not STAGED:
            tile = tl.reshape(tile, (BLOCKS, BLOCK_B // 8, SHARES, 8, VECTOR))
            tile = tl.permute(tile, (2, 1, 3, 0, 4))
        tiles = tiles + (tl.reshape(tile, (SHARES, BLOCK_B, BLOCK_K // WORDS)),)  # noqa: RUF005
    return tiles


@triton.jit
def under_way(tile, PTX: tl.constexpr):
    """The tile as it is; no load that stands before this is put off until after it.

    ptxas spares registers: it loads a few vectors, stores them to shared memory and loads the next
    into the same registers, waiting for L2 every time. It moves no load past a barrier of a warp,
    so with one here all loads are asked for before the first is waited for.
    """
    if PTX and tile.dtype.primitive_bitwidth == 32:
        tile = tl.inline_asm_elementwise(
            "bar.warp.sync 0xffffffff;", "=f,=f,=f,=f,=f,=f,=f,=f,0,1,2,3,4,5,6,7", [tile],
            tile.dtype, is_pure=False, pack=8,
        )  # fmt: skip
    elif PTX and tile.dtype.primitive_bitwidth == 16:
        tile = tl.inline_asm_elementwise(
            "bar.warp.sync 0xffffffff;", "=r,=r,=r,=r,0,1,2,3", [tile],
            tile.dtype, is_pure=False, pack=8,
        )  # fmt: skip
    return tile


@triton.jit
def add_shares(shares, SHARES: tl.constexpr, BLOCK_B: tl.constexpr, COLUMNS: tl.constexpr,
               WARPS: tl.constexpr = 4):  # fmt: skip
    """The shares' sums (SHARES, BLOCK_B, COLUMNS) added up, in a fixed order: (BLOCK_B, COLUMNS).

    Lanes of a warp that have shares of their own add theirs among themselves. What the four or
    eight WARPS have then changes hands once and is added by one thread: `tl.split` wants what it
    takes apart in one. `tl.sum` over warps takes a dozen barriers to move a tile as small as this.
    """
    if SHARES > WARPS:
        lanes = tl.reshape(shares, (WARPS, SHARES // WARPS, BLOCK_B, COLUMNS))
        shares = tl.sum(lanes, axis=1)
    apart = tl.permute(shares, (1, 2, 0))
    if WARPS == 8:
        even, odd = tl.split(tl.reshape(apart, (BLOCK_B, COLUMNS, 2, 2, 2)))
        even, odd = tl.split(even + odd)
    else:
        even, odd = tl.split(tl.reshape(apart, (BLOCK_B, COLUMNS, 2, 2)))
    first, second = tl.split(even + odd)
    return first + second


@triton.jit
def product_with_exchanged(pointer, weights, group, B, K: tl.constexpr, BLOCK_B: tl.constexpr,
                           COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                           PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
                           AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
                           MARKED: tl.constexpr = False, waits=True,
                           PAUSE: tl.constexpr = 0):  # fmt: skip
    """(rows, K) as other programs wrote it, times the kept weights: (BLOCK_B, COLUMNS).

    The result is small, 16 × 32 say, and K long, so the warps divide K among them (the first
    dimension) instead of the result, and their sums are added at the end. One accumulator would
    also chain a warp's tensor-core instructions, each waiting for the one before; four take turns.
    (A thread that multiplies and adds by itself has 16 sums, enough to have no need to wait.)
    AHEAD pieces of the rows are asked for at a time. All sums have a fixed order.

    MARKED rows are waited for here (`kernels/marks.py`), after PAUSE cycles, unless they were there
    before the launch: then `waits` is false. Others have been waited for.
    """
    LOOK: tl.constexpr = MARKED and PTX  # in the interpreter rows are there
    if BLOCK_K == QUAD:
        tl.static_assert(BLOCK_B == ROWS and not LOOK)
        sums = multiply_adds(pointer, weights, group, B, K, COLUMNS, SHARES, AHEAD)
    else:
        sums = products(
            pointer, weights, group, B, waits, K, BLOCK_B, COLUMNS, BLOCK_K, SHARES, PRECISION,
            UPCAST, COMPUTE, AHEAD, PTX, STAGED, LOOK, PAUSE,
        )  # fmt: skip
    # For tensor cores a share is a warp's.
    WARPS: tl.constexpr = 4 if STAGED or BLOCK_K == QUAD else SHARES
    return add_shares(sums, SHARES, BLOCK_B, COLUMNS, WARPS)


@triton.jit
def products(pointer, weights, group, B, waits, K: tl.constexpr, BLOCK_B: tl.constexpr,
             COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
             PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
             AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
             LOOK: tl.constexpr, PAUSE: tl.constexpr):  # fmt: skip
    """The product by `tl.dot`, before the shares are added up: (SHARES, BLOCK_B, COLUMNS).

    A tensor-core instruction takes 16 of its first operand and 8 of its second. So eight rows are
    the second one, ACROSS, where there are 16 columns: as the first they would be half of it, and
    cost twice as many. What a lane has loaded of either is the same: four lanes lie along K and
    eight along the other dimension, in both operands.
    """
    WORDS: tl.constexpr = 4 if LOOK and not STAGED else 1
    TURNS: tl.constexpr = 1 if PRECISION == "ieee" and elements(pointer, 4) == 1 else 4
    DEPTH: tl.constexpr = SHARES * BLOCK_K
    CHUNKS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    pieces = ()
    for chunk in tl.static_range(0 if LOOK else min(AHEAD, CHUNKS)):
        piece = load_exchanged(
            pointer, group, chunk * DEPTH, B, K, BLOCK_B, BLOCK_K, SHARES,
            UPCAST, COMPUTE, STAGED,
        )  # fmt: skip
        pieces = pieces + (piece,)  # noqa: RUF005
    ACROSS: tl.constexpr = BLOCK_B == 8 and COLUMNS >= 16 and not STAGED
    if ACROSS:
        a0 = tl.zeros((SHARES, COLUMNS, BLOCK_B), dtype=COMPUTE)
    else:
        a0 = tl.zeros((SHARES, BLOCK_B, COLUMNS), dtype=COMPUTE)
    a1 = a0
    a2 = a0
    a3 = a0
    for part in tl.static_range(CHUNKS * WORDS):
        if LOOK and part % (AHEAD * WORDS) == 0:
            batch = load_when_written(
                pointer, group, part // WORDS * DEPTH, B, waits, K,
                min(AHEAD, CHUNKS - part // WORDS), BLOCK_B, BLOCK_K, SHARES, STAGED,
                PAUSE if part == 0 else 0,
            )  # fmt: skip
            pieces = pieces + batch
        whole = under_way(pieces[part], PTX and not LOOK)
        if part + AHEAD < CHUNKS and not LOOK:
            piece = load_exchanged(
                pointer, group, (part + AHEAD) * DEPTH, B, K, BLOCK_B, BLOCK_K, SHARES,
                UPCAST, COMPUTE, STAGED,
            )  # fmt: skip
            pieces = pieces + (piece,)  # noqa: RUF005
        first = whole
        second = weights[part]
        if ACROSS:
            first = tl.permute(weights[part], (0, 2, 1))
            second = tl.permute(whole, (0, 2, 1))
        if part % TURNS == 0:
            a0 = tl.dot(first, second, a0, input_precision=PRECISION, out_dtype=COMPUTE)
        elif part % TURNS == 1:
            a1 = tl.dot(first, second, a1, input_precision=PRECISION, out_dtype=COMPUTE)
        elif part % TURNS == 2:
            a2 = tl.dot(first, second, a2, input_precision=PRECISION, out_dtype=COMPUTE)
        else:
            a3 = tl.dot(first, second, a3, input_precision=PRECISION, out_dtype=COMPUTE)
    if TURNS == 4:
        a0 = (a0 + a1) + (a2 + a3)
    if ACROSS:
        a0 = tl.permute(a0, (0, 2, 1))
    return a0


@triton.jit
def apart(product, P: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """Undo the interleaving of `kept_weights`: four tiles (BLOCK_B, BLOCK_H), one a gate."""
    if P == 4:
        even, odd = tl.split(tl.reshape(product, (BLOCK_B, BLOCK_H, 2, 2)))
        p0, p2 = tl.split(even)
        p1, p3 = tl.split(odd)
        return p0, p1, p2, p3
    else:
        tl.static_assert(P == 1, "a cell has one gate, or three or four")
        return product, product, product, product
