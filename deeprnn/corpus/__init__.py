"""Find, fetch, verify and normalise the text a character language model is trained on.

The text is H. G. Wells' *The Time Machine* as Dive into Deep Learning ships it (chapter 8.2,
"Text Preprocessing" of its first edition). Where it cannot be had, another novel by Wells stands
in for it and says so. Two novels by other authors are at hand for comparison. Nothing is used
before its bytes have been compared with a pinned hash, a user's own file excepted.
"""

from deeprnn.corpus.copies import CORPUS_DIR_VARIABLE, cache_directory, locate
from deeprnn.corpus.errors import CorpusError
from deeprnn.corpus.known_texts import KNOWN, METAMORPHOSIS, MOREAU, PRIDE, TIME_MACHINE, KnownText
from deeprnn.corpus.loading import fetch_all, load
from deeprnn.corpus.normalised import Corpus, normalise
from deeprnn.corpus.own_file import NUM_TRAIN, NUM_VALIDATION

__all__ = [
    "CORPUS_DIR_VARIABLE",
    "KNOWN",
    "METAMORPHOSIS",
    "MOREAU",
    "NUM_TRAIN",
    "NUM_VALIDATION",
    "PRIDE",
    "TIME_MACHINE",
    "Corpus",
    "CorpusError",
    "KnownText",
    "cache_directory",
    "fetch_all",
    "load",
    "locate",
    "normalise",
]
