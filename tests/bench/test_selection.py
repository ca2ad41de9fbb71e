"""What ``--only`` means."""

import pytest

from bench.selection import MatchesNothing, choose

IDS = [
    "lstm-L2/torch_nn/eager",
    "lstm-L2/torch_nn_persistent/eager",
    "gru-L2/torch_nn/cuda_graph",
    "gru-L2/gru_loop/eager",
]


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], IDS),
        (["torch_nn"], [IDS[0], IDS[2]]),  # a whole name is that name alone
        (["torch"], IDS[:3]),
        (["lstm-*/*/eager"], IDS[:2]),
        (["gru_loop", "cuda_graph"], IDS[2:]),
        (["torch_nn*"], IDS[:3]),
        (["gru-*"], IDS[2:]),
        (["*_loop"], IDS[3:]),
        (["torch_nn?"], None),
        (["ru-*"], None),
        (["torchscript"], None),
    ],
)
def test_what_a_pattern_means(only, expected):
    if expected is None:
        with pytest.raises(MatchesNothing) as error:
            choose(IDS, ["torch_nn", *only])
        assert error.value.pattern == only[0]
        assert repr(only[0]) in str(error.value)
    else:
        assert choose(IDS, only) == expected
