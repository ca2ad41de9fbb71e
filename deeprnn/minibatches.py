"""Minibatches of subsequences from one long sequence of tokens.

The two schemes of Dive into Deep Learning, chapter 8.3 "Language Models and the Dataset" of its
first edition. Both start at a random offset, so that every epoch cuts the text in other places:

- `sequential`: the text is cut into B long rows, and minibatch k holds columns k·T .. k·T + T - 1
  of all of them. Row b of one minibatch continues row b of the one before, so that a recurrent
  state may be carried along.
- `random`: the text is cut into subsequences of T, which come in random order.

N is the number of tokens, T the number of time steps, B the batch size.
"""

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from deeprnn.corpus import NUM_TRAIN, NUM_VALIDATION, CorpusError

SCHEMES = ("sequential", "random")


def split(
    tokens: Tensor, num_train: int = NUM_TRAIN, num_validation: int = NUM_VALIDATION
) -> tuple[Tensor, Tensor]:
    """Return the first `num_train` tokens and the `num_validation` after them, as views.

    Raises CorpusError where `tokens` `(N,)` are too few for both, with the length needed.
    """
    needed = num_train + num_validation
    if len(tokens) < needed:
        raise CorpusError(
            f"the text is too short: {len(tokens):,} characters after normalisation, and "
            f"{needed:,} are needed ({num_train:,} to train on, {num_validation:,} to validate "
            "on): give a longer text"
        )
    return tokens[:num_train], tokens[num_train:needed]


def tokens_needed(batch_size: int, num_steps: int, scheme: str = "sequential") -> int:
    """Return the least N that gives one minibatch in every epoch, whatever its offset.

    The largest offset (T, or T - 1 with random sampling), B·T inputs and the last one's target.
    """
    return _largest_offset(num_steps, scheme) + batch_size * num_steps + 1


class Minibatches:
    """All minibatches of every epoch over `tokens` `(N,)`, int64, on any device.

    An epoch depends on `seed` and its index alone: neither on epochs drawn before nor on any
    global generator. Random numbers are drawn on the host and nothing is read back from the
    device, so that iterating never waits for a GPU. All minibatches have the same shape and are
    contiguous; they are views of one copy of the epoch, so do not write into them.

    How many minibatches an epoch has can depend on its offset: `num_batches(index)` is exact,
    `batches_per_epoch` is the most there can be, and `has_constant_length` says that all epochs
    have that many, as those of the published task do (8). A caller that captures one step in a
    CUDA graph need not care; one that captures an epoch must check.

    Raises ValueError for a malformed argument, and its subclass CorpusError, with the length
    needed, for fewer tokens than `tokens_needed`.
    """

    def __init__(
        self,
        tokens: Tensor,
        batch_size: int,
        num_steps: int,
        scheme: str = "sequential",
        seed: int = 0,
    ) -> None:
        if tokens.dim() != 1 or tokens.dtype != torch.long:
            raise ValueError(
                f"tokens must be int64 (N,), not {tokens.dtype} {tuple(tokens.shape)}: "
                "Vocabulary.encode returns such"
            )
        for name, value in (("batch_size", batch_size), ("num_steps", num_steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if scheme not in SCHEMES:
            raise ValueError(f"unknown scheme {scheme!r}: choose one of {', '.join(SCHEMES)}")
        needed = tokens_needed(batch_size, num_steps, scheme)
        if len(tokens) < needed:
            raise CorpusError(
                f"the text is too short: {len(tokens):,} characters, and {needed:,} are needed for "
                f"one minibatch of B={batch_size} x T={num_steps} with {scheme} sampling: give a "
                "longer text, or a smaller batch or fewer steps"
            )
        self.tokens = tokens
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.scheme = scheme
        self.seed = seed

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs x and targets y, each `(T, B)` int64; y is x one token later."""
        generator = self._generator(index)
        offset = self._draw_offset(generator)
        num_batches = self._num_batches(offset)
        if self.scheme == "sequential":
            xs, ys = self._sequential(offset, num_batches)
        else:
            xs, ys = self._random(offset, num_batches, generator)
        return zip(xs.unbind(), ys.unbind(), strict=True)

    def num_batches(self, index: int) -> int:
        """Return how many minibatches `epoch(index)` yields."""
        return self._num_batches(self._draw_offset(self._generator(index)))

    def num_tokens(self, index: int) -> int:
        """Return how many tokens `epoch(index)` predicts: num_batches·T·B."""
        return self.num_batches(index) * self.num_steps * self.batch_size

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of minibatches of the longest epoch, the one with offset 0."""
        return self._num_batches(0)

    @property
    def tokens_per_epoch(self) -> int:
        """Return the number of tokens that the longest epoch predicts."""
        return self.batches_per_epoch * self.num_steps * self.batch_size

    @property
    def has_constant_length(self) -> bool:
        """Return whether every epoch has `batches_per_epoch` minibatches, whatever its offset."""
        shortest = self._num_batches(_largest_offset(self.num_steps, self.scheme))
        return shortest == self.batches_per_epoch

    def _generator(self, index: int) -> random.Random:
        # A string, because Python hashes all of it: neighbouring seeds and epochs are unrelated.
        return random.Random(f"minibatches, seed {self.seed}, epoch {index}")

    def _draw_offset(self, generator: random.Random) -> int:
        return generator.randint(0, _largest_offset(self.num_steps, self.scheme))

    def _num_batches(self, offset: int) -> int:
        num_pairs = len(self.tokens) - offset - 1  # the last token is only ever a target
        # Of either scheme: columns of whole steps in B rows, or whole subsequences, B at a time.
        return num_pairs // (self.batch_size * self.num_steps)

    def _sequential(self, offset: int, num_batches: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of an epoch, each `(num_batches, T, B)`."""
        width = (len(self.tokens) - offset - 1) // self.batch_size
        steps = num_batches * self.num_steps
        # One token more than inputs: the last target.
        rows = self.tokens[offset:].unfold(0, steps + 1, width)[: self.batch_size]
        columns = rows.t().contiguous()  # (steps + 1, B)
        shape = (num_batches, self.num_steps, self.batch_size)
        return columns[:-1].view(shape), columns[1:].view(shape)

    def _random(
        self, offset: int, num_batches: int, generator: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of an epoch, each `(num_batches, T, B)`."""
        num_subsequences = (len(self.tokens) - offset - 1) // self.num_steps
        starts = [offset + i * self.num_steps for i in range(num_subsequences)]
        generator.shuffle(starts)
        first = torch.tensor(starts[: num_batches * self.batch_size])
        device = self.tokens.device
        if device.type == "cuda":  # from pageable memory even a non-blocking copy waits
            first = first.pin_memory()
        first = first.to(device, non_blocking=True).view(num_batches, 1, self.batch_size)
        positions = first + torch.arange(self.num_steps, device=device).view(1, self.num_steps, 1)
        return self.tokens[positions], self.tokens[positions + 1]


def _largest_offset(num_steps: int, scheme: str) -> int:
    return num_steps if scheme == "sequential" else num_steps - 1
