"""The recurrent product in IEEE float32, where every thread multiplies and adds by itself.

Triton's own product for this fetches both numbers from shared memory, one that a thread uses four
times; that takes twice as long as the arithmetic. Here a thread keeps its weights in registers, and
reads its rows from L2 straight into others: nothing passes through shared memory but the sums.

Of a result of 4 rows × COLUMNS a thread has all rows and four columns, of one share of K: 16 sums.
K is dealt out in *quads*, four neighbours at a time, to the shares in turn, so that what a warp
asks for lies side by side. Threads of other columns ask for the same rows, which costs no trip:

    threads            columns 0-3    4-7      8-11     12-15
      share 0            0              1        2        3        k =   0-3, 128-131, …
      share 1            4              5        6        7        k =   4-7, 132-135, …
      …                                                            (SHARES 32, 16 columns)
      share 31         124            125      126      127        k = 124-127, …

All tiles are (THREADS,): one element a thread, which is a register. (Of two dimensions Triton 3.6
would lay them out the other way round, and all warps ask for all rows.) K has a fixed order within
a share, and so have the shares: the same bits every time.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment,misc"

import triton
import triton.language as tl

from kernels.weights import four_of

ROWS = tl.constexpr(4)


@triton.jit
def load_quads(pointer, group, start, B, K: tl.constexpr, COLUMNS: tl.constexpr,
               SHARES: tl.constexpr):  # fmt: skip
    """One quad a thread of each of a group's rows, K from `start`: 16 tiles, k within row.

    Where a group has rows that do not exist the last one stands in: a mask would cost two
    instructions a load, and what comes of such rows is written nowhere.
    """
    share = tl.arange(0, SHARES * COLUMNS // 4) // (COLUMNS // 4)
    k = start + share[:, None] * 4 + tl.arange(0, 4)[None, :]
    quads = ()
    for i in tl.static_range(ROWS):
        where = pointer + tl.minimum(group * ROWS + i, B - 1) * K + k
        if K % (4 * SHARES) == 0:
            quad = tl.load(where, cache_modifier=".cg")
        else:
            quad = tl.load(where, mask=k < K, other=0.0, cache_modifier=".cg")
        quads = quads + four_of(quad)
    return quads


@triton.jit
def multiply_adds(pointer, weights, group, B, K: tl.constexpr, COLUMNS: tl.constexpr,
                  SHARES: tl.constexpr, AHEAD: tl.constexpr):  # fmt: skip
    """Rows (4, K) of a group times `weights.weights_of_threads`: sums (SHARES, 4, COLUMNS).

    AHEAD quads of each row are asked for at a time.
    """
    DEPTH: tl.constexpr = SHARES * 4
    QUADS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    quads = ()
    for quad in tl.static_range(min(AHEAD, QUADS)):
        quads = quads + load_quads(pointer, group, quad * DEPTH, B, K, COLUMNS, SHARES)
    sums = ()
    for _ in tl.static_range(ROWS * 4):
        sums = sums + (tl.zeros((SHARES * COLUMNS // 4,), dtype=tl.float32),)  # noqa: RUF005
    for quad in tl.static_range(QUADS):
        if quad + AHEAD < QUADS:
            quads = quads + load_quads(
                pointer, group, (quad + AHEAD) * DEPTH, B, K, COLUMNS, SHARES
            )
        for k in tl.static_range(4):
            added = ()
            for i in tl.static_range(ROWS * 4):
                one = tl.fma(
                    quads[(quad * ROWS + i // 4) * 4 + k], weights[(quad * 4 + k) * 4 + i % 4],
                    sums[i],
                )  # fmt: skip
                added = added + (one,)  # noqa: RUF005
            sums = added
    rows = ()
    for row in tl.static_range(ROWS):
        even = tl.join(sums[4 * row], sums[4 * row + 2])
        odd = tl.join(sums[4 * row + 1], sums[4 * row + 3])
        rows = rows + (tl.join(even, odd),)  # noqa: RUF005
    whole = tl.join(tl.join(rows[0], rows[2]), tl.join(rows[1], rows[3]))
    # The last four are the column's two bits, then the row's.
    whole = tl.reshape(whole, (SHARES, COLUMNS // 4, 2, 2, 2, 2))
    return tl.reshape(tl.permute(whole, (0, 4, 5, 1, 2, 3)), (SHARES, ROWS, COLUMNS))
