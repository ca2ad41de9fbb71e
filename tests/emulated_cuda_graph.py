"""CUDA streams and graphs without a GPU: what is captured is recorded, and a replay does it again.

As on a GPU, a capture does nothing: what was there before is as it was, and what the captured code
made holds no numbers yet. A replay writes the same memory again, from what lies then in the memory
that it reads. What nobody keeps alive is gone by then, and a replay that needs it is refused.

Streams do their work at once here, so that nothing can come too late. Instead it is written down
which stream wrote and read each piece of memory, and what it had waited for: work that another
stream need not have finished is a race (Lamport, "Time, Clocks, and the Ordering of Events in a
Distributed System"), and refused.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

WAITS_FOR_THE_DEVICE = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
"""Their results are needed on the host: a GPU refuses them while it captures."""


class NotCapturable(RuntimeError):
    """What is captured waits for the device."""


class Gone(RuntimeError):
    """A replay would read or write memory that was given back."""


class Race(RuntimeError):
    """A stream uses memory that another one may not have finished with."""


class Stream:
    """Work in order; ``seen`` is how far every stream had come when this one last waited."""

    def __init__(self) -> None:
        self.seen: dict[Stream, int] = defaultdict(int)

    def wait_stream(self, other: Stream) -> None:
        for stream, time in other.seen.items():
            self.seen[stream] = max(self.seen[stream], time)


@dataclass
class Piece:
    """Who used a piece of memory, and when: the last that wrote it, all that read it since."""

    written: tuple[Stream, int] | None = None
    read: dict[Stream, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """A tensor of the time before the capture, by its memory, which it does not keep alive."""

    memory: int  # a weak reference to the storage
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def to(cls, tensor: Tensor) -> Reference:
        memory = tensor.untyped_storage()._weak_ref()
        return cls(memory, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.memory)
        if storage is None:
            raise Gone(f"a tensor of {tuple(self.size)} that was captured is no more")
        return part_of(storage, self.dtype, self.offset, self.size, self.stride)


class Device(TorchDispatchMode):
    """Sees every operation: orders it by streams, and records it while a graph is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()
        self.streams = [self.stream]
        self.pieces: dict[int, Piece] = defaultdict(Piece)
        self.recorded: CUDAGraph | None = None
        self.work = 0  # operations done so far
        self.events: list[tuple[str, int]] = []  # what else happened, after how much work

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        call = (function, arguments, options or {})
        if self.recorded is not None:
            return self.recorded.record(*call)
        return self.run(*call)

    def run(self, function, arguments, options):
        """Do it, after a look at what it reads and what it writes."""
        self.work += 1
        now = self.stream.seen[self.stream] = self.stream.seen[self.stream] + 1
        written = written_by(function, arguments, options)
        result = function(*arguments, **options)
        made = made_by(result, arguments, options)
        if written or made:  # else a view: nothing is read
            for tensor in written:
                self.use(tensor, now, writes=True)
            given = {address(tensor) for tensor in written}
            for tensor in tensors_of((arguments, options)):
                if address(tensor) not in given:
                    self.use(tensor, now, writes=False)
        for tensor in made:  # the memory may have been another tensor's, which is gone
            self.pieces[address(tensor)] = Piece((self.stream, now))
        return result

    def use(self, tensor: Tensor, now: int, *, writes: bool) -> None:
        """The stream's access number ``now``. Raises Race if another's may not be over."""
        piece = self.pieces[address(tensor)]
        others = dict(piece.read) if writes else {}
        if piece.written is not None:
            others[piece.written[0]] = max(others.get(piece.written[0], 0), piece.written[1])
        for stream, time in others.items():
            if self.stream.seen[stream] < time:
                raise Race(f"{tuple(tensor.shape)} of another stream, which was not waited for")
        if writes:
            piece.written, piece.read = (self.stream, now), {}
        else:
            piece.read[self.stream] = now

    def happened(self, event: str) -> None:
        """One of "capture", "replay" and "reset", of the peak memory."""
        self.events.append((event, self.work))

    def synchronize(self, device=None) -> None:
        """The host waits for all streams: what comes now comes after everything."""
        for stream in self.streams:
            for other in self.streams:
                stream.wait_stream(other)


