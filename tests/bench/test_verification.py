"""A number is published only when it is right: planted bugs must be caught."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.verification import BOUNDS, bound_for, relative_error, verify, verify_replay
from deeprnn import implementations, language_model
from deeprnn.cells import CELLS
from deeprnn.minibatches import Minibatches
from deeprnn.stack import DeepRNN
from deeprnn.training import Trainer, _EagerSteps

BOUND = BOUNDS["ieee"]


class Planted(DeepRNN):
    """A plain loop with a hook for every kind of mistake."""

    mistake = ""

    def layer(self, layer, x, state):
        weight_ih, weight_hh, bias_ih, bias_hh = self.parameters_of(layer)
        now, outputs = list(state), []
        for t, x_t in enumerate(x):
            gates_h = F.linear(now[0], weight_hh, bias_hh)
            if self.mistake == "no gradient through time":
                gates_h = F.linear(now[0].detach(), weight_hh, bias_hh)
            if self.mistake == "forgets the bias":
                gates_h = F.linear(now[0], weight_hh)
            before = now
            if self.mistake == "missing forget-gate term in the backward pass" and t > 0:
                before = [now[0], _without_gradient(now[1])]
            now = CELLS[self.cell](F.linear(x_t, weight_ih, bias_ih), gates_h, before)
            outputs.append(now[0])
        y = torch.stack(outputs)
        if self.mistake == "last step too large":
            y = torch.cat([y[:-1], y[-1:] * 1.001])
        if self.mistake == "NaN in one place":
            y = y + torch.zeros_like(y).index_fill(0, torch.tensor([2]), math.nan)
        final = tuple(now)
        if self.mistake == "final state of the step before":
            final = (outputs[-2], *final[1:])
        return y, final


def _without_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach()


def check(mistake: str, cell: str = "lstm"):
    stack = Planted(cell, 5, 16, 2)
    stack.mistake = mistake
    return verify(stack, batch_size=3, num_steps=6, seed=1, bound=BOUND)


@pytest.mark.parametrize("cell", CELLS)
def test_the_right_one_passes(cell):
    outcome = check("", cell)
    assert outcome.passed
    assert 0 < outcome.error < BOUND


@pytest.mark.parametrize(
    ("mistake", "tensor"),
    [
        ("missing forget-gate term in the backward pass", "gradient of"),
        ("no gradient through time", "gradient of"),
        ("forgets the bias", ""),
        ("last step too large", ""),
        ("NaN in one place", ""),
        ("final state of the step before", ""),
    ],
)
def test_a_planted_bug_is_caught(mistake, tensor):
    outcome = check(mistake)
    assert not outcome.passed
    assert tensor in outcome.tensor
    assert "is off by" in str(outcome)


def test_a_bias_that_is_zero_at_first_is_not_zero_when_it_is_checked():
    stack = Planted("rnn_tanh", 5, 16, 2, initialization="normal")
    stack.mistake = "forgets the bias"
    assert not verify(stack, batch_size=3, num_steps=6, seed=1, bound=BOUND).passed


class OneForBoth(torch.autograd.Function):
    """Two biases, of which only the sum is used: one gradient, and both get the same tensor."""

    @staticmethod
    def forward(ctx, first, second):
        return first + second

    @staticmethod
    def backward(ctx, gradient):
        own = gradient.clone()
        return own.view(-1), own.view(-1)


def test_two_parameters_with_one_gradient_are_not_right():
    """Each is right as a number; clipping would scale what they share twice."""

    class Shares(DeepRNN):
        def layer(self, layer, x, state):
            weight_ih, weight_hh, bias_ih, bias_hh = self.parameters_of(layer)
            bias, h, outputs = OneForBoth.apply(bias_ih, bias_hh), state[0], []
            for x_t in x:
                h = torch.tanh(F.linear(x_t, weight_ih, bias) + F.linear(h, weight_hh))
                outputs.append(h)
            return torch.stack(outputs), (h,)

    outcome = verify(Shares("rnn_tanh", 5, 16, 1), 3, 6, seed=1, bound=BOUND)
    assert not outcome.passed
    assert str(outcome).startswith("gradient of bias_ih_l0, which is another's as well, is off")


class OfParametersAlone(torch.autograd.Function):
    """A gate's input whose gradient is doubled where the state needs none, as in training."""

    @staticmethod
    def forward(ctx, gates_h, h):
        return gates_h.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (1 if ctx.needs_input_grad[1] else 2), None


def test_a_gradient_that_is_wrong_only_as_training_asks_for_it_is_found():
    """What needs no gradient may be left out of a kernel, so that is a path of its own."""

    class LeavesOut(DeepRNN):
        def layer(self, layer, x, state):
            weight_ih, weight_hh, bias_ih, bias_hh = self.parameters_of(layer)
            h, outputs = state[0], []
            for x_t in x:
                gates_h = OfParametersAlone.apply(F.linear(h, weight_hh, bias_hh), state[0])
                h = torch.tanh(F.linear(x_t, weight_ih, bias_ih) + gates_h)
                outputs.append(h)
            return torch.stack(outputs), (h,)

    stack = LeavesOut("rnn_tanh", 5, 16, 1)
    outcome = verify(stack, 3, 6, seed=1, bound=BOUND)
    assert not outcome.passed
    assert ", asked for as in training, is off by" in str(outcome)
    assert all(parameter.grad is None for parameter in stack.parameters())
    stack.requires_grad_(False)  # nothing is trained, nothing to ask for
    assert verify(stack, 3, 6, seed=1, bound=BOUND).passed


