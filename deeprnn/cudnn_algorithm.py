"""Which of cuDNN's algorithms ``torch.nn`` asks for, from the conditions in PyTorch's source.

PyTorch does not say afterwards which one ran; it decides by these conditions alone. Source:
``get_algo`` and the heuristics above it in ``aten/src/ATen/native/cudnn/RNN.cpp``, as of 2026.
They hold for one direction, no projection and sequences of one length, which is all there is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

STANDARD = "standard"
PERSISTENT = "persistent"
SMALL = "persistent for small H"

MULTIPLE = 128
"""Sizes of input and hidden state must be multiples of this for the persistent algorithm."""

WIDEST = 1024


@dataclass(frozen=True)
class Gpu:
    """What the conditions ask of a device."""

    major: int  # of the compute capability
    minor: int
    multiprocessors: int

    @classmethod
    def of(cls, device: torch.device | str) -> Gpu:
        properties = torch.cuda.get_device_properties(device)
        return cls(properties.major, properties.minor, properties.multi_processor_count)


def algorithm(
    cell: str, input_size: int, H: int, L: int, B: int, T: int, dtype: torch.dtype, gpu: Gpu,
    *, forward: bool,
) -> str:  # fmt: skip
    """``STANDARD``, ``PERSISTENT`` or ``SMALL`` for one module of ``torch.nn``, by direction."""
    if dtype != torch.float64 and _is_small(cell, H, gpu, forward):
        return SMALL
    if dtype == torch.float16 and why_not_persistent(cell, input_size, H, L, B, T, gpu) is None:
        return PERSISTENT
    return STANDARD


def algorithms(
    cell: str, input_size: int, H: int, L: int, B: int, T: int, dtype: torch.dtype, gpu: Gpu
) -> str:
    """Both directions in words."""
    forward, backward = (
        algorithm(cell, input_size, H, L, B, T, dtype, gpu, forward=way) for way in (True, False)
    )
    if forward == backward:
        return f"{forward} algorithm"
    return f"{forward} algorithm forward, {backward} backward"


def why_not_persistent(
    cell: str, input_size: int, H: int, L: int, B: int, T: int, gpu: Gpu
) -> str | None:
    """The first condition of the persistent algorithm that a float16 module does not meet."""
    if L != 1:
        return f"it takes one layer a module, not {L}"
    if H > WIDEST:
        return f"it takes H up to {WIDEST}, not {H}"
    if H % MULTIPLE or input_size % MULTIPLE:
        return f"it takes sizes that are multiples of {MULTIPLE}, not I {input_size}, H {H}"
    name = f"compute capability {gpu.major}.{gpu.minor}"
    if (gpu.major, gpu.minor) == (7, 5) or gpu.major < 7:
        return f"PyTorch does not use it on {name}"
    if gpu.major == 7:
        return None if _suits_volta(B, T) else f"on {name} PyTorch does not use it at B {B}, T {T}"
    if gpu.multiprocessors < 98 or gpu.minor == 6:
        return f"PyTorch does not use it on {name} with {gpu.multiprocessors} multiprocessors"
    if cell == "gru":
        return f"PyTorch never uses it for a GRU on {name}"
    if B % 8 or B > 128:
        return f"PyTorch uses it for B up to 128 in multiples of 8, not {B}"
    if cell != "lstm" and B >= 96 and H >= 896:
        return f"PyTorch does not use it for an RNN from B 96 and H 896 on: B {B}, H {H}"
    return None


def _suits_volta(B: int, T: int) -> bool:
    if B != 8 and (B % 16 or B in (80, 112)):
        return False
    return (T >= 40 and B <= 128) or (T >= 20 and B <= 96) or (T >= 10 and B <= 32)


def _is_small(cell: str, H: int, gpu: Gpu, forward: bool) -> bool:
    """Whether PyTorch asks for the algorithm for few units, which it does for every float type."""
    if gpu.major < 6:
        return False
    of_rnn, of_others = (384, 192) if forward else (256, 128)
    widest = of_rnn if cell.startswith("rnn") else of_others
    return widest >= H


def dotted(version: int | None) -> str:
    """cuDNN's version number 91002 as 9.10.2."""
    if version is None:
        return "of unknown version"
    major, rest = divmod(version, 10000) if version >= 90000 else divmod(version, 1000)
    return f"{major}.{rest // 100}.{rest % 100}"
