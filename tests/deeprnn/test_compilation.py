"""Proof that compiled means compiled."""

import copy

import pytest
import torch

from deeprnn import compilation
from deeprnn.compilation import Compiled, inductor, like_later_states
from deeprnn.implementations import build
from deeprnn.support import Request, Unsupported

CPU = Request(cell="lstm")
needs_inductor = pytest.mark.skipif(inductor(CPU) is not None, reason=str(inductor(CPU)))


def double(x):
    return (x + x,)


def breaks(x):
    print("a graph break")
    return (x + x,)


@needs_inductor
def test_graphs_are_counted_once_a_kind_of_arguments():
    compiled = Compiled(double)
    one = torch.ones(3)
    for _ in range(2):
        assert compiled.variant(one)(one)[0].tolist() == [2, 2, 2]
    assert compiled.graphs == 1
    assert compiled.backend(one) == "Inductor C++ on CPU, 1 graph"
    two = torch.ones(2, 2)
    compiled.variant(two)(two)
    assert compiled.backend(two) == "Inductor C++ on CPU, 2 graphs"


@needs_inductor
def test_many_kinds_do_not_meet_the_recompile_limit():
    compiled = Compiled(double)
    sizes = range(1, torch._dynamo.config.recompile_limit + 3)
    for size in sizes:
        x = torch.ones(size)
        compiled.variant(x)(x)
    assert compiled.graphs == len(sizes)


@needs_inductor
def test_a_graph_break_is_an_error():
    x = torch.ones(1)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        Compiled(breaks).variant(x)(x)


def test_nothing_compiled_is_no_backend():
    module = build("torch_compile_step", "rnn_tanh", 2, 3)
    with pytest.raises(Unsupported, match="compiled nothing"):
        module.backend(torch.zeros(1))


@needs_inductor
def test_eager_by_the_back_door_is_found_out():
    module = build("torch_compile_step", "rnn_tanh", 2, 3)
    with torch.compiler.set_stance("force_eager"):
        y, _ = module(torch.zeros(1, 1, 2))
    with pytest.raises(Unsupported):
        module.backend(y)


@needs_inductor
def test_a_copy_counts_for_itself():
    compiled = Compiled(double)
    x = torch.ones(3)
    compiled.variant(x)(x)
    assert copy.deepcopy(compiled).graphs == 0


@needs_inductor
@pytest.mark.parametrize("name", ["torch_compile_step", "torch_compile_unrolled"])
def test_verification_and_training_share_their_graphs(name):
    module = build(name, "lstm", 16, 16, 2)
    x, h, c = (torch.randn(s, 2, 16) for s in (3, 2, 2))
    counts = []
    for needs in (True, False):
        x, h, c = (t.detach().requires_grad_(needs) for t in (x, h, c))
        module(x, (h, c))
        counts.append(next(v for v in vars(module).values() if isinstance(v, Compiled)).graphs)
    # The step holds the input product, so there x matters; unrolled, one graph serves all.
    assert counts == ([1, 2] if name == "torch_compile_step" else [1, 1])


def test_first_states_look_like_later_ones():
    (state,) = like_later_states((torch.zeros(2),))
    assert state.requires_grad
    own = torch.zeros(2, requires_grad=True)
    assert like_later_states((own,))[0] is own
    with torch.no_grad():
        assert not like_later_states((torch.zeros(2),))[0].requires_grad


@pytest.mark.parametrize("variable", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_switched_off_is_a_reason(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert inductor(CPU) == f"torch.compile is switched off by {variable}=1"


def test_without_triton_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: None)
    assert "triton" in inductor(Request(cell="lstm", device="cuda"))


def test_without_python_headers_the_cpu_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "C headers" in inductor(CPU)
