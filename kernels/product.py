"""The recurrent product: rows that other programs wrote, times weights that stay on the chip.

What `kernels/sequence.py` and `kernels/wavefront.py` do in every step, and all that is done for it
to take little time: where the weights lie, how the rows come, and how K is divided. A product is
divided into SHARES along K, each summed by itself; `add_shares` adds them up. `kernels/README.md`
says why.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

from typing import Any

import triton
import triton.language as tl

from kernels.marks import elements_of, look_constraints, look_until_written, words_of


@triton.constexpr_function
def elements(pointer: Any, size: int) -> int:
    """How many elements of what `pointer` points to are `size` bytes."""
    return 8 * size // pointer.dtype.element_ty.primitive_bitwidth


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
    not matter as long as the weights agree (`number_of`), so K is renumbered and every thread keeps
    what it has.
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
                      STAGED: tl.constexpr):  # fmt: skip
    """PIECES pieces of a group's rows, each element once it is no mark, if `waits`.

    For tensor cores a piece comes as four, one for each word of the vectors: (SHARES, BLOCK_B,
    BLOCK_K / 4), so that no thread has to give away or to put together anything, and the weights
    are divided in the same way (`number_of`). K is a multiple of VECTOR then, so that vectors of 16
    bytes lie at addresses that are one, too.
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
    PACK: tl.constexpr = BLOCK_B * BLOCK_K * SHARES // VECTOR // 128  # vectors a thread and piece
    words = tl.inline_asm_elementwise(
        look_until_written(PIECES, PACK, WORDS, elements(pointer, 4) == 2),
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
def number_of(at, word, PAIR: tl.constexpr, VECTOR: tl.constexpr, WORDS: tl.constexpr):
    """Where along K the element stands that a product takes as its `at`-th, within a piece.

    Tensor cores take PAIR elements of each of four lanes in turn, which have VECTOR neighbours
    each: as one piece the first words of all, then the second words of all, and so on; or the
    words are pieces of their own.
    """
    if WORDS == 1:
        word = at // (4 * PAIR) % (VECTOR // PAIR)
        block = at // (4 * VECTOR)
    else:
        block = at // (4 * PAIR)
    lane = at // PAIR % 4
    return block * 4 * VECTOR + lane * VECTOR + word * PAIR + at % PAIR


@triton.jit
def kept_weights(weight_ptr, slice, BACKWARD: tl.constexpr, H: tl.constexpr, G: tl.constexpr,
                 BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                 UPCAST: tl.constexpr, COMPUTE: tl.constexpr, STAGED: tl.constexpr,
                 WORDS: tl.constexpr, IN_REGISTERS: tl.constexpr):  # fmt: skip
    """This slice's rows of W_hh (backward its columns): (SHARES, BLOCK_K / WORDS, COLUMNS) tiles.

    Forward all gates stand in one matrix so that one product makes them: column u·P + g is gate g
    of unit u, with P the gates rounded up to a power of two; K is H. Backward a column is a unit
    and K is G·H. For tensor cores K is numbered as the rows come (`number_of`).
    """
    P: tl.constexpr = 1 if BACKWARD or G == 1 else 4
    K: tl.constexpr = G * H if BACKWARD else H
    PIECES: tl.constexpr = (K + SHARES * BLOCK_K - 1) // (SHARES * BLOCK_K)
    if IN_REGISTERS:
        tl.static_assert(not UPCAST, "only the interpreter wants other operands than there are")
        return weights_in_registers(
            weight_ptr, slice, BACKWARD, H, G, P, PIECES, BLOCK_H, BLOCK_K, SHARES, WORDS
        )
    else:
        return weights_in_shared_memory(
            weight_ptr, slice, BACKWARD, H, G, P, PIECES, BLOCK_H, BLOCK_K, SHARES,
            UPCAST, COMPUTE, STAGED, WORDS,
        )  # fmt: skip


@triton.jit
def weight_at(weight_ptr, slice, column, k, BACKWARD: tl.constexpr, H: tl.constexpr,
              G: tl.constexpr, P: tl.constexpr, BLOCK_H: tl.constexpr):  # fmt: skip
    """Where a column's k-th weight lies, and whether there is one."""
    gate = column % P
    unit = slice * BLOCK_H + column // P
    where = k * H + unit if BACKWARD else (gate * H + unit) * H + k
    return weight_ptr + where, (k < (G * H if BACKWARD else H)) & (unit < H) & (gate < G)


@triton.jit
def weights_in_shared_memory(weight_ptr, slice, BACKWARD: tl.constexpr, H: tl.constexpr,
                             G: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr,
                             BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                             UPCAST: tl.constexpr, COMPUTE: tl.constexpr, STAGED: tl.constexpr,
                             WORDS: tl.constexpr):  # fmt: skip
    """`kept_weights` for Triton to keep in shared memory, where it keeps a product's operands.

    The tiles are loaded in one dimension, and what a thread has next to each other there Triton
    makes innermost in shared memory: K for tensor cores, whose operands run along it, else columns,
    of which plain multiply-adds take a few side by side. The other way round most fetches would
    wait for others that want the same bank.

    Where memory runs along the other dimension, a warp takes SIDE neighbours there: 32 bytes of a
    few rows, and not 4 of many. (Staged, k's of one column meet in a bank, so it takes fewer.) A
    thread has next to each other what is innermost, then what the warp has neighbours of.
    """
    COLUMNS: tl.constexpr = BLOCK_H * P
    PART: tl.constexpr = BLOCK_K // WORDS
    PAIR: tl.constexpr = elements(weight_ptr, 4)
    VECTOR: tl.constexpr = elements(weight_ptr, 16)
    INNER: tl.constexpr = COLUMNS if STAGED else PART
    OUTER: tl.constexpr = PART if STAGED else COLUMNS
    SIDE: tl.constexpr = min(4 if STAGED else 8, OUTER // 2) if BACKWARD != STAGED else 1
    LANES: tl.constexpr = min(32 // SIDE, INNER)
    at = tl.arange(0, SHARES * COLUMNS * PART)
    inner = at // (LANES * SIDE) % (INNER // LANES) * LANES + at % LANES
    outer = at // (INNER * SIDE) % (OUTER // SIDE) * SIDE + at // LANES % SIDE
    share = at // (INNER * OUTER)
    tiles = ()
    for part in tl.static_range(PIECES * WORDS):
        if STAGED:
            within = outer
            column = inner
        else:
            within = number_of(inner, part % WORDS, PAIR, VECTOR, WORDS)
            column = outer
        k = (part // WORDS * SHARES + share) * BLOCK_K + within
        where, mask = weight_at(weight_ptr, slice, column, k, BACKWARD, H, G, P, BLOCK_H)
        # One element at a time: a thread's vectors would be what it has next to each other.
        where = tl.max_contiguous(where, [1])
        tile = tl.load(where, mask=mask, other=0.0)
        if SIDE > 1:
            tile = tl.reshape(tile, (SHARES, OUTER // SIDE, INNER // LANES, SIDE, LANES))
            tile = tl.permute(tile, (0, 1, 3, 2, 4))
        tile = tl.reshape(tile, (SHARES, OUTER, INNER))
        if not STAGED:
            tile = tl.permute(tile, (0, 2, 1))
        tiles = tiles + (tile.to(COMPUTE) if UPCAST else tile,)  # noqa: RUF005
    return tiles


@triton.jit
def weights_in_registers(weight_ptr, slice, BACKWARD: tl.constexpr, H: tl.constexpr,
                         G: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr,
                         BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                         WORDS: tl.constexpr):  # fmt: skip
    """`kept_weights` for tensor cores, in the registers that their instructions take them from.

    An operand that changes hands Triton puts into shared memory, and reads it again in every step.
    One that does not stays where it is. So the tiles are loaded as the instructions want their
    second operand: four lanes along K, eight columns, a warp for each share. Forward memory runs
    along K and a lane loads a vector of it; backward it runs along the columns.
    """
    tl.static_assert(SHARES == 4)
    COLUMNS: tl.constexpr = BLOCK_H * P
    PAIR: tl.constexpr = elements(weight_ptr, 4)
    VECTOR: tl.constexpr = elements(weight_ptr, 16)
    BLOCKS: tl.constexpr = BLOCK_K // (4 * VECTOR)
    FIRST: tl.constexpr = 1 if BACKWARD else VECTOR  # what a lane has before the next lane's
    # Of two dimensions, else Triton loads weights that are meant for shared memory in vectors, too.
    at = tl.arange(0, SHARES * COLUMNS * BLOCK_K)[None, :]
    lane = at // FIRST % 4
    column = at // (4 * FIRST) % 8 + at // (32 * BLOCK_K) * 8
    share = at // (32 * FIRST) % SHARES
    vector = at // 128 % VECTOR if BACKWARD else at % VECTOR
    block = at // (128 * VECTOR) % BLOCKS
    tiles = ()
    for piece in tl.static_range(PIECES):
        k = (piece * SHARES + share) * BLOCK_K + block * 4 * VECTOR + lane * VECTOR + vector
        where, mask = weight_at(weight_ptr, slice, column, k, BACKWARD, H, G, P, BLOCK_H)
        tile = tl.load(where, mask=mask, other=0.0)
        # To (share, block, lane, pair, columns / 8, 8, word): words last.
        if BACKWARD:
            tile = tl.reshape(tile, (COLUMNS // 8, BLOCKS, VECTOR // PAIR, PAIR, SHARES, 8, 4))
            tile = tl.permute(tile, (4, 1, 6, 3, 0, 5, 2))
        else:
            tile = tl.reshape(tile, (COLUMNS // 8, BLOCKS, SHARES, 8, 4, VECTOR // PAIR, PAIR))
            tile = tl.permute(tile, (2, 1, 4, 6, 0, 3, 5))
        if WORDS == 1:
            tile = tl.permute(tile, (0, 1, 6, 2, 3, 4, 5))
            tiles = tiles + (tl.reshape(tile, (SHARES, BLOCK_K, COLUMNS)),)  # noqa: RUF005
        else:
            tile = tl.reshape(tile, (SHARES, BLOCK_K // WORDS, COLUMNS, 2, 2))
            even, odd = tl.split(tile)
            first, third = tl.split(even)
            second, fourth = tl.split(odd)
            tiles = tiles + (first, second, third, fourth)  # noqa: RUF005
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
def add_shares(shares, SHARES: tl.constexpr, BLOCK_B: tl.constexpr, COLUMNS: tl.constexpr):
    """The shares' sums (SHARES, BLOCK_B, COLUMNS) added up, in a fixed order: (BLOCK_B, COLUMNS).

    Lanes of a warp that have shares of their own add theirs among themselves. What the four warps
    have then changes hands once and is added by one thread: `tl.split` wants what it takes apart
    in one. `tl.sum` over warps takes a dozen barriers to move a tile as small as this.
    """
    if SHARES > 4:
        lanes = tl.reshape(shares, (4, SHARES // 4, BLOCK_B, COLUMNS))
        shares = tl.sum(lanes, axis=1)
    apart = tl.permute(shares, (1, 2, 0))
    even, odd = tl.split(tl.reshape(apart, (BLOCK_B, COLUMNS, 2, 2)))
    first, second = tl.split(even + odd)
    return first + second


@triton.jit
def product_with_exchanged(pointer, weights, group, B, K: tl.constexpr, BLOCK_B: tl.constexpr,
                           COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, SHARES: tl.constexpr,
                           PRECISION: tl.constexpr, UPCAST: tl.constexpr, COMPUTE: tl.constexpr,
                           AHEAD: tl.constexpr, PTX: tl.constexpr, STAGED: tl.constexpr,
                           MARKED: tl.constexpr = False, waits=True):  # fmt: skip
    """(rows, K) as other programs wrote it, times the kept weights: (BLOCK_B, COLUMNS).

    The result is small, 16 × 32 say, and K long, so the warps divide K among them (the first
    dimension) instead of the result, and their sums are added at the end. One accumulator would
    also chain a warp's tensor-core instructions, each waiting for the one before; four take turns.
    (A thread that multiplies and adds by itself has 16 sums, enough to have no need to wait.)
    AHEAD pieces of the rows are asked for at a time. All sums have a fixed order.

    MARKED rows are waited for here (`kernels/marks.py`), unless they were there before the launch:
    then `waits` is false. Others have been waited for.
    """
    LOOK: tl.constexpr = MARKED and PTX  # in the interpreter rows are there
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
    a0 = tl.zeros((SHARES, BLOCK_B, COLUMNS), dtype=COMPUTE)
    a1 = a0
    a2 = a0
    a3 = a0
    for part in tl.static_range(CHUNKS * WORDS):
        if LOOK and part % (AHEAD * WORDS) == 0:
            batch = load_when_written(
                pointer, group, part // WORDS * DEPTH, B, waits, K,
                min(AHEAD, CHUNKS - part // WORDS), BLOCK_B, BLOCK_K, SHARES, STAGED,
            )  # fmt: skip
            pieces = pieces + batch
        whole = under_way(pieces[part], PTX and not LOOK)
        if part + AHEAD < CHUNKS and not LOOK:
            piece = load_exchanged(
                pointer, group, (part + AHEAD) * DEPTH, B, K, BLOCK_B, BLOCK_K, SHARES,
                UPCAST, COMPUTE, STAGED,
            )  # fmt: skip
            pieces = pieces + (piece,)  # noqa: RUF005
        w = weights[part]
        if part % TURNS == 0:
            a0 = tl.dot(whole, w, a0, input_precision=PRECISION, out_dtype=COMPUTE)
        elif part % TURNS == 1:
            a1 = tl.dot(whole, w, a1, input_precision=PRECISION, out_dtype=COMPUTE)
        elif part % TURNS == 2:
            a2 = tl.dot(whole, w, a2, input_precision=PRECISION, out_dtype=COMPUTE)
        else:
            a3 = tl.dot(whole, w, a3, input_precision=PRECISION, out_dtype=COMPUTE)
    if TURNS == 4:
        a0 = (a0 + a1) + (a2 + a3)
    return add_shares(a0, SHARES, BLOCK_B, COLUMNS)


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
