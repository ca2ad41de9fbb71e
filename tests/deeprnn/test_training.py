"""The published recipe: what an epoch does, that it repeats, and that all train alike."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from deeprnn import implementations, language_model
from deeprnn.language_model import LanguageModel
from deeprnn.minibatches import Minibatches
from deeprnn.support import Request
from deeprnn.training import Trainer, evaluate, train

VOCABULARY = 7
TEXT = torch.randint(0, VOCABULARY, (90,), generator=torch.Generator().manual_seed(3))


def build(implementation: str = "torch_nn", cell: str = "lstm", **options) -> LanguageModel:
    torch.manual_seed(0)
    return language_model.build(implementation, cell, VOCABULARY, 16, 2, **options)


def minibatches(**options) -> Minibatches:
    return Minibatches(TEXT, 4, 5, seed=1, **options)


def textbook_epoch(rnn: nn.LSTM, output: nn.Linear, batches: list, learning_rate: float) -> float:
    """The published loop written out once more, as plainly as possible."""
    parameters = [*rnn.parameters(), *output.parameters()]
    total, tokens, state = 0.0, 0, None
    for x, y in batches:
        state = None if state is None else tuple(s.detach() for s in state)
        hidden, state = rnn(F.one_hot(x, VOCABULARY).float(), state)
        loss = F.cross_entropy(output(hidden).reshape(-1, VOCABULARY), y.reshape(-1))
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= learning_rate * gradient * min(1.0, 1.0 / norm)
        total += loss.item() * y.numel()
        tokens += y.numel()
    return math.exp(total / tokens)


@pytest.mark.parametrize("learning_rate", [0.1, 20.0], ids=["unclipped", "clipped"])
def test_an_epoch_is_the_published_loop(learning_rate):
    model = build()
    rnn, output = nn.LSTM(VOCABULARY, 16, 2), nn.Linear(16, VOCABULARY)
    rnn.load_state_dict(model.rnn.state_dict())
    output.load_state_dict(model.output.state_dict())
    trainer = Trainer(model, minibatches(), learning_rate)
    for index in range(3):
        expected = textbook_epoch(rnn, output, list(minibatches().epoch(index)), learning_rate)
        epoch = trainer.epoch(index)
        assert epoch.perplexity == pytest.approx(expected, rel=1e-4)
        assert epoch.tokens == 4 * 4 * 5
    for own, other in zip(model.rnn.parameters(), rnn.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("longest", [1e-3, 1.0, math.inf])
def test_a_gradient_is_clipped_at_the_norm_that_was_asked_for(longest):
    trainer = Trainer(build(), minibatches(), 0.5, max_gradient_norm=longest)
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    x, y = next(iter(trainer.minibatches.epoch(0)))
    F.cross_entropy(trainer.model(x)[0].flatten(0, 1), y.flatten()).backward()
    norm = torch.cat([p.grad.flatten() for p in trainer.parameters]).norm().item()
    trainer._step(x, y, None)
    moved = [p.detach() - value for p, value in zip(trainer.parameters, before, strict=True)]
    length = torch.cat([change.flatten() for change in moved]).norm().item()
    assert 1e-3 < norm < 1.0
    assert length == pytest.approx(0.5 * min(norm, longest), rel=1e-3)


def test_a_gradient_that_is_no_number_is_not_hidden():
    trainer = Trainer(build(), minibatches(), 0.5)
    with torch.no_grad():
        trainer.parameters[-1][0] = math.nan
    assert math.isnan(trainer.epoch(0).perplexity)
    assert all(parameter.isnan().any() for parameter in trainer.parameters)


class Operations(TorchDispatchMode):
    """Counts what is done within its block."""

    done = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.done += 1
        return function(*arguments, **(options or {}))


def test_little_is_done_around_a_network():
    """Each operation is a kernel of its own on a GPU, a microsecond or two however small it is."""
    trainer = Trainer(build(), minibatches(), 0.5)
    x, y = next(iter(trainer.minibatches.epoch(0)))
    trainer._step(x, y, None)
    with Operations() as update:
        trainer._update()
    # Norms, one tensor of them, their norm, over the longest, at least 1; division, descent.
    assert update.done == 7
    before = []
    with Operations() as all_of_it:
        trainer.model.rnn.register_forward_pre_hook(lambda *call: before.append(all_of_it.done))
        trainer.model(x)
    assert before == [1]  # one-hot vectors


def test_two_runs_give_the_same_perplexities():
    assert train(build(), minibatches(), 3, 1.0) == train(build(), minibatches(), 3, 1.0)


def test_another_seed_gives_other_minibatches():
    other = Minibatches(TEXT, 4, 5, seed=2)
    assert train(build(), minibatches(), 3, 1.0) != train(build(), other, 3, 1.0)


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_implementations_train_alike(cell):
    reached = {}
    for name in implementations.names():
        is_slow = implementations.interpreted(name, "cpu") or name.startswith("torch_compile")
        if is_slow or implementations.why_unsupported(name, Request(cell=cell)):
            continue  # the smoke profile trains these
        reached[name] = train(build(name, cell), minibatches(), 5, 1.0)[-1]
    assert len(reached) >= 3
    assert max(reached.values()) / min(reached.values()) < 1.001, reached


def test_random_sampling_forgets_the_state():
    model = build()
    seen = []
    model.rnn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    Trainer(model, minibatches(scheme="random"), 1.0).epoch(0)
    assert seen
    assert all(state is None for state in seen)
    seen.clear()
    Trainer(model, minibatches(), 1.0).epoch(0)
    assert seen[0] is None
    assert all(state is not None for state in seen[1:])


def test_untrained_scratch_network_is_as_good_as_guessing():
    model = build(cell="rnn_tanh", initialization="normal")
    assert evaluate(model, minibatches()) == pytest.approx(VOCABULARY, rel=0.01)


def test_evaluation_leaves_the_model_alone():
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = evaluate(model, minibatches()), evaluate(model, minibatches())
    assert first == second
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("scheme", ["sequential", "random"])
def test_evaluation_goes_on_with_the_state_where_minibatches_follow_one_another(scheme):
    model, batches = build(), list(minibatches(scheme=scheme).epoch(0))
    total, state = 0.0, None
    with torch.no_grad():
        for x, y in batches:
            logits, after = model(x, state)
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
            state = after if scheme == "sequential" else None
    expected = math.exp(total / len(batches))
    assert evaluate(model, minibatches(scheme=scheme)) == pytest.approx(expected, rel=1e-6)


def test_frozen_bias_stays_zero():
    model = build("python_loop", "rnn_tanh", initialization="normal", recurrent=(True, False))
    train(model, minibatches(), 2, 1.0)
    assert torch.equal(model.rnn.bias_hh_l0, torch.zeros(16))
    assert not torch.equal(model.rnn.bias_ih_l0, torch.zeros(16))


def test_progress_is_told():
    told = []
    perplexities = train(build(), minibatches(), 2, 1.0, lambda *news: told.append(news))
    assert told == [(1, perplexities[0]), (2, perplexities[1])]


def test_wrong_executions_are_refused():
    with pytest.raises(ValueError, match="'warp' is unknown; use eager or cuda_graph"):
        Trainer(build(), minibatches(), 1.0, execution="warp")
    with pytest.raises(ValueError, match="needs a CUDA device; the text is on cpu"):
        Trainer(build(), minibatches(), 1.0, execution="cuda_graph").epoch(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_graph_replay_equals_eager(cell):
    tokens = TEXT.cuda()
    reached = {}
    for execution in ("eager", "cuda_graph"):
        model = build(cell=cell).cuda()
        trainer = Trainer(model, Minibatches(tokens, 4, 5, seed=1), 1.0, execution=execution)
        reached[execution] = [trainer.epoch(index).perplexity for index in range(5)]
    assert reached["eager"] == pytest.approx(reached["cuda_graph"], rel=1e-4)
