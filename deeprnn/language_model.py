"""The character language model: one-hot → recurrent stack → linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprnn import implementations
from deeprnn.stack import DeepRNN


class LanguageModel(nn.Module):
    """Predicts the next character from those before (Dive into Deep Learning, RNN language model).

    ``O_t = H_t^(L) W_hq + b_q``. The model is handed a stack and never knows which one.

    Args:
        rnn: a stack whose ``input_size`` is the size of the vocabulary.
        vocabulary_size: ``V``.

    Raises:
        ValueError: the stack's input size is not ``V``.
    """

    def __init__(self, rnn: DeepRNN, vocabulary_size: int) -> None:
        super().__init__()
        if rnn.input_size != vocabulary_size:
            raise ValueError(
                f"the stack takes inputs of size {rnn.input_size}, one-hot characters have "
                f"{vocabulary_size}: build it with input_size={vocabulary_size}"
            )
        self.rnn = rnn
        self.vocabulary_size = vocabulary_size
        weight = next(rnn.parameters())
        self.output = nn.Linear(
            rnn.hidden_size, vocabulary_size, device=weight.device, dtype=weight.dtype
        )
        one_hot = torch.eye(vocabulary_size, device=weight.device, dtype=weight.dtype)
        self.register_buffer("one_hot", one_hot, persistent=False)  # row k is character k
        self.one_hot: Tensor
        if rnn.initialization == "normal":  # the scratch network draws its output layer likewise
            nn.init.normal_(self.output.weight, std=0.01)
            nn.init.zeros_(self.output.bias)

    def _apply(self, *arguments: Any, **options: Any) -> LanguageModel:
        super()._apply(*arguments, **options)
        if not self.one_hot.is_meta:  # it may come from there, without numbers, and is not stored
            self.one_hot.zero_().fill_diagonal_(1)
        return self

    def forward(
        self, tokens: Tensor, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """``tokens (T, B)``, integers below ``V``, to logits ``(T, B, V)`` and the final state."""
        x = F.embedding(tokens, self.one_hot)  # (T, B, V), in one kernel; F.one_hot takes three
        y, state = self.rnn(x, state)  # (T, B, H)
        return self.output(y), state


def build(
    implementation: str,
    cell: str,
    vocabulary_size: int,
    hidden_size: int,
    num_layers: int = 1,
    **options: object,
) -> LanguageModel:
    """The model around the implementation of that public name; options as in ``DeepRNN``."""
    rnn = implementations.build(
        implementation, cell, vocabulary_size, hidden_size, num_layers, **options
    )
    return LanguageModel(rnn, vocabulary_size)


def twin(model: LanguageModel, implementation: str = implementations.REFERENCE) -> LanguageModel:
    """A model of another implementation with the same sizes and a copy of the same weights.

    Trained weights of all implementations are evaluated by one of them, so that differences come
    from training alone, and so that a compiler need not build a second program for inference.
    """
    rnn = model.rnn
    weight = model.output.weight
    other = build(
        implementation,
        rnn.cell,
        model.vocabulary_size,
        rnn.hidden_size,
        rnn.num_layers,
        recurrent=rnn.recurrent,
        initialization=rnn.initialization,
        device=weight.device,
        dtype=weight.dtype,
    )
    other.load_state_dict(model.state_dict())
    return other.eval()
