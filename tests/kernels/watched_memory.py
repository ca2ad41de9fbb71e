"""Memory that several programs of a launch share, and an eye on who touches what when.

Vector clocks, element by element. Raised is

    Race           a program reads or overwrites what another wrote (or reads) in the same launch,
                   and nothing orders the two
    OutOfBounds    an access outside of every buffer that the launch was given

What orders accesses of different programs is what orders them on a GPU: an atomic add with release
order publishes what its program did before its last barrier among its own threads, an atomic look
with acquire order takes over what the counter has been told, in effect from the next such barrier
on. The barriers count because a program is many threads and one of them adds and looks for all.
Where it is known which warp looks, that warp need not wait for a barrier.

Relaxed accesses order nothing, but they do not race with each other. What is written so, others
may read at any time if they read it so, and see it or not; it is written once in a launch, because
who reads it cannot tell one time from another.

Source: Lamport, "Time, clocks, and the ordering of events in a distributed system", CACM 21(7),
1978; Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection", PLDI 2009;
the memory consistency model of the PTX ISA for what release, acquire and barriers give.
"""

from dataclasses import dataclass

import numpy as np


class Race(AssertionError):
    """Two accesses, one of them a write, that nothing puts in an order."""


class Hang(AssertionError):
    """Everybody who is left waits."""


class OutOfBounds(AssertionError):
    """An access outside of what the launch was given."""


@dataclass
class Buffer:
    """One storage of the launch, and who touched its elements when, by the programs' own clocks."""

    name: str
    start: int
    itemsize: int
    writer: np.ndarray  # (elements,), -1: nobody in this launch
    written: np.ndarray  # (elements,), the writer's clock
    read: np.ndarray  # (programs, elements), each reader's clock
    is_read: np.ndarray  # (elements,), by anybody: most of what is written is not
    relaxed: np.ndarray  # (elements,), whether it was written by a relaxed store
    is_written: bool = False  # at all: most are not


class Memory:
    """Vector clocks of the programs and counters of a launch, and its buffers.

    programs   their names
    tensors    name -> tensor; those that share a storage are one buffer
    warps      of a program, where accesses say by which they are

    Who accesses is one program, or an array with the program of each address: then all of them
    access at once.
    """

    def __init__(self, programs, tensors, warps=0):
        self.names = programs
        count = len(programs)
        self.clocks = np.eye(count, dtype=np.int64)  # row p: how far p knows each program to be
        self.published = np.zeros((count, count), dtype=np.int64)  # as of p's last barrier
        self.heard = np.zeros((count, count), dtype=np.int64)  # in effect from p's next barrier on
        # What a warp of p has heard by itself, in effect at once.
        self.heard_by = np.zeros((warps, count, count), dtype=np.int64)
        self.counters = {}  # address -> what has been released there
        storages = {}
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage()
            names, _, _ = storages.get(storage.data_ptr(), ([], 0, 0))
            storages[storage.data_ptr()] = ([*names, name], storage.nbytes(), tensor.itemsize)
        self.buffers = [
            Buffer(
                " = ".join(names), start, itemsize,
                np.full(size // itemsize, -1), np.zeros(size // itemsize, dtype=np.int64),
                np.zeros((count, size // itemsize), dtype=np.int32),
                np.zeros(size // itemsize, dtype=bool), np.zeros(size // itemsize, dtype=bool),
            )
            for start, (names, size, itemsize) in storages.items()
        ]  # fmt: skip

    def find(self, program, addresses, what, size=None):
        """The buffer that all addresses lie in, their elements, and who accesses each of them.

        `size` is the bytes at each address, one element if it is not given.
        """
        first, name = int(addresses[0]), self.names[np.ravel(program)[0]]
        for buffer in self.buffers:
            end = buffer.start + len(buffer.writer) * buffer.itemsize
            if not buffer.start <= first < end:
                continue
            at = (addresses.astype(np.int64) - buffer.start) // buffer.itemsize
            by = np.broadcast_to(program, at.shape)
            if size is not None and size > buffer.itemsize:
                each = size // buffer.itemsize
                at, by = (at[:, None] + np.arange(each)).ravel(), np.repeat(by, each)
            outside = at.view(np.uint64) >= len(buffer.writer)  # before the first one, too
            if outside.any():
                name = self.names[by[outside][0]]
                raise OutOfBounds(
                    f"{name} {what} {outside.sum()} elements outside of "
                    f"{buffer.name}, element {at[outside].min()} for one"
                )
            return buffer, at, by
        raise OutOfBounds(f"{name} {what} an address in none of the buffers")

    def _check(self, by, buffer, at, others, clocks, what, warp=None):
        """Raises Race if what `others` did at `clocks` is not known to be over; -1 is nobody."""
        known = self.clocks[by, others]
        if warp is not None:
            known = np.maximum(known, self.heard_by[warp, by, others])
        unordered = (others != -1) & (others != by) & (clocks > known)
        if unordered.any():
            one = unordered.argmax()
            raise Race(
                f"{self.names[by[one]]} {what} element {at[one]} of {buffer.name}, "
                f"which nothing orders after what {self.names[others[one]]} does to it"
            )

    def load(self, program, addresses, size=None, relaxed=False, warp=None):
        buffer, at, by = self.find(program, addresses, "reads", size)
        if buffer.is_written:
            writers = buffer.writer[at]
            if relaxed:
                writers = np.where(buffer.relaxed[at], -1, writers)
            self._check(by, buffer, at, writers, buffer.written[at], "reads", warp)
        if not relaxed:
            buffer.read[by, at] = self.clocks[by, by]
            buffer.is_read[at] = True

    def store(self, program, addresses, size=None, relaxed=False):
        buffer, at, by = self.find(program, addresses, "writes", size)
        if relaxed and (buffer.writer[at] != -1).any():
            raise Race(
                f"{self.names[by[0]]} writes element {at[buffer.writer[at] != -1][0]} of "
                f"{buffer.name} for others to see, but not for the first time"
            )
        some = np.flatnonzero(buffer.is_read[at])
        if len(some):
            for other in range(len(self.names)):
                clocks = buffer.read[other, at[some]]
                who = np.full(len(some), other)
                self._check(by[some], buffer, at[some], who, clocks, "overwrites")
        self._check(by, buffer, at, buffer.writer[at], buffer.written[at], "overwrites")
        buffer.is_written = True
        buffer.writer[at] = by
        together = buffer.writer[at] != by
        if together.any():
            one, others = together.argmax(), buffer.writer[at]
            raise Race(
                f"{self.names[by[one]]} writes element {at[one]} of {buffer.name} "
                f"while {self.names[others[one]]} does"
            )
        buffer.written[at] = self.clocks[by, by]
        buffer.relaxed[at] = relaxed

    def barrier(self, program):
        """Among the threads of a program, or of each of some."""
        clocks = np.maximum(self.clocks[program], self.heard[program])
        self.clocks[program] = self.published[program] = clocks
        self.clocks[program, program] += 1

    def atomic(self, program, address, order, warp=None):
        """An addition to a counter, or a look at it; order is "acquire", "release" or both."""
        self.find(program, np.array([address]), "adds to")
        counter = self.counters.setdefault(address, np.zeros_like(self.heard[program]))
        if "acquire" in order:
            np.maximum(self.heard[program], counter, out=self.heard[program])
            if warp is not None:
                alone = self.heard_by[warp, program]
                np.maximum(alone, counter, out=alone)
        if "release" in order:
            np.maximum(counter, self.published[program], out=counter)
