"""Bits a character of text that was not trained on, against the loss taken step by step."""

import math

import pytest
import torch

from deeprnn import held_out, language_model
from deeprnn.held_out import bits_by_passage

V = 6


@pytest.fixture
def model():
    torch.manual_seed(0)
    return language_model.build("torch_nn", "lstm", V, 7, 2, dtype=torch.float64)


@pytest.mark.parametrize(("length", "passage"), [(1, 1), (23, 5), (23, 23), (40, 100), (41, 8)])
def test_it_is_the_loss_character_by_character(model, length, passage, monkeypatch):
    monkeypatch.setattr(held_out, "CHUNK", 9)  # several chunks, also of one passage
    tokens = torch.randint(V, (length, 3), generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(math.ceil(length / passage), 3, dtype=torch.float64)
    for text in range(3):
        state = None
        for at in range(length):
            if at == 0:
                bits = math.log2(V - 1)
            else:
                logits, state = model(tokens[at - 1 : at, text : text + 1], state)
                bits = -logits[0, 0].log_softmax(0)[tokens[at, text]].item() / math.log(2)
            expected[at // passage, text] += bits
    torch.testing.assert_close(bits_by_passage(model, tokens, passage), expected)


def test_it_leaves_the_model_as_it_was(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bits_by_passage(model, torch.zeros(5, 1, dtype=torch.long), 5)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "passage", "message"),
    [((5,), 1, "tokens must be"), ((0, 1), 1, "tokens must be"), ((5, 1), 0, "at least 1")],
)
def test_bad_arguments_are_named(model, shape, passage, message):
    with pytest.raises(ValueError, match=message):
        bits_by_passage(model, torch.zeros(shape, dtype=torch.long), passage)
