"""The model around a stack, its twin, and what it writes."""

import pytest
import torch
from torch.nn import functional as F

from deeprnn import implementations, language_model
from deeprnn.generation import generate
from deeprnn.language_model import LanguageModel
from deeprnn.minibatches import Minibatches
from deeprnn.training import train
from deeprnn.vocabulary import Vocabulary


def test_shapes():
    model = language_model.build("torch_nn", "lstm", 5, 16, 2)
    logits, (h, c) = model(torch.randint(0, 5, (7, 3)))
    assert logits.shape == (7, 3, 5)
    assert h.shape == c.shape == (2, 3, 16)


def test_characters_go_in_as_one_hot_vectors():
    model = language_model.build("torch_nn", "lstm", 5, 16).to(torch.float64)
    tokens = torch.randint(0, 5, (7, 3))
    seen = []
    model.rnn.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(tokens)
    assert torch.equal(seen[0], F.one_hot(tokens, 5).to(torch.float64))
    assert not any("one_hot" in name for name in model.state_dict())  # nothing that is learned
    for token in (5, -1):
        with pytest.raises(IndexError):
            model(torch.full((2, 1), token))


def test_the_stack_must_fit_the_vocabulary():
    rnn = implementations.build("torch_nn", "gru", 9, 16)
    with pytest.raises(ValueError, match="inputs of size 9, one-hot characters have 5"):
        LanguageModel(rnn, 5)


def test_a_twin_computes_the_same_with_its_own_weights():
    model = language_model.build(
        "python_loop", "rnn_tanh", 5, 16, 2, recurrent=(True, False), initialization="normal"
    )
    twin = language_model.twin(model)
    tokens = torch.randint(0, 5, (7, 3))
    torch.testing.assert_close(model(tokens)[0], twin(tokens)[0])
    with torch.no_grad():
        twin.output.bias.add_(1.0)
    assert not torch.equal(model.output.bias, twin.output.bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_output_layer_and_a_twin_are_of_the_stacks_kind(dtype):
    model = language_model.build("python_loop", "gru", 5, 16, dtype=dtype, device="meta")
    twin = language_model.twin(model)
    for weight in (model.output.weight, model.output.bias, *twin.parameters()):
        assert (weight.dtype, weight.device.type) == (dtype, "meta")


def test_a_scratch_network_draws_its_output_layer_as_the_chapter_does():
    """Normal weights of standard deviation 0.01, biases 0: Dive into Deep Learning, 9.5."""
    torch.manual_seed(0)
    model = language_model.build("python_loop", "rnn_tanh", 64, 512, initialization="normal")
    weight = model.output.weight.detach()
    assert abs(weight.mean()) < 3 * 0.01 / weight.numel() ** 0.5
    assert weight.std() == pytest.approx(0.01, rel=0.02)
    assert weight.abs().max() > 0.03  # no uniform distribution
    assert not model.output.bias.any()
    twin = language_model.twin(model)
    assert twin.rnn.initialization == "normal"


def test_other_networks_draw_it_as_torch_does():
    torch.manual_seed(0)
    model = language_model.build("python_loop", "rnn_tanh", 64, 512)
    bound = 512**-0.5
    assert 0.99 * bound < model.output.weight.abs().max() <= bound
    assert model.output.bias.any()


def test_generation_repeats_what_was_learnt():
    text = "abcd" * 40
    vocabulary = Vocabulary(text)
    torch.manual_seed(0)
    model = language_model.build("torch_nn", "gru", len(vocabulary), 16)
    train(model, Minibatches(vocabulary.encode(text), 2, 8), 30, 1.0)
    assert generate(model, vocabulary, "ab", 6) == "abcdabcd"
    assert generate(model, vocabulary, "ab", 0) == "ab"


def test_an_empty_prefix_is_refused():
    model = language_model.build("torch_nn", "gru", 2, 4)
    with pytest.raises(ValueError, match="the prefix is empty"):
        generate(model, Vocabulary("a"), "", 3)


def test_a_model_without_numbers_gets_them_with_the_stored_ones():
    torch.manual_seed(0)
    model = language_model.build("python_loop", "gru", 5, 16)
    other = language_model.build("python_loop", "gru", 5, 16, device="meta")
    other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    tokens = torch.tensor([[0], [4], [2]])
    assert torch.equal(other(tokens)[0], model(tokens)[0])
