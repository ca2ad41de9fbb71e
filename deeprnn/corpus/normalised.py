"""A text in the form that a model is trained on: the characters a-z and space."""

import re
from dataclasses import dataclass

from deeprnn.corpus.known_texts import MOREAU, TIME_MACHINE, KnownText


@dataclass(frozen=True)
class Corpus:
    """A normalised text and where it came from.

    `note` is empty for The Time Machine; for every other text it says in plain words that
    perplexities do not compare with published ones, and whoever shows a result shows it too.
    """

    name: str  # that of a known text, or of the user's file
    title: str
    text: str  # only a-z and space
    sha256: str  # of the raw bytes, before normalisation
    origin: str
    is_published: bool  # is it The Time Machine, byte for byte?
    note: str


def normalise(text: str) -> str:
    """Reduce `text` to the characters a-z and space, as Dive into Deep Learning does.

    In each line, every run of other characters becomes one space; the line is stripped and
    lower-cased. Lines are joined with nothing between them, so the last word of one line touches
    the first word of the next: odd, but it is the published text, 170,580 characters of it.
    """
    # Not str.splitlines: it also breaks at form feeds and the like, where reading a file does not.
    lines = re.split(r"\r\n|\r|\n", text)
    return "".join(re.sub(r"[^A-Za-z]+", " ", line).strip().lower() for line in lines)


def known_corpus(text: KnownText, data: bytes, origin: str) -> Corpus:
    """The corpus of a known text's verified bytes."""
    is_published = text.name == TIME_MACHINE.name
    what = f"its stand-in, {text.title}" if text.name == MOREAU.name else text.title
    return Corpus(
        name=text.name,
        title=text.title,
        text=normalise(data.decode("utf-8")),
        sha256=text.sha256,
        origin=origin,
        is_published=is_published,
        note="" if is_published else note(what),
    )


def note(what: str) -> str:
    return (
        f"This is not The Time Machine: the text is {what}. "
        "Perplexities do not compare with published ones."
    )
