"""What only a GPU can show: that all are right there, captured too, and which algorithms ran."""

import warnings

import pytest
import torch

from bench.verification import bound_for, verify, verify_replay
from deeprnn import implementations, language_model
from deeprnn.cells import CELLS
from deeprnn.cudnn_algorithm import PERSISTENT
from deeprnn.minibatches import Minibatches
from deeprnn.precision import set_matmul_precision
from deeprnn.support import Request
from deeprnn.training import Trainer

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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_in_one_piece_in_every_type(cell, dtype, precision_as_before):
    """Else cuDNN gets a copy of them at every call, and PyTorch warns."""
    set_matmul_precision("ieee")
    request = Request(cell=cell, device="cuda", dtype=dtype, num_layers=2)
    reason = implementations.why_unsupported("torch_nn", request)
    if reason:
        pytest.skip(reason)
    stack = implementations.build("torch_nn", cell, 28, 256, 2).to("cuda", getattr(torch, dtype))
    x = torch.randn(3, 32, 28, device="cuda", dtype=getattr(torch, dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "RNN module weights are not part of single")
        y, _ = stack(x)
        y.sum().backward()
    assert "cuDNN" in stack.backend(y)
    assert "copied" not in stack.backend(y)
    outcome = verify(stack, 32, 3, seed=1, bound=bound_for(dtype, "ieee", cell))
    assert outcome.passed, str(outcome)


@pytest.mark.parametrize("execution", ["eager", "cuda_graph"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("name", implementations.names())
def test_every_implementation_on_a_gpu(name, cell, execution, precision_as_before):
    """The contract of `test_contract.py` on the device, and a captured step beside an eager one."""
    dtype = "float16" if name == "torch_nn_persistent" else "float32"
    H, B, T = 256, 8, 3  # PyTorch asks for eights before it lets cuDNN persist
    request = Request(
        cell=cell, device="cuda", dtype=dtype, execution=execution, input_size=28, hidden_size=H,
        num_layers=2, batch_size=B, num_steps=T,
    )  # fmt: skip
    reason = implementations.why_unsupported(name, request)
    if reason:
        pytest.skip(reason)
    set_matmul_precision("ieee")
    torch.manual_seed(0)
    model = language_model.build(name, cell, 28, H, 2).to("cuda", getattr(torch, dtype))
    bound = bound_for(dtype, "ieee", cell)
    if execution == "eager":
        outcome = verify(model.rnn, B, T, seed=1, bound=bound)
    else:
        tokens = torch.randint(28, (40 * B,), generator=torch.Generator().manual_seed(1)).cuda()
        minibatches = Minibatches(tokens, B, T)
        trainers = [
            Trainer(model, minibatches, 1.0, execution=how) for how in ("cuda_graph", "eager")
        ]
        outcome = verify_replay(*trainers, bound)
    assert outcome.passed, str(outcome)
