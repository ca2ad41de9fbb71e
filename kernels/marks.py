"""Rows that say themselves whether they are written: no barrier between the steps of a sequence.

A barrier costs a step three trips to L2, one after the other: the release of what was written, the
look at the counter, then the rows. Here the rows themselves are looked at. A buffer that programs
exchange is filled with a *mark* before the launch, a pattern of bits that no result has, and who
needs an element reads it until it is something else. That is one trip, and nobody waits for a
program whose rows he does not need.

    writer   st.relaxed the element, another pattern than the mark: that is all
    reader   ld.relaxed all elements that are needed; those that are still the mark, again

It needs no order between elements, so nothing stronger than relaxed: an element is written once and
each is looked at by itself. Weak accesses would be a data race, and a compiler might keep what it
has read. As with the barrier all programs must be on the chip at once.

The mark is all bits set, one of many NaNs. Arithmetic makes another one (0x7FFFFFFF), and what is
written is made another one, too, should it be the mark after all: then a NaN goes on as a NaN and
nobody waits for ever.

Elements of 16 bits are written one by one and read two in a word, each half with a look of its own.
The PTX memory model promises nothing for accesses of different sizes; GPUs read and write whole
sectors of 32 bytes.

The idea is that of NCCL's LL protocol, where a flag travels with every four bytes; here the data is
its own flag, as with the Lamport timestamps of Zhu et al., "Sparse persistent RNNs" (ICLR 2018),
and in the memory of a dataflow machine (Arvind, Nikhil and Pingali, "I-structures: data structures
for parallel computing", ACM TOPLAS 11(4), 1989).

In the interpreter programs run one after another and what one reads it has written itself: there
reads and writes are plain ones.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def,assignment"

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.chips import INTERPRETED
from kernels.gates import store_tile

PLAIN = tl.constexpr(INTERPRETED)

# Cycles from a program's own rows until it looks for the others', who are as far as it is. A look
# in vain is read traffic that their writes have to pass; measured on an H200, README.md.
PAUSE_FORWARD = tl.constexpr(300)
PAUSE_BACKWARD = tl.constexpr(500)


def mark(buffer: torch.Tensor) -> None:
    """Fill `buffer` with the mark, in the stream, and as part of a CUDA graph."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    buffer.view(kinds[buffer.itemsize]).fill_(-1)


@triton.constexpr_function
def look_until_written(pieces: int, pack: int, words: int, halves: bool, pause: int) -> str:
    """PTX: `pieces` × `pack` vectors of `words` words, read until no element of them is the mark.

    Operands: the words (piece, word, pack), the addresses (piece, pack), of which 0 stands for
    nothing to read and zeros, whether to wait at all (pack), and what is not looked at (pack). All
    vectors are asked for before the first is looked at, and then those that were not whole,
    together, until all are. With `halves` a word is two elements of 16 bits. Who waits begins to
    look after a `pause` of so many cycles.
    """
    vectors = [
        (
            [f"${(piece * words + word) * pack + i}" for word in range(words)],
            f"${(pieces * words + piece) * pack + i}",
        )
        for piece in range(pieces)
        for i in range(pack)
    ]
    waits = f"${pieces * (words + 1) * pack}"

    def marked(looked_at: list[str]) -> list[str]:
        """`p` becomes whether an element of these words is the mark."""
        if halves:
            # The test whether a half of x is zero, (x - 1) & ~x & 0x8000 in each, with x = ~word.
            lines = ["mov.b32 most, 0;"]
            for word in looked_at:
                lines += [
                    f"add.u32 next, {word}, 0x00010001;",
                    "not.b32 next, next;",
                    f"and.b32 next, next, {word};",
                    "or.b32 most, most, next;",
                ]
            return [*lines, "and.b32 most, most, 0x80008000;", "setp.ne.u32 p, most, 0;"]
        lines = [f"mov.b32 most, {looked_at[0]};"]
        lines += [f"max.u32 most, most, {word};" for word in looked_at[1:]]
        return [*lines, "setp.eq.u32 p, most, 0xffffffff;"]

    def load(into: list[str], address: str) -> str:
        if len(into) == 1:
            return f"@p ld.relaxed.gpu.global.b32 {into[0]}, [{address}];"
        return f"@p ld.relaxed.gpu.global.v{words}.b32 {{{', '.join(into)}}}, [{address}];"

    lines = ["{", ".reg .pred p;", ".reg .pred q;", ".reg .b32 most;", ".reg .b32 next;"]
    lines += [f"setp.ne.b32 q, {waits}, 0;"]
    if pause:
        lines += [".reg .b32 start;", ".reg .b32 now;", "mov.u32 start, %clock;", "early:"]
        lines += ["mov.u32 now, %clock;", "sub.u32 now, now, start;"]
        lines += [f"setp.lt.u32 p, now, {pause};", "and.pred p, p, q;"]
        lines += ['.pragma "nounroll";', "@p bra early;"]
    for vector, address in vectors:
        lines += [f"mov.b32 {word}, 0;" for word in vector]
        lines += [f"setp.ne.u64 p, {address}, 0;", load(vector, address)]
    lines += ["again:"]
    lines += marked([word for vector, _ in vectors for word in vector])
    # The lanes of a warp go on together: its tensor cores want them all.
    lines += ["and.pred p, p, q;", "vote.sync.any.pred p, p, 0xffffffff;", "@!p bra whole;"]
    for vector, address in vectors:
        lines += [*marked(vector), load(vector, address)]
    # ptxas would make eight copies of the loop
    lines += ['.pragma "nounroll";', "bra again;", "whole:", "}"]
    return "\n".join(lines)


