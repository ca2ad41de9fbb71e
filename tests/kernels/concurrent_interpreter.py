"""Triton's interpreter with all programs of a launch under way at once, and an eye on their memory.

The interpreter runs the programs of a grid one after another, so a kernel whose programs wait for
each other can only be tried there with a grid of one: slices of more than one program, targets of
barriers and the order of accesses are never run. Here every program has a thread; one thread runs
at a time, and before each access to memory a scheduler with a seed may let another go on. It is the
kernel's own source that runs, under schedules as unkind as one likes.

Memory is watched meanwhile, element by element, with vector clocks:

    Race           a program reads or overwrites what another wrote (or reads) in the same launch,
                   and nothing orders the two
    Hang           every program that is left polls a counter, and nobody can change it
    OutOfBounds    an access outside of every buffer that the launch was given

What orders accesses of different programs is what orders them on a GPU: an atomic add with release
order publishes what its program did before its last `tl.debug_barrier`, an atomic look with acquire
order takes over what the counter has been told, in effect from the next `tl.debug_barrier` on. The
barriers count because a program is many threads and one of them adds and looks for all.

    with concurrently(seed=3) as launches:
        y, _ = sequence_layer(...)

Source: Lamport, "Time, clocks, and the ordering of events in a distributed system", CACM 21(7),
1978; Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection", PLDI 2009;
the memory consistency model of the PTX ISA for what release, acquire and barriers give.
"""

import contextlib
import inspect
import random
import threading
from dataclasses import dataclass, field

import numpy as np
from triton.runtime import interpreter


class Race(AssertionError):
    """Two accesses, one of them a write, that nothing puts in an order."""


class Hang(AssertionError):
    """Everybody who is left waits."""


class OutOfBounds(AssertionError):
    """An access outside of what the launch was given."""


class _Abandoned(BaseException):
    """Ends the threads of a launch that has failed."""


@dataclass
class Launch:
    """What happened in one launch."""

    kernel: str
    grid: tuple[int, int, int]
    switches: int = 0  # from one program to another
    accesses: int = 0


@dataclass
class Buffer:
    """One storage of the launch, and who touched its elements when, by the programs' own clocks."""

    name: str
    start: int
    itemsize: int
    writer: np.ndarray  # (elements,), -1: nobody in this launch
    written: np.ndarray  # (elements,), the writer's clock
    read: np.ndarray  # (programs, elements), each reader's clock


class Memory:
    """Vector clocks of the programs and counters of a launch, and its buffers."""

    def __init__(self, programs, tensors):
        self.names = programs
        count = len(programs)
        self.clocks = np.eye(count, dtype=np.int64)  # row p: how far p knows each program to be
        self.published = np.zeros((count, count), dtype=np.int64)  # as of p's last barrier
        self.heard = np.zeros((count, count), dtype=np.int64)  # in effect from p's next barrier on
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
                np.zeros((count, size // itemsize), dtype=np.int64),
            )
            for start, (names, size, itemsize) in storages.items()
        ]  # fmt: skip

    def _find(self, program, addresses, what):
        """The buffer that all addresses lie in, and their elements."""
        for buffer in self.buffers:
            at = (addresses.astype(np.int64) - buffer.start) // buffer.itemsize
            inside = (at >= 0) & (at < len(buffer.writer))
            if inside.all():
                return buffer, at
            if inside.any():
                raise OutOfBounds(
                    f"{self.names[program]} {what} {(~inside).sum()} elements outside of "
                    f"{buffer.name}, from element {at[~inside].min()} on"
                )
        raise OutOfBounds(f"{self.names[program]} {what} an address in none of the buffers")

    def _check(self, program, buffer, at, clocks, other, what):
        """Raises Race if `other`'s accesses at `clocks` are not known to be over."""
        unordered = clocks > self.clocks[program, other]
        if unordered.any():
            raise Race(
                f"{self.names[program]} {what} element {at[unordered][0]} of {buffer.name}, "
                f"which nothing orders after what {self.names[other]} does to it"
            )

    def load(self, program, addresses):
        buffer, at = self._find(program, addresses, "reads")
        writers = buffer.writer[at]
        for other in set(writers.tolist()) - {-1, program}:
            by = at[writers == other]
            self._check(program, buffer, by, buffer.written[by], other, "reads")
        buffer.read[program, at] = self.clocks[program, program]

    def store(self, program, addresses):
        buffer, at = self._find(program, addresses, "writes")
        for other in range(len(self.names)):
            if other != program:
                self._check(program, buffer, at, buffer.read[other, at], other, "overwrites")
        writers = buffer.writer[at]
        for other in set(writers.tolist()) - {-1, program}:
            by = at[writers == other]
            self._check(program, buffer, by, buffer.written[by], other, "overwrites")
        buffer.writer[at] = program
        buffer.written[at] = self.clocks[program, program]

    def barrier(self, program):
        """Among the threads of one program."""
        np.maximum(self.clocks[program], self.heard[program], out=self.clocks[program])
        self.published[program] = self.clocks[program]
        self.clocks[program, program] += 1

    def atomic(self, program, address, order):
        self._find(program, np.array([address]), "adds to")
        counter = self.counters.setdefault(address, np.zeros_like(self.heard[program]))
        if "ACQUIRE" in order:
            np.maximum(self.heard[program], counter, out=self.heard[program])
        if "RELEASE" in order:
            np.maximum(counter, self.published[program], out=counter)


