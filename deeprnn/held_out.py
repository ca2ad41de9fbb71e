"""What a language model makes of text it was not trained on, in bits a character."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprnn.language_model import LanguageModel

CHUNK = 512
"""Time steps at a time: logits of a whole book at once would take more memory than the model."""


@torch.no_grad()
def bits_by_passage(model: LanguageModel, tokens: Tensor, passage: int) -> Tensor:
    """The bits that ``model`` needs for each passage of some texts, read from their beginning.

    The model starts with a state of zeros and reads on without a reset, as a reader would, so a
    passage profits from those before it. A text's first character has nothing before it: it costs
    as much as any of the ``V - 1`` characters, log2(V - 1).

    Args:
        model: its vocabulary's index 0 is the unknown character.
        tokens: ``(N, B)``, B texts of N characters each, on the model's device.
        passage: characters of a passage; the last one may be shorter.

    Returns:
        ``(ceil(N / passage), B)`` bits, float64, on the CPU. Their sum over N is the bits a
        character; 2 to the power of that is the perplexity.

    Raises:
        ValueError: tokens that are not ``(N, B)`` with N ≥ 1, or a passage below 1.
    """
    if tokens.dim() != 2 or len(tokens) < 1:
        raise ValueError(f"tokens must be (N, B) with N >= 1, got {tuple(tokens.shape)}")
    if passage < 1:
        raise ValueError(f"a passage has at least 1 character, got {passage}")
    was_training = model.training
    model.eval()
    length, texts = tokens.shape
    first = math.log2(model.vocabulary_size - 1)
    bits = [torch.full((1, texts), first, dtype=torch.float64)]
    state = None
    for start in range(0, length - 1, CHUNK):
        x = tokens[start : min(start + CHUNK, length - 1)]
        y = tokens[start + 1 : start + 1 + len(x)]
        logits, state = model(x, state)  # (T, B, V)
        nats = F.cross_entropy(
            logits.flatten(0, 1).double(), y.flatten(), reduction="none"
        ).view_as(y)
        bits.append((nats / math.log(2)).cpu())
    model.train(was_training)
    return torch.stack([part.sum(0) for part in torch.cat(bits).split(passage)])