@triton.constexpr_function
def look_constraints(pieces: int, pack: int, words: int) -> str:
    """The registers of `look_until_written`; words are written while addresses are still needed."""
    return ",".join(
        ["=&r"] * (words * pieces * pack) + ["l"] * (pieces * pack) + ["r"] * (2 * pack)
    )


@triton.constexpr_function
def words_of(element: Any, count: int) -> Any:
    """The types of `count` words: float32, or what holds two elements of 16 bits."""
    return (tl.float32 if element.primitive_bitwidth == 32 else tl.int32,) * count


@triton.jit
def elements_of(words, ELEMENT: tl.constexpr):
    """A tile (…) of 32-bit words as what they hold: (…) of float32, or (…, 2) of 16 bits each."""
    if ELEMENT.primitive_bitwidth == 32:
        return words
    else:
        low = (words & 0xFFFF).to(tl.uint16).to(ELEMENT, bitcast=True)
        high = (words >> 16).to(tl.uint16).to(ELEMENT, bitcast=True)
        halves = tl.join(low, high)
        # Nothing, but up to 3.7 Triton looks back from a product's operand for a join, and where it
        # finds one takes elements for half as wide: they would change lanes, 64 shuffles a step.
        return tl.inline_asm_elementwise(
            "", "=r,0", [halves], halves.dtype, is_pure=False, pack=2
        )  # fmt: skip


@triton.jit
def store_for_others(pointer, rows, columns, stride, mask, value):
    """`store_tile` for a tile that others wait for element by element."""
    if PLAIN:
        store_tile(pointer, rows, columns, stride, mask, value)
    else:
        at = pointer + rows[:, None].to(tl.int64) * stride + columns[None, :]
        value = value.to(pointer.dtype.element_ty)
        there = mask.to(tl.int32)
        if value.dtype.primitive_bitwidth == 32:
            bits = value.to(tl.int32, bitcast=True)
            tl.inline_asm_elementwise(
                "{\n.reg .pred p;\nsetp.ne.b32 p, $3, 0;\nmin.u32 $0, $2, 0xfffffffe;\n"
                "@p st.relaxed.gpu.global.b32 [$1], $0;\n}",
                "=&r,l,r,r", [at, bits, there], tl.int32, is_pure=False, pack=1,
            )  # fmt: skip
        else:
            bits = value.to(tl.uint16, bitcast=True).to(tl.int32)
            tl.inline_asm_elementwise(
                "{\n.reg .pred p;\n.reg .b16 half;\nsetp.ne.b32 p, $3, 0;\n"
                "min.u32 $0, $2, 0xfffe;\ncvt.u16.u32 half, $0;\n"
                "@p st.relaxed.gpu.global.b16 [$1], half;\n}",
                "=&r,l,r,r", [at, bits, there], tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@triton.jit
def store_gates_for_others(pointer, rows, units, inside, d0, d1, d2, d3, G: tl.constexpr,
                           H: tl.constexpr):  # fmt: skip
    """`store_gates` for tiles that others wait for."""
    store_for_others(pointer, rows, units, G * H, inside, d0)
    if G >= 3:
        store_for_others(pointer + H, rows, units, G * H, inside, d1)
        store_for_others(pointer + 2 * H, rows, units, G * H, inside, d2)
    if G >= 4:
        store_for_others(pointer + 3 * H, rows, units, G * H, inside, d3)
