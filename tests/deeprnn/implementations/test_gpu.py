"""What only a GPU can show of an implementation: which of the vendor's algorithms really ran."""

import pytest
import torch

from deeprnn import implementations
from deeprnn.cudnn_algorithm import PERSISTENT
from deeprnn.support import Request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PUBLISHED = {"cell": "lstm", "device": "cuda", "dtype": "float16", "num_layers": 2}


@pytest.fixture
def stack():
    reason = implementations.why_unsupported("torch_nn_persistent", Request(**PUBLISHED))
    if reason:
        pytest.skip(reason)
    return implementations.build("torch_nn_persistent", "lstm", 28, 256, 2).to("cuda", torch.half)


def test_the_backend_says_persistent(stack):
    y, _ = stack(torch.randn(35, 32, 28, device="cuda", dtype=torch.half))
    assert f"{PERSISTENT} algorithm by PyTorch's conditions" in stack.backend(y)


def test_the_profiler_sees_persistent_kernels(stack):
    """The conditions are PyTorch's; the kernels' names are the library's own word for it."""
    x = torch.randn(35, 32, 28, device="cuda", dtype=torch.half)
    stack(x)[0].sum().backward()  # the first call prepares
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        stack(x)[0].sum().backward()
        torch.cuda.synchronize()
    names = {event.key for event in profile.key_averages()}
    assert any("persist" in name.lower() for name in names), sorted(names)
