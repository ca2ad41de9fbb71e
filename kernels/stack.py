"""A stack of layers as one differentiable function: `kernels/wavefront.py` for other code to call.

    gates_x = x @ W_ih0.T                                    (T, B, G·H), of the first layer
    y, state = wavefront_stack("lstm", gates_x, parameters, (h, c))

What lies inside time is one launch each way, for all layers. (One layer alone has nothing to
overlap and goes to `kernels/sequence.py`.) Weight and bias gradients are one
product a layer and weight over all T·B rows after it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from kernels import chips, tiling, wavefront
from kernels.cells import GATES, SAVED
from kernels.derivative import gradient_by_hand
from kernels.function import (
    accumulator,
    aligned,
    check_alike,
    check_layer,
    dataflow_layer,
    of_states,
    own_gradients,
    sequence_layer,
)

State = Tensor | tuple[Tensor, Tensor]
Of = TypeVar("Of")


def wavefront_stack(cell: str, gates_x: Tensor, parameters: Sequence[Tensor], state: State, *,
                    input_precision: str = "ieee",
                    marked: bool = False) -> tuple[Tensor, State]:  # fmt: skip
    """L recurrent layers over a sequence, one kernel launch each way.

    cell             "rnn_tanh", "rnn_relu", "gru" or "lstm"
    gates_x          (T, B, G·H): x·W_ihᵀ of the first layer, gates ordered as in `torch.nn`
    parameters       weight_hh (G·H, H), bias_ih and bias_hh (G·H,) of the first layer, then for
                     each other layer weight_ih (G·H, H), weight_hh (G·H, H), bias_ih and bias_hh
    state            h (L, B, H); for an LSTM (h, c), both (L, B, H)
    input_precision  of the products in float32: "ieee" or "tf32"
    marked           programs wait for rows (`kernels/marks.py`) instead of counting arrivals

    Returns y (T, B, H) of the last layer and the final state, shaped as `state`. Differentiable in
    every tensor. y is a view of a buffer that the backward pass reads: do not modify it in place.

    Raises ValueError for an unknown cell or precision, for shapes that do not fit, and where the
    stack does not fit on the chip (`why_no_wavefront` tells before); TypeError for types.
    """
    if len(parameters) % 4 != 3:
        raise ValueError(f"parameters must be 3 + 4·(L − 1) tensors; got {len(parameters)}")
    L = (len(parameters) + 1) // 4
    states = tuple(state) if isinstance(state, tuple | list) else (state,)
    if any(tensor.dim() != 3 or tensor.shape[0] != L for tensor in states):
        shapes = [tuple(tensor.shape) for tensor in states]
        raise ValueError(f"the state of {L} layers must be ({L}, B, H); got {shapes}")
    for layer in range(L):
        own = tuple(tensor[layer] for tensor in states)
        weight_hh, bias_ih, bias_hh = _of_layer(parameters, layer)[-3:]
        of_layer = own[0] if len(own) == 1 else cast(State, own)  # of two or more, as it was given
        check_layer(cell, gates_x, weight_hh, bias_hh, of_layer, input_precision)
        check_alike(f"bias_ih of layer {layer}", bias_ih, bias_hh)
        if layer:
            weight_ih = _of_layer(parameters, layer)[0]
            check_alike(f"weight_ih of layer {layer}", weight_ih, weight_hh)
    if L == 1:  # nothing to overlap: the kernel of one layer, which has one set of weights
        alone = dataflow_layer if marked else sequence_layer
        y, last = alone(
            cell, gates_x + bias_ih, weight_hh, bias_hh, of_layer, input_precision=input_precision
        )
        if isinstance(last, tuple):
            return y, (last[0].unsqueeze(0), last[1].unsqueeze(0))
        return y, last.unsqueeze(0)
    inputs = (gates_x, *states, *parameters)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    y, *final = _Stack.apply(cell, input_precision, marked, save, len(states), *inputs)
    return y, (final[0], final[1]) if len(final) == 2 else final[0]


def why_no_wavefront(cell: str, B: int, H: int, L: int, dtype: torch.dtype, input_precision: str,
                     device: torch.device, *, marked: bool = False) -> str | None:  # fmt: skip
    """Why `wavefront_stack` cannot run on `device`, in one line; None if it can.

    With counters, or with `marked` rows.
    """
    chip = chips.chip_of(device)
    found = tiling.sequence_tiles(B, H, GATES[cell], dtype, input_precision, chip, L, marked)
    return found if isinstance(found, str) else None


def takes_marks(cell: str, B: int, H: int, L: int, dtype: torch.dtype, input_precision: str,
                device: torch.device) -> bool:  # fmt: skip
    """Whether `wavefront_stack` can run with marked rows there, which is how it is to be run.

    Within `counting` it cannot.
    """
    layers = (cell, B, H, L, dtype, input_precision, device)
    return not _COUNTING and why_no_wavefront(*layers, marked=True) is None


_COUNTING: list[bool] = []


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """Within the block stacks count arrivals, also where rows could be marked, to be compared."""
    _COUNTING.append(True)
    try:
        yield
    finally:
        _COUNTING.pop()


def _of_layer(parameters: Sequence[Of], layer: int) -> Sequence[Of]:
    """weight_ih, weight_hh, bias_ih, bias_hh of a layer; of the first all but weight_ih."""
    return parameters[max(0, 4 * layer - 1) : 4 * layer + 3]


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.stack`, without a copy of one alone."""
    return tensors[0].contiguous().unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


