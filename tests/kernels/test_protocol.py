"""The sequence kernel's protocol as a small executable model, under hostile schedules.

A program is a Python generator that yields before every access to memory that others share, so
that a scheduler can put any other program's accesses in between. Memory is exact about visibility:
what a program writes is seen by others only once it has arrived (release) and they have waited
(acquire) for a count that includes this arrival. Reading anything else is an error, as are two
programs that wait for ever. The real protocol passes every schedule; each planted bug is found.

    real     write h_t → arrive → … → wait for t × slices → read all of h_{t-1}

It checks the order of accesses that `kernels/sequence.py` states. That the kernels keep to it is
seen in `test_concurrent.py`, where their own source runs under such schedules.
"""

import random
from dataclasses import dataclass, field

import pytest


class Race(Exception):
    """Somebody read what is not guaranteed to be visible."""


class Hang(Exception):
    """Everybody who is left waits."""


@dataclass
class Memory:
    """h by step and slice, with who may see it; one counter."""

    slices: int
    counter: int = 0
    written: dict = field(default_factory=dict)  # (slot, slice) -> value
    arrived: set = field(default_factory=set)  # what was written before its writer's last arrival
    seen: dict = field(default_factory=dict)  # reader -> what its last wait made visible

    def write(self, writer, slot, value):
        for reader, visible in self.seen.items():
            if reader != writer and (slot, writer) in visible:
                raise Race(f"slice {writer} overwrites slot {slot}, which {reader} may be reading")
        self.written[slot, writer] = value
        self.arrived.discard((slot, writer))

    def read(self, reader, slot, owner):
        key = (slot, owner)
        if owner != reader and key not in self.seen.get(reader, set()):
            raise Race(f"slice {reader} reads slot {slot} of slice {owner} before it is visible")
        return self.written[key]

    def release(self, writer):
        self.arrived |= {key for key in self.written if key[1] == writer}

    def acquire(self, reader):
        self.seen[reader] = set(self.arrived)


@dataclass(frozen=True)
class Bug:
    """What a planted bug changes; the default is the real protocol."""

    arrive: bool = True
    wait: bool = True
    arrive_before_write: bool = False
    lost_update: bool = False
    target_off_by: int = 0
    slots: int | None = None  # slots of h that are used in turn; None: a fresh one each step
    counter_left_over: int = 0
    absent: tuple = ()  # slices that are not on the chip until another has finished


def program(memory, slice_, T, bug):
    """One slice of the kernel: h_t is the sum of all of h_{t-1}, plus the slice's number."""
    slots = bug.slots or T + 1
    for t in range(T):
        if bug.wait:
            while memory.counter < t * memory.slices + bug.target_off_by * (t > 0):
                yield "waiting"
            memory.acquire(slice_)
        total = 0
        for owner in range(memory.slices):
            yield "running"
            total += memory.read(slice_, t % slots, owner) if t else 1
        if bug.arrive_before_write:
            memory.release(slice_)
            memory.counter += 1
        yield "running"
        memory.write(slice_, (t + 1) % slots, total % 1009 + slice_)
        yield "running"
        if bug.arrive and not bug.arrive_before_write:
            memory.release(slice_)
            if bug.lost_update:  # load, add, store instead of one atomic add
                old = memory.counter
                yield "running"
                memory.counter = old + 1
            else:
                memory.counter += 1


def interleave(choose, programs, counters, absent=()):
    """Let `programs` (name -> generator) go on in an order of chance until all are done.

    Those in `absent` begin only when another has ended. Raises Hang if everybody waits.
    """
    everybody, waiting = len(programs), set()
    while programs:
        present = [who for who in programs if who not in absent or len(programs) < everybody]
        # favour one program for a while now and then: the slow and the fast drift far apart
        who = choose.choice(present)
        for _ in range(choose.choice((1, 1, 1, 50))):
            try:
                state = next(programs[who])
            except StopIteration:
                del programs[who]
                waiting.clear()
                break
            if state == "waiting":
                waiting.add(who)
                break
            waiting.clear()
        if programs and waiting >= {
            who for who in programs if who not in absent or len(programs) < everybody
        }:
            raise Hang(f"{sorted(programs)} wait, the counters are {counters()}")


def run(seed, slices=4, T=6, bug=Bug()):
    """Interleave the programs at random; returns the last h of every slice."""
    memory = Memory(slices, counter=bug.counter_left_over)
    programs = {index: program(memory, index, T, bug) for index in range(slices)}
    interleave(random.Random(seed), programs, lambda: memory.counter, bug.absent)
    return [memory.written[(T % (bug.slots or T + 1)), index] for index in range(slices)]


def expected(slices=4, T=6):
    """The same without any concurrency."""
    h = [1] * slices
    for _ in range(T):
        h = [sum(h) % 1009 + index for index in range(slices)]
    return h


SCHEDULES = range(300)


