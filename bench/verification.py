"""Is it the same function? Outputs and every gradient against torch.nn in float64 on the CPU.

What is captured is checked once more: a graph replays whatever addresses it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from deeprnn import implementations
from deeprnn.stack import DeepRNN
from deeprnn.training import Trainer

BOUNDS = {"ieee": 1e-5, "tf32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest relative error ‖a − r‖ / ‖r‖ allowed, by precision. The loose ones exist for rounding."""

LOOSE_RELU = 0.2
"""Instead of the loose bounds where the cell is a ReLU: a sum that rounds to the other side of zero
has another gradient, whoever computes it. PyTorch's own operations, their operands rounded to TF32
or all values to half precision, are off by up to 10 % at the sizes of the tests."""

REPLAY_BOUND = 1e-3
"""A replay may differ from eager by rounding, which training then magnifies. A graph that goes
wrong misses a minibatch or a state, and that is never small."""

REPLAYED_STEPS = 3
"""The first state is zero, and only the second step says whether it was carried on."""


@dataclass(frozen=True)
class Verification:
    """The largest relative error over all compared tensors, and which tensor had it."""

    error: float
    tensor: str
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound  # False for NaN

    def __str__(self) -> str:
        return f"{self.tensor} is off by {self.error:.2g}, and {self.bound:.0e} is allowed"


def bound_for(dtype: str, matmul_precision: str, cell: str) -> float:
    """The bound for a workload's precision; float64 is held to float32's."""
    bound = BOUNDS.get(dtype, BOUNDS[matmul_precision])
    return LOOSE_RELU if cell == "rnn_relu" and bound > BOUNDS["ieee"] else bound


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """``‖a − r‖ / ‖r‖`` in float64, of tensors of one shape; ``‖a‖`` where the reference is 0.

    NaN anywhere, or another shape, gives NaN, which never passes.
    """
    if actual.shape != reference.shape:
        return math.nan
    actual, reference = actual.detach().double().cpu(), reference.detach().double().cpu()
    difference, norm = (actual - reference).norm().item(), reference.norm().item()
    return difference / norm if norm > 0 else difference


def verify(
    stack: DeepRNN, batch_size: int, num_steps: int, seed: int, bound: float
) -> Verification:
    """Compare ``stack`` with the reference on fresh random input with a non-zero initial state.

    Compared are the output, the final state, and the gradients of the input, the initial state
    and every parameter that is trained, each of which must have memory of its own: clipping and
    accumulation change them where they lie. Then once more as training asks, for the parameters'
    gradients alone, which may take another path. The parameters of ``stack`` are overwritten with
    fresh ones; its device and dtype stay.

    Args:
        stack: what is checked.
        batch_size, num_steps: ``B`` and ``T`` of the random input.
        seed: draws weights and input.
        bound: the largest relative error that passes.

    Returns the largest error found, and where. The gradients of ``stack`` are lost.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale = 1 / math.sqrt(stack.hidden_size)
    weight = next(stack.parameters())
    with torch.no_grad():
        for parameter in stack.parameters():
            fresh = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((2 * fresh - 1) * scale)
    reference = implementations.build(
        implementations.REFERENCE,
        stack.cell,
        stack.input_size,
        stack.hidden_size,
        stack.num_layers,
        recurrent=stack.recurrent,
        dtype=torch.float64,
    )
    # The reference starts from the rounded weights and inputs: rounding them is not an error.
    reference.load_state_dict({k: v.double().cpu() for k, v in stack.state_dict().items()})
    for own, other in zip(stack.parameters(), reference.parameters(), strict=True):
        other.requires_grad_(own.requires_grad)

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(weight.device, weight.dtype)

    state_shape = (stack.num_layers, batch_size, stack.hidden_size)
    count = 2 if stack.cell == "lstm" else 1
    inputs = [rounded(normal(num_steps, batch_size, stack.input_size))]
    inputs += [rounded(0.5 * normal(*state_shape)) for _ in range(count)]
    upstream = [rounded(normal(num_steps, batch_size, stack.hidden_size))]
    upstream += [rounded(normal(*state_shape)) for _ in range(count)]

    expected = _outputs_and_gradients(reference, inputs, upstream, lambda t: t.double().cpu())

    def found(is_training: bool) -> tuple[float, str]:
        actual = _outputs_and_gradients(stack, inputs, upstream, lambda t: t, is_training)
        asked = ", asked for as in training," if is_training else ""
        if sharing := _sharing(stack):
            return math.inf, f"gradient of {sharing}, which is another's as well,{asked}"
        error, tensor = _worst(actual, {name: expected[name] for name in actual})
        return error, tensor + asked

    is_trained = any(parameter.requires_grad for parameter in stack.parameters())
    ways = [False, True] if is_trained else [False]
    return Verification(*max(map(found, ways), key=_badness), bound)


def _sharing(stack: DeepRNN) -> str:
    """A parameter whose gradient lies where another's does, or nothing; drops all gradients."""
    gradients = {n: p.grad for n, p in stack.named_parameters() if p.grad is not None}
    for number, gradient in enumerate(gradients.values()):
        gradient.fill_(number)
    shared = [
        name
        for number, (name, gradient) in enumerate(gradients.items())
        if (gradient != gradient.new_tensor(number)).any()  # as the type rounds it
    ]
    stack.zero_grad(set_to_none=True)
    return shared[0] if shared else ""


