"""What general compressors make of a text: a floor that nobody trained for."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable

# The highest preset, then what suits single bytes: no alignment, and half a byte more context than
# by default. This container has no check sum and no padding, which would blur small differences.
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA1,
        "preset": 9 | lzma.PRESET_EXTREME,
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
]

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, filters=_FILTERS),
    "bz2": lambda data: bz2.compress(data, compresslevel=9),
}
NAMES = tuple(_COMPRESS)


def held_out_bits(name: str, train: str, held_out: str) -> float:
    """Bits a character that `held_out` adds when it is compressed after `train`.

    That is (|C(train + held_out)| − |C(train)|) · 8 / N for the compressor C with the strongest
    settings of the standard library's module, and N characters of `held_out`; headers cancel.

    "lzma" remembers all that came before. "bz2" sorts blocks of 900 kB, each on its own: training
    text of an earlier block helps nothing, and within a block every character moves the others, so
    that the difference of two large sizes is noisy. Take it for a hint, and `own_bits` with it.

    Raises ValueError for an unknown name and an empty `held_out`. Source of the idea: Benedetto,
    Caglioti and Loreto, "Language trees and zipping", Physical Review Letters 88(4), 2002.
    """
    _require(held_out, "held-out")
    added = _size(name, train + held_out) - _size(name, train)
    return added * 8 / len(held_out)


def own_bits(name: str, text: str) -> float:
    """Bits a character of `text` compressed on its own, as one would compress a file.

    The header counts, and the compressor has to learn from the text itself. Raises ValueError for
    an unknown name and an empty text.
    """
    _require(text, "given")
    return _size(name, text) * 8 / len(text)


def _require(text: str, what: str) -> None:
    if not text:
        raise ValueError(f"the {what} text is empty: bits a character need one character or more")


def _size(name: str, text: str) -> int:
    if name not in _COMPRESS:
        raise ValueError(f"no compressor named {name!r}: give {' or '.join(NAMES)}")
    return len(_COMPRESS[name](text.encode("utf-8")))
