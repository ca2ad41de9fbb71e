"""The kernels as differentiable functions: what other packages call.

    gates_x = x @ W_ih.T + b_ih                                      (T, B, G·H), one matrix product
    y, state = step_layer("lstm", gates_x, W_hh, b_hh, (h, c))       y (T, B, H)

Autograd takes care of the input product; what is here handles time. Weight and bias gradients are
one product over all T·B rows after the loop, in torch, at the precision that
`torch.backends.cuda.matmul` is set to.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels import chips, dataflow, sequence, step, tiling
from kernels.cells import GATES, SAVED
from kernels.derivative import gradient_by_hand

State = Tensor | tuple[Tensor, Tensor]

PRECISIONS = ("ieee", "tf32")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def step_layer(cell: str, gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State, *,
               input_precision: str = "ieee") -> tuple[Tensor, State]:  # fmt: skip
    """One recurrent layer over a sequence, one kernel launch a time step.

    cell             "rnn_tanh", "rnn_relu", "gru" or "lstm"
    gates_x          (T, B, G·H): x·W_ihᵀ + b_ih, gates ordered as in `torch.nn`
    weight_hh        (G·H, H)
    bias_hh          (G·H,)
    state            h (B, H); for an LSTM (h, c), both (B, H)
    input_precision  of the recurrent product in float32: "ieee" or "tf32"

    Returns y (T, B, H) and the final state, shaped as `state`. Differentiable in every tensor.
    In bfloat16 and float16, products accumulate in float32 and c is kept in float32; y and the
    saved gates are rounded. float64 is for checking gradients in the interpreter.

    y is a view of a buffer that the backward pass reads: do not modify it in place.

    Raises ValueError for an unknown cell or precision and for shapes that do not fit, TypeError for
    types that do not match or are not supported.
    """
    return _layer(step, cell, gates_x, weight_hh, bias_hh, state, input_precision)


def sequence_layer(cell: str, gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State, *,
                   input_precision: str = "ieee") -> tuple[Tensor, State]:  # fmt: skip
    """`step_layer` with one kernel launch for the whole sequence: same arguments, same results.

    Raises ValueError also where the layer does not fit on the chip; `why_no_sequence` tells before.
    """
    return _layer(sequence, cell, gates_x, weight_hh, bias_hh, state, input_precision)


def dataflow_layer(cell: str, gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State, *,
                   input_precision: str = "ieee") -> tuple[Tensor, State]:  # fmt: skip
    """`sequence_layer` without a barrier between its steps: same arguments, same results.

    Raises ValueError also where the layer does not fit on the chip; `why_no_sequence` tells before.
    """
    return _layer(dataflow, cell, gates_x, weight_hh, bias_hh, state, input_precision)


def why_no_sequence(cell: str, B: int, H: int, dtype: torch.dtype, input_precision: str,
                    device: torch.device, *, marked: bool = False) -> str | None:  # fmt: skip
    """Why `sequence_layer` cannot run a layer on `device`, in one line; None if it can.

    With `marked`: why `dataflow_layer` cannot.
    """
    chip = chips.chip_of(device)
    found = tiling.sequence_tiles(B, H, GATES[cell], dtype, input_precision, chip, marked=marked)
    return found if isinstance(found, str) else None


def _layer(kernels: ModuleType, cell: str, gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor,
           state: State, input_precision: str) -> tuple[Tensor, State]:  # fmt: skip
    h, c = check_layer(cell, gates_x, weight_hh, bias_hh, state, input_precision)
    inputs = (gates_x, weight_hh, bias_hh, h) + (() if c is None else (c,))
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    results = _Layer.apply(kernels, cell, input_precision, save, *inputs)
    if c is None:
        return results[0], results[1]
    return results[0], (results[1], results[2])


def check_layer(cell: str, gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State,
           input_precision: str) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Compare every argument with what `step_layer` promises; return h and c."""
    if cell not in GATES:
        raise ValueError(f"cell must be one of {', '.join(GATES)}; got {cell!r}")
    if input_precision not in PRECISIONS:
        raise ValueError(f"input_precision must be one of {PRECISIONS}; got {input_precision!r}")
    if cell == "lstm":
        if not (isinstance(state, tuple | list) and len(state) == 2):
            raise ValueError(f"the state of an lstm is a pair (h, c); got {type(state).__name__}")
        h, c = state
        if not (isinstance(h, Tensor) and isinstance(c, Tensor)):
            kinds = f"({type(h).__name__}, {type(c).__name__})"
            raise ValueError(f"the state of an lstm is a pair (h, c) of tensors; got {kinds}")
    else:
        if not isinstance(state, Tensor):
            raise ValueError(f"the state of a {cell} is a tensor; got {type(state).__name__}")
        h, c = state, None
    if gates_x.dim() != 3:
        raise ValueError(f"gates_x must be (T, B, G·H); got shape {tuple(gates_x.shape)}")
    T, B, wide = gates_x.shape
    G = GATES[cell]
    H = wide // G
    if T < 1 or B < 1 or H < 1 or wide != G * H:
        raise ValueError(
            f"gates_x must be (T, B, {G}·H) with T, B, H >= 1 for {cell}; "
            f"got {tuple(gates_x.shape)}"
        )
    shapes = {"weight_hh": (weight_hh, (wide, H)), "bias_hh": (bias_hh, (wide,)), "h": (h, (B, H))}
    if c is not None:
        shapes["c"] = (c, (B, H))
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
        if tensor.device != gates_x.device:
            raise ValueError(f"{name} is on {tensor.device} but gates_x on {gates_x.device}")
        may_differ = name == "c" and tensor.dtype == torch.float32
        if tensor.dtype != gates_x.dtype and not may_differ:
            raise TypeError(f"{name} is {tensor.dtype} but gates_x is {gates_x.dtype}")
    if gates_x.dtype not in DTYPES:
        raise TypeError(f"dtype must be one of {DTYPES}; got {gates_x.dtype}")
    if gates_x.dtype == torch.float64 and not chips.INTERPRETED:
        raise TypeError("float64 runs in Triton's interpreter only; got float64 on a device")
    if not chips.INTERPRETED and not gates_x.is_cuda:
        raise ValueError(f"{chips.NEEDS_GPU}; got {gates_x.device}")
    return h, c


