"""The published recipe: cross-entropy, clipped gradients, plain SGD, state carried along the text.

Dive into Deep Learning, "Recurrent Neural Network Implementation from Scratch": the state is
carried, detached, from one minibatch to the next and set to zero at the start of an epoch; the
gradient's norm over all parameters is clipped at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.cells import STATES
from deeprnn.language_model import LanguageModel
from deeprnn.minibatches import Minibatches
from deeprnn.precision import get_matmul_precision

State = Tensor | tuple[Tensor, Tensor]

WARM_UP_STEPS = 11
"""Before a capture, in which nothing may be compiled: TorchScript compiles in four of them."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training did."""

    perplexity: float  # exp of the mean cross-entropy over the epoch, while the weights moved
    tokens: int  # predicted characters


class Trainer:
    """Trains ``model`` in place, an epoch at a time.

    Nothing inside an epoch waits for the device: the loss is summed there and read once at the
    end.

    Args:
        model: on the device of the minibatches.
        minibatches: what to train on.
        learning_rate: of SGD.
        max_gradient_norm: the gradient is scaled down to this norm when it is longer.
        execution: ``"eager"``, or ``"cuda_graph"``: the whole step is captured once and replayed.

    Raises:
        ValueError: an unknown execution, or a CUDA graph without a CUDA device.
    """

    def __init__(
        self,
        model: LanguageModel,
        minibatches: Minibatches,
        learning_rate: float,
        *,
        max_gradient_norm: float = 1.0,
        execution: str = "eager",
    ) -> None:
        if execution not in ("eager", "cuda_graph"):
            raise ValueError(f"execution {execution!r} is unknown; use eager or cuda_graph")
        self.model = model
        self.minibatches = minibatches
        self.max_gradient_norm = max_gradient_norm
        self.execution = execution
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.learning_rate = learning_rate
        # What backward() begins with; else it would be made anew in every step.
        self._one = torch.ones((), device=minibatches.tokens.device)
        self._runner: _EagerSteps | _GraphedSteps | None = None

    def epoch(self, index: int) -> Epoch:
        """Train on all minibatches of epoch ``index``, then wait for the device once."""
        self.model.train()
        steps = self.prepare()
        steps.start()
        batches = 0
        for x, y in self.minibatches.epoch(index):
            if self.minibatches.scheme != "sequential":
                steps.forget_state()
            steps.run(x, y)
            batches += 1
        tokens = batches * self.minibatches.num_steps * self.minibatches.batch_size
        return Epoch(_perplexity(steps.loss_sum.item() / batches), tokens)

    def prepare(self) -> _EagerSteps | _GraphedSteps:
        """Capture the CUDA graph, if that is how to run; the weights are left as they were.

        Captured anew where what a graph keeps has changed: the learning rate, the norm, the
        precision of products, where the parameters lie. Capturing resets PyTorch's peak-memory
        statistics: afterwards they tell what a step takes.

        Raises ValueError where a graph is asked for and there is no CUDA device.
        """
        if self._runner is None or self._runner.made_for != self._made_for():
            self._runner = None  # the memory of the one before goes first
            self._runner = (_EagerSteps if self.execution == "eager" else _GraphedSteps)(self)
        return self._runner

    def _made_for(self) -> tuple[object, ...]:
        """What a captured step does not look at again."""
        if self.execution == "eager":
            return ()
        settings = (self.learning_rate, self.max_gradient_norm, get_matmul_precision())
        return (*settings, *(parameter.data_ptr() for parameter in self.parameters))

    def forget_gradients(self) -> None:
        """Drop all gradients, so that the next step writes new ones instead of adding."""
        for parameter in self.parameters:
            parameter.grad = None

    def _step(self, x: Tensor, y: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One minibatch; returns its detached loss and the detached state after it."""
        self.forget_gradients()
        logits, state = self.model(x, state)  # (T, B, V)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        loss.backward(self._one)
        self._update()
        detached = (
            state.detach() if isinstance(state, Tensor) else (state[0].detach(), state[1].detach())
        )
        return loss.detach(), detached

    @torch.no_grad()
    def _update(self) -> None:
        """Clip and descend: ``g ← g / max(1, ‖g‖/θ)``, ``w ← w − η g``, over all parameters.

        Small kernels around it are much of a fast network's step, so these are few. torch.optim
        would also import the compiler first, a second a process; and its fused descent divides in
        double precision, which most GPUs have little of.
        """
        gradients = cast("list[Tensor]", [p.grad for p in self.parameters])
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_div_(gradients, (norm / self.max_gradient_norm).clamp(min=1))
        torch._foreach_add_(self.parameters, gradients, alpha=-self.learning_rate)


class _EagerSteps:
    """Minibatch after minibatch, each launched from Python."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.made_for = trainer._made_for()
        self.loss_sum = torch.zeros((), device=trainer.minibatches.tokens.device)
        self.state: State | None = None

    def start(self) -> None:
        self.loss_sum.zero_()
        self.forget_state()

    def forget_state(self) -> None:
        self.state = None

    def run(self, x: Tensor, y: Tensor) -> None:
        loss, self.state = self.trainer._step(x, y, self.state)
        self.loss_sum += loss


class _GraphedSteps:
    """The whole training step as one CUDA graph with fixed inputs, state and loss sum."""

    def __init__(self, trainer: Trainer) -> None:
        minibatches = trainer.minibatches
        device = minibatches.tokens.device
        _must_be_cuda(device)
        self.made_for = trainer._made_for()
        rnn = trainer.model.rnn
        shape = (rnn.num_layers, minibatches.batch_size, rnn.hidden_size)
        dtype = trainer.model.output.weight.dtype
        self.x = torch.zeros(
            (minibatches.num_steps, minibatches.batch_size), dtype=torch.long, device=device
        )
        self.y = torch.zeros_like(self.x)
        self.states = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(STATES[rnn.cell])
        ]
        self.loss_sum = torch.zeros((), device=device)

        def step() -> None:
            state = self.states[0] if len(self.states) == 1 else (self.states[0], self.states[1])
            loss, after = trainer._step(self.x, self.y, state)
            self.loss_sum += loss
            finals = (after,) if isinstance(after, Tensor) else after
            torch._foreach_copy_(self.states, finals)

        # Warming up trains for real, so the weights are put back before the capture.
        before = [parameter.detach().clone() for parameter in trainer.parameters]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        with torch.no_grad():
            for parameter, value in zip(trainer.parameters, before, strict=True):
                parameter.copy_(value)
        del before, value  # no part of what a step takes
        trainer.forget_gradients()
        self.graph = torch.cuda.CUDAGraph()
        # What a step takes is seen while it is captured: a replay allocates nothing, and what was
        # compiled before took memory of its own. On the stream of the warm-up, because cuBLAS keeps
        # a workspace for every stream that it has seen.
        torch.cuda.reset_peak_memory_stats(device)
        with torch.cuda.graph(self.graph, stream=stream):
            step()

    def start(self) -> None:
        self.loss_sum.zero_()
        self.forget_state()

    def forget_state(self) -> None:
        for buffer in self.states:
            buffer.zero_()

    def run(self, x: Tensor, y: Tensor) -> None:
        torch._foreach_copy_([self.x, self.y], [x, y])
        self.graph.replay()


