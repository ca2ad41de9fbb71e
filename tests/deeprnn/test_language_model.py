"""The model around a stack, its twin, and what it writes."""

import pytest
import torch

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