def check_alike(name: str, tensor: Tensor, other: Tensor) -> None:
    """Raises ValueError for another shape or device than `other`'s, TypeError for another dtype."""
    if tensor.shape != other.shape:
        raise ValueError(f"{name} must have shape {tuple(other.shape)}; got {tuple(tensor.shape)}")
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} but its layer on {other.device}")
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} is {tensor.dtype} but its layer {other.dtype}")


class _Layer(torch.autograd.Function):
    """Allocates buffers, drives the launches of `kernels` (step or sequence), sums over time."""

    @staticmethod
    def forward(ctx: Any, kernels: ModuleType, cell: str, input_precision: str, save: bool,
                gates_x: Tensor, weight_hh: Tensor, bias_hh: Tensor, h: Tensor,
                c: Tensor | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        T, B = gates_x.shape[:2]
        H = weight_hh.shape[1]
        gates_x, weight_hh = gates_x.contiguous(), weight_hh.contiguous()
        first = [aligned(state) for state in (h, c) if state is not None]
        last = [torch.empty_like(state) for state in first]  # outlives the sequence, alone
        hs = gates_x.new_empty(T + 1, B, H)  # slot 0 is the initial state
        # Kernels need a pointer for every argument; a cell without c or saved values gets hs,
        # which it never touches.
        cs = saved = hs
        if c is not None:
            cs = gates_x.new_empty(T + 1, B, H, dtype=accumulator(gates_x.dtype))
        if save and SAVED[cell]:
            saved = gates_x.new_empty(T, B, SAVED[cell] * H)
        kernels.forward(cell, gates_x, weight_hh, bias_hh.contiguous(), first, last, hs, cs, saved,
                        save=save, input_precision=input_precision)  # fmt: skip
        ctx.set_materialize_grads(False)  # training drops the final state: zeros would be copied
        if save:
            ctx.save_for_backward(weight_hh, hs, cs, saved)
            ctx.kernels, ctx.cell, ctx.input_precision = kernels, cell, input_precision
            ctx.state_dtypes = [state.dtype for state in first]
        return hs[1:], *last

    @staticmethod
    @gradient_by_hand
    def backward(ctx: Any, grad_y: Tensor | None,
                 *grad_states: Tensor | None) -> tuple[Tensor | None, ...]:  # fmt: skip
        weight_hh, hs, cs, saved = ctx.saved_tensors
        slots, B, H = hs.shape
        T, wide = slots - 1, weight_hh.shape[0]
        if grad_y is None:
            grad_y = hs.new_zeros(T, B, H)
        dgates_x = hs.new_empty(T, B, wide)
        # Only a GRU's reset gate makes the product's gradient differ from the input's.
        dgates_p = torch.empty_like(dgates_x) if ctx.cell == "gru" else dgates_x
        dstates = own_gradients(grad_states, (B, H), hs)
        # Training begins from a state that needs none: its gradient is a step more in the chain.
        needs_states = ctx.needs_input_grad[7:]
        ctx.kernels.backward(
            ctx.cell, grad_y.contiguous(), weight_hh, hs, cs, saved, dgates_x, dgates_p,
            dstates[0], dstates[-1], initial=any(needs_states), input_precision=ctx.input_precision,
        )  # fmt: skip
        rows = dgates_p.view(T * B, wide)
        dweight = dbias = None
        if ctx.needs_input_grad[5]:
            dweight = rows.T @ hs[:T].reshape(T * B, H)
        if ctx.needs_input_grad[6]:
            dbias = rows.sum(0)  # torch sums bfloat16 in float32
        to_states = of_states(dstates, needs_states, ctx.state_dtypes)
        return None, None, None, None, dgates_x, dweight, dbias, *to_states


def own_gradients(given: Sequence[Tensor | None], shape: tuple[int, ...],
                  like: Tensor) -> Sequence[Tensor]:  # fmt: skip
    """Gradients of the final states as buffers that a kernel may write to, zeros where none came.

    Each of `shape`, on the device of `like`, in the type that sums of its type are kept in.
    """
    kind = accumulator(like.dtype)
    if all(gradient is None for gradient in given):
        return like.new_zeros((len(given), *shape), dtype=kind).unbind()  # one fill for all
    return [
        like.new_zeros(shape, dtype=kind)
        if gradient is None
        else gradient.to(kind, copy=True, memory_format=torch.contiguous_format)
        for gradient in given
    ]


def of_states(gradients: Sequence[Tensor], needed: Sequence[bool],
              dtypes: Sequence[torch.dtype]) -> list[Tensor | None]:  # fmt: skip
    """The initial states' gradients as autograd wants them: where needed, in the states' types."""
    return [
        gradient.to(dtype) if is_needed else None
        for gradient, is_needed, dtype in zip(gradients, needed, dtypes, strict=True)
    ]


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, contiguous and at an address of 16 bytes; a copy where it is not.

    Rows with marks come in vectors that must lie at such addresses, the initial state among them,
    and a view may begin anywhere. What torch allocates is aligned.
    """
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and c are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
