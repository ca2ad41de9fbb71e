"""A text of the user's own: nothing about it is known beforehand, so much is said if it fails."""

import hashlib
import os
from pathlib import Path

from deeprnn.corpus.errors import CorpusError, brief
from deeprnn.corpus.known_texts import KNOWN
from deeprnn.corpus.normalised import Corpus, known_corpus, normalise, note

# The published task: training reads this many characters, validation the ones right after.
NUM_TRAIN = 10_000
NUM_VALIDATION = 5_000


def load_file(source: str | os.PathLike[str]) -> Corpus:
    """Return the text at the path `source`, normalised; a known text is recognised by its bytes.

    Raises CorpusError for a path without a file, and for a file that is no UTF-8 text.
    """
    path = Path(os.path.expanduser(source))  # of an unknown user as it is: no such file
    accepted = f"give {', '.join(KNOWN)} or the path of a UTF-8 text file"
    needed = (
        f"the published task needs {NUM_TRAIN + NUM_VALIDATION:,} characters (letters a-z and "
        f"spaces): {accepted}"
    )
    shown = repr(os.fspath(source))
    # Unlike Path.exists, this is False rather than an error for a path that cannot even be asked.
    if not os.fspath(source) or not os.path.exists(path):
        raise CorpusError(f"no text named {shown}, and no such file: {accepted}")
    if not os.path.isfile(path):
        raise CorpusError(f"{shown} is not a regular file: {accepted}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{shown} cannot be read ({brief(error)}): {accepted}") from None

    for text in KNOWN.values():
        if not text.difference(data):
            return known_corpus(text, data, str(path))
    if not data:
        raise CorpusError(f"{shown} is empty; {needed}")
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte 0x{data[error.start]:02x} at position {error.start:,}"
        raise CorpusError(f"{shown} is not UTF-8 text ({reason}); {needed}") from None
    if "\0" in decoded:  # UTF-16 without a mark, or a binary file that happens to decode
        raise CorpusError(f"{shown} is not text (it holds zero bytes); {needed}")
    if not (normalised := normalise(decoded)):
        raise CorpusError(f"{shown} holds no letters a-z; {needed}")
    return Corpus(
        name=path.name,
        title=path.name,
        text=normalised,
        sha256=hashlib.sha256(data).hexdigest(),
        origin=str(path),
        is_published=False,
        note=note(f"your own file {path.name}"),
    )
