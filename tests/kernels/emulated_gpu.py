"""A GPU that is not there: Triton compiles for it and launches on it as on any, and Python runs it.

The kernels are compiled to PTX for the chip that is asked for, by the launchers of the product and
with what Triton specializes on; `ptx.py` makes Python of that, and here it runs, a whole grid at
once, on tensors in the CPU's memory. What interpreting Triton's source cannot show is in it: what
the compiler made of the products and layouts, lines of PTX that only a GPU sees, the barriers that
Triton put between the warps of a program, the tiles and grids that the chip would get.

    with emulated("sm_90", seed=1) as launches:
        y, state = sequence_layer("lstm", gates_x, weight_hh, bias_hh, (h, c), ...)

A program is several warps, each goes on by itself. The warps of one number in all programs go
together as far as they are at the same place and in the same crew, which is what makes it fast; who
is in which crew and who goes on next comes from the seed. Watched meanwhile, each with an error of
its own: global memory (`watched_memory.py`); shared memory, where two warps must have a barrier
between them if one of them writes; hangs; a cooperative grid with more programs than the chip
holds.

It must not run under TRITON_INTERPRET. Not there: time. An order of accesses within a program's
global memory, NaN's bits, what tensor cores round on the way (products are exact and added up in
float64 here, TF32 takes the upper 10 bits of the mantissa), and the machine code after PTX.
"""

import contextlib
import ctypes
import random
from dataclasses import dataclass

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from kernels import tiling

from .ptx import translate
from .watched_memory import Hang, Memory, Race

KINDS = {
    "B": np.bool_, "U1": np.uint8, "U2": np.uint16, "U4": np.uint32, "U8": np.uint64,
    "I2": np.int16, "I4": np.int32, "I8": np.int64, "F2": np.float16, "F4": np.float32,
}  # fmt: skip
U1, U2, U4, U8, F4 = np.uint8, np.uint16, np.uint32, np.uint64, np.float32
READY, BARRIER, ASLEEP, OVER = range(4)
CREWS = 3
LANES = np.arange(32)
NEIGHBOURS = {count: np.arange(count) for count in (1, 2, 4, 8)}
GROUP, THREAD = LANES // 4, LANES % 4  # as the PTX ISA calls them where fragments are laid out

# Where the elements of `mma`'s fragments stand: (registers, lanes) -> row and column
ROW_A = np.stack([GROUP, GROUP + 8] * 2)
TF32_K = np.stack([THREAD, THREAD, THREAD + 4, THREAD + 4])
TF32_B_K = np.stack([THREAD, THREAD + 4])
HALF_K = np.stack([2 * THREAD, 2 * THREAD, 2 * THREAD + 8, 2 * THREAD + 8])
HALF_B_K = np.stack([2 * THREAD, 2 * THREAD + 8])
ROW_C = np.stack([GROUP, GROUP, GROUP + 8, GROUP + 8])
COLUMN_C = np.stack([2 * THREAD, 2 * THREAD + 1] * 2)


class Diverged(AssertionError):
    """Lanes of a warp would go different ways: the emulation cannot follow."""


class Misaligned(RuntimeError):
    """An access of 2, 4, 8 or 16 bytes at an address that is no multiple of that: a GPU ends it."""


def hold_aligned(where, size):
    if (where & where.dtype.type(size - 1)).any():
        raise Misaligned(f"{size} bytes at {int(where[(where % size).argmax()]):#x}")


class SharedRace(Race):
    """Two warps of a program, the same shared memory, one writes, and no barrier between them."""


@dataclass
class Launch:
    """What happened in one launch."""

    kernel: str
    grid: tuple[int, int, int]
    cooperative: bool
    warps: int
    shared: int
    steps: int = 0  # times that some warps were let go on together
    shared_cycles: int = 0  # of the first program: what its accesses to shared memory take
    shared_cycles_without_conflicts: int = 0
    requests: int = 0  # of the first program: a warp's loads from global memory, polling left out
    lines: int = 0  # lines of 128 bytes that they touch; L1 is said to look up one a cycle


