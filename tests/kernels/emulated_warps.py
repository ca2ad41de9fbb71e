"""The warps of an emulated GPU: their registers, their shared memory, and what instructions do.

`ptx.py` makes Python of a kernel; what that asks for is done here, for the warps of one number in
all programs at once. Who goes on next and what lies behind the arguments is `emulated_gpu.py`'s.

Source: NVIDIA, "Parallel Thread Execution ISA", for the fragments of `mma`, `ldmatrix` and
`stmatrix`.
"""

import numpy as np

from .watched_memory import Race

KINDS = {
    "B": np.bool_, "U1": np.uint8, "U2": np.uint16, "U4": np.uint32, "U8": np.uint64,
    "I2": np.int16, "I4": np.int32, "I8": np.int64, "F2": np.float16, "F4": np.float32,
}  # fmt: skip
U1, U2, U4, U8, F4 = np.uint8, np.uint16, np.uint32, np.uint64, np.float32
READY, BARRIER, ASLEEP, OVER = range(4)
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

    def clock(self):
        """Not cycles: it goes on, which is all that who waits for a time may count on."""
        return self.all(U4(100 * self.machine.launch.steps))

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

    def branch_or_look(self, condition, target, following):
        """Before a look with acquire order: who has seen enough goes on, and begins anew next time.

        What was enough once may still be there then, and be enough again.
        """
        ways = self.branch(condition, target, following)
        for program in self.programs[ways == target]:
            self.looked[program].clear()
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
                    self.machine.atomic(self.number, program, address, "acquire")
            else:
                self.machine.load(self.number, programs, addresses, size * count, relaxed)
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
            self.machine.atomic(self.number, self.programs[row], int(where[row, lane]), order)
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
            self.machine.load(self.number, programs[some], source[some], 16)
            memory, at = self.machine.at(source[some], U4, 4)
            pieces[some] = memory[at[:, None] + NEIGHBOURS[4]]
        at = self.shared.at(programs, to, 16) // 4
        self.shared.views[U4][at[:, None] + NEIGHBOURS[4]] = pieces