class _Stack(torch.autograd.Function):
    """Allocates buffers, drives the two launches, sums over time."""

    @staticmethod
    def forward(ctx: Any, cell: str, input_precision: str, marked: bool, save: bool,
                num_states: int, gates_x: Tensor,
                *others: Tensor) -> tuple[Tensor, ...]:  # fmt: skip
        states, parameters = others[:num_states], others[num_states:]
        L, B, H = states[0].shape
        T = gates_x.shape[0]
        gates_x = gates_x.contiguous()
        weight_hh = torch.stack(parameters[0::4])
        biases = torch.stack([*parameters[1::4], *parameters[2::4]])  # one copy for all
        weight_ih, bias_ih, bias_hh = stacked(parameters[3::4]), biases[:L], biases[L:]
        first = [aligned(state) for state in states]
        last = [torch.empty_like(state) for state in first]
        hs = gates_x.new_empty(L, T + 1, B, H)  # slot 0 is the initial state
        cs = saved = hs  # a pointer for every argument, touched or not
        if cell == "lstm":
            cs = gates_x.new_empty(L, T + 1, B, H, dtype=accumulator(gates_x.dtype))
        if save and SAVED[cell]:
            saved = gates_x.new_empty(L, T, B, SAVED[cell] * H)
        wavefront.forward(
            cell, gates_x, weight_ih, weight_hh, bias_ih, bias_hh, first, last, hs, cs, saved,
            save=save, input_precision=input_precision, marked=marked,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        if save:
            ctx.save_for_backward(weight_ih, weight_hh, hs, cs, saved)
            ctx.cell, ctx.input_precision, ctx.marked = cell, input_precision, marked
            ctx.state_dtypes = [state.dtype for state in states]
        return hs[-1, 1:], *last

    @staticmethod
    @gradient_by_hand
    def backward(
        ctx: Any, grad_y: Tensor | None, *grad_states: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        weight_ih, weight_hh, hs, cs, saved = ctx.saved_tensors
        L, slots, B, H = hs.shape
        T, wide = slots - 1, weight_hh.shape[1]
        if grad_y is None:
            grad_y = hs.new_zeros(T, B, H)
        # Only a GRU's reset gate makes the product's gradient differ from the input's. In one
        # buffer the two are what a batch of two products takes.
        dgates = hs.new_empty(2 if ctx.cell == "gru" else 1, L, T, B, wide)
        dstates = own_gradients(grad_states, (L, B, H), hs)
        first, num_states = 6, len(dstates)  # of forward's arguments
        needs_states = ctx.needs_input_grad[first : first + num_states]
        wavefront.backward(
            ctx.cell, grad_y.contiguous(), weight_ih, weight_hh, hs, cs, saved, dgates,
            dstates[0], dstates[-1], initial=any(needs_states),
            input_precision=ctx.input_precision, marked=ctx.marked,
        )  # fmt: skip
        grads = _of_parameters(
            dgates.view(-1, L, T * B, wide), hs, ctx.needs_input_grad[first + num_states :]
        )
        to_states = of_states(dstates, needs_states, ctx.state_dtypes)
        return None, None, None, None, None, dgates[0, 0], *to_states, *grads


def _of_parameters(dgates: Tensor, hs: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of `wavefront_stack`'s parameters, where needed: sums over all T·B rows.

    dgates  (2, L, T·B, G·H): of the input's part of the gates and of the product; one if they are
            the same
    hs      (L, T+1, B, H), the initial state in slot 0
    needed  of weight_hh, bias_ih, bias_hh of the first layer, then of weight_ih, weight_hh,
            bias_ih, bias_hh of each other

    The biases' sums are made once for all layers, since each takes longer to begin than to do; and
    the two weights of a layer, whose inputs are neighbours in `hs`, are one product of two.
    """
    _, L, rows, _ = dgates.shape
    H = hs.shape[-1]
    needs_x, needs_p = any(needed[1::4]), any(needed[2::4])  # some bias_ih, some bias_hh
    sums = dgates.sum(2) if needs_x or needs_p else None  # torch sums bfloat16 in float32
    sums_x = None if sums is None else sums[0]
    sums_p = None if sums is None else sums[-1]
    if sums_x is not None and needs_x and needs_p and len(dgates) == 1:
        sums_x = sums_x.clone()  # one number, but two gradients: clipping scales each where it lies

    def of_biases(layer: int, is_needed: Sequence[bool]) -> Iterator[Tensor | None]:
        for sum_of, is_on in zip((sums_x, sums_p), is_needed, strict=True):
            yield None if sum_of is None or not is_on else sum_of[layer]

    before = hs[0, :-1].reshape(rows, H)
    grads = [dgates[-1, 0].T @ before if needed[0] else None, *of_biases(0, needed[1:3])]
    for layer in range(1, L):
        weight_ih, weight_hh, *biases = _of_layer(needed, layer)
        if weight_ih or weight_hh:
            # What the layer below gave, steps 1 to T, ends where this one's steps 0 to T − 1 begin.
            below = hs[layer - 1, 1:]
            inputs = hs.as_strided((2, rows, H), (rows * H, H, 1), below.storage_offset())
            of_both = dgates[:, layer].expand(2, -1, -1).transpose(1, 2) @ inputs
        grads.append(of_both[0] if weight_ih else None)
        grads.append(of_both[1] if weight_hh else None)
        grads += of_biases(layer, biases)
    return grads
