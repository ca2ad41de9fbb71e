"""The hand-derived gradient, beyond the contract: against finite differences, and twice."""

import copy

import pytest
import torch

from deeprnn.cells import CELLS, STATES
from deeprnn.implementations.manual_gradient import Layer, ManualGradient


def layer_arguments(cell: str, num_steps: int, frozen: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    module = ManualGradient(cell, 3, 2, dtype=torch.float64)
    module.bias_hh_l0.requires_grad_(not frozen)
    x = torch.randn(num_steps, 2, 3, dtype=torch.float64, requires_grad=not frozen)
    states = [
        torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(STATES[cell])
    ]
    return [x, *module.parameters(), *states]


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "x-and-bias-frozen"])
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_finite_differences(cell, num_steps, frozen):
    arguments = layer_arguments(cell, num_steps, frozen)
    assert torch.autograd.gradcheck(lambda *a: Layer.apply(cell, *a), arguments)


@pytest.mark.parametrize("cell", CELLS)
def test_a_kept_graph_gives_the_same_gradients_again(cell):
    arguments = layer_arguments(cell, 3, frozen=False)
    outputs = Layer.apply(cell, *arguments)
    once, twice = (
        torch.autograd.grad(sum(o.sum() for o in outputs), arguments, retain_graph=True)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_arriving_gradients_are_left_alone(cell):
    arguments = layer_arguments(cell, 3, frozen=False)
    outputs = Layer.apply(cell, *arguments)
    arriving = [torch.randn_like(o) for o in outputs]
    before = [a.clone() for a in arriving]
    torch.autograd.grad(outputs, arguments, arriving)
    assert all(torch.equal(a, b) for a, b in zip(arriving, before, strict=True))


def test_a_second_derivative_is_refused():
    x, *rest = layer_arguments("lstm", 2, frozen=False)
    y = Layer.apply("lstm", x, *rest)[0]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_narrow_types_take_the_path_with_tanh():
    """As a GPU does in any type; there 2σ(2x) − 1 would lose most of a bfloat16's digits."""
    torch.manual_seed(0)
    module = ManualGradient("lstm", 4, 8, 2)
    x = torch.randn(5, 3, 4)
    exact, _ = copy.deepcopy(module).double()(x.double())
    rounded, _ = module.bfloat16()(x.bfloat16())
    difference = torch.linalg.vector_norm(rounded.double() - exact)
    assert difference <= 2e-2 * torch.linalg.vector_norm(exact)
    rounded.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
