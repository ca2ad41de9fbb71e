"""One module for neighbouring layers, and weights in one piece, in bfloat16 too."""

from types import SimpleNamespace

import pytest
import torch

from deeprnn import implementations
from deeprnn.implementations import torch_nn

ON_A_GPU = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device="cuda")


@pytest.fixture
def gpu(monkeypatch):
    """What PyTorch would say where there is a GPU with cuDNN."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "_use_cudnn_rnn_flatten_weight", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize(
    ("changes", "is_needed"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),  # PyTorch has done it
        ({"dtype": torch.float16}, False),
        ({"is_cuda": False}, False),
    ],
)
def test_bfloat16_weights_on_a_gpu_are_what_pytorch_leaves_out(changes, is_needed, gpu):
    weights = [ON_A_GPU, SimpleNamespace(**{**vars(ON_A_GPU), **changes})]
    assert torch_nn._needs_flattening(weights) is is_needed


@pytest.mark.parametrize(
    ("where", "name", "answer"),
    [
        (torch.version, "cuda", None),
        (torch.backends.cudnn, "is_available", lambda: False),
        (torch.cuda, "get_device_capability", lambda device: (7, 5)),
        (torch, "_use_cudnn_rnn_flatten_weight", lambda: False),
    ],
)
def test_without_a_library_that_takes_them_they_stay(where, name, answer, gpu, monkeypatch):
    assert torch_nn._needs_flattening([ON_A_GPU])
    monkeypatch.setattr(where, name, answer)
    assert not torch_nn._needs_flattening([ON_A_GPU])


def test_they_stay_where_the_library_is_switched_off(gpu):
    with torch.backends.cudnn.flags(enabled=False):
        assert not torch_nn._needs_flattening([ON_A_GPU])


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm"])
def test_all_weights_of_a_module_are_handed_over(cell, monkeypatch):
    """Moved to one piece they are the same numbers, and still the parameters that are trained."""
    said = []

    def flatten(weights, *rest):
        said.append(rest)
        piece = torch.cat([weight.flatten() for weight in weights])
        places = piece.split([weight.numel() for weight in weights])
        for weight, place in zip(weights, places, strict=True):
            weight.set_(place.view_as(weight))

    monkeypatch.setattr(torch_nn, "_needs_flattening", lambda weights: True)
    monkeypatch.setattr(torch_nn, "get_cudnn_mode", lambda mode: mode)
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", flatten)
    torch.manual_seed(0)
    stack = implementations.build("torch_nn", cell, 5, 8, 3)
    (module,) = stack._modules_by_first_layer.values()
    assert torch_nn.is_in_one_piece(module)
    mode = {"rnn_tanh": "RNN_TANH", "lstm": "LSTM"}[cell]
    assert said == [(4, 5, mode, 8, 0, 3, False, False)]
    stack.flatten_parameters()
    assert len(said) == 2
    monkeypatch.undo()
    torch.manual_seed(0)
    apart = implementations.build("torch_nn", cell, 5, 8, 3)
    assert not torch_nn.is_in_one_piece(next(iter(apart._modules_by_first_layer.values())))
    x = torch.randn(4, 2, 5)
    assert torch.equal(stack(x)[0], apart(x)[0])
    stack(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())
