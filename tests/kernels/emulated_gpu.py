"""A GPU that is not there: Triton compiles for it and launches on it as on any, and Python runs it.

The kernels are compiled to PTX for the chip that is asked for, by the launchers of the product and
with what Triton specializes on; `ptx.py` makes Python of that, and here it runs, a whole grid at
once, on tensors in the CPU's memory. What interpreting Triton's source cannot show is in it: what
the compiler made of the products and layouts, lines of PTX that only a GPU sees, the barriers that
Triton put between the warps of a program, the tiles and grids that the chip would get.

    with emulated("sm_90", seed=1) as launches:
        y, state = sequence_layer("lstm", gates_x, weight_hh, bias_hh, (h, c), ...)

A program is several warps, each goes on by itself, in an order that comes from the seed. Watched
meanwhile, each with an error of its own: global memory (`watched_memory.py`); shared memory, where
two warps must have a barrier between them if one of them writes; hangs; a cooperative grid with
more programs than the chip holds.

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
RUNNING, BARRIER, ASLEEP, OVER = range(4)
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
    steps: int = 0  # times a warp was let go on
    shared_cycles: int = 0  # of the first program: what its accesses to shared memory take
    shared_cycles_without_conflicts: int = 0
    requests: int = 0  # of the first program: a warp's loads from global memory, polling left out
    lines: int = 0  # lines of 128 bytes that they touch; L1 is said to look up one a cycle


class Block:
    """A program's shared memory, and who touched which words of it since the last barrier."""

    def __init__(self, number, place, launch):
        self.number, self.place, self.warps, self.launch = number, place, launch.warps, launch
        # Whatever was there before: nobody may count on zeros.
        self.bytes = np.full(max(launch.shared, 16), 0xFF, dtype=np.uint8)
        self.views = {kind: self.bytes.view(kind) for kind in (U1, U2, U4, U8)}
        halves = len(self.bytes) // 2
        self.epoch = 1
        self.writer = np.full(halves, -1, dtype=np.int16)
        self.written = np.zeros(halves, dtype=np.int32)  # the epoch
        self.readers = np.zeros(halves, dtype=np.uint32)  # a bit for each warp, in this epoch
        self.written_last = 0  # the epoch in which somebody wrote something
        self.waiting = 0

    def halves(self, where, size):
        """The 2-byte pieces of `size` bytes at each address."""
        hold_aligned(where, size)
        first = (where >> 1).astype(np.int64)
        return first if size <= 2 else (first[:, None] + NEIGHBOURS[size // 2]).ravel()

    def count(self, where, size):
        """Cycles: shared memory has 32 banks of 4 bytes, and a bank gives one word a cycle.

        Lanes that want the same word get it together. Of 8 or 16 bytes a lane half a warp or a
        quarter of it is served at a time; cycles that hardware saves where quarters want the same
        are not known here.
        """
        if self.number != 0:
            return
        lanes = max(1, min(32, 128 // size))
        for first in range(0, len(where), lanes):
            words = (where[first : first + lanes, None] // 4).astype(np.int64)
            words = np.unique(words + np.arange(max(1, size // 4)))
            self.launch.shared_cycles += int(np.bincount(words % 32).max())
            self.launch.shared_cycles_without_conflicts += 1

    def count_lines(self, offsets):
        """Of bytes within a buffer: on a GPU it starts at a line, and no vector lies across two."""
        if self.number == 0:
            self.launch.requests += 1
            self.launch.lines += len(np.unique(offsets // 128))

    def note_read(self, warp, where, size):
        self.count(where, size)
        at = self.halves(where, size)
        if self.written_last == self.epoch:
            others = (self.written[at] == self.epoch) & (self.writer[at] != warp)
            if others.any():
                raise SharedRace(self.text(warp, "reads", at[others][0], "has just been written"))
        self.readers[at] |= 1 << warp

    def note_write(self, warp, where, size, changes=True):
        """`changes`: for which addresses what is written is not what stands there already.

        Where a tile is smaller than a program, warps write the same values to the same place.
        """
        self.count(where, size)
        at = self.halves(where, size)
        others = (self.written[at] == self.epoch) & (self.writer[at] != warp)
        others &= np.repeat(changes, max(1, size // 2)) if changes is not True else True
        others |= (self.readers[at] & ~np.uint32(1 << warp)) != 0
        if others.any():
            raise SharedRace(self.text(warp, "writes", at[others][0], "is still in use"))
        self.writer[at] = warp
        self.written[at] = self.written_last = self.epoch

    def text(self, warp, does, half, what):
        return f"program {self.place}, warp {warp} {does} shared byte {2 * half}, which {what}"


class Warp:
    """32 lanes of a program: what the translated code asks for."""

    lanes = LANES
    where = staticmethod(np.where)
    exp2, maximum, minimum = map(staticmethod, (np.exp2, np.maximum, np.minimum))

    def __init__(self, machine, block, number):
        self.machine, self.block, self.number = machine, block, number
        self.tid_x = (32 * number + LANES).astype(U4)
        for axis, place, size in zip("xyz", block.place, machine.grid, strict=True):
            setattr(self, f"ctaid_{axis}", np.full(32, place, dtype=U4))
            setattr(self, f"nctaid_{axis}", np.full(32, size, dtype=U4))
        self.looked = {}  # address -> what was there
        self.looked_at = None  # how many changes there had been at the first of the last looks
        self.copies = [[]]

    @staticmethod
    def all(value):
        return np.full(32, value)

    @staticmethod
    def anything(kind):
        """All bits set: NaN, or a large number."""
        if kind is np.bool_:
            return np.ones(32, dtype=kind)
        return np.full(32 * np.dtype(kind).itemsize, 0xFF, dtype=np.uint8).view(kind)

    def parameter(self, number, kind):
        return np.full(32, self.machine.parameters[number]).astype(kind)

    @staticmethod
    def uniform(condition):
        if condition.all():
            return True
        if condition.any():
            raise Diverged("some lanes branch and some do not")
        return False

    # Arithmetic

    @staticmethod
    def fma(a, b, c):
        sums = np.multiply(a, b, dtype=np.float64)
        sums += c
        return sums.astype(c.dtype)

    @staticmethod
    def pack(low, high, kind):
        both = np.empty((32, 2), dtype=low.dtype)
        both[:, 0], both[:, 1] = low, high
        return both.view(kind)[:, 0]

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
        sums = (a.astype(np.float64) @ b)[ROW_C, COLUMN_C]
        return (sums + c).astype(F4)

    def multiply_tf32(self, a, b, c):
        keep = U4(0xFFFFE000)  # the sign, 8 bits of exponent and 10 of the mantissa
        left, right = np.empty((16, 8), dtype=F4), np.empty((8, 8), dtype=F4)
        left[ROW_A, TF32_K] = (np.array(a) & keep).view(F4)
        right[TF32_B_K, GROUP] = (np.array(b) & keep).view(F4)
        return self.multiply(left, right, np.array(c))

    def multiply_halves(self, a, b, c, widen):
        """Operands of 16 bits, two in a register."""
        left, right = np.empty((16, 16), dtype=F4), np.empty((16, 8), dtype=F4)
        a, b = widen(np.array(a).view(U2)), widen(np.array(b).view(U2))
        left[ROW_A, HALF_K], left[ROW_A, HALF_K + 1] = a[:, 0::2], a[:, 1::2]
        right[HALF_B_K, GROUP], right[HALF_B_K + 1, GROUP] = b[:, 0::2], b[:, 1::2]
        return self.multiply(left, right, np.array(c))

    def multiply_bf16(self, a, b, c):
        return self.multiply_halves(a, b, c, self.widen)

    def multiply_f16(self, a, b, c):
        return self.multiply_halves(a, b, c, self.widen_half)

    # Shared memory

    def load_shared(self, where, kind, count, active):
        size = np.dtype(kind).itemsize
        lanes = LANES if active is None else np.flatnonzero(active)
        out = np.zeros((32, count), dtype=kind)
        if len(lanes):
            where = where[lanes]
            self.block.note_read(self.number, where, size * count)
            out[lanes] = self.block.views[kind][(where // size)[:, None] + NEIGHBOURS[count]]
        return np.ascontiguousarray(out.T)

    def store_shared(self, where, kind, values, active):
        size, count = np.dtype(kind).itemsize, len(values)
        lanes = LANES if active is None else np.flatnonzero(active)
        if len(lanes):
            where, memory = where[lanes], self.block.views[kind]
            at = (where // size)[:, None] + NEIGHBOURS[count]
            new = np.stack(values, axis=1)[lanes]
            self.block.note_write(self.number, where, size * count, (memory[at] != new).any(axis=1))
            memory[at] = new

    def load_matrices(self, where, count, turned):
        rows = where[: 8 * count]  # lane 8·m + r knows row r of matrix m
        self.block.note_read(self.number, rows, 16)
        halves = self.block.views[U2][(rows // U4(2))[:, None] + np.arange(8)]
        halves = halves.reshape(count, 8, 8)
        if turned:
            halves = halves.transpose(0, 2, 1)
        return np.ascontiguousarray(halves).reshape(count, 64).view(U4)

    def store_matrices(self, where, values, turned):
        count = len(values)
        halves = np.stack(values).view(U2).reshape(count, 8, 8)
        if turned:
            halves = halves.transpose(0, 2, 1)
        rows, memory = where[: 8 * count], self.block.views[U2]
        at = (rows // U4(2))[:, None] + np.arange(8)
        new = halves.reshape(8 * count, 8)
        self.block.note_write(self.number, rows, 16, (memory[at] != new).any(axis=1))
        memory[at] = new

    # Global memory

    def load_global(self, where, kind, count, active, acquire=False, relaxed=False):
        size = np.dtype(kind).itemsize
        is_whole = active is None or bool(active.all())
        lanes = LANES if is_whole else np.flatnonzero(active)
        out = None if is_whole else np.zeros((32, count), dtype=kind)
        if relaxed and self.looked_at is None:
            self.looked_at = self.machine.changes
        if len(lanes):
            where = where if is_whole else where[lanes]
            if acquire:
                for address in set(where.tolist()):
                    self.machine.atomic(self.block, address, "acquire")
            else:
                self.machine.load(self.block, where, size * count, relaxed)
            memory, at = self.machine.at(where, kind, count)
            if not (acquire or relaxed):
                self.block.count_lines(at * size)
            found = memory[at[:, None] + NEIGHBOURS[count]]
            if is_whole:
                out = found
            else:
                out[lanes] = found
            if acquire:
                self.looked.update(zip(where.tolist(), out[lanes, 0].tolist(), strict=True))
        return np.ascontiguousarray(out.T)

    def nothing_new(self, where, active):
        """Whether a look would see what the last one saw, so that one may as well sleep."""
        lanes = LANES if active is None else np.flatnonzero(active)
        for address in where[lanes]:
            memory, at = self.machine.at(np.array([address]), U4)
            if self.looked.get(int(address)) != memory[at[0]]:
                return False
        return len(lanes) > 0

    def saw_nothing_new(self):
        """Where a loop of relaxed looks goes on: whether nothing has changed since the first look.

        Then one may as well sleep before the next.
        """
        looked_at, self.looked_at = self.looked_at, None
        return looked_at == self.machine.changes

    def store_global(self, where, kind, values, active, relaxed=False):
        size, count = np.dtype(kind).itemsize, len(values)
        lanes = LANES if active is None else np.flatnonzero(active)
        if len(lanes):
            where = where[lanes]
            new = np.stack(values, axis=1)[lanes]
            memory, at = self.machine.at(where, kind, count)
            at = at[:, None] + NEIGHBOURS[count]
            # Where a tile is smaller than a program, several threads say the same.
            if not relaxed or (memory[at] != new).any():
                self.machine.store(self.block, where, size * count, relaxed)
                memory[at] = new
                self.machine.changes += relaxed

    def add(self, where, value, active, order):
        """One after the other; returns what was there before."""
        lanes = LANES if active is None else np.flatnonzero(active)
        before = np.zeros(32, dtype=U4)
        for lane in lanes:
            self.machine.atomic(self.block, int(where[lane]), order)
            memory, at = self.machine.at(where[lane : lane + 1], U4)
            before[lane] = memory[at[0]]
            memory[at[0]] += value[lane]
            self.machine.changes += 1
        return before

    # Asynchronous copies of 16 bytes: here they arrive when they are waited for, not earlier.

    def copy(self, to, source, size, active):
        lanes = LANES if active is None else np.flatnonzero(active)
        if len(lanes):
            self.block.note_write(self.number, to[lanes], 16)
            self.copies[-1].append((to[lanes], source[lanes], size[lanes]))

    def commit(self):
        self.copies.append([])

    def wait_group(self, left):
        """All but the last `left` groups have arrived."""
        while len(self.copies) - 1 > left:
            for to, source, size in self.copies.pop(0):
                self.block.note_write(self.number, to, 16)
                piece = np.zeros((len(to), 4), dtype=U4)  # what is not copied is zero
                some = np.flatnonzero(size)
                if len(some):
                    assert (size[some] == 16).all()
                    self.machine.load(self.block, source[some], 16)
                    memory, at = self.machine.at(source[some], U4, 4)
                    piece[some] = memory[at[:, None] + np.arange(4)]
                self.block.views[U4][(to // U4(4))[:, None] + np.arange(4)] = piece


def storage_views(storage):
    """Its start, its end and its memory by kind of element."""
    start, size = storage.data_ptr(), storage.nbytes()
    array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
    views = {kind: array[: size // width * width].view(kind)
             for kind, width in ((U2, 2), (U4, 4), (U8, 8))}  # fmt: skip
    return start, start + size, views


class Machine:
    """One launch: its programs, the memory behind its arguments, who goes on next."""

    def __init__(self, code, constants, launch, parameters, tensors, seed, watch):
        self.grid, self.parameters, self.launch = launch.grid, parameters, launch
        self.choose = random.Random(seed)
        places = [
            (x, y, z)
            for z in range(self.grid[2]) for y in range(self.grid[1]) for x in range(self.grid[0])
        ]  # fmt: skip
        self.memory = Memory([f"program {place}" for place in places], tensors) if watch else None
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors.values()}
        self.buffers = [storage_views(storage) for storage in storages.values()]
        names = KINDS | {"RUNNING": RUNNING, "BARRIER": BARRIER, "ASLEEP": ASLEEP} | constants
        exec(code, names)  # our own translation of what Triton compiled
        self.blocks = [Block(number, place, launch) for number, place in enumerate(places)]
        self.warps = [Warp(self, block, n) for block in self.blocks for n in range(launch.warps)]
        for warp in self.warps:
            warp.code = names["run"](warp)
        self.changes = 0  # of counters, and of what is written for those who poll it
        self.speeds = [self.choose.choice((1, 1, 4, 16)) for _ in self.blocks]

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

    def load(self, block, where, size, relaxed=False):
        if self.memory:
            self.memory.load(block.number, where, size, relaxed)

    def store(self, block, where, size, relaxed=False):
        if self.memory:
            self.memory.store(block.number, where, size, relaxed)

    def atomic(self, block, address, order):
        if self.memory:
            self.memory.atomic(block.number, address, order)

    def run(self):
        """Until everybody is done.

        A warp that looks in vain sleeps: at the latest until nobody else can go on, and one or the
        other is woken earlier, most of the time to look in vain once more.
        """
        ready, asleep = list(self.warps), []
        changes = -1  # when everybody was woken last
        while ready or asleep:
            if asleep and ready and self.choose.random() < 0.01:
                ready.append(asleep.pop(self.choose.randrange(len(asleep))))
            if not ready:
                if self.changes == changes:
                    places = sorted({warp.block.place for warp in asleep})
                    raise Hang(f"{self.launch.kernel}: programs {places} wait for ever")
                changes = self.changes
                ready, asleep = ready + asleep, []
            place = self.choose.randrange(len(ready))
            warp = ready[place]
            if self.choose.random() * 16 > self.speeds[warp.block.number] + 2:
                continue
            for _ in range(self.choose.choice((1, 1, 3, 30))):
                self.launch.steps += 1
                state = next(warp.code, OVER)
                if state != RUNNING:
                    break
            if state == RUNNING:
                continue
            ready[place] = ready[-1]
            ready.pop()
            if state == ASLEEP:
                asleep.append(warp)
            elif state == BARRIER:
                ready += self.arrive(warp)
        behind = [block.place for block in self.blocks if block.waiting]
        if behind:
            raise Hang(f"{self.launch.kernel}: warps of {behind} wait at a barrier for ever")

    def arrive(self, warp):
        """At the program's barrier; returns who may go on."""
        block = warp.block
        block.waiting += 1
        if block.waiting < block.warps:
            return []
        block.waiting = 0
        block.epoch += 1
        block.readers.fill(0)
        if self.memory:
            self.memory.barrier(block.number)
        first = block.number * block.warps
        return self.warps[first : first + block.warps]


class Driver:
    """What Triton asks of a GPU's driver."""

    def __init__(self, chip, seed, watch, multiprocessors):
        self.chip, self.seed, self.watch = tiling.CHIPS[chip], seed, watch
        self.multiprocessors = multiprocessors or self.chip.multiprocessors
        self.target = GPUTarget("cuda", int(chip.removeprefix("sm_")), 32)
        self.utils = self  # Triton keeps loading and asking there
        self.launches = []
        self.translated = {}  # PTX -> code, constants

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
        constants = {
            name: np.array([bits], dtype=f"u{KINDS[kind]().itemsize}").view(KINDS[kind])[0]
            for name, (kind, bits) in program.constants.items()
        }
        tensors = {name: value for name, value in arguments.items() if hasattr(value, "data_ptr")}
        kept = [arguments[name] for name, kind in source.signature.items() if kind != "constexpr"]
        parameters = [value.data_ptr() if hasattr(value, "data_ptr") else value for value in kept]
        parameters += [0] * (len(program.parameters) - len(parameters))  # Triton's scratch memory
        with np.errstate(all="ignore"):
            Machine(
                code, constants, launch, parameters, tensors, self.seed + len(self.launches),
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
