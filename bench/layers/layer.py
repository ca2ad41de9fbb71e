"""One recurrent layer, built, checked and ready to be timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench import measurement, verification
from deeprnn import implementations
from deeprnn.support import Request

SEED = 1


@dataclass(frozen=True)
class Spec:
    """Which layer: as wide inside as its input, like any but the first of a stack."""

    implementation: str
    cell: str
    hidden_size: int
    batch_size: int
    num_steps: int
    device: str
    interpreted: bool
    dtype: str = "float32"

    def __str__(self) -> str:
        sizes = f"H{self.hidden_size}-B{self.batch_size}-T{self.num_steps}"
        return f"{self.cell}-{sizes}-{self.implementation}"

    @property
    def work(self) -> str:
        """What implementations of the same work share: they are compared with each other."""
        return str(self).removesuffix(f"-{self.implementation}")

    def refusal(self) -> str | None:
        """Why it cannot run here, in one line, or None."""
        request = Request(
            cell=self.cell,
            device=self.device,
            dtype=self.dtype,
            input_size=self.hidden_size,
            hidden_size=self.hidden_size,
            batch_size=self.batch_size,
            num_steps=self.num_steps,
        )
        return implementations.why_unsupported(self.implementation, request)


class Incorrect(Exception):
    """A layer that computes something else, whose speed is therefore of no interest."""


class Layer:
    """A layer with fixed weights and inputs, from a state that is not zero.

    Raises:
        Incorrect: its output or a gradient is not that of ``torch.nn`` in float64.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        device, dtype = torch.device(spec.device), getattr(torch, spec.dtype)
        self.stack = implementations.build(
            spec.implementation, spec.cell, spec.hidden_size, spec.hidden_size
        ).to(device, dtype)
        self._check()
        generator = torch.Generator().manual_seed(SEED)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        sequence = (spec.num_steps, spec.batch_size, spec.hidden_size)
        self.x = normal(*sequence).requires_grad_()
        self.upstream = normal(*sequence)
        states = [0.5 * normal(1, *sequence[1:]) for _ in range(2 if spec.cell == "lstm" else 1)]
        self.state = (states[0], states[1]) if len(states) == 2 else states[0]
        self.leaves = [self.x, *self.stack.parameters()]

    def _check(self) -> None:
        """Hold it to the bound. The check also compiles, for the very shapes that are timed."""
        spec = self.spec
        bound = verification.bound_for(spec.dtype, "ieee", spec.cell)
        outcome = verification.verify(self.stack, spec.batch_size, spec.num_steps, SEED, bound)
        if not outcome.passed:
            raise Incorrect(f"not timed, for it is wrong: {outcome}")

    def forward(self) -> None:
        """The forward pass as training runs it: what the backward pass needs is kept."""
        self.stack(self.x, self.state)
        measurement.synchronize(self.x.device)

    def forward_backward(self) -> None:
        """Forward, then the gradients of the input and of every parameter."""
        y, _ = self.stack(self.x, self.state)
        torch.autograd.grad(y, self.leaves, self.upstream)
        measurement.synchronize(self.x.device)
