"""Padding that changes nothing, on a CPU and in any type; what is refused, and why."""

import copy
from dataclasses import replace

import pytest
import torch

from deeprnn import implementations
from deeprnn.cells import CELLS
from deeprnn.cudnn_algorithm import Gpu
from deeprnn.implementations import torch_nn_persistent
from deeprnn.implementations.torch_nn_persistent import TorchNNPersistent, padded
from deeprnn.support import Request

T, B = 4, 3
SIZES = [(28, 40, 2), (28, 128, 2), (128, 128, 1), (5, 130, 3)]  # I, H, L


def results(stack, x, states, upstream):
    leaves = [t.clone().requires_grad_() for t in (x, *states)]
    y, final = stack(leaves[0], tuple(leaves[1:]) if len(states) == 2 else leaves[1])
    outputs = [y, *(final if isinstance(final, tuple) else (final,))]
    named = dict(stack.named_parameters())
    total = sum((o * u).sum() for o, u in zip(outputs, upstream, strict=True))
    gradients = torch.autograd.grad(total, [*leaves, *named.values()])
    names = ["y", *(f"final {i}" for i in range(len(states))), "x", *map(str, range(len(states)))]
    return dict(zip([*names, *named], [*outputs, *gradients], strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "I{}-H{}-L{}".format(*s))
def test_a_padded_stack_is_the_stack(sizes, cell, dtype):
    input_size, hidden_size, num_layers = sizes
    torch.manual_seed(0)
    stack = TorchNNPersistent(cell, input_size, hidden_size, num_layers, dtype=dtype)
    reference = implementations.build("torch_nn", cell, *sizes, dtype=torch.float64)
    reference.load_state_dict(stack.state_dict())
    x = torch.randn(T, B, input_size, dtype=dtype)
    states = [torch.randn(num_layers, B, hidden_size, dtype=dtype) for _ in cell_states(cell)]
    upstream = [torch.randn(T, B, hidden_size), *(torch.randn_like(s) for s in states)]
    ours = results(stack, x, states, upstream)
    theirs = results(reference, x.double(), [s.double() for s in states], upstream)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    for name, wanted in theirs.items():
        assert ours[name].shape == wanted.shape, name
        assert (ours[name].double() - wanted).norm() <= bound * wanted.norm(), name


def cell_states(cell):
    return "hc" if cell == "lstm" else "h"


@pytest.mark.parametrize("cell", CELLS)
def test_padded_units_stay_zero_and_get_no_gradient(cell, monkeypatch):
    """What is cut off was zero, in the outputs and in the gradient of every padded parameter."""
    seen = []
    plain = torch_nn_persistent.FUNCTIONS[cell]

    def watching(x, state, parameters, *rest):
        for parameter in parameters:
            parameter.retain_grad()
        y, *final = plain(x, state, parameters, *rest)
        seen.append((parameters, [y, *final]))
        return y, *final

    monkeypatch.setitem(torch_nn_persistent.FUNCTIONS, cell, watching)
    stack = TorchNNPersistent(cell, 28, 40, 1, dtype=torch.float64)
    y, _ = stack(torch.randn(T, B, 28, dtype=torch.float64))
    y.sum().backward()
    ((parameters, outputs),) = seen
    for output in outputs:
        assert output.size(-1) == 128
        assert not output[..., 40:].any()
        assert output[..., :40].any()
    weight_ih, weight_hh, *biases = (p.grad.unflatten(0, (-1, 128)) for p in parameters)
    for gradient in (weight_ih, weight_hh, *biases):
        assert not gradient[:, 40:].any()
    assert not weight_ih[..., 28:].any()
    assert not weight_hh[..., 40:].any()


def test_what_needs_no_padding_uses_the_parameters_themselves(monkeypatch):
    stack = TorchNNPersistent("lstm", 128, 128, 2)
    monkeypatch.setattr(stack, "_padded", None)
    stack(torch.randn(T, B, 128))
    assert list(stack._modules_by_layer) == [0, 1]
    assert stack._modules_by_layer[1].weight_hh_l0 is stack.weight_hh_l1
    moved = copy.deepcopy(stack).double()
    assert moved._modules_by_layer[1].weight_hh_l0 is moved.weight_hh_l1


def test_the_contract_of_names_and_initial_values():
    torch.manual_seed(3)
    ours = TorchNNPersistent("lstm", 28, 40, 2)
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(28, 40, 2)
    for (name, a), (other, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    theirs.load_state_dict(ours.state_dict())


def test_a_layer_without_recurrence():
    stack = TorchNNPersistent("rnn_tanh", 28, 40, 2, recurrent=(True, False))
    reference = implementations.build("python_loop", "rnn_tanh", 28, 40, 2, recurrent=(True, False))
    reference.load_state_dict(stack.state_dict())
    x = torch.randn(T, B, 28)
    torch.testing.assert_close(stack(x)[0], reference(x)[0])


@pytest.mark.parametrize("size", [1, 28, 127, 128, 129, 512])
def test_sizes_are_rounded_up(size):
    assert padded(size) % 128 == 0
    assert 0 <= padded(size) - size < 128


HALF = Request(cell="lstm", device="cuda", dtype="float16", num_layers=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cpu"}, "device cpu is not implemented here, only cuda"),
        ({"dtype": "float32"}, "dtype float32 is not implemented here, only float16"),
        ({"cell": "gru"}, "PyTorch never uses it for a GRU on compute capability 9.0"),
        ({"hidden_size": 1025}, "it takes H up to 1024, not 1152"),
        ({"batch_size": 12}, "PyTorch uses it for B up to 128 in multiples of 8, not 12"),
        ({}, None),
        ({"hidden_size": 250, "input_size": 3}, None),
        ({"execution": "cuda_graph"}, None),
        ({"cell": "rnn_tanh", "hidden_size": 512, "recurrent": (True, False)}, None),
        ({"cell": "rnn_tanh"}, "PyTorch takes another algorithm at H 256: persistent for small H"),
        ({"hidden_size": 100, "input_size": 3}, "another algorithm at H 128"),
    ],
)
def test_what_is_refused_and_why(changes, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Gpu, "of", lambda device: Gpu(9, 0, 132))
    reason = TorchNNPersistent.support.refusal(replace(HALF, **changes))
    assert reason == said if said is None else said in reason


def test_without_a_gpu_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TorchNNPersistent.support.refusal(HALF) == "no CUDA device is visible to PyTorch"
