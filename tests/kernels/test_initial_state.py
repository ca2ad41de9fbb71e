"""Without the initial state's gradient, which training does not ask for, the others are the same.

The step kernel and the wavefront then leave out the step that makes it.
"""

import pytest
import torch

from kernels import function, stack, step
from kernels.cells import GATES
from kernels.function import dataflow_layer, sequence_layer, step_layer, why_no_sequence
from kernels.stack import wavefront_stack

from .stacks import Stack

CELLS = tuple(GATES)
LAYERS = {"step": step_layer, "sequence": sequence_layer, "dataflow": dataflow_layer}


@pytest.fixture
def states(monkeypatch):
    """The buffers of the states' gradients, as kernels leave them."""
    buffers = []
    plain = function.own_gradients

    def kept(*arguments):
        made = plain(*arguments)
        buffers[:] = made
        return made

    monkeypatch.setattr(function, "own_gradients", kept)
    monkeypatch.setattr(stack, "own_gradients", kept)
    return buffers


def gradients(run, leaves):
    for leaf in leaves:
        leaf.grad = None
    y, final = run()
    finals = final if isinstance(final, tuple) else (final,)
    torch.autograd.backward([y, *finals], [torch.ones_like(tensor) for tensor in (y, *finals)])
    return [leaf.grad for leaf in leaves]


def compare(run, others, initial, states):
    """All gradients with those of `initial`, then all but those: the same, bit for bit.

    Returns the buffers of the initial states' gradients of both.
    """
    for tensor in initial:
        tensor.requires_grad_()
    *wanted, _ = gradients(run, [*others, initial[0]])
    whole = [buffer.clone() for buffer in states]
    for tensor in initial:
        tensor.requires_grad_(False)
    found = gradients(run, others)
    for one, other in zip(found, wanted[: len(found)], strict=True):
        assert torch.equal(one, other)
    return whole, [buffer.clone() for buffer in states]


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name, cell, T, make_case, device, states, poisoned):
    where = (32, torch.float32, "ieee", torch.device(device))
    if name == "dataflow" and (reason := why_no_sequence(cell, 3, *where, marked=True)):
        pytest.skip(reason)
    case = make_case(cell, T, 3, 32)
    inputs = {name: tensor.float().to(device) for name, tensor in case.inputs.items()}
    initial = [inputs[name] for name in ("h", "c") if name in inputs]
    others = [inputs[name].requires_grad_() for name in ("x", "weight_hh", "bias_hh")]

    def run():
        gates_x = inputs["x"] @ inputs["weight_ih"].T + inputs["bias_ih"]
        state = tuple(initial) if cell == "lstm" else initial[0]
        return LAYERS[name](cell, gates_x, inputs["weight_hh"], inputs["bias_hh"], state)

    whole, left = compare(run, others, initial, states)
    # what the gates' gradients of the first step have to be multiplied for
    assert torch.equal(whole[0], left[0]) == (name != "step")


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_wavefront(cell, marked, T, device, states, poisoned):
    H = 256 if marked and device == "cuda" else 32
    where = (H, 2, torch.float32, "ieee", torch.device(device))
    if reason := stack.why_no_wavefront(cell, 3, *where, marked=marked):
        pytest.skip(reason)
    layers = Stack(cell, T, 3, H, 2)
    x, *initial = (tensor.float().to(device) for tensor in layers.inputs)
    weight_ih, *parameters = (p.detach().float().to(device) for p in layers.module.parameters())
    others = [tensor.requires_grad_() for tensor in (x, *parameters)]

    def run():
        state = tuple(initial) if cell == "lstm" else initial[0]
        return wavefront_stack(cell, x @ weight_ih.T, parameters, state, marked=marked)

    whole, left = compare(run, others, initial, states)
    assert not torch.equal(whole[0], left[0])


@pytest.mark.parametrize("name", LAYERS)
def test_one_state_of_two(name, make_case, device):
    """Each alone is what it is beside the other."""
    case = make_case("lstm", 3, 2, 32)
    inputs = {name: tensor.float().to(device) for name, tensor in case.inputs.items()}

    def run():
        gates_x = inputs["x"] @ inputs["weight_ih"].T
        state = (inputs["h"], inputs["c"])
        return LAYERS[name]("lstm", gates_x, inputs["weight_hh"], inputs["bias_hh"], state)

    pair = [inputs["h"].requires_grad_(), inputs["c"].requires_grad_()]
    wanted = gradients(run, pair)
    for alone, other, gradient in zip(pair, reversed(pair), wanted, strict=True):
        other.requires_grad_(False)
        (found,) = gradients(run, [alone])
        assert torch.equal(found, gradient)
        other.requires_grad_()


@pytest.mark.parametrize(("asks", "steps"), [(True, 6), (False, 5)])
def test_the_step_kernel_takes_a_step_less(asks, steps, make_case, device, monkeypatch):
    case = make_case("gru", 5, 2, 32)
    inputs = {name: tensor.float().to(device) for name, tensor in case.inputs.items()}
    inputs["weight_hh"].requires_grad_()
    inputs["h"].requires_grad_(asks)
    gates_x = inputs["x"] @ inputs["weight_ih"].T
    y, _ = step_layer("gru", gates_x, inputs["weight_hh"], inputs["bias_hh"], inputs["h"])
    launches = []

    class Counting:
        def __getitem__(self, grid):
            launches.append(grid)
            return plain[grid]

    plain = step.step_backward_kernel
    monkeypatch.setattr(step, "step_backward_kernel", Counting())
    y.sum().backward()
    assert len(launches) == steps
