"""DeepRNN: the parameters, the argument checks and the loop over layers that all share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprnn.cells import CELLS, GATES, STATES, State
from deeprnn.support import Request, Support

INITIALIZATIONS = ("uniform", "normal")

TileChoice = Callable[[], AbstractContextManager[None]]
TileChoices = dict[str, TileChoice]


class DeepRNN(nn.Module):
    """A stack of recurrent layers that can stand wherever ``torch.nn.RNN/GRU/LSTM`` stood.

    ``H_t^(l) = cell(H_t^(l−1), H_{t−1}^(l))`` with ``H_t^(0) = x_t`` (Dive into Deep Learning,
    deep recurrent networks). Call, attributes, parameter names, gate order and initial
    distribution are torch's, so a ``state_dict`` goes either way.

    A subclass is one implementation. It overrides :meth:`layer`, or :meth:`stack` where it runs
    all layers at once, and states in :attr:`support` what it can do.

    Args:
        cell: ``"rnn_tanh"``, ``"rnn_relu"``, ``"gru"`` or ``"lstm"``.
        input_size: ``I``.
        hidden_size: ``H``.
        num_layers: ``L``.
        recurrent: by layer, whether it has a recurrent weight. A layer without one is
            ``φ(x W_ihᵀ + b_ih)`` and has no ``weight_hh`` and ``bias_hh``; RNN cells only. None
            means all of them.
        initialization: ``"uniform"``, torch's U(−1/√H, 1/√H), or ``"normal"``, that of the
            published scratch network: weights N(0, 0.01²), zero biases. The scratch network has
            one bias a layer, so there ``bias_hh`` stays zero and is not trained.

    Raises:
        ValueError: an unknown cell or initialization, a size below 1, or a ``recurrent`` that does
            not fit.
    """

    support: ClassVar[Support] = Support()

    timed_parts: ClassVar[tuple[str, ...]] = ()
    """What ``bench kernels`` times of it: ``"stack"``, and ``"recurrence"`` where
    :meth:`recurrence` is there. Empty for what runs in many general kernels: those are timed by
    ``bench run``."""

    has_gradient_by_hand: ClassVar[bool] = False
    """Whether its backward pass is written out, for tensors of one dtype: under autocast it then
    computes in that of the parameters, where others take each product's."""

    # torch.nn.RNNBase's attributes that are constant here.
    bias = True
    batch_first = False
    dropout = 0.0
    bidirectional = False
    proj_size = 0

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        recurrent: Sequence[bool] | None = None,
        initialization: str = "uniform",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell {cell!r} is unknown; use one of {', '.join(CELLS)}")
        for name, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be an integer of at least 1")
        if initialization not in INITIALIZATIONS:
            raise ValueError(
                f"initialization {initialization!r} is unknown; use {' or '.join(INITIALIZATIONS)}"
            )
        self.recurrent = (True,) * num_layers if recurrent is None else tuple(map(bool, recurrent))
        if len(self.recurrent) != num_layers:
            raise ValueError(f"recurrent has {len(self.recurrent)} entries for {num_layers} layers")
        if not all(self.recurrent) and not cell.startswith("rnn"):
            raise ValueError(f"a layer without recurrence is defined for RNN cells, not for {cell}")
        self.cell = cell
        self.mode = cell.upper()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.initialization = initialization
        for layer in range(num_layers):
            for name, shape in self._shapes(layer):
                self.register_parameter(
                    name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
        self.reset_parameters()

    def _shapes(self, layer: int) -> list[tuple[str, tuple[int, ...]]]:
        """The parameters of ``layer`` in torch's order: names and shapes."""
        rows = GATES[self.cell] * self.hidden_size
        columns = self.input_size if layer == 0 else self.hidden_size
        shapes: list[tuple[str, tuple[int, ...]]] = [
            (f"weight_ih_l{layer}", (rows, columns)),
            (f"weight_hh_l{layer}", (rows, self.hidden_size)),
            (f"bias_ih_l{layer}", (rows,)),
            (f"bias_hh_l{layer}", (rows,)),
        ]
        return shapes if self.recurrent[layer] else [s for s in shapes if "_ih_" in s[0]]

    def reset_parameters(self) -> None:
        """Draw the parameters anew from torch's global generator, in torch's order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if self.initialization == "uniform":
                nn.init.uniform_(parameter, -bound, bound)
            elif name.startswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)
                parameter.requires_grad_(not name.startswith("bias_hh"))

    def flatten_parameters(self) -> None:
        """Nothing to do here; present because ``torch.nn`` has it."""

    def forward(
        self, x: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Run the stack over a sequence.

        Args:
            x: ``(T, B, I)``, or ``(T, I)`` without a batch.
            state: ``h (L, B, H)``, for an LSTM ``(h, c)``; without a batch ``(L, H)``. None: zeros.

        Returns:
            ``y (T, B, H)``, the last layer's outputs, and the final state, shaped like ``state``.

        Raises:
            ValueError: a tensor of the wrong shape or on another device, or an empty sequence.
            TypeError: no tensor, another dtype than the parameters', or a state of the wrong
                structure.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; expected a tensor (T, B, I) or (T, I)")
        if x.dim() not in (2, 3) or x.size(-1) != self.input_size:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (T, B, {self.input_size}) "
                f"or (T, {self.input_size})"
            )
        if 0 in x.shape[:-1]:
            raise ValueError(f"x has shape {tuple(x.shape)}; T and B must be at least 1")
        unbatched = x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
        self._require_own_kind("x", x)
        states = self._checked(state, x, unbatched)
        if self.has_gradient_by_hand and torch.is_autocast_enabled(x.device.type):
            own = next(self.parameters()).dtype
            with torch.autocast(x.device.type, enabled=False):
                y, final = self.stack(x.to(own), tuple(s.to(own) for s in states))
        else:
            y, final = self.stack(x, states)
        if unbatched:
            y, final = y.squeeze(1), tuple(s.squeeze(1) for s in final)
        return y, (final[0], final[1]) if self.cell == "lstm" else final[0]

    def _checked(
        self, state: Tensor | tuple[Tensor, Tensor] | None, x: Tensor, unbatched: bool
    ) -> State:
        shape = (self.num_layers, x.size(1), self.hidden_size)
        count = STATES[self.cell]
        if state is None:
            return tuple(x.new_zeros(shape) for _ in range(count))
        states: State = tuple(state) if isinstance(state, (tuple, list)) else (state,)
        if len(states) != count or not all(isinstance(s, Tensor) for s in states):
            wanted = "a tuple (h, c)" if count == 2 else "one tensor h"
            given = ", ".join(type(s).__name__ for s in states)
            given = f"({given})" if isinstance(state, (tuple, list)) else given
            raise TypeError(f"the state of cell {self.cell} is {wanted}, not {given}")
        named, wanted_shape = ("(L, H)", shape[::2]) if unbatched else ("(L, B, H)", shape)
        for name, tensor in zip("hc", states, strict=False):
            if tuple(tensor.shape) != wanted_shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}; expected {named} = {wanted_shape}"
                )
            self._require_own_kind(name, tensor)
        return tuple(s.unsqueeze(1) for s in states) if unbatched else tuple(states)

    def _require_own_kind(self, name: str, tensor: Tensor) -> None:
        """Raises TypeError for another dtype than the parameters', ValueError for another device.

        Under autocast products choose their dtype themselves.
        """
        own = next(self.parameters())
        if tensor.dtype != own.dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise TypeError(
                f"{name} is {tensor.dtype}, the parameters are {own.dtype}; "
                f"convert one of them: {name}.to({own.dtype}), or module.to({tensor.dtype})"
            )
        if tensor.device != own.device:
            raise ValueError(
                f"{name} is on {tensor.device}, the parameters are on {own.device}; "
                "move one of them with .to(device)"
            )

    def stack(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """All layers: ``x (T, B, I)``, a state of ``(L, B, H)``; returns y and the final state."""
        finals: list[State] = []
        for layer in range(self.num_layers):
            x, final = self.any_layer(layer, x, tuple(s[layer] for s in state))
            finals.append(final)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def any_layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One layer, recurrent or not; the latter is the same for every implementation."""
        if self.recurrent[layer]:
            return self.layer(layer, x, state)
        weight, bias = self.parameters_of(layer)
        (y,) = CELLS[self.cell](F.linear(x, weight, bias), x.new_zeros(()), [])
        return y, (y[-1],)

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One recurrent layer: ``x (T, B, I or H)``, state of ``(B, H)``; returns y and its end."""
        raise NotImplementedError

    def recurrence(self, layer: int, gates_x: Tensor, state: State) -> tuple[Tensor, State]:
        """:meth:`layer` after its input product ``gates_x (T, B, G·H)``, where that is apart."""
        raise NotImplementedError

    @classmethod
    def predicted_microseconds(cls, request: Request) -> dict[str, float]:
        """Microseconds a step of :meth:`recurrence`, reckoned for an H100 or H200, by direction.

        Empty where nobody has reckoned, or where it does not fit there.
        """
        return {}

    @classmethod
    def tile_choices(cls, request: Request) -> TileChoices:
        """Ways to divide the work of its kernels, by name: what is used first, then what fits, too.

        A name begins with a direction, ``"backward 8x16"`` say. Within the context that its value
        makes kernels are launched like that. ``bench kernels --tiles`` times them. Empty where
        there is no choice.
        """
        return {}

    def parameters_of(self, layer: int) -> tuple[Tensor, ...]:
        """``weight_ih, weight_hh, bias_ih, bias_hh`` of ``layer``, as far as it has them."""
        return tuple(getattr(self, name) for name, _ in self._shapes(layer))

    def backend(self, y: Tensor) -> str:
        """What really computed ``y``, an output that still carries its autograd graph."""
        return f"ATen, {'CUDA' if y.is_cuda else 'CPU'}"

    def extra_repr(self) -> str:
        return f"{self.cell!r}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def graph_node_names(y: Tensor) -> set[str]:
    """The names of all backward nodes behind ``y``: evidence of which operators ran."""
    seen: set[object] = set()
    waiting = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return {node.name() for node in seen}  # type: ignore[attr-defined]
