"""Characters as integers: the vocabulary of a character language model."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

UNKNOWN = "<unk>"


class Vocabulary:
    """The characters of a text, numbered as in Dive into Deep Learning, chapter 8.2.

    Index 0 is `<unk>`, for every character the text does not hold; then come the characters by
    falling frequency, ties by first appearance. For The Time Machine V = `len(vocabulary)` = 28.
    `tokens` is all there is to store: `Vocabulary.from_tokens(tokens)` restores it.
    """

    def __init__(self, text: str) -> None:
        # most_common sorts stably and a Counter remembers the order of first appearance.
        self._set([UNKNOWN, *(character for character, _ in Counter(text).most_common())])

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> "Vocabulary":
        """Restore a vocabulary from its `tokens`.

        Raises ValueError unless they are `<unk>` and then single characters, all different.
        """
        if not tokens or tokens[0] != UNKNOWN:
            raise ValueError(f"a vocabulary's first token is {UNKNOWN!r}, not {tokens[:1]!r}")
        if wrong := [token for token in tokens[1:] if len(token) != 1]:
            raise ValueError(f"a vocabulary holds single characters, not {wrong[0]!r}")
        if twice := [token for token, count in Counter(tokens).items() if count > 1]:
            raise ValueError(f"a vocabulary holds a character once, not {twice[0]!r} again")
        vocabulary = cls("")
        vocabulary._set(list(tokens))
        return vocabulary

    def _set(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self._index = {token: index for index, token in enumerate(tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    __hash__ = None  # type: ignore[assignment]

    def encode(self, text: str) -> Tensor:
        """Return the indices of the characters of `text`, int64 `(N,)`, unknown ones as 0."""
        return torch.tensor([self._index.get(character, 0) for character in text], dtype=torch.long)

    def decode(self, indices: Tensor | Iterable[int]) -> str:
        """Return the characters at `indices` `(N,)` as one string; index 0 reads `<unk>`.

        Raises IndexError for an index outside 0..V-1.
        """
        numbers: list[int] = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        for number in numbers:
            if not 0 <= number < len(self):
                raise IndexError(f"index {number} is outside this vocabulary's 0..{len(self) - 1}")
        return "".join(self.tokens[number] for number in numbers)