def verify_replay(replayed: Trainer, eager: Trainer, bound: float) -> Verification:
    """Compare a captured training step with the eager one, over a few minibatches.

    Compared are the loss and how the weights changed. Both train the same model, whose parameters
    are put back to what they were.

    Args:
        replayed: trains with the captured step.
        eager: trains the same model on the same minibatches, step by step.
        bound: the largest relative error that the model itself is allowed; :data:`REPLAY_BOUND` if
            that is larger.
    """
    actual, expected = (_few_steps(trainer) for trainer in (replayed, eager))
    error, tensor = _worst(actual, expected)
    allowed = max(bound, REPLAY_BOUND)
    # The first state is all but forgotten after T steps: what losing it does must not pass either.
    lost, _ = _worst(_few_steps(eager, is_forgetful=True), expected)
    if lost > 0:
        allowed = min(allowed, lost / 2)
    return Verification(error, f"{tensor}, replayed,", allowed)


def _worst(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative error, and whose it is."""
    found = [(relative_error(actual[name], expected[name]), name) for name in expected]
    return max(found, key=_badness)


def _badness(found: tuple[float, str]) -> float:
    """An error to compare by: NaN is the worst of all, whatever the order in which it comes."""
    return math.inf if math.isnan(found[0]) else found[0]


def _few_steps(trainer: Trainer, is_forgetful: bool = False) -> dict[str, Tensor]:
    """The loss of a few steps, and by how much all parameters together moved."""
    parameters = trainer.parameters
    before = [parameter.detach().clone() for parameter in parameters]
    steps = trainer.prepare()
    steps.start()
    for x, y in islice(trainer.minibatches.epoch(0), REPLAYED_STEPS):
        if is_forgetful or trainer.minibatches.scheme != "sequential":
            steps.forget_state()
        steps.run(x, y)
    with torch.no_grad():
        moved = []
        for parameter, value in zip(parameters, before, strict=True):
            moved.append((parameter.double() - value.double()).flatten())
            parameter.copy_(value)
    return {"the loss": steps.loss_sum.clone(), "the change of the weights": torch.cat(moved)}


def _outputs_and_gradients(
    stack: DeepRNN,
    inputs: list[Tensor],
    upstream: list[Tensor],
    convert: Callable[[Tensor], Tensor],
    is_training: bool = False,
) -> dict[str, Tensor]:
    """By name. In training neither the input nor the initial state needs a gradient."""
    leaves = [convert(t).detach().clone().requires_grad_(not is_training) for t in inputs]
    state = leaves[1] if len(leaves) == 2 else (leaves[1], leaves[2])
    stack.train()
    stack.zero_grad(set_to_none=True)
    y, final = stack(leaves[0], state)
    finals = (final,) if isinstance(final, Tensor) else final
    torch.autograd.backward([y, *finals], [convert(tensor) for tensor in upstream])
    results = {"output": y, **{f"final {n}": t for n, t in zip("hc", finals, strict=False)}}
    names = ["the input", *(f"initial {n}" for n in "hc")]
    for name, leaf in zip(names, leaves, strict=False):
        if leaf.requires_grad:
            results[f"gradient of {name}"] = _gradient(leaf)
    for name, parameter in stack.named_parameters():
        if parameter.requires_grad:
            results[f"gradient of {name}"] = _gradient(parameter)
    return {name: tensor.detach().clone() for name, tensor in results.items()}


def _gradient(tensor: Tensor) -> Tensor:
    """The gradient; NaN where none arrived, so that a forgotten one is an error."""
    return torch.full_like(tensor, math.nan) if tensor.grad is None else tensor.grad