class Shared:
    """The shared memory of all programs, and who touched which of it since the last barrier.

    `programs` has the program of each address, `warp` is the same in all of them.
    """

    def __init__(self, places, launch):
        self.places, self.launch = places, launch
        self.size = max(launch.shared + 15 & ~15, 16)
        count = len(places)
        # Whatever was there before: nobody may count on zeros.
        self.bytes = np.full(count * self.size, 0xFF, dtype=np.uint8)
        self.views = {kind: self.bytes.view(kind) for kind in (U1, U2, U4, U8)}
        halves = len(self.bytes) // 2
        self.epoch = np.ones(count, dtype=np.int32)
        self.writer = np.full(halves, -1, dtype=np.int16)
        self.written = np.zeros(halves, dtype=np.int32)  # the epoch
        self.readers = np.zeros(halves, dtype=np.uint32)  # a bit for each warp,
        self.read = np.zeros(halves, dtype=np.int32)  # in this epoch

    def at(self, programs, where, size):
        """Where `size` bytes at each address of a program lie among the bytes of all programs.

        Raises Misaligned and IndexError.
        """
        hold_aligned(where, size)
        if (where > self.size - size).any():
            raise IndexError(f"shared byte {int(where.max())} of {self.launch.shared}")
        return programs * self.size + where.astype(np.int64)

    def halves(self, programs, where, size):
        """The 2-byte pieces of `size` bytes at each address, and the epoch of each."""
        first = self.at(programs, where, size) >> 1
        pieces = max(1, size // 2)
        if pieces > 1:
            first = (first[:, None] + NEIGHBOURS[pieces]).ravel()
        return first, np.repeat(self.epoch[programs], pieces)

    def count(self, programs, where, size):
        """Cycles: shared memory has 32 banks of 4 bytes, and a bank gives one word a cycle.

        Lanes that want the same word get it together. Of 8 or 16 bytes a lane half a warp or a
        quarter of it is served at a time; cycles that hardware saves where quarters want the same
        are not known here.
        """
        if programs[0] != 0:  # they are in order
            return
        where = where[programs == 0]
        lanes = max(1, min(32, 128 // size))
        for first in range(0, len(where), lanes):
            words = (where[first : first + lanes, None] // 4).astype(np.int64)
            words = np.unique(words + np.arange(max(1, size // 4)))
            self.launch.shared_cycles += int(np.bincount(words % 32).max())
            self.launch.shared_cycles_without_conflicts += 1

    def count_lines(self, programs, offsets):
        """Of bytes within a buffer: on a GPU it starts at a line, and no vector lies across two."""
        offsets = offsets[programs == 0]
        if len(offsets):
            self.launch.requests += 1
            self.launch.lines += len(np.unique(offsets // 128))

    def note_read(self, warp, programs, where, size):
        self.count(programs, where, size)
        at, epochs = self.halves(programs, where, size)
        others = (self.written[at] == epochs) & (self.writer[at] != warp)
        if others.any():
            raise SharedRace(self.text(warp, "reads", at[others][0], "has just been written"))
        readers = np.where(self.read[at] == epochs, self.readers[at], 0)
        self.readers[at] = readers | 1 << warp
        self.read[at] = epochs

    def note_write(self, warp, programs, where, size, changes=True):
        """`changes`: for which addresses what is written is not what stands there already.

        Where a tile is smaller than a program, warps write the same values to the same place.
        """
        self.count(programs, where, size)
        at, epochs = self.halves(programs, where, size)
        others = (self.written[at] == epochs) & (self.writer[at] != warp)
        others &= np.repeat(changes, max(1, size // 2)) if changes is not True else True
        others |= (self.read[at] == epochs) & (self.readers[at] & ~np.uint32(1 << warp) != 0)
        if others.any():
            raise SharedRace(self.text(warp, "writes", at[others][0], "is still in use"))
        self.writer[at] = warp
        self.written[at] = epochs

    def text(self, warp, does, half, what):
        program, byte = divmod(2 * int(half), self.size)
        place = self.places[program]
        return f"program {place}, warp {warp} {does} shared byte {byte}, which {what}"


class Registers(dict):
    """Name -> (programs, 32). Nobody may count on zeros: all bits are set, a NaN for one."""

    def __init__(self, kinds, programs):
        super().__init__()
        self.kinds, self.programs = kinds, programs

    def __missing__(self, name):
        kind = KINDS[self.kinds[name]]
        if kind is np.bool_:
            self[name] = np.ones((self.programs, 32), dtype=kind)
        else:
            width = 32 * np.dtype(kind).itemsize
            self[name] = np.full((self.programs, width), 0xFF, dtype=np.uint8).view(kind)
        return self[name]


class Team:
    """The warps of one number in all programs, and what the translated code asks for.

    A step is made by some of them, `rows`: registers are arrays of (rows, 32 lanes).
    """

    lanes = LANES
    where = staticmethod(np.where)
    exp2, maximum, minimum = map(staticmethod, (np.exp2, np.maximum, np.minimum))

    def __init__(self, machine, number, registers):
        count = len(machine.places)
        self.machine, self.shared, self.number = machine, machine.shared, number
        self.registers = Registers(registers, count)
        self.everybody = np.arange(count)
        self.place = np.zeros(count, dtype=np.int64)  # the piece of code that comes next
        self.state = np.full(count, READY)
        self.looked = [{} for _ in range(count)]  # address -> what was there
        self.copies, self.groups = [], np.zeros(count, dtype=np.int64)

    def step(self, programs, piece):
        """Let these go on with this piece."""
        self.programs = programs
        self.rows = slice(None) if len(programs) == len(self.everybody) else programs
        self.place[programs] = piece(self)

    def barrier(self, following):
        self.machine.arrive(self)
        return following

    def end(self):
        self.state[self.programs] = OVER
        return 0

    def all(self, value):
        return np.full((len(self.programs), 32), value)

    def any(self, value):
        return np.repeat(value.any(axis=1)[:, None], 32, axis=1)

    def parameter(self, number, kind):
        return self.all(self.machine.parameters[number]).astype(kind)

    def tid(self, axis):
        assert axis == "x"
        return np.tile((32 * self.number + LANES).astype(U4), (len(self.programs), 1))

    def ctaid(self, axis):
        places = self.machine.places[self.programs, "xyz".index(axis)]
        return np.repeat(places[:, None], 32, axis=1).astype(U4)

    def nctaid(self, axis):
        return self.all(self.machine.grid["xyz".index(axis)]).astype(U4)

    def branch(self, condition, target, following):
        every = condition.all(axis=1)
        if (every != condition.any(axis=1)).any():
            raise Diverged("some lanes branch and some do not")
        return np.where(every, target, following)

    def branch_or_look_again(self, condition, target, following):
        """The end of a loop of relaxed looks: who stays in it may as well sleep before the next."""
        ways = self.branch(condition, target, following)
        self.state[self.programs[ways == following]] = ASLEEP
        return ways

    def look(self, where, active, here, following):
        """Who would see what the last look saw may as well sleep."""
        in_vain = np.array([
            self.nothing_new(program, where[row] if active is None else where[row][active[row]])
            for row, program in enumerate(self.programs)
        ])  # fmt: skip
        self.state[self.programs[in_vain]] = ASLEEP
        return np.where(in_vain, here, following)

    def nothing_new(self, program, addresses):
        for address in addresses:
            memory, at = self.machine.at(np.array([address]), U4)
            if self.looked[program].get(int(address)) != memory[at[0]]:
                return False
        return len(addresses) > 0

    # Arithmetic

    @staticmethod
    def fma(a, b, c):
        sums = np.multiply(a, b, dtype=np.float64)
        sums += c
        return sums.astype(c.dtype)

    def pack(self, low, high, kind):
        both = np.empty((len(self.programs), 32, 2), dtype=low.dtype)
        both[..., 0], both[..., 1] = low, high
        return both.view(kind)[..., 0]

    @staticmethod
    def shuffle(value, lane):
        if lane.ndim < 2:  # the same in all warps
            return value[:, np.broadcast_to(lane, 32)]
        return np.take_along_axis(value, lane.astype(np.int64), axis=1)

    @staticmethod
    def widen(bfloat16):
        return (bfloat16.astype(U4) << U4(16)).view(F4)

    @staticmethod
    def narrow(value):
        """To bfloat16, nearest, ties to even; in the lower half of 32 bits."""
        bits = value.view(U4)
        rounded = (bits + U4(0x7FFF) + ((bits >> U4(16)) & U4(1))) >> U4(16)
        return np.where(np.isnan(value), U4(0x7FFF), rounded)

    @staticmethod
    def widen_half(half):
        return half.view(np.float16).astype(F4)

    @staticmethod
    def narrow_half(value):
        return value.astype(np.float16).view(U2).astype(U4)

    @staticmethod
    def multiply(a, b, c):
        """C + A·B in float64; `c` four registers, (row, column) as in ROW_C and COLUMN_C."""
        sums = (a.astype(np.float64) @ b)[:, ROW_C, COLUMN_C]
        sums += np.stack(c, axis=1)
        return sums.astype(F4).transpose(1, 0, 2)

    def multiply_tf32(self, a, b, c):
        keep = U4(0xFFFFE000)  # the sign, 8 bits of exponent and 10 of the mantissa
        count = len(self.programs)
        left, right = np.empty((count, 16, 8), dtype=F4), np.empty((count, 8, 8), dtype=F4)
        left[:, ROW_A, TF32_K] = (np.stack(a, axis=1) & keep).view(F4)
        right[:, TF32_B_K, GROUP] = (np.stack(b, axis=1) & keep).view(F4)
        return self.multiply(left, right, c)

    def multiply_halves(self, a, b, c, widen):
        """Operands of 16 bits, two in a register."""
        count = len(self.programs)
        left, right = np.empty((count, 16, 16), dtype=F4), np.empty((count, 16, 8), dtype=F4)
        a, b = (widen(np.stack(part, axis=1).view(U2)) for part in (a, b))
        left[:, ROW_A, HALF_K], left[:, ROW_A, HALF_K + 1] = a[..., 0::2], a[..., 1::2]
        right[:, HALF_B_K, GROUP], right[:, HALF_B_K + 1, GROUP] = b[..., 0::2], b[..., 1::2]
        return self.multiply(left, right, c)

    def multiply_bf16(self, a, b, c):
        return self.multiply_halves(a, b, c, self.widen)

    def multiply_f16(self, a, b, c):
        return self.multiply_halves(a, b, c, self.widen_half)

    # Memory

    def active(self, active, *arrays):
        """Of active lanes: their programs, and what is theirs of each array (rows, 32, ...)."""
        if active is None:
            active = np.ones((len(self.programs), 32), dtype=bool)
        programs = np.repeat(self.programs[:, None], 32, axis=1)
        return programs[active], *(array[active] for array in arrays)

    def load_shared(self, where, kind, count, active):
        size = np.dtype(kind).itemsize
        programs, some = self.active(active, where)
        out = np.zeros((len(self.programs), 32, count), dtype=kind)
        if len(some):
            self.shared.note_read(self.number, programs, some, size * count)
            at = self.shared.at(programs, some, size * count) // size
            found = self.shared.views[kind][at[:, None] + NEIGHBOURS[count]]
            out[slice(None) if active is None else active] = (
                found.reshape(out.shape) if active is None else found
            )
        return np.ascontiguousarray(out.transpose(2, 0, 1))

    def store_shared(self, where, kind, values, active):
        size, count = np.dtype(kind).itemsize, len(values)
        programs, some, new = self.active(active, where, np.stack(values, axis=2))
        if len(some):
            memory = self.shared.views[kind]
            at = self.shared.at(programs, some, size * count) // size
            at = at[:, None] + NEIGHBOURS[count]
            changes = (memory[at] != new).any(axis=1)
            self.shared.note_write(self.number, programs, some, size * count, changes)
            memory[at] = new

    def rows_of_matrices(self, where, count):
        """Lane 8·m + r knows row r of matrix m: programs, addresses, places of 8 halves each."""
        rows = np.ascontiguousarray(where[:, : 8 * count]).ravel()
        programs = np.repeat(self.programs, 8 * count)
        at = self.shared.at(programs, rows, 16) // 2
        return programs, rows, at[:, None] + np.arange(8)

    def load_matrices(self, where, count, turned):
        programs, rows, at = self.rows_of_matrices(where, count)
        self.shared.note_read(self.number, programs, rows, 16)
        halves = self.shared.views[U2][at].reshape(-1, count, 8, 8)
        if turned:
            halves = halves.transpose(0, 1, 3, 2)
        words = np.ascontiguousarray(halves).reshape(-1, count, 64).view(U4)
        return np.ascontiguousarray(words.transpose(1, 0, 2))

    def store_matrices(self, where, values, turned):
        count = len(values)
        halves = np.stack(values, axis=1).view(U2).reshape(-1, count, 8, 8)
        if turned:
            halves = halves.transpose(0, 1, 3, 2)
        programs, rows, at = self.rows_of_matrices(where, count)
        new, memory = halves.reshape(-1, 8), self.shared.views[U2]
        changes = (memory[at] != new).any(axis=1)
        self.shared.note_write(self.number, programs, rows, 16, changes)
        memory[at] = new

    def load_global(self, where, kind, count, active, acquire=False, relaxed=False):
        size = np.dtype(kind).itemsize
        out = np.zeros((len(self.programs), 32, count), dtype=kind)
        for some in self.machine.by_buffer(where, active):
            programs, addresses = self.active(some, where)
            if acquire:
                for program, address in sorted(set(zip(programs.tolist(), addresses.tolist(),
                                                       strict=True))):  # fmt: skip
                    self.machine.atomic(program, address, "acquire")
            else:
                self.machine.load(programs, addresses, size * count, relaxed)
            memory, at = self.machine.at(addresses, kind, count)
            if not (acquire or relaxed):
                self.shared.count_lines(programs, at * size)
            out[some] = found = memory[at[:, None] + NEIGHBOURS[count]]
            if acquire:
                for program, address, value in zip(programs, addresses, found[:, 0], strict=True):
                    self.looked[program][int(address)] = int(value)
        return np.ascontiguousarray(out.transpose(2, 0, 1))

    def store_global(self, where, kind, values, active, relaxed=False):
        size, count = np.dtype(kind).itemsize, len(values)
        values = np.stack(values, axis=2)
        for some in self.machine.by_buffer(where, active):
            if relaxed:
                # Where a tile is smaller than a program, several threads say the same.
                memory, at = self.machine.at(where[some], kind, count)
                changes = np.zeros((len(self.programs), 32), dtype=bool)
                found = memory[at[:, None] + NEIGHBOURS[count]]
                changes[some] = (found != values[some]).any(axis=1)
                some &= changes.any(axis=1)[:, None]
                self.machine.changes += int(changes.any(axis=1).sum())
            programs, addresses, new = self.active(some, where, values)
            if len(addresses):
                self.machine.store(programs, addresses, size * count, relaxed)
                memory, at = self.machine.at(addresses, kind, count)
                memory[at[:, None] + NEIGHBOURS[count]] = new

    def add(self, where, value, active, order):
        """One after the other; returns what was there before."""
        before = np.zeros((len(self.programs), 32), dtype=U4)
        if active is None:
            active = np.ones(before.shape, dtype=bool)
        for row, lane in np.argwhere(active):
            self.machine.atomic(self.programs[row], int(where[row, lane]), order)
            memory, at = self.machine.at(where[row, lane : lane + 1], U4)
            before[row, lane] = memory[at[0]]
            memory[at[0]] += value[row, lane]
            self.machine.changes += 1
        return before

    # Asynchronous copies of 16 bytes: here they arrive when they are waited for, not earlier.

    def copy(self, to, source, size, active):
        programs, to, source, size = self.active(active, to, source, size)
        if len(to):
            self.shared.note_write(self.number, programs, to, 16)
            self.copies.append((programs, to, source, size, self.groups[programs]))

    def commit(self):
        self.groups[self.programs] += 1

    def wait_group(self, left):
        """All but the last `left` groups of these warps have arrived."""
        arrived = np.full(len(self.everybody), -1)  # of others nothing
        arrived[self.programs] = self.groups[self.programs] - left
        under_way = []
        for copy in self.copies:
            programs, *_, group = copy
            is_over = group < arrived[programs]
            if is_over.any():
                self.deliver(*(part[is_over] for part in copy[:-1]))
            if not is_over.all():
                under_way.append(tuple(part[~is_over] for part in copy))
        self.copies = under_way

    def deliver(self, programs, to, source, size):
        self.shared.note_write(self.number, programs, to, 16)
        pieces = np.zeros((len(to), 4), dtype=U4)  # what is not copied is zero
        assert np.isin(size, (0, 16)).all()
        for some in self.machine.by_buffer(source[:, None], (size == 16)[:, None]):
            some = some[:, 0]
            self.machine.load(programs[some], source[some], 16)
            memory, at = self.machine.at(source[some], U4, 4)
            pieces[some] = memory[at[:, None] + NEIGHBOURS[4]]
        at = self.shared.at(programs, to, 16) // 4
        self.shared.views[U4][at[:, None] + NEIGHBOURS[4]] = pieces


def storage_views(storage):
    """Its start, its end and its memory by kind of element."""
    start, size = storage.data_ptr(), storage.nbytes()
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
    views = {kind: array[: size // width * width].view(kind)
             for kind, width in ((U2, 2), (U4, 4), (U8, 8))}  # fmt: skip
    return start, start + size, views


class Machine:
    """One launch: its programs, the memory behind its arguments, who goes on next."""

    def __init__(self, code, program, launch, parameters, tensors, seed, watch):
        self.grid, self.parameters, self.launch = launch.grid, parameters, launch
        self.choose, self.random = random.Random(seed), np.random.default_rng(seed)
        places = [
            (x, y, z)
            for z in range(self.grid[2]) for y in range(self.grid[1]) for x in range(self.grid[0])
        ]  # fmt: skip
        self.places = np.array(places)
        self.memory = Memory([f"program {place}" for place in places], tensors) if watch else None
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors.values()}
        self.buffers = [storage_views(storages[start]) for start in sorted(storages)]
        self.starts = np.array([start for start, _, _ in self.buffers], dtype=U8)
        self.ends = np.array([end for _, end, _ in self.buffers], dtype=U8)
        constants = {
            name: np.array([bits], dtype=f"u{KINDS[kind]().itemsize}").view(KINDS[kind])[0]
            for name, (kind, bits) in program.constants.items()
        }
        names = KINDS | constants
        exec(code, names)  # our own translation of what Triton compiled
        self.pieces = names["PIECES"]
        self.shared = Shared(places, launch)
        # In a single crew nobody would be ahead, and a barrier left out would not show.
        self.crew = self.random.integers(CREWS, size=len(places))
        self.teams = [Team(self, number, program.registers) for number in range(launch.warps)]
        self.waiting = np.zeros(len(places), dtype=np.int64)
        self.changes = 0  # of counters, and of what is written for those who poll it

    def by_buffer(self, where, active):
        """Masks of active lanes, (rows, lanes), one for each buffer that they access.

        What a warp accesses is said by its first lane. Raises IndexError.
        """
        if active is None:
            active = np.ones(where.shape, dtype=bool)
        is_active = active.any(axis=1)
        if not is_active.any():
            return
        first = where[np.arange(len(where)), active.argmax(axis=1)]
        number = np.searchsorted(self.starts, first, side="right") - 1
        for buffer in np.unique(number[is_active]):
            rows = number == buffer
            if buffer < 0 or (first[rows & is_active] >= self.ends[buffer]).any():
                lost = first[rows & is_active].max()
                raise IndexError(f"{int(lost):#x} lies in none of the buffers")
            yield active & rows[:, None]

    def at(self, where, kind, count=1):
        """The memory that an address lies in and the elements in it; `count` are accessed at each.

        Raises Misaligned and IndexError.
        """
        hold_aligned(where, np.dtype(kind).itemsize * count)
        first = int(where[0])
        for start, end, views in self.buffers:
            if start <= first < end:
                return views[kind], (where - U8(start)).astype(np.int64) // np.dtype(kind).itemsize
        raise IndexError(f"{first:#x} lies in none of the buffers")

    def load(self, programs, where, size, relaxed=False):
        if self.memory:
            self.memory.load(programs, where, size, relaxed)

    def store(self, programs, where, size, relaxed=False):
        if self.memory:
            self.memory.store(programs, where, size, relaxed)

    def atomic(self, program, address, order):
        if self.memory:
            self.memory.atomic(program, address, order)

    def run(self):
        """Until everybody is done.

        A warp that looks in vain sleeps: at the latest until nobody else can go on, and one or the
        other is woken earlier, most of the time to look in vain once more.
        """
        changes = -1  # when everybody was woken last
        while True:
            if self.choose.random() < 0.002:
                self.wake_somebody()
            if self.let_go_on():
                continue
            if not any((team.state == ASLEEP).any() for team in self.teams):
                break
            if self.changes == changes:
                asleep = np.any([team.state == ASLEEP for team in self.teams], axis=0)
                places = sorted(map(tuple, self.places[asleep].tolist()))
                raise Hang(f"{self.launch.kernel}: programs {places} wait for ever")
            changes = self.changes
            for team in self.teams:
                team.state[team.state == ASLEEP] = READY
        behind = self.places[self.waiting > 0].tolist()
        if behind:
            raise Hang(f"{self.launch.kernel}: warps of {behind} wait at a barrier for ever")

    def wake_somebody(self):
        team, crew = self.choose.choice(self.teams), self.choose.randrange(CREWS)
        team.state[(team.state == ASLEEP) & (self.crew == crew)] = READY

    def let_go_on(self):
        """One crew of a team, for some steps; False if nobody can.

        Crews have an order: mostly a later one gets only what the earlier ones leave it while they
        wait, and so they drift as far apart as the waits allow.
        """
        crews = list(range(CREWS))
        if self.choose.random() < 0.1:
            self.choose.shuffle(crews)
        for crew in crews:
            crowds = [self.crowd(team, crew) for team in self.teams]
            if not any(crowds):
                continue
            most = self.choose.choice([t for t, size in enumerate(crowds) if size == max(crowds)])
            for _ in range(self.choose.choice((1, 1, 3, 30))):
                self.go_on(self.teams[most], crew)
            return True
        return False

    def ready(self, team, crew):
        return np.flatnonzero((team.state == READY) & (self.crew == crew))

    def crowd(self, team, crew):
        """How many are at the place where most of those are who could go on."""
        ready = self.ready(team, crew)
        return np.bincount(team.place[ready]).max() if len(ready) else 0

    def go_on(self, team, crew):
        """Where most are, most of the time: others catch up while those wait."""
        ready = self.ready(team, crew)
        if not len(ready):
            return
        places = team.place[ready]
        crowd = np.bincount(places).argmax()
        place = crowd if self.choose.random() < 0.98 else self.choose.choice(places)
        self.launch.steps += 1
        team.step(ready[places == place], self.pieces[place])

    def arrive(self, team):
        """At the barriers of their programs; those of which all warps are there may go on."""
        team.state[team.programs] = BARRIER
        self.waiting[team.programs] += 1
        complete = team.programs[self.waiting[team.programs] == self.launch.warps]
        if not len(complete):
            return
        self.waiting[complete] = 0
        self.shared.epoch[complete] += 1
        if self.memory:
            self.memory.barrier(complete)
        for each in self.teams:
            each.state[complete] = READY


class Driver:
    """What Triton asks of a GPU's driver."""

    def __init__(self, chip, seed, watch, multiprocessors):
        self.chip, self.seed, self.watch = tiling.CHIPS[chip], seed, watch
        self.multiprocessors = multiprocessors or self.chip.multiprocessors
        self.target = GPUTarget("cuda", int(chip.removeprefix("sm_")), 32)
        self.utils = self  # Triton keeps loading and asking there
        self.launches = []
        self.translated = {}  # PTX -> code, program

    def get_current_device(self):
        return self.target.arch  # Triton keeps what it has compiled by device: one for each chip

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return self.target

    def get_device_properties(self, device):
        return {"max_shared_mem": self.chip.shared_memory,
                "multiprocessor_count": self.multiprocessors, "warpSize": 32}  # fmt: skip

    def load_binary(self, name, kernel, shared, device):
        return name, name, 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module):
        pass

    def launcher_cls(self, source, metadata):
        # Triton keeps it with the compiled kernel, so that another emulation may come across it.
        return lambda *given: driver.active.launch(source, metadata, *given)

    def launch(self, source, metadata, x, y, z, stream, function, packed, about, *given):
        """`given`: two hooks, then the kernel's arguments, constants included."""
        names = source.fn.arg_names
        arguments = dict(zip(names, given[-len(names) :], strict=True))
        kernel = next(
            kernel
            for kernels, *_ in source.fn.device_caches.values()
            for kernel in kernels.values()
            if kernel.src is source
        )
        launch = Launch(
            metadata.name, (x, y, z), metadata.launch_cooperative_grid, metadata.num_warps,
            metadata.shared,
        )  # fmt: skip
        self.launches.append(launch)
        self.check_fits(launch)
        code, program = self.translation(kernel.asm["ptx"])
        tensors = {name: value for name, value in arguments.items() if hasattr(value, "data_ptr")}
        kept = [arguments[name] for name, kind in source.signature.items() if kind != "constexpr"]
        parameters = [value.data_ptr() if hasattr(value, "data_ptr") else value for value in kept]
        parameters += [0] * (len(program.parameters) - len(parameters))  # Triton's scratch memory
        with np.errstate(all="ignore"):
            Machine(
                code, program, launch, parameters, tensors, self.seed + len(self.launches),
                self.watch,
            ).run()  # fmt: skip

    def translation(self, ptx):
        if ptx not in self.translated:
            program = translate(ptx)
            self.translated[ptx] = compile(program.source, program.name, "exec"), program
        return self.translated[ptx]

    def check_fits(self, launch):
        """As the driver does for a cooperative launch: one program or two a multiprocessor.

        Two, if there is shared memory for them: a thread may have 255 registers of the 65,536.
        """
        if launch.cooperative:
            together = min(2, max(1, self.chip.shared_memory // (launch.shared + 1024)))
            programs = launch.grid[0] * launch.grid[1] * launch.grid[2]
            if programs > together * self.multiprocessors:
                raise RuntimeError("too many blocks in cooperative launch")


@contextlib.contextmanager
def emulated(chip="sm_90", seed=0, watch=True, multiprocessors=None):
    """Within the block kernels run on CPU tensors as if they lay on this chip; yields the launches.

    `watch` looks for races in global memory; that takes memory of its own, 8 bytes an element that
    a program touches, for each program. `multiprocessors`: fewer than the tiles were chosen for.
    """
    assert not tiling.INTERPRETED, "unset TRITON_INTERPRET: what is interpreted is not compiled"
    gpu = Driver(chip, seed, watch, multiprocessors)
    before = driver._active
    saved = tiling.chip_of, torch.cuda.device
    driver.set_active(gpu)
    tiling.chip_of = lambda device: gpu.chip
    torch.cuda.device = lambda device: contextlib.nullcontext()
    torch.Tensor.is_cuda = property(lambda tensor: True)
    try:
        yield gpu.launches
    finally:
        del torch.Tensor.is_cuda
        tiling.chip_of, torch.cuda.device = saved
        driver._active = before
