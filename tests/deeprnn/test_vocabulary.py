import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprnn import corpus
from deeprnn.vocabulary import UNKNOWN, Vocabulary


def test_unknown_then_falling_frequency_then_first_appearance():
    assert Vocabulary("zbaabcz cc").tokens == [UNKNOWN, "c", "z", "b", "a", " "]


def test_encode_numbers_characters_and_sends_unknown_ones_to_0():
    indices = Vocabulary("aab").encode("b?a")
    assert indices.dtype == torch.long
    assert indices.tolist() == [2, 0, 1]


def test_encode_of_nothing_keeps_shape_and_dtype():
    indices = Vocabulary("ab").encode("")
    assert indices.shape == (0,)
    assert indices.dtype == torch.long


def test_decode_takes_tensors_and_lists_and_shows_the_unknown():
    vocabulary = Vocabulary("aab")
    assert vocabulary.decode(torch.tensor([1, 2, 0])) == "ab<unk>"
    assert vocabulary.decode([2, 1]) == "ba"


@pytest.mark.parametrize("index", [-1, 3])
def test_decode_refuses_an_index_outside_the_vocabulary(index):
    with pytest.raises(IndexError, match=rf"index {index} is outside .* 0\.\.2"):
        Vocabulary("aab").decode([index])


@settings(deadline=None)  # a busy machine is no failure
@given(st.text())
def test_decode_undoes_encode_and_tokens_restore_the_vocabulary(text):
    vocabulary = Vocabulary(text)
    assert len(vocabulary) == len(set(text)) + 1
    assert vocabulary.decode(vocabulary.encode(text)) == text
    restored = Vocabulary.from_tokens(vocabulary.tokens)
    assert restored == vocabulary
    assert restored.encode(text).equal(vocabulary.encode(text))


def test_vocabularies_of_other_order_differ():
    assert Vocabulary("aab") != Vocabulary("abb")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "first token"),
        (["a", UNKNOWN], "first token"),
        ([UNKNOWN, "ab"], "single characters, not 'ab'"),
        ([UNKNOWN, "a", "b", "a"], "once, not 'a' again"),
    ],
)
def test_from_tokens_refuses_what_is_no_vocabulary(tokens, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_tokens(tokens)


@pytest.mark.skipif(
    not os.environ.get(corpus.CORPUS_DIR_VARIABLE),
    reason=f"needs The Time Machine: set {corpus.CORPUS_DIR_VARIABLE}",
)
def test_the_published_vocabulary():
    text = corpus.load("timemachine").text
    vocabulary = Vocabulary(text)
    assert len(vocabulary) == 28
    # Printed in chapter 8.2, which also shows the first line of the text as indices.
    assert vocabulary.tokens[:10] == [UNKNOWN, " ", "e", "t", "a", "i", "n", "o", "s", "h"]
    assert vocabulary.decode(vocabulary.encode(text)) == text