def test_the_real_protocol_passes_every_schedule():
    for seed in SCHEDULES:
        assert run(seed) == expected()


@pytest.mark.parametrize("slices", [1, 2, 7])
@pytest.mark.parametrize("T", [1, 2, 35])
def test_the_real_protocol_at_other_sizes(slices, T):
    for seed in range(20):
        assert run(seed, slices, T) == expected(slices, T)


@pytest.mark.parametrize(
    ("bug", "found_as"),
    [
        pytest.param(Bug(wait=False), Race, id="missing-barrier"),
        pytest.param(Bug(arrive=False), Hang, id="missing-arrival"),
        pytest.param(Bug(arrive_before_write=True), Race, id="arrival-before-the-write"),
        pytest.param(Bug(lost_update=True), Hang, id="lost-update"),
        pytest.param(Bug(target_off_by=-1), Race, id="target-one-too-low"),
        pytest.param(Bug(target_off_by=1), Hang, id="target-one-too-high"),
        pytest.param(Bug(slots=1), Race, id="one-address-for-h"),
        pytest.param(Bug(counter_left_over=24), Race, id="counter-not-cleared"),
        pytest.param(Bug(absent=(3,)), Hang, id="grid-not-co-resident"),
    ],
)
def test_a_planted_bug_is_found(bug, found_as):
    found = set()
    for seed in SCHEDULES:
        try:
            run(seed, bug=bug)
        except (Race, Hang) as error:
            found.add(type(error))
    assert found_as in found


# A counter for each warp: who multiplies a share of the units waits for their programs alone


@dataclass(frozen=True)
class WarpBug:
    """What a planted bug changes in `sequence.counters_of` and its use; the default is real."""

    looks_beside: int = 0  # a warp looks at the counter of another
    arrives_beside: int = 0  # a program arrives at the counter of another share
    multiplies_all: bool = False  # a warp reads what is not of its share
    joins: bool = True  # warps wait for each other's sums


class Joint:
    """The warps of one program: their sums, and a barrier among them."""

    def __init__(self, warps):
        self.sums, self.there, self.passed = [0] * warps, 0, 0

    def barrier(self):
        self.there += 1
        mine = self.passed
        if self.there == len(self.sums):
            self.there, self.passed = 0, self.passed + 1
            yield "running"
        while self.passed == mine:
            yield "waiting"


