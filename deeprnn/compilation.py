"""What the variants that go through ``torch.compile`` share: what it needs, and proof that it ran.

``torch.compile`` can leave code uncompiled without a word. Here it cannot: ``fullgraph=True``
makes a graph break an error, and the backend is a function of ours that counts the graphs it
hands to Inductor.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, fx

from deeprnn.cells import State
from deeprnn.support import Request, Unsupported, cxx_compiler

StateFunction = Callable[..., State]


def inductor(request: Request) -> str | None:
    """What Inductor needs to generate code: on a CPU a C++ compiler, on CUDA Triton."""
    for variable in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        if os.environ.get(variable, "0") == "1":
            return f"torch.compile is switched off by {variable}=1"
    if request.device == "cuda" and importlib.util.find_spec("triton") is None:
        return "Inductor needs the package triton on CUDA: python -m pip install triton"
    if request.device == "cpu" and not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Inductor needs Python's C headers on a CPU: install python3-dev or its like"
    return cxx_compiler(request)


class Compiled:
    """One function, compiled by Inductor for each kind of arguments that it meets.

    Every kind (shapes, dtypes, which need a gradient) gets a code object of its own and so a
    compile cache of its own. In a shared cache, many sizes in one process would meet torch's
    recompile limit.

    Attributes:
        graphs: how many graphs Inductor has been given; 0 means that nothing was compiled.
    """

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.graphs = 0
        self._variants: dict[object, StateFunction] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return Compiled, (self.function,)  # a copy compiles, and counts, for itself

    def variant(self, *arguments: Tensor) -> StateFunction:
        """The compiled function for arguments of this kind, in the present gradient mode."""
        kind = (
            torch.is_grad_enabled(),
            tuple((a.shape, a.dtype, a.device, a.requires_grad) for a in arguments),
        )
        if kind not in self._variants:
            own = FunctionType(
                self.function.__code__.replace(),  # a new object: caches hang on its identity
                self.function.__globals__,
                self.function.__name__,
                self.function.__defaults__,
                self.function.__closure__,
            )
            self._variants[kind] = torch.compile(
                own, fullgraph=True, dynamic=False, backend=self._compile_graph
            )
        return self._variants[kind]

    def _compile_graph(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx  # takes seconds, so only when needed

        self.graphs += 1
        return cast(Callable[..., Any], compile_fx(graph, inputs))

    def backend(self, y: Tensor) -> str:
        """What computed ``y``.

        Raises:
            Unsupported: nothing was compiled.
        """
        if self.graphs == 0:
            raise Unsupported("torch.compile compiled nothing")
        target = "Triton on CUDA" if y.is_cuda else "C++ on CPU"
        return f"Inductor {target}, {self.graphs} graph{'s' if self.graphs > 1 else ''}"


def like_later_states(state: State) -> State:
    """``state`` as the steps after the first see it: needing a gradient, if any is computed.

    The first state of a sequence is usually a constant, all later ones depend on the weights. A
    graph is compiled for either; marking the first spares a second compilation, at the price of
    one more gradient that nobody asks for.
    """
    if not torch.is_grad_enabled():
        return state
    return tuple(s if s.requires_grad else s.detach().requires_grad_() for s in state)
