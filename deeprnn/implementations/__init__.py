"""The registry: every file here is an implementation, and its stem is its public name.

Adding one means adding a file that defines one subclass of ``DeepRNN``. Nothing else is edited.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any

from deeprnn.stack import DeepRNN
from deeprnn.support import Request

OWN_PACKAGES = ("bench", "deeprnn", "kernels")

REFERENCE = "torch_nn"
"""What others are compared with, and what evaluates trained weights."""


class MissingPackage(ImportError):
    """A third-party package that an implementation needs is not installed."""


class Broken(ImportError):
    """The file of an implementation cannot be imported, which is an error of this project."""


def names() -> list[str]:
    """The public names of all implementations, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def load(name: str) -> type[DeepRNN]:
    """The class behind a public name.

    Raises:
        ValueError: no such implementation; the known ones are named.
        MissingPackage: it needs a third-party package that is not installed.
        Broken: its file cannot be imported for any other reason, or defines no implementation.
    """
    if name not in names():
        raise ValueError(f"implementation {name!r} is unknown; known: {', '.join(names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in OWN_PACKAGES:
            raise _broken(name, error) from error
        raise MissingPackage(
            f"needs the package {package}: python -m pip install {package}"
        ) from error
    except Exception as error:
        raise _broken(name, error) from error
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, DeepRNN)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise Broken(f"{module.__name__} defines {len(found)} subclasses of DeepRNN, not one")
    return found[0]


def _broken(name: str, error: Exception) -> Broken:
    said = (str(error).strip() or "no message").splitlines()[0]
    return Broken(f"{name}.py cannot be imported: {type(error).__name__}: {said}")


def build(
    name: str, cell: str, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any
) -> DeepRNN:
    """Make the implementation ``name``; arguments and errors as in :class:`DeepRNN`."""
    return load(name)(cell, input_size, hidden_size, num_layers, **options)


def why_unsupported(name: str, request: Request) -> str | None:
    """The one-line reason why ``name`` cannot run ``request`` here, or None if it can.

    None, too, where its file is broken: that is a failure, to be met where it is run, and no lack.
    """
    try:
        return load(name).support.refusal(request)
    except MissingPackage as error:
        return str(error)
    except Broken:
        return None


def interpreted(name: str, device: str) -> bool:
    """Whether ``name`` would run in an interpreter on ``device``: checks only, no speed."""
    try:
        return device in load(name).support.interpreted_on
    except (MissingPackage, Broken):
        return False


OWN_BY_SPEED = ("triton_sequence", "triton_dataflow", "manual_gradient", "python_loop")
"""The fastest of our own first, in IEEE float32; on a GPU as predicted, not yet as measured."""


def fastest_of_our_own(request: Request) -> str:
    """The fastest implementation here that can run ``request`` and is no vendor's library.

    Raises:
        ValueError: none can; the reasons are named.
    """
    reasons = []
    for name in OWN_BY_SPEED:
        reason = why_unsupported(name, request)
        if reason is None and not interpreted(name, request.device):
            return name
        reasons.append(f"{name}: {reason or 'runs in an interpreter'}")
    raise ValueError(f"none of our own implementations can run this: {'; '.join(reasons)}")