def warp_program(memory, slice_, warp, joint, T, bug):
    """One warp: its share of h_{t-1}, summed up; the first one writes for the slice."""
    me, warps = (slice_, warp), len(joint.sums)
    for t in range(T):
        looked_at = (warp + bug.looks_beside) % warps
        while memory.counters[looked_at] < t * (memory.slices // warps):
            yield "waiting"
        memory.acquire_from(me, looked_at)
        joint.sums[warp] = 0
        for owner in range(memory.slices):
            if owner % warps == warp or bug.multiplies_all:
                yield "running"
                value = memory.read(me, t, owner) if t else 1
                joint.sums[warp] += value if owner % warps == warp else 0
        if bug.joins:
            yield from joint.barrier()
        if warp == 0:
            memory.write(slice_, t + 1, sum(joint.sums) % 1009 + slice_)
            yield "running"
            memory.arrive(slice_, (slice_ + bug.arrives_beside) % warps)
            yield "running"
        if bug.joins:  # sums are made anew only when they were added up
            yield from joint.barrier()


def run_warps(seed, slices=4, warps=2, T=6, bug=WarpBug()):
    """Interleave all warps of all programs at random; returns the last h of every slice."""
    memory = LayeredMemory(slices, warps)
    programs = {}
    for slice_ in range(slices):
        joint = Joint(warps)
        for warp in range(warps):
            programs[slice_, warp] = warp_program(memory, slice_, warp, joint, T, bug)
    interleave(random.Random(seed), programs, lambda: memory.counters)
    return [memory.written[T, index] for index in range(slices)]


@pytest.mark.parametrize(("slices", "warps", "T"), [(4, 2, 6), (2, 2, 1), (8, 4, 9), (3, 1, 5)])
def test_counters_of_warps_pass_every_schedule(slices, warps, T):
    for seed in range(100):
        assert run_warps(seed, slices, warps, T) == expected(slices, T)


@pytest.mark.parametrize(
    ("bug", "found_as"),
    [
        pytest.param(WarpBug(looks_beside=1), Race, id="another-warps-counter"),
        pytest.param(WarpBug(arrives_beside=1), Race, id="arrival-at-another-shares-counter"),
        pytest.param(WarpBug(multiplies_all=True), Race, id="what-was-not-waited-for"),
        pytest.param(WarpBug(joins=False), "another sum", id="sums-that-are-not-there-yet"),
    ],
)
def test_a_bug_planted_in_the_counters_of_warps_is_found(bug, found_as):
    found = set()
    for seed in SCHEDULES:
        try:
            if run_warps(seed, bug=bug) != expected():
                found.add("another sum")
        except (Race, Hang) as error:
            found.add(type(error))
    assert found_as in found


# The wavefront: a counter for each layer, and two waits a step


@dataclass(frozen=True)
class LayerBug:
    """What a planted bug changes in `kernels/wavefront.py`; the default is the real protocol."""

    wait_below: bool = True
    wait_own: bool = True
    arrive: bool = True
    below_off_by: int = 0
    one_counter: bool = False  # all layers arrive at the first layer's
    waits_above: bool = False  # and so for somebody who waits for it
    absent: tuple = ()  # (layer, slice) that is not on the chip until another has finished


class LayeredMemory(Memory):
    """Waiting for one layer's counter shows what was written before arrivals at that one alone."""

    def __init__(self, slices, layers):
        super().__init__(slices)
        self.counters = [0] * layers
        self.arrived_at = [set() for _ in range(layers)]

    def write(self, writer, slot, value):
        self.written[slot, writer] = value

    def arrive(self, writer, layer):
        self.arrived_at[layer] |= {key for key in self.written if key[1] == writer}
        self.counters[layer] += 1

    def acquire_from(self, reader, layer):
        self.seen[reader] = self.seen.get(reader, set()) | self.arrived_at[layer]


def layer_program(memory, layer, slice_, T, layers, bug):
    """h_t is the sum of all of h_{t-1} and of the layer below's h_t, plus slice and layer."""
    me, slices = (layer, slice_), memory.slices

    def until(which, target):
        while memory.counters[which] < target:
            yield "waiting"
        memory.acquire_from(me, which)

    for t in range(T):
        total = 1
        if bug.waits_above and layer + 1 < layers:
            yield from until(layer + 1, (t + 1) * slices)
        if layer:
            if bug.wait_below:
                yield from until(layer - 1, (t + 1 + bug.below_off_by) * slices)
            for owner in range(slices):
                yield "running"
                total += memory.read(me, t + 1, (layer - 1, owner))
        if bug.wait_own:
            yield from until(layer, t * slices)
        for owner in range(slices):
            yield "running"
            total += memory.read(me, t, (layer, owner)) if t else 1
        memory.write(me, t + 1, total % 1009 + slice_ + 7 * layer)
        yield "running"
        if bug.arrive:
            memory.arrive(me, 0 if bug.one_counter else layer)


def run_layers(seed, slices=3, T=4, layers=3, bug=LayerBug()):
    """Interleave all programs of all layers at random; the last h of the last layer."""
    memory = LayeredMemory(slices, layers)
    everybody = [(layer, slice_) for layer in range(layers) for slice_ in range(slices)]
    programs = {me: layer_program(memory, *me, T, layers, bug) for me in everybody}
    interleave(random.Random(seed), programs, lambda: memory.counters, bug.absent)
    return [memory.written[T, (layers - 1, slice_)] for slice_ in range(slices)]


def expected_of_layers(slices=3, T=4, layers=3):
    """The same without any concurrency, a layer after the other."""
    below = None
    for layer in range(layers):
        h, all_h = [1] * slices, []
        for t in range(T):
            total = 1 + sum(h) + (sum(below[t]) if below else 0)
            h = [total % 1009 + slice_ + 7 * layer for slice_ in range(slices)]
            all_h.append(h)
        below = all_h
    return below[-1]


def test_the_wavefront_passes_every_schedule():
    for seed in SCHEDULES:
        assert run_layers(seed) == expected_of_layers()


@pytest.mark.parametrize(("slices", "T", "layers"), [(1, 1, 1), (1, 9, 2), (2, 1, 4), (5, 12, 2)])
def test_the_wavefront_at_other_sizes(slices, T, layers):
    for seed in range(20):
        assert run_layers(seed, slices, T, layers) == expected_of_layers(slices, T, layers)


@pytest.mark.parametrize(
    ("bug", "found_as"),
    [
        pytest.param(LayerBug(wait_below=False), Race, id="missing-barrier-between-layers"),
        pytest.param(LayerBug(wait_own=False), Race, id="missing-barrier-within-a-layer"),
        pytest.param(LayerBug(arrive=False), Hang, id="missing-arrival"),
        pytest.param(LayerBug(below_off_by=-1), Race, id="target-below-one-too-low"),
        pytest.param(LayerBug(below_off_by=1), Hang, id="target-below-one-too-high"),
        pytest.param(LayerBug(one_counter=True), Hang, id="arrival-at-another-layers-counter"),
        pytest.param(LayerBug(waits_above=True), Hang, id="waiting-in-a-circle"),
        pytest.param(LayerBug(absent=((0, 1),)), Hang, id="first-layer-not-co-resident"),
    ],
)
def test_a_bug_planted_in_the_wavefront_is_found(bug, found_as):
    found = set()
    for seed in SCHEDULES:
        try:
            run_layers(seed, bug=bug)
        except (Race, Hang) as error:
            found.add(type(error))
    assert found_as in found