@dataclass
class Program:
    """One program: its place in the grid and the thread that runs it."""

    place: tuple[int, int, int]
    speed: float
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None
    looked: bool = False  # its last access was a look at a counter
    polls: bool = False  # and so was the one before, and nothing has changed since
    is_over: bool = False


class Scheduler:
    """Lets one program at a time go on. `resident`: how many are on the chip at once."""

    def __init__(self, seed, resident, launch, tensors, body):
        self.choose = random.Random(seed)
        places = list(np.ndindex(*launch.grid))
        # Some programs are much faster than others: they drift as far apart as the waits allow.
        self.programs = [Program(place, self.choose.choice((1, 1, 4, 16))) for place in places]
        self.resident = resident or len(places)
        self.memory = Memory([f"program {place}" for place in places], tensors)
        self.launch, self.body = launch, body
        self.current = 0
        self.back = threading.Semaphore(0)
        self.stay = 0
        self.error = None

    def run(self):
        for index, program in enumerate(self.programs):
            program.thread = threading.Thread(target=self._thread, args=(index,), daemon=True)
            program.thread.start()
        try:
            while self.error is None:
                left = [i for i, program in enumerate(self.programs) if not program.is_over]
                present = left[: self.resident]
                if not present:
                    return
                if all(self.programs[i].polls for i in present):
                    names = ", ".join(self.memory.names[i] for i in present)
                    raise Hang(f"{self.launch.kernel}: {names} wait for ever")
                speeds = [self.programs[i].speed for i in present]
                self._resume(self.choose.choices(present, speeds)[0])
            raise self.error
        finally:
            self.error = self.error or _Abandoned()
            for index, program in enumerate(self.programs):
                if not program.is_over:
                    self._resume(index)

    def _resume(self, index):
        self.launch.switches += index != self.current
        self.current = index
        self.stay = self.choose.choice((0, 0, 1, 3, 30))
        interpreter.interpreter_builder.set_grid_idx(*self.programs[index].place)
        self.programs[index].go.release()
        self.back.acquire()

    def _thread(self, index):
        program = self.programs[index]
        program.go.acquire()
        try:
            if self.error is None:
                self.body()
        except _Abandoned:
            pass
        except Exception as error:
            # Device functions wrap what is raised in them, once for each call on the way.
            while isinstance(error, interpreter.InterpreterError) and error.__cause__:
                error = error.__cause__
            self.error = self.error or error
        program.is_over = True
        self._progress()
        self.back.release()

    def _progress(self):
        """Something changed: everybody who polls may look again."""
        for program in self.programs:
            program.looked = program.polls = False

    def pause(self):
        """Before an access: let others go first, perhaps."""
        self.launch.accesses += 1
        program = self.programs[self.current]
        if self.stay > 0 and not program.polls:
            self.stay -= 1
            return
        self.back.release()
        program.go.acquire()
        if self.error is not None:
            raise _Abandoned

    # What the interpreter's builder is asked to do, on the running program's thread

    def load(self, plain, pointers, mask, *others):
        self.pause()
        self.programs[self.current].looked = False
        if mask.data.any():
            self.memory.load(self.current, pointers.data[mask.data])
        return plain(pointers, mask, *others)

    def store(self, plain, pointers, value, mask, *others):
        self.pause()
        if mask.data.any():
            self.memory.store(self.current, pointers.data[mask.data])
            self._progress()
        return plain(pointers, value, mask, *others)

    def atomic(self, plain, operation, pointer, value, mask, order, scope):
        self.pause()
        self.memory.atomic(self.current, int(pointer.data.item()), str(order))
        program = self.programs[self.current]
        if value.data.any():
            self._progress()
        else:  # adding nothing is a look
            program.looked, program.polls = True, program.looked
        return plain(operation, pointer, value, mask, order, scope)

    def barrier(self, plain):
        self.memory.barrier(self.current)
        return plain()


WATCHED = {
    "create_masked_load": Scheduler.load,
    "create_masked_store": Scheduler.store,
    "create_atomic_rmw": Scheduler.atomic,
    "create_barrier": Scheduler.barrier,
}


@contextlib.contextmanager
def concurrently(seed=0, resident=None):
    """Launches within the block run their programs at once; yields the list of them."""
    launches = []

    def call(executor, *args, **kwargs):
        known = inspect.getfullargspec(executor.fn).args
        given = inspect.getcallargs(
            executor.fn, *args, **{name: value for name, value in kwargs.items() if name in known}
        )
        tensors = {name: value for name, value in given.items() if hasattr(value, "data_ptr")}
        assert not any(tensor.is_cuda for tensor in tensors.values()), "interpreted, so on a CPU"
        grid = executor.grid(given) if callable(executor.grid) else executor.grid
        launch = Launch(executor.fn.__name__, (*grid, 1, 1)[:3])
        launches.append(launch)
        builder = interpreter.interpreter_builder
        patched = interpreter._patch_lang(executor.fn)
        converted = {
            name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
            for name, value in given.items()
        }
        scheduler = Scheduler(
            seed + len(launches), resident, launch, tensors, lambda: executor.fn(**converted)
        )
        builder.set_grid_dim(*launch.grid)
        for name, watch in WATCHED.items():
            plain = getattr(builder, name)
            setattr(builder, name, lambda *a, watch=watch, plain=plain: watch(scheduler, plain, *a))
        try:
            scheduler.run()
        finally:
            for name in WATCHED:
                delattr(builder, name)  # the class's own comes to light again
            patched.restore()

    plain_call = interpreter.GridExecutor.__call__
    interpreter.GridExecutor.__call__ = call
    try:
        yield launches
    finally:
        interpreter.GridExecutor.__call__ = plain_call
