import random
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deeprnn.corpus import CorpusError
from deeprnn.minibatches import SCHEMES, Minibatches, split, tokens_needed

unhurried = settings(deadline=None)  # a busy machine is no failure


def textbook_sequential(tokens, batch_size, num_steps, offset):
    """The published loop on plain lists: rows first, then windows of columns."""
    width = (len(tokens) - offset - 1) // batch_size
    inputs = [tokens[offset + b * width : offset + (b + 1) * width] for b in range(batch_size)]
    shifted = tokens[1:]
    targets = [shifted[offset + b * width : offset + (b + 1) * width] for b in range(batch_size)]
    for k in range(width // num_steps):
        columns = slice(k * num_steps, (k + 1) * num_steps)
        yield [row[columns] for row in inputs], [row[columns] for row in targets]


def textbook_random(tokens, batch_size, num_steps, offset, generator):
    """The published loop on plain lists: starts of subsequences, shuffled, B at a time."""
    tokens = tokens[offset:]
    starts = list(range(0, (len(tokens) - 1) // num_steps * num_steps, num_steps))
    generator.shuffle(starts)
    while len(starts) >= batch_size:
        chosen, starts = starts[:batch_size], starts[batch_size:]
        yield (
            [tokens[start : start + num_steps] for start in chosen],
            [tokens[start + 1 : start + 1 + num_steps] for start in chosen],
        )


@st.composite
def sizes(draw):
    """N, B, T and a scheme, with N from just enough upwards."""
    batch_size, num_steps = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    scheme = draw(st.sampled_from(SCHEMES))
    spare = draw(st.integers(0, 4 * batch_size * num_steps))
    return tokens_needed(batch_size, num_steps, scheme) + spare, batch_size, num_steps, scheme


def epoch(num_tokens, batch_size, num_steps, scheme, seed, index):
    """An epoch over the tokens 0, 1, 2, ..., so that a token tells its position."""
    batches = Minibatches(torch.arange(num_tokens), batch_size, num_steps, scheme, seed)
    return [(x, y) for x, y in batches.epoch(index)]


def smallest_input(batches):
    return min(int(x.min()) for x, _ in batches)


@unhurried
@given(sizes(), st.integers(0, 50), st.integers(0, 50))
def test_minibatches_are_time_major_shifted_by_one_and_disjoint(size, seed, index):
    num_tokens, batch_size, num_steps, _ = size
    seen = []
    for x, y in epoch(*size, seed, index):
        assert x.shape == y.shape == (num_steps, batch_size)
        assert x.dtype == y.dtype == torch.long
        assert x.is_contiguous()
        assert y.is_contiguous()
        assert y.equal(x + 1)
        assert (x[1:] == x[:-1] + 1).all()
        seen += x.flatten().tolist()
    assert len(seen) >= batch_size * num_steps
    assert len(set(seen)) == len(seen)
    assert max(seen) < num_tokens - 1


@unhurried
@given(sizes(), st.integers(0, 50))
def test_every_minibatch_is_the_published_loop_s(size, seed):
    num_tokens, batch_size, num_steps, scheme = size
    got = [(x.t().tolist(), y.t().tolist()) for x, y in epoch(*size, seed, 3)]
    tokens = list(range(num_tokens))
    # The generator is the implementation's own business; its first draw is the offset.
    generator = Minibatches(torch.arange(num_tokens), *size[1:], seed)._generator(3)
    if scheme == "sequential":
        offset = generator.randint(0, num_steps)
        expected = list(textbook_sequential(tokens, batch_size, num_steps, offset))
    else:
        offset = generator.randint(0, num_steps - 1)
        expected = list(textbook_random(tokens, batch_size, num_steps, offset, generator))
    assert got == expected


@unhurried
@given(sizes())
def test_sequential_rows_continue_from_minibatch_to_minibatch(size):
    num_tokens, batch_size, num_steps, _ = size
    num_tokens += num_steps  # enough for the sequential scheme whatever was drawn
    batches = epoch(num_tokens, batch_size, num_steps, "sequential", 0, 0)
    for (x, _), (following, _) in pairwise(batches):
        assert following[0].equal(x[-1] + 1)


@pytest.mark.parametrize(
    ("scheme", "offsets"), [("sequential", {0, 1, 2, 3}), ("random", {0, 1, 2})]
)
def test_epochs_start_at_every_offset_and_no_other(scheme, offsets):
    batches = Minibatches(torch.arange(100), 1, 3, scheme)  # with B 1 no subsequence is left out
    assert {smallest_input(batches.epoch(index)) for index in range(200)} == offsets


def test_random_sampling_shuffles_and_sequential_partitioning_does_not():
    starts = [int(x[0, 0]) for x, _ in epoch(100, 1, 5, "random", 0, 0)]
    assert starts != sorted(starts)
    starts = [int(x[0, 0]) for x, _ in epoch(100, 1, 5, "sequential", 0, 0)]
    assert starts == sorted(starts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_epoch_depends_on_seed_and_index_alone(scheme):
    def flat(batches, index):
        return torch.stack([x for x, _ in batches.epoch(index)])

    tokens = torch.arange(1000)
    first = Minibatches(tokens, 4, 5, scheme, seed=7)
    for index in (0, 1, 9):
        list(first.epoch(index))
    random.seed(1)
    torch.manual_seed(1)
    second = Minibatches(tokens, 4, 5, scheme, seed=7)
    assert flat(first, 2).equal(flat(second, 2))
    others = [flat(second, index) for index in range(3, 13)]
    assert not all(flat(second, 2).equal(other) for other in others)
    seeds = [flat(Minibatches(tokens, 4, 5, scheme, seed=seed), 2) for seed in range(8, 18)]
    assert not all(flat(second, 2).equal(other) for other in seeds)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawing_an_epoch_leaves_the_global_generators_alone(scheme):
    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.get_rng_state()
    epoch(200, 4, 5, scheme, 0, 0)
    assert random.getstate() == before[0]
    assert torch.get_rng_state().equal(before[1])


@unhurried
@given(sizes(), st.integers(0, 20), st.integers(0, 20))
def test_counts_are_those_of_the_epoch(size, seed, index):
    num_tokens, batch_size, num_steps, scheme = size
    batches = Minibatches(torch.arange(num_tokens), batch_size, num_steps, scheme, seed)
    inputs = [x for x, _ in batches.epoch(index)]
    assert batches.num_batches(index) == len(inputs) >= 1
    assert batches.num_tokens(index) == sum(x.numel() for x in inputs)
    assert batches.batches_per_epoch >= len(inputs)
    assert batches.tokens_per_epoch == batches.batches_per_epoch * batch_size * num_steps
    if batches.has_constant_length:
        assert len(inputs) == batches.batches_per_epoch


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_length_that_depends_on_the_offset_says_so(scheme):
    # One minibatch is certain, and offset 0 just has room for a second one.
    batches = Minibatches(torch.arange(2 * 2 * 6 + 1), 2, 6, scheme)
    counts = {batches.num_batches(index) for index in range(100)}
    assert counts == {1, 2}
    assert batches.batches_per_epoch == 2
    assert not batches.has_constant_length


def test_the_published_task_has_eight_minibatches_in_every_epoch():
    batches = Minibatches(torch.zeros(10_000, dtype=torch.long), 32, 35)
    assert batches.batches_per_epoch == 8
    assert batches.tokens_per_epoch == 8 * 32 * 35
    assert batches.has_constant_length
    assert {batches.num_batches(index) for index in range(200)} == {8}


@unhurried
@given(sizes())
def test_one_token_less_than_needed_is_refused_with_both_lengths(size):
    _, batch_size, num_steps, scheme = size
    needed = tokens_needed(batch_size, num_steps, scheme)
    tokens = torch.arange(needed)
    assert Minibatches(tokens, batch_size, num_steps, scheme).batches_per_epoch >= 1
    with pytest.raises(CorpusError, match=rf"{needed - 1:,} characters, and {needed:,} are needed"):
        Minibatches(tokens[:-1], batch_size, num_steps, scheme)


@unhurried
@given(sizes())
def test_tokens_needed_is_the_least_that_never_leaves_an_epoch_empty(size):
    _, batch_size, num_steps, scheme = size
    assume(num_steps > 1 or scheme == "sequential")  # one offset alone: nothing to tell apart
    tokens = list(range(tokens_needed(batch_size, num_steps, scheme)))
    if scheme == "sequential":
        worst = num_steps
        counts = [
            len(list(textbook_sequential(text, batch_size, num_steps, worst)))
            for text in (tokens, tokens[:-1])
        ]
    else:
        worst = num_steps - 1
        counts = [
            len(list(textbook_random(text, batch_size, num_steps, worst, random.Random(0))))
            for text in (tokens, tokens[:-1])
        ]
    assert counts == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"num_steps": -1}, "num_steps must be at least 1, not -1"),
        ({"scheme": "shuffled"}, "unknown scheme 'shuffled': choose one of sequential, random"),
        ({"tokens": torch.zeros(100)}, "tokens must be int64"),
        ({"tokens": torch.zeros(10, 10, dtype=torch.long)}, r"not torch.int64 \(10, 10\)"),
    ],
)
def test_malformed_arguments_are_named(arguments, message):
    accepted = {"tokens": torch.arange(100), "batch_size": 2, "num_steps": 3}
    Minibatches(**accepted)
    with pytest.raises(ValueError, match=message):
        Minibatches(**(accepted | arguments))


