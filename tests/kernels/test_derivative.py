"""What is written by hand refuses to be differentiated twice."""

import pytest
import torch

from deeprnn import implementations


def penalised(name: str) -> torch.Tensor:
    """The gradient of a weight by a loss that has a gradient in it, as gradient penalties do."""
    torch.manual_seed(0)
    module = implementations.build(name, "gru", 3, 4)
    x = torch.randn(2, 3, 3, requires_grad=True)
    total = module(x)[0].sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    (total + gradient.pow(2).sum()).backward()
    return module.weight_hh_l0.grad


def test_where_autograd_made_it_there_is_a_second_derivative():
    expected = penalised("torch_nn")
    assert torch.allclose(penalised("python_loop"), expected, rtol=1e-4, atol=1e-6)


def test_by_hand_there_is_none_and_it_says_so():
    with pytest.raises(RuntimeError, match="no second derivative"):
        penalised("manual_gradient")


@pytest.mark.parametrize("name", ["triton_step", "triton_sequence"])
def test_kernels_have_none_either(name):
    if not implementations.interpreted(name, "cpu"):
        pytest.skip("kernels run on a CPU in the interpreter alone")
    with pytest.raises(RuntimeError, match="no second derivative"):
        penalised(name)
