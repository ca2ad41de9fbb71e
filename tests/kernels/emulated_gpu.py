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

from kernels import chips

from .emulated_warps import ASLEEP, BARRIER, KINDS, READY, U2, U4, U8, Shared, Team, hold_aligned
from .ptx import translate
from .watched_memory import Hang, Memory

CREWS = 3


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
        names = [f"program {place}" for place in places]
        self.memory = Memory(names, tensors, launch.warps) if watch else None
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

    def load(self, warp, programs, where, size, relaxed=False):
        if self.memory:
            self.memory.load(programs, where, size, relaxed, warp)

    def store(self, programs, where, size, relaxed=False):
        if self.memory:
            self.memory.store(programs, where, size, relaxed)

    def atomic(self, warp, program, address, order):
        if self.memory:
            self.memory.atomic(program, address, order, warp)

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
        self.chip, self.seed, self.watch = chips.CHIPS[chip], seed, watch
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
    assert not chips.INTERPRETED, "unset TRITON_INTERPRET: what is interpreted is not compiled"
    gpu = Driver(chip, seed, watch, multiprocessors)
    before = driver._active
    saved = chips.chip_of, torch.cuda.device
    driver.set_active(gpu)
    chips.chip_of = lambda device: gpu.chip
    torch.cuda.device = lambda device: contextlib.nullcontext()
    torch.Tensor.is_cuda = property(lambda tensor: True)
    try:
        yield gpu.launches
    finally:
        del torch.Tensor.is_cuda
        chips.chip_of, torch.cuda.device = saved
        driver._active = before
