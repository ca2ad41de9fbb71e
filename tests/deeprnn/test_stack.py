"""What all implementations inherit: construction, initial values, argument checks."""

import math

import pytest
import torch
from torch import nn

from deeprnn.cells import CELLS, GATES
from deeprnn.implementations.python_loop import PythonLoop
from deeprnn.stack import DeepRNN, graph_node_names


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("ltsm", 2, 3), {}, "cell 'ltsm' is unknown; use one of rnn_tanh, rnn_relu, gru, lstm"),
        (("lstm", 0, 3), {}, "input_size is 0; it must be an integer of at least 1"),
        (("lstm", 2, -3), {}, "hidden_size is -3"),
        (("lstm", 2, 3, 0), {}, "num_layers is 0"),
        (("lstm", 2, 3.0), {}, "hidden_size is 3.0"),
        (("lstm", 2, 3), {"initialization": "zeros"}, "'zeros' is unknown; use uniform or normal"),
        (("rnn_tanh", 2, 3, 2), {"recurrent": [True]}, "recurrent has 1 entries for 2 layers"),
        (("gru", 2, 3), {"recurrent": [False]}, "defined for RNN cells, not for gru"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        PythonLoop(*arguments, **options)


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_are_torchs_in_name_shape_and_order(cell):
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}.get(cell, nn.RNN)
    expected = [(n, p.shape) for n, p in kind(3, 4, 2).named_parameters()]
    assert [(n, p.shape) for n, p in PythonLoop(cell, 3, 4, 2).named_parameters()] == expected


def test_attributes_are_torchs():
    ours, theirs = PythonLoop("lstm", 3, 4, 2), nn.LSTM(3, 4, 2)
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("dropout", "bidirectional", "proj_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    ours.flatten_parameters()


def test_uniform_initial_values_fill_torchs_range():
    module = PythonLoop("lstm", 30, 25)
    for parameter in module.parameters():
        assert parameter.requires_grad
        assert 0.9 / math.sqrt(25) < parameter.abs().max() <= 1 / math.sqrt(25)


def test_normal_initial_values_are_those_of_the_scratch_network():
    module = PythonLoop("rnn_tanh", 30, 200, 2, initialization="normal")
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)
        else:
            assert not parameter.any()
        assert parameter.requires_grad == (not name.startswith("bias_hh"))


def test_reset_draws_anew():
    module = PythonLoop("gru", 3, 4)
    before = module.weight_hh_l0.clone()
    module.reset_parameters()
    assert not torch.equal(before, module.weight_hh_l0)


def test_a_layer_without_recurrence_has_no_recurrent_parameters():
    module = PythonLoop("rnn_relu", 3, 4, 2, recurrent=[True, False])
    assert [n for n, _ in module.named_parameters() if n.endswith("l1")] == [
        "weight_ih_l1",
        "bias_ih_l1",
    ]
    assert len(module.parameters_of(0)) == 4
    assert len(module.parameters_of(1)) == 2


def test_device_and_dtype_reach_the_parameters():
    module = PythonLoop("gru", 3, 4, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float64)}


def test_the_stack_itself_is_no_implementation():
    with pytest.raises(NotImplementedError):
        DeepRNN("lstm", 2, 3)(torch.zeros(1, 1, 2))


def test_repr_says_what_it_is():
    assert repr(PythonLoop("lstm", 2, 3, 4)) == "PythonLoop('lstm', 2, 3, num_layers=4)"


def test_graph_node_names_reach_back_to_the_parameters():
    y, _ = PythonLoop("rnn_tanh", 2, 3)(torch.zeros(1, 1, 2))
    assert {"StackBackward0", "TanhBackward0", "torch::autograd::AccumulateGrad"} <= (
        graph_node_names(y)
    )
    assert graph_node_names(y.detach()) == set()


@pytest.mark.parametrize("cell", CELLS)
def test_gate_counts_match_the_rows(cell):
    assert PythonLoop(cell, 2, 3).weight_hh_l0.shape == (GATES[cell] * 3, 3)


@pytest.mark.parametrize(
    ("x", "state", "error", "said"),
    [
        (torch.zeros(4, 5), (torch.zeros(2, 1, 8),) * 2, ValueError,
         r"h has shape \(2, 1, 8\); expected \(L, H\) = \(2, 8\)"),
        (torch.zeros(4, 3, 5), (torch.zeros(2, 8),) * 2, ValueError,
         r"h has shape \(2, 8\); expected \(L, B, H\) = \(2, 3, 8\)"),
        (torch.zeros(4, 3, 5), (torch.zeros(2, 3, 8),) * 3, TypeError,
         r"a tuple \(h, c\), not \(Tensor, Tensor, Tensor\)"),
        (torch.zeros(4, 3, 5).double(), None, TypeError, "x is torch.float64, the parameters are"),
        (torch.zeros(4, 3, 5), (torch.zeros(2, 3, 8).half(),) * 2, TypeError, "h is torch.float16"),
        (torch.zeros(4, 3, 5, device="meta"), None, ValueError, "x is on meta, the parameters"),
        ([[0.0] * 5], None, TypeError, "x is a list; expected a tensor"),
    ],
)  # fmt: skip
def test_what_is_given_wrongly_is_named(x, state, error, said):
    module = PythonLoop("lstm", 5, 8, num_layers=2)
    with pytest.raises(error, match=said):
        module(x, state)
