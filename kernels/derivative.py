"""What holds for every gradient written by hand: none of its own, and one type throughout."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


def gradient_by_hand(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` of a `torch.autograd.Function` that refuses to be differentiated itself, and
    under autocast computes as its forward pass did, in the types of its tensors.

    PyTorch's `once_differentiable` alone refuses only where the incoming gradient needs one, too.
    Of `y.sum()` it does not, and what depends on the gradient would be left out without a word.

    Raises:
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    once: Callable[..., Any] = once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this gradient is written by hand and has no second derivative; without "
                "create_graph=True it works, and python_loop and torchscript have both"
            )
        device = next((g.device.type for g in gradients if g is not None), "cpu")
        if not torch.is_autocast_enabled(device):
            return once(ctx, *gradients)
        with torch.autocast(device, enabled=False):
            return once(ctx, *gradients)

    return checked