class CUDAGraph:
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.calls: list[tuple] = []
        self.own: dict[int, Tensor] = {}  # by address: the graph's memory is its own for good
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what the capture must not change
        self.was_captured = False

    def record(self, function, arguments, options):
        """Do it on the numbers of now, which `end` takes back, and keep it for the replays."""
        if function._schema.name in WAITS_FOR_THE_DEVICE:
            raise NotCapturable(f"{function} while a graph is captured")
        written = written_by(function, arguments, options)
        for tensor in written:
            if address(tensor) not in self.own and address(tensor) not in self.before:
                whole = whole_of(tensor)
                self.before[address(tensor)] = (whole, whole.clone())
        kept = self._kept(arguments), self._kept(options)
        result = function(*arguments, **options)
        made = made_by(result, arguments, options)
        self.own |= {address(tensor): tensor for tensor in made}
        if written or made:
            made = [] if written else tensors_of(result)
            self.calls.append((function, *kept, made, torch.is_grad_enabled()))
        return result

    def _kept(self, values):
        return pytree.tree_map_only(
            Tensor, lambda t: t if address(t) in self.own else Reference.to(t), values
        )

    def end(self) -> None:
        """Nothing has happened: old numbers are back, and new ones are not there yet."""
        for whole, value in self.before.values():
            whole.copy_(value)
        self.before = {}
        for tensor in self.own.values():
            whole = whole_of(tensor)
            whole.fill_(math.nan if whole.is_floating_point() else 77)
        self.was_captured = True

    def replay(self) -> None:
        assert self.was_captured, "a graph is replayed that was not captured"
        self.device.happened("replay")
        # No gradient is recorded, though some operations look whether one could be.
        with torch._C._AutoDispatchBelowAutograd():
            for function, arguments, options, made, is_grad_enabled in self.calls:
                arguments, options = pytree.tree_map_only(
                    Reference, lambda reference: reference.tensor(), (arguments, options)
                )
                with torch.set_grad_enabled(is_grad_enabled):
                    result = function(*arguments, **options)
                for old, new in zip(made, tensors_of(result) if made else [], strict=True):
                    old.copy_(new)


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def whole_of(tensor: Tensor) -> Tensor:
    """All of the memory that ``tensor`` is a part of."""
    storage = tensor.untyped_storage()
    count = storage.nbytes() // tensor.element_size()
    return part_of(storage, tensor.dtype, 0, (count,), (1,))


def part_of(storage, dtype, offset, size, stride) -> Tensor:
    with _disable_current_modes():  # no work of the device
        return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


def tensors_of(values) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]


def made_by(result, arguments, options) -> list[Tensor]:
    """The tensors of the result that are memory of their own, and no part of what was given."""
    given = {address(tensor) for tensor in tensors_of((arguments, options))}
    return [tensor for tensor in tensors_of(result) if address(tensor) not in given]


def written_by(function, arguments, options) -> list[Tensor]:
    """The given tensors that the operation writes, by its schema."""
    found = []
    for position, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = arguments[position : position + 1] or options.get(argument.name)
            found += tensors_of(given)
    return found


@contextlib.contextmanager
def emulated():
    """What ``torch.cuda`` has of streams and graphs works on the CPU; yields the device."""
    device = Device()

    def new_stream(where=None):
        stream = Stream()
        device.streams.append(stream)
        return stream

    @contextlib.contextmanager
    def on_stream(stream):
        before, device.stream = device.stream, stream
        try:
            yield
        finally:
            device.stream = before

    @contextlib.contextmanager
    def capture(graph, stream=None):
        device.synchronize()
        device.happened("capture")
        device.recorded = graph
        try:
            yield
        finally:
            device.recorded = None
        with _disable_current_modes(), torch.no_grad():
            graph.end()

    def reset(where=None):
        device.happened("reset")

    with pytest.MonkeyPatch.context() as patch, device:
        patch.setattr(torch.cuda, "Stream", new_stream)
        patch.setattr(torch.cuda, "current_stream", lambda where=None: device.stream)
        patch.setattr(torch.cuda, "stream", on_stream)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: CUDAGraph(device))
        patch.setattr(torch.cuda, "graph", capture)
        patch.setattr(torch.cuda, "synchronize", device.synchronize)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
        yield device
