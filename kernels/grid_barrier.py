"""A barrier between the programs of one launch, and when it may be used.

Programs of a launch cannot wait for each other in general: the GPU may start the second only after
the first has ended, and then a waiting program waits for ever. They can if all of them are on the
chip at once, which a cooperative launch guarantees: the driver refuses a grid that does not fit.

The barrier is one counter in global memory. Each program adds one when its part of a step is
written (`arrive`) and looks at the counter until everybody's part is (`wait`). The counter only
grows, so a step's target is simply steps × programs and nothing has to be reset inside the loop;
the launcher clears it before each launch, in the same stream, so that a replayed CUDA graph clears
it too.

Why what the others wrote is visible after `wait`: the add has release order and the look acquire
order at the scope of the GPU, and inside a program a barrier ties all its threads to the one that
adds (PTX memory model: causality order is cumulative). Where PTX may stand every thread looks by
itself, a warp at once; elsewhere one does, and another barrier ties the others to it. The L1 cache
is not coherent; after an acquire a line in it is not used, and exchanged data is read with `.cg`,
past it.

A group of programs may have several counters, one for each warp of those who wait: then a warp
knows of those alone who arrive at its own, and reads nothing of others (`sequence.counters_of`).

In the interpreter programs run one after another, so only a grid of one waits for nobody.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

# Counters lie this many int32 apart: 128 bytes, so that no two share a cache line.
STRIDE = 32

ADD_ONE = tl.constexpr("""{
.reg .pred p;
.reg .b32 thread;
mov.u32 thread, %tid.x;
setp.eq.u32 p, thread, 0;
mov.b32 $0, 1;
@p red.global.gpu.release.add.u32 [$1], $0;
}""")
"""By the first thread, whose release takes along what the others wrote before the barrier."""

LOOK = tl.constexpr(
    """{
.reg .pred p;
.reg .b32 warp;
.reg .b64 at;
mov.u32 warp, %tid.x;
shr.u32 warp, warp, 5;
and.b32 warp, warp, $4;
mad.wide.u32 at, warp, BYTES, $1;
mov.b32 $0, $3;
again:
setp.lt.s32 p, $0, $2;
@!p bra there;
ld.global.gpu.acquire.b32 $0, [at];
.pragma "nounroll";
bra again;
there:
}""".replace("BYTES", str(4 * STRIDE))
)
"""Operands: what was counted; the counters, how many to wait for, how many are known of, and what
of a warp's number says at which counter it looks."""


@triton.jit
def arrive(counter_ptr, PTX: tl.constexpr = False):
    """Say that this program's writes are done. Called by every thread of the program."""
    tl.debug_barrier()  # every thread has written before the one that adds does so
    if PTX:
        tl.inline_asm_elementwise(
            ADD_ONE, "=&r,l", [counter_ptr], tl.int32, is_pure=False, pack=1
        )  # fmt: skip
    else:
        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, target, seen=0, PTX: tl.constexpr = False, COUNTERS: tl.constexpr = 1):
    """Return once `target` arrivals are counted; all that was written before them is visible.

    Returns how many were counted. Who was told so before hands it over as `seen`, and where that is
    enough does not look again: a look is a trip to L2, and what it made visible stays so.

    By Triton alone one thread looks, and tells the others through shared memory, with two barriers
    each time. In PTX every warp looks for itself and waits for no other; with several COUNTERS, a
    power of two, one after the other, at its own.
    """
    counted = tl.cast(seen, tl.int32)
    tl.static_assert(PTX or COUNTERS == 1)
    if PTX:
        counted = tl.inline_asm_elementwise(
            LOOK, "=&r,l,r,r,r",
            [counter_ptr, tl.cast(target, tl.int32), counted, tl.cast(COUNTERS - 1, tl.int32)],
            tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        while counted < target:
            # Adding zero is a load that can have acquire order.
            counted = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
        tl.debug_barrier()  # no thread reads on before the one that looked has seen the target
    return counted
