"""Against examples worked by hand, and against the definition written out for one character."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.chapter.ngram import (
    ALPHABET,
    FALLBACK_DISCOUNTS,
    SMOOTHINGS,
    best_order,
    held_out_bits,
    probabilities,
)

UNIFORM_BITS = math.log2(27)
ENGLISH = (
    "the time traveller for so it will be convenient to speak of him was expounding a recondite "
    "matter to us his grey eyes shone and twinkled and his usually pale face was flushed and "
    "animated the fire burned brightly and the soft radiance of the incandescent lights in the "
    "lilies of silver caught the bubbles that flashed and passed in our glasses "
) * 3
few_letters = st.text(alphabet="ab c", min_size=1, max_size=60)
histories = st.text(alphabet="ab cd", max_size=8)
orders = st.integers(1, 6)
smoothings = st.sampled_from(SMOOTHINGS)


# Worked by hand


def test_witten_bell_of_three_letters():
    # Two kinds among three characters: each of the 27 gets 2/27 on top of its count, out of 5.
    a, b, z = (2 + 2 / 27) / 5, (1 + 2 / 27) / 5, (2 / 27) / 5
    assert probabilities("aab", "abz", 1, "witten_bell") == pytest.approx([a, b, z])
    # After a: a and b, once each, and two kinds. After b: nothing was seen.
    after_a = (1 + 2 * b) / 4
    assert probabilities("aab", "abz", 2, "witten_bell") == pytest.approx([a, after_a, z])
    expected = -(math.log2(a) + math.log2(after_a) + math.log2(z)) / 3
    assert held_out_bits("aab", "abz", 2, "witten_bell") == pytest.approx(expected)


def test_kneser_ney_of_three_letters_takes_the_fallback_discounts():
    # aa and ab, once each, less 0.5 each; a and b are each preceded by one character.
    a = b = 0.5 / 2 + 0.5 / 27
    z = 0.5 / 27
    after_a = 0.5 / 2 + 0.5 * b
    assert probabilities("aab", "abz", 2) == pytest.approx([a, after_a, z])
    # As the only order it has counts: a twice, less 1, b once, less 0.5.
    assert probabilities("aab", "abz", 1) == pytest.approx(
        [1 / 3 + 0.5 / 27, 0.5 / 3 + 0.5 / 27, 0.5 / 27]
    )


def test_kneser_ney_s_discounts_come_from_counts_of_counts():
    # Once: a b c d. Twice: e f. Three times: g. Four times: h. So Y = 4 / (4 + 2·2) = 1/2,
    # D1 = 1 - 2·½·2/4 = 1/2, D2 = 2 - 3·½·1/2 = 5/4, D3+ = 3 - 4·½·1/1 = 1.
    text = "abcdeeffggghhhh"
    below = (4 * 0.5 + 2 * 1.25 + 1 + 1) / 15 / 27
    wanted = [0.5 / 15 + below, 0.75 / 15 + below, 2 / 15 + below, 3 / 15 + below, below]
    assert probabilities(text, "aeghz", 1) == pytest.approx(wanted)


def test_kneser_ney_counts_what_precedes_at_lower_orders():
    # "san francisco" in small: o is frequent, but only after c, so it is no likely beginning.
    text = "cocococococoabacadae"
    given_counts = probabilities(text, "o", 1)[0]
    given_continuations = probabilities(text, "o", 2)[0]
    assert given_counts > probabilities(text, "a", 1)[0]
    assert given_continuations < probabilities(text, "a", 2)[0] / 2


# The definition, character by character


def reference(train, history, character, order, smoothing):
    """The formulas with dictionaries, as Chen and Goodman write them."""

    def counts_of(length):
        grams = Counter(train[i : i + length] for i in range(len(train) - length + 1))
        if smoothing == "witten_bell" or length == order:
            return grams
        longer = {train[i : i + length + 1] for i in range(len(train) - length)}
        return Counter(gram[1:] for gram in longer)

    result = 1 / 27
    for length in range(1, min(order, len(history) + 1) + 1):
        counts = counts_of(length)
        context = history[len(history) - length + 1 :]
        followers = {w: counts[context + w] for w in ALPHABET if counts[context + w]}
        if not followers:
            break
        total = sum(followers.values())
        if smoothing == "witten_bell":
            own, weight = followers.get(character, 0), len(followers)
            result = (own + weight * result) / (total + weight)
            continue
        n = defaultdict(int, Counter(counts.values()))
        discounts = FALLBACK_DISCOUNTS
        if all(n[k] for k in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
            discounts = found if min(found) > 0 else FALLBACK_DISCOUNTS
        taken = {w: discounts[min(count, 3) - 1] for w, count in followers.items()}
        own = followers.get(character, 0) - taken.get(character, 0)
        result = (own + sum(taken.values()) * result) / total
    return result


@settings(max_examples=60, deadline=None)
@given(few_letters, few_letters, orders, smoothings)
def test_every_probability_is_that_of_the_definition(train, held_out, order, smoothing):
    found = probabilities(train, held_out, order, smoothing)
    wanted = [
        reference(train, held_out[:i], held_out[i], order, smoothing) for i in range(len(held_out))
    ]
    assert found == pytest.approx(wanted)
    assert held_out_bits(train, held_out, order, smoothing) == pytest.approx(
        -np.log2(wanted).mean()
    )


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_definition_holds_on_english_with_discounts_of_its_own(order, smoothing):
    held_out = "the time traveller smiled round at us"
    wanted = [
        reference(ENGLISH[:340], held_out[:i], held_out[i], order, smoothing)
        for i in range(len(held_out))
    ]
    assert probabilities(ENGLISH[:340], held_out, order, smoothing) == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(few_letters, histories, orders, smoothings)
def test_the_probabilities_after_any_history_sum_to_one(train, history, order, smoothing):
    after = [probabilities(train, history + w, order, smoothing)[-1] for w in ALPHABET]
    assert min(after) > 0
    assert sum(after) == pytest.approx(1)


# On text


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", range(1, 9))
def test_english_is_predicted_better_than_evenly(order, smoothing):
    train, held_out = ENGLISH[:250], ENGLISH[250:340]
    assert held_out_bits(train, held_out, order, smoothing) < UNIFORM_BITS - 0.3


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_what_was_seen_is_predicted_the_better_the_higher_the_order(smoothing):
    bits = [held_out_bits(ENGLISH, ENGLISH, order, smoothing) for order in range(1, 8)]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 0.6


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_first_order_knows_no_history(smoothing):
    forwards = probabilities(ENGLISH, "time", 1, smoothing)
    assert probabilities(ENGLISH, "emit", 1, smoothing) == pytest.approx(forwards[::-1])
    frequency = ENGLISH.count("t") / len(ENGLISH)
    assert forwards[0] == pytest.approx(frequency, rel=0.05)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_orders_longer_than_the_text_change_little_and_break_nothing(smoothing):
    # 20 characters of history would not fit a number of 64 bits at 27 a place.
    long, longer = (held_out_bits(ENGLISH[:340], "the fire", n, smoothing) for n in (15, 21))
    assert long == pytest.approx(longer, abs=0.5)
    assert math.isfinite(held_out_bits("ab", "abc", 9, smoothing))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_best_order_is_that_with_the_fewest_bits(smoothing):
    train, validation = ENGLISH[:250], ENGLISH[250:340]
    bits = {n: held_out_bits(train, validation, n, smoothing) for n in range(2, 11)}
    best = best_order(train, validation, smoothing)
    assert bits[best] == min(bits.values())
    assert best_order(train, validation, smoothing, orders=[7, 6]) == min((6, 7), key=bits.get)
    assert best_order("ab", "zz", smoothing, orders=iter([3, 2])) == 2  # z was never seen: equals


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abC", "a", 2), "the training text holds 'C' at position 2: the characters are a-z and"),
        (("ab", "aé", 2), "the held-out text holds 'é' at position 1: the characters are a-z and"),
        (("", "a", 2), "the training text is empty"),
        (("a", "", 2), "the held-out text is empty"),
        (("a", "a", 0), "the order of an n-gram model is 1 or greater, not 0"),
        (("a", "a", 2, "laplace"), "no smoothing named 'laplace': give kneser_ney or witten_bell"),
    ],
)
def test_refusals_say_what_was_given_and_what_is_accepted(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        held_out_bits(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_no_orders_to_choose_from_are_refused():
    with pytest.raises(ValueError, match=r"no order to choose from"):
        best_order("a", "a", orders=[])