def _must_be_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a CUDA device; the text is on {device}")


@torch.no_grad()
def evaluate(model: LanguageModel, minibatches: Minibatches, index: int = 0) -> float:
    """The perplexity of ``model`` over epoch ``index`` of ``minibatches``, the weights at rest."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), device=minibatches.tokens.device)
    batches = 0
    state: State | None = None
    for x, y in minibatches.epoch(index):
        logits, after = model(x, state)
        total += F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        state = after if minibatches.scheme == "sequential" else None
        batches += 1
    model.train(was_training)
    return _perplexity(total.item() / batches)


def train(
    model: LanguageModel,
    minibatches: Minibatches,
    epochs: int,
    learning_rate: float,
    on_epoch: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train for ``epochs`` and return the training perplexity of each.

    ``on_epoch(epoch, perplexity)`` is called after each, counting from 1.
    """
    trainer = Trainer(model, minibatches, learning_rate)
    perplexities = []
    for index in range(epochs):
        perplexities.append(trainer.epoch(index).perplexity)
        if on_epoch is not None:
            on_epoch(index + 1, perplexities[-1])
    return perplexities


def _perplexity(mean_cross_entropy: float) -> float:
    try:
        return math.exp(mean_cross_entropy)
    except OverflowError:  # exp(710) does not fit a float; the run has diverged
        return math.inf
