"""Continue a prefix, one character at a time."""

from __future__ import annotations

import torch

from deeprnn.language_model import LanguageModel
from deeprnn.vocabulary import Vocabulary


@torch.no_grad()
def generate(model: LanguageModel, vocabulary: Vocabulary, prefix: str, num_characters: int) -> str:
    """``prefix`` followed by the ``num_characters`` most likely characters, each given all before.

    Greedy, as in Dive into Deep Learning's ``predict``: no randomness.

    Raises:
        ValueError: an empty prefix; there is nothing to continue.
    """
    if not prefix:
        raise ValueError("the prefix is empty; give at least one character to continue")
    was_training = model.training
    model.eval()
    device = model.output.weight.device
    tokens = vocabulary.encode(prefix).to(device).unsqueeze(1)  # (T, 1)
    logits, state = model(tokens)
    generated = []
    for _ in range(num_characters):
        token = logits[-1:].argmax(-1)  # (1, 1)
        generated.append(token)
        logits, state = model(token, state)
    model.train(was_training)
    ids = torch.cat(generated).flatten() if generated else tokens.new_empty(0)
    return prefix + vocabulary.decode(ids)