def test_split_gives_the_first_tokens_and_those_right_after():
    tokens = torch.arange(20)
    train, validation = split(tokens, num_train=12, num_validation=5)
    assert train.tolist() == list(range(12))
    assert validation.tolist() == list(range(12, 17))


def test_split_defaults_to_the_published_10_000_and_5_000():
    train, validation = split(torch.arange(15_000))
    assert (len(train), len(validation)) == (10_000, 5_000)
    with pytest.raises(CorpusError, match=r"14,999 characters .* 15,000 are needed"):
        split(torch.arange(14_999))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_iterating_never_waits_for_the_gpu_and_gives_the_cpu_s_minibatches(scheme):
    tokens = torch.arange(1000)
    batches = Minibatches(tokens.cuda(), 4, 5, scheme, seed=3)
    list(batches.epoch(0))  # the first pinned allocation may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = list(batches.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = list(Minibatches(tokens, 4, 5, scheme, seed=3).epoch(1))
    assert len(on_gpu) == len(on_cpu)
    for (x, y), (x_cpu, y_cpu) in zip(on_gpu, on_cpu, strict=True):
        assert x.cpu().equal(x_cpu)
        assert y.cpu().equal(y_cpu)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tokens_need_not_lie_side_by_side(scheme):
    tokens = torch.arange(120)
    apart = torch.stack([tokens, tokens], 1)[:, 0]
    assert apart.stride() == (2,)
    for index in range(3):
        pairs = zip(
            Minibatches(apart, 3, 4, scheme).epoch(index),
            Minibatches(tokens, 3, 4, scheme).epoch(index),
            strict=True,
        )
        assert all(map(torch.equal, one, other) for one, other in pairs)
