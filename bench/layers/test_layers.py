"""What is timed: the forward pass of one layer, and forward and backward together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.layers.layer import Layer

WARM_UP = 3  # TorchScript still optimises on its second call


def test_forward(layer: Layer, benchmark: Any) -> None:
    time(benchmark, layer, "forward", layer.forward)


def test_forward_backward(layer: Layer, benchmark: Any) -> None:
    time(benchmark, layer, "forward_backward", layer.forward_backward)


def time(benchmark: Any, layer: Layer, mode: str, function: Callable[[], None]) -> None:
    spec = layer.spec
    benchmark.group = f"{spec.work} {mode}{' interpreted' if spec.interpreted else ''}"
    benchmark.extra_info.update(
        implementation=spec.implementation,
        cell=spec.cell,
        mode=mode,
        hidden_size=spec.hidden_size,
        batch_size=spec.batch_size,
        num_steps=spec.num_steps,
        dtype=spec.dtype,
        device=spec.device,
        interpreted=spec.interpreted,
    )
    if spec.interpreted:  # shown to run; its speed means nothing, so little time is spent on it
        benchmark.pedantic(function, rounds=3)
        return
    for _ in range(WARM_UP):
        function()
    benchmark(function)
