"""Triton's interpreter with all programs of a launch under way at once, and an eye on their memory.

The interpreter runs the programs of a grid one after another, so a kernel whose programs wait for
each other can only be tried there with a grid of one: slices of more than one program, targets of
barriers and the order of accesses are never run. Here every program has a thread; one thread runs
at a time, and before each access to memory a scheduler with a seed may let another go on. It is the
kernel's own source that runs, under schedules as unkind as one likes.

Memory is watched meanwhile (`watched_memory.py`): accesses that nothing orders are a Race, one
outside of the buffers is OutOfBounds, and it is a Hang if every program that is left polls a
counter and nobody can change it. A program's own barriers are its `tl.debug_barrier`.

    with concurrently(seed=3) as launches:
        y, _ = sequence_layer(...)
"""

import contextlib
import inspect
import random
import threading
from dataclasses import dataclass, field

import numpy as np
from triton.runtime import interpreter

from .watched_memory import Hang, Memory


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
        self.memory.atomic(self.current, int(pointer.data.item()), str(order).lower())
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
