"""When PyTorch asks cuDNN for a persistent algorithm: the conditions that its source has."""

import pytest
import torch

from deeprnn.cudnn_algorithm import (
    PERSISTENT,
    SMALL,
    STANDARD,
    Gpu,
    algorithm,
    algorithms,
    why_not_persistent,
)

H100 = Gpu(9, 0, 132)
V100 = Gpu(7, 0, 80)
HALF = torch.float16


def forward(cell="lstm", input_size=256, H=256, L=1, B=32, T=35, dtype=HALF, gpu=H100):
    return algorithm(cell, input_size, H, L, B, T, dtype, gpu, forward=True)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, PERSISTENT),
        ({"dtype": torch.float32}, STANDARD),
        ({"dtype": torch.bfloat16}, STANDARD),
        ({"L": 2}, STANDARD),
        ({"H": 1152}, STANDARD),
        ({"H": 1024}, PERSISTENT),
        ({"H": 250}, STANDARD),
        ({"input_size": 28}, STANDARD),
        ({"cell": "gru"}, STANDARD),
        ({"B": 33}, STANDARD),
        ({"B": 136}, STANDARD),
        ({"B": 128}, PERSISTENT),
        ({"cell": "rnn_tanh", "H": 512}, PERSISTENT),
        ({"cell": "rnn_tanh", "H": 896, "B": 96}, STANDARD),
        ({"cell": "lstm", "H": 896, "B": 96}, PERSISTENT),
        ({"gpu": Gpu(8, 0, 108)}, PERSISTENT),
        ({"gpu": Gpu(8, 6, 108)}, STANDARD),
        ({"gpu": Gpu(8, 0, 56)}, STANDARD),
        ({"gpu": Gpu(7, 5, 72)}, STANDARD),
        ({"gpu": Gpu(6, 0, 56)}, STANDARD),
        ({"gpu": V100}, PERSISTENT),
        ({"gpu": V100, "T": 9}, STANDARD),
        ({"gpu": V100, "B": 80}, STANDARD),
        # few units: whatever the type, the layers and the input's size
        ({"H": 192, "dtype": torch.float32, "L": 2, "input_size": 28}, SMALL),
        ({"H": 128, "dtype": torch.float64}, STANDARD),
        ({"H": 192, "gpu": Gpu(5, 2, 24)}, STANDARD),
        ({"cell": "rnn_relu", "H": 384, "dtype": torch.float32}, SMALL),
    ],
)
def test_conditions(changes, found):
    assert forward(**changes) == found


def test_the_directions_differ_for_middling_sizes():
    sizes = (256, 160, 1, 32, 35, torch.float32, H100)
    assert algorithms("lstm", *sizes) == f"{SMALL} algorithm forward, {STANDARD} backward"
    assert algorithms("lstm", 256, 256, 1, 32, 35, HALF, H100) == "persistent algorithm"


def test_reasons_name_the_value():
    assert why_not_persistent("lstm", 256, 1152, 1, 32, 35, H100) == (
        "it takes H up to 1024, not 1152"
    )
    assert "never uses it for a GRU" in why_not_persistent("gru", 256, 256, 1, 32, 35, H100)
    assert "not 33" in why_not_persistent("lstm", 256, 256, 1, 33, 35, H100)
    assert why_not_persistent("gru", 256, 256, 1, 32, 35, V100) is None
