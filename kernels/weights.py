"""A program's slice of the weights: loaded once, and kept on the chip for all time steps.

Where it is kept decides how it has to be loaded: in registers as tensor cores take it, or as a
thread does that multiplies by itself, or in shared memory so that nobody waits for a bank. Each
time a warp asks for a few lines of memory. `kernels/product.py` and `kernels/multiply_adds.py`
multiply with it.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

from typing import Any

import triton
import triton.language as tl

from kernels import tiling

QUAD = tl.constexpr(tiling.QUAD)  # a piece so short is for threads (`kernels/multiply_adds.py`)


@triton.constexpr_function
def elements(pointer: Any, size: int) -> int:
    """How many elements of what `pointer` points to are `size` bytes."""
    return 8 * size // pointer.dtype.element_ty.primitive_bitwidth


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
    A piece of four elements is a thread's, and the tiles are those of `weights_of_threads`.
    """
    P: tl.constexpr = 1 if BACKWARD or G == 1 else 4
    K: tl.constexpr = G * H if BACKWARD else H
    PIECES: tl.constexpr = (K + SHARES * BLOCK_K - 1) // (SHARES * BLOCK_K)
    if BLOCK_K == QUAD:
        return weights_of_threads(weight_ptr, slice, BACKWARD, H, G, P, PIECES, BLOCK_H, SHARES)
    elif IN_REGISTERS:
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
    second operand, or two of them side by side their first: four lanes along K, eight columns, a
    warp for each share. Forward memory runs along K and a lane loads a vector of it; backward it
    runs along the columns.
    """
    COLUMNS: tl.constexpr = BLOCK_H * P
    THREADS: tl.constexpr = 32 * SHARES
    PAIR: tl.constexpr = elements(weight_ptr, 4)
    VECTOR: tl.constexpr = elements(weight_ptr, 16)
    BLOCKS: tl.constexpr = BLOCK_K // (4 * VECTOR)
    FIRST: tl.constexpr = 1 if BACKWARD else VECTOR  # what a lane has before the next lane's
    # Of two dimensions, else Triton loads weights that are meant for shared memory in vectors, too.
    at = tl.arange(0, SHARES * COLUMNS * BLOCK_K)[None, :]
    lane = at // FIRST % 4
    column = at // (4 * FIRST) % 8 + at // (8 * SHARES * BLOCK_K) * 8
    share = at // (32 * FIRST) % SHARES
    vector = at // THREADS % VECTOR if BACKWARD else at % VECTOR
    block = at // (THREADS * VECTOR) % BLOCKS
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
def four_of(tile):
    """The last dimension (of two, and of four elements) taken apart; a thread has it whole."""
    even, odd = tl.split(tl.reshape(tile, (tile.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def weights_of_threads(weight_ptr, slice, BACKWARD: tl.constexpr, H: tl.constexpr,
                       G: tl.constexpr, P: tl.constexpr, PIECES: tl.constexpr,
                       BLOCK_H: tl.constexpr, SHARES: tl.constexpr):  # fmt: skip
    """`kept_weights` for plain multiply-adds, in registers of the threads that use them.

    (THREADS,) tiles, an element each: the four columns of the first k, of the second and so on, K
    in the order of the quads, threads as in `kernels/multiply_adds.py`. Forward memory runs along K
    and a thread loads a vector of it; backward it runs along the columns.
    """
    FOURS: tl.constexpr = BLOCK_H * P // 4
    thread = tl.arange(0, SHARES * FOURS)[:, None]
    four = tl.arange(0, 4)[None, :]
    share = thread // FOURS
    ours = thread % FOURS * 4
    tiles = ()
    for piece in tl.static_range(PIECES):
        first = (piece * SHARES + share) * 4
        loaded = ()
        for i in tl.static_range(4):
            if BACKWARD:
                where, mask = weight_at(
                    weight_ptr, slice, ours + four, first + i, BACKWARD, H, G, P, BLOCK_H
                )
            else:
                where, mask = weight_at(
                    weight_ptr, slice, ours + i, first + four, BACKWARD, H, G, P, BLOCK_H
                )
            loaded = loaded + four_of(tl.load(where, mask=mask, other=0.0))
        for i in tl.static_range(16):
            tiles = tiles + (loaded[i if BACKWARD else i % 4 * 4 + i // 4],)  # noqa: RUF005
    return tiles
