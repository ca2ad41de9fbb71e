"""Ids that are stable and unique, and operations counted as a hand would count them."""

import pytest

from bench.workloads import PROFILES, PUBLISHED_GRU, PUBLISHED_LSTM, PUBLISHED_SCRATCH


def test_published_ids():
    assert PUBLISHED_LSTM.id == "lstm-L2-H256-B32-T35-fp32"
    assert PUBLISHED_GRU.id == "gru-L1-H256-B32-T35-fp32"
    assert PUBLISHED_SCRATCH.id == "rnn_tanh-L2-H512-B32-T35-fp32-recurrent1-normal"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_ids_are_unique_within_a_profile(profile):
    ids = [workload.id for workload in profile.workloads]
    assert len(set(ids)) == len(ids)


def test_only_published_runs_carry_published_figures():
    for profile in PROFILES.values():
        for workload in profile.workloads:
            if workload.published_tokens_per_second is not None:
                assert workload.id in {
                    PUBLISHED_LSTM.id,
                    PUBLISHED_SCRATCH.id,
                    PUBLISHED_GRU.id,
                }


def test_operations_of_the_published_lstm():
    # Forward a token: 1024 × 28 and 1024 × 256, then twice 1024 × 256, then 28 × 256.
    # Backward costs twice that, less the gradient of the one-hot input.
    forward = 2 * (1024 * 28 + 1024 * 256 * 3 + 28 * 256)
    assert PUBLISHED_LSTM.flops_per_token(28) == 3 * forward - 2 * 1024 * 28


def test_a_layer_without_recurrence_costs_no_recurrent_product():
    # Input product of layer 1 (two of three), its recurrence, layer 2, output.
    expected = 2 * (2 * 512 * 28 + 3 * 512 * 512 + 3 * 512 * 512 + 3 * 28 * 512)
    assert PUBLISHED_SCRATCH.flops_per_token(28) == expected