def test_gradients_that_were_there_before_do_not_count():
    stack = Planted("gru", 5, 16, 2)
    for parameter in stack.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert verify(stack, batch_size=3, num_steps=6, seed=1, bound=BOUND).passed


@pytest.mark.parametrize("name", implementations.names())
def test_frozen_biases_and_layers_without_recurrence_are_checked_too(name):
    if name.startswith("torch_compile") or implementations.interpreted(name, "cpu"):
        size = {"batch_size": 2, "num_steps": 2}
    else:
        size = {"batch_size": 3, "num_steps": 6}
    stack = implementations.build(
        name, "rnn_tanh", 5, 16, 2, recurrent=(True, False), initialization="normal"
    )
    assert verify(stack, seed=1, bound=BOUND, **size).passed


def test_every_seed_draws_another_input():
    stack = implementations.build("python_loop", "gru", 5, 16)
    errors = {verify(stack, 3, 4, seed, BOUND).error for seed in range(4)}
    assert len(errors) > 1


def test_bounds_by_precision():
    for cell in ("rnn_tanh", "gru", "lstm"):
        assert bound_for("float32", "ieee", cell) == 1e-5
        assert bound_for("float32", "tf32", cell) == 1e-2
        assert bound_for("bfloat16", "ieee", cell) == 5e-2
        assert bound_for("float16", "ieee", cell) == 1e-2


@pytest.mark.parametrize("name", ["python_loop", "manual_gradient", "torch_nn"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_half_precision_passes_with_room_and_for_its_rounding_alone(name, dtype, cell):
    """float16 rounds 8 times as finely as bfloat16, and as finely as TF32: hence its bound."""
    stack = implementations.build(name, cell, 28, 64, 2).to(getattr(torch, dtype))
    outcome = verify(stack, 4, 12, seed=1, bound=bound_for(dtype, "ieee", cell))
    assert outcome.passed, str(outcome)
    assert 0.02 < outcome.error / outcome.bound < 0.5


@pytest.mark.parametrize("name", ["python_loop", "manual_gradient", "torch_nn"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_relu_that_rounds_has_other_gradients_whoever_computes_it(name, dtype):
    assert bound_for("float32", "ieee", "rnn_relu") == BOUND
    stack = implementations.build(name, "rnn_relu", 28, 64, 2).to(getattr(torch, dtype))
    bound = bound_for(dtype, "ieee", "rnn_relu")
    errors = [verify(stack, 4, 12, seed, bound).error for seed in range(5)]
    assert BOUNDS[dtype] < max(errors) < bound


def test_relative_error():
    reference = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), reference) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert math.isnan(relative_error(torch.tensor([math.nan, 4.0]), reference))
    assert math.isnan(relative_error(torch.zeros(3), reference))


class Replayed(_EagerSteps):
    """What a captured step could get wrong; on a GPU these would be addresses."""

    mistake = ""

    def run(self, x, y):
        if self.mistake == "always the first minibatch":
            self.first = getattr(self, "first", (x, y))
            x, y = self.first
        if self.mistake == "targets of the step before":
            y, self.old = getattr(self, "old", y), y
        super().run(x, y)
        if self.mistake == "state not carried":
            self.state = None
        if self.mistake == "weights not updated":
            with torch.no_grad():
                for parameter, value in zip(self.trainer.parameters, self.before, strict=True):
                    parameter.copy_(value)
        if self.mistake == "NaN":
            self.loss_sum += math.nan

    def start(self):
        super().start()
        if self.mistake == "weights not updated":
            self.before = [p.detach().clone() for p in self.trainer.parameters]
        if self.mistake == "loss not cleared":
            self.loss_sum += 0.1


def replay(mistake: str, cell: str = "gru", num_steps: int = 6, bound: float = BOUND):
    torch.manual_seed(0)
    model = language_model.build("torch_nn", cell, 9, 16, num_layers=2)
    tokens = torch.randint(9, (900,))
    minibatches = Minibatches(tokens, batch_size=4, num_steps=num_steps)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    replayed, eager = (Trainer(model, minibatches, learning_rate=1.0) for _ in range(2))
    replayed._runner = Replayed(replayed)
    replayed._runner.mistake = mistake
    outcome = verify_replay(replayed, eager, bound=bound)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    return outcome


@pytest.mark.parametrize("cell", CELLS)
def test_a_replay_that_does_what_eager_does_passes(cell):
    outcome = replay("", cell)
    assert outcome.passed
    assert outcome.error == 0


@pytest.mark.parametrize(
    "mistake",
    [
        "always the first minibatch",
        "targets of the step before",
        "state not carried",
        "weights not updated",
        "loss not cleared",
        "NaN",
    ],
)
def test_a_replay_that_does_something_else_is_found(mistake):
    outcome = replay(mistake)
    assert not outcome.passed
    assert "replayed" in str(outcome)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bound", sorted(set(BOUNDS.values())))
def test_a_lost_state_is_found_though_long_sequences_forget_it(cell, bound):
    """After 35 steps little is left of the first state: less than some bounds allow."""
    assert replay("", cell, 35, bound).passed
    assert not replay("state not carried", cell, 35, bound).passed
