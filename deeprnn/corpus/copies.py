"""Copies on this machine: the user's directory, and the cache of what was fetched before."""

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from deeprnn.corpus.errors import CorpusError, Damaged, Unavailable, brief
from deeprnn.corpus.known_texts import KNOWN, TIME_MACHINE, KnownText
from deeprnn.corpus.normalised import Corpus, known_corpus

CORPUS_DIR_VARIABLE = "DEEPRNN_CORPUS_DIR"


def locate(name: str = TIME_MACHINE.name) -> Path | None:
    """Return where the known text `name` lies on this machine, verified; None if it does not.

    Looks in DEEPRNN_CORPUS_DIR and in the user's cache, asks no network and changes nothing.
    Raises CorpusError for an unknown name, and where `load` would for DEEPRNN_CORPUS_DIR.
    """
    if name not in KNOWN:
        raise CorpusError(f"unknown text {name!r}: the known texts are {', '.join(KNOWN)}")
    text = KNOWN[name]
    if (given := _given_path(text)) and _read_given(given, text):
        return given
    try:
        _read_cached(text)
    except Unavailable:
        return None
    return _cached_path(text)


def load_copy(text: KnownText) -> Corpus:
    """The text from the user's directory or the cache; raises Unavailable where neither has it."""
    if given := _given_path(text):
        return known_corpus(text, _read_given(given, text), f"{given} ({CORPUS_DIR_VARIABLE})")
    return known_corpus(text, _read_cached(text), f"{_cached_path(text)} (cache)")


def keep(text: KnownText, data: bytes) -> str:
    """Put verified bytes into the cache, whole or not at all; say what was done."""
    path = _cached_path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{text.file_name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too must leave nothing behind
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        return f"not kept in the cache: {brief(error)}"
    return f"kept in {path}"


def cache_directory() -> Path:
    """Return the directory of the verified copies; it may not exist yet."""
    if (base := os.environ.get("XDG_CACHE_HOME", "")) and os.path.isabs(base):
        return Path(base, "deeprnn")
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a home; copies are verified when read
        return Path(tempfile.gettempdir(), "deeprnn")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local", "deeprnn")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "deeprnn"
    return home / ".cache" / "deeprnn"


def _given_path(text: KnownText) -> Path | None:
    directory = os.environ.get(CORPUS_DIR_VARIABLE, "")
    if directory and not os.path.isdir(directory):  # a typing error, most likely: never passed over
        raise CorpusError(
            f"{CORPUS_DIR_VARIABLE} names {directory}, which is no directory: give one that holds "
            f"{text.file_name}, or unset {CORPUS_DIR_VARIABLE}"
        )
    path = Path(directory, text.file_name)
    # A link that leads nowhere was put there as well: it cannot be read, which is said.
    return path if directory and os.path.lexists(path) else None


def _read_given(path: Path, text: KnownText) -> bytes:
    """Read what the user put there on purpose: another text is an error, never passed over."""
    try:
        data = _read_file(path, text)
    except Unavailable as reason:
        raise CorpusError(
            f"{path} is not the expected text ({reason}): replace it, or unset "
            f"{CORPUS_DIR_VARIABLE}, or give a text of your own with --corpus PATH"
        ) from None
    return data


def _cached_path(text: KnownText) -> Path:
    return cache_directory() / text.file_name


def _read_cached(text: KnownText) -> bytes:
    path = _cached_path(text)
    if not os.path.exists(path):
        directory = os.environ.get(CORPUS_DIR_VARIABLE)
        given = f"not in {directory}" if directory else f"{CORPUS_DIR_VARIABLE} is not set"
        raise Unavailable(f"{given}; not in the cache {path.parent}")
    try:
        return _read_file(path, text)
    except Unavailable as reason:
        raise Damaged(f"the copy in the cache, {path}, was damaged: {reason}") from None


def _read_file(path: Path, text: KnownText) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(text.num_bytes + 1)
    except OSError as error:
        raise Unavailable(brief(error)) from None
    if difference := text.difference(data):
        raise Unavailable(difference)
    return data
