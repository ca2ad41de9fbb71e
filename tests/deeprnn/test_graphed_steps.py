"""The captured training step, on an emulated GPU: the same training, replayed."""

import weakref

import pytest
import torch

from bench.verification import verify_replay
from deeprnn import language_model, training
from deeprnn.minibatches import Minibatches
from deeprnn.training import Trainer
from tests.emulated_cuda_graph import emulated

VOCABULARY = 7
TEXT = torch.randint(0, VOCABULARY, (90,), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(training, "_must_be_cuda", lambda device: None)
    with emulated() as device:
        yield device


def trainer(execution, implementation="manual_gradient", cell="lstm", scheme="sequential", **given):
    torch.manual_seed(0)
    model = language_model.build(implementation, cell, VOCABULARY, 8, 2, **given)
    return Trainer(model, Minibatches(TEXT, 4, 5, scheme, seed=1), 1.0, execution=execution)


def trained(execution, *which):
    """Perplexities of two epochs, and the weights after them."""
    training = trainer(execution, *which)
    reached = [training.epoch(index).perplexity for index in range(2)]
    return reached, torch.cat([p.detach().flatten() for p in training.parameters])


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("name", ["python_loop", "manual_gradient", "torch_nn"])
def test_replays_train_as_eager_steps_do(name, cell, gpu):
    perplexities, weights = trained("cuda_graph", name, cell)
    assert [event for event, _ in gpu.events] == ["reset", "capture"] + 8 * ["replay"]
    expected, expected_weights = trained("eager", name, cell)
    assert perplexities == expected
    assert torch.equal(weights, expected_weights)


def test_replays_in_bfloat16_train_as_eager_steps_do(gpu):
    given = {"implementation": "python_loop", "dtype": torch.bfloat16}
    reached = [
        [run.epoch(index).perplexity for index in range(2)]
        for run in (trainer("cuda_graph", **given), trainer("eager", **given))
    ]
    assert reached[0] == reached[1]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_replays_forget_the_state_where_minibatches_do_not_follow_one_another(cell, gpu):
    expected, weights = trained("eager", "manual_gradient", cell, "random")
    found, found_weights = trained("cuda_graph", "manual_gradient", cell, "random")
    assert found == expected
    assert torch.equal(found_weights, weights)


def test_a_frozen_bias_stays_frozen(gpu):
    run = trainer("cuda_graph", "python_loop", "rnn_tanh", initialization="normal")
    before = run.model.rnn.bias_hh_l0.clone()
    run.epoch(0)
    assert torch.equal(run.model.rnn.bias_hh_l0, before)
    assert not torch.equal(run.model.rnn.bias_ih_l0, before)  # both are zero at first


@pytest.mark.parametrize("what", ["learning_rate", "max_gradient_norm", "storage"])
def test_what_a_graph_keeps_is_captured_anew_when_it_changes(what, gpu):
    reached = []
    for execution in ("cuda_graph", "eager"):
        run = trainer(execution)
        run.epoch(0)
        if what == "storage":
            run.model.double().float()
        else:
            setattr(run, what, 1e-3)
        run.epoch(1)
        reached.append(torch.cat([p.detach().flatten() for p in run.parameters]))
    assert torch.equal(*reached)
    assert [event for event, _ in gpu.events].count("capture") == 2


def test_the_weights_that_were_put_back_are_no_part_of_what_a_step_takes(gpu, monkeypatch):
    copies, alive = [], []
    clone, reset = torch.Tensor.clone, torch.cuda.reset_peak_memory_stats

    def watched(tensor, **options):
        made = clone(tensor, **options)
        copies.append(weakref.ref(made))
        return made

    def counting(device):
        alive.append(sum(copy() is not None for copy in copies))
        reset(device)

    run = trainer("cuda_graph", "python_loop")
    monkeypatch.setattr(torch.Tensor, "clone", watched)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", counting)
    run.prepare()
    assert len(copies) >= len(run.parameters)
    assert alive == [0]


def test_a_capture_changes_nothing_and_comes_after_all_that_compiles(gpu):
    run = trainer("cuda_graph")
    before = [parameter.clone() for parameter in run.parameters]
    calls = []
    run.model.register_forward_pre_hook(lambda *call: calls.append(len(gpu.events)))
    steps = run.prepare()
    assert run.prepare() is steps
    assert all(map(torch.equal, run.parameters, before))
    assert calls == training.WARM_UP_STEPS * [0] + [2]
    # The peak is the captured step's: nothing works between its being reset and the capture.
    assert [event for event, _ in gpu.events] == ["reset", "capture"]
    assert gpu.events[0][1] == gpu.events[1][1] > 0
    assert all(parameter.grad.isnan().all() for parameter in run.parameters)  # the graph's own


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm"])
def test_a_captured_step_is_verified(cell, gpu):
    replayed = trainer("cuda_graph", "torch_nn", cell)
    eager = Trainer(replayed.model, replayed.minibatches, 1.0)
    before = [parameter.clone() for parameter in replayed.parameters]
    outcome = verify_replay(replayed, eager, 1e-5)
    assert outcome.passed
    assert outcome.error == 0
    assert all(map(torch.equal, replayed.parameters, before))
    assert [event for event, _ in gpu.events].count("replay") == 3
