"""The options of the layer benchmarks, and what must be settled before torch is imported."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.layers.layer import Layer, Spec

DEFAULT_SIZES = "256:32:35"  # one hidden layer of the published language model
INTERPRETED_SIZES = "16:2:3"  # an interpreter takes seconds where a GPU takes microseconds

OUT_OF_TIME = "not begun within"

SPECS = pytest.StashKey["list[Spec]"]()
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("layers", "layers (one recurrent layer, timed)")
    group.addoption(
        "--layers-device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto"
    )
    group.addoption(
        "--layers-sizes",
        default=DEFAULT_SIZES,
        metavar="H:B:T,...",
        help=f"hidden units, batch and time steps; default: {DEFAULT_SIZES}. What only an "
        f"interpreter can run here is timed at {INTERPRETED_SIZES}, and marked, whatever is given",
    )
    group.addoption("--layers-cells", default="", metavar="CELL,...", help="default: all")
    group.addoption(
        "--layers-implementations",
        default="",
        metavar="NAME,...",
        help="timed in this order; default: all",
    )
    group.addoption(
        "--layers-threads", type=int, default=0, metavar="N", help="default: the physical cores"
    )
    group.addoption(
        "--layers-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="skip what has not begun S seconds after the start; default: no limit",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()
    # OpenMP reads this when torch loads it. The suite's own workers wait passively, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from bench.environment import default_threads
    from deeprnn.precision import set_matmul_precision

    device = config.getoption("--layers-device")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--layers-device cuda: PyTorch sees no CUDA device here")
    if device == "cpu":
        # Read when a kernel is defined, so it must be set before an implementation is loaded.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    torch.set_num_threads(config.getoption("--layers-threads") or default_threads(device))
    set_matmul_precision("ieee")
    config.stash[SPECS] = _specs(config, device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "layer" not in metafunc.fixturenames:
        return
    parameters = []
    for spec in metafunc.config.stash[SPECS]:
        reason = spec.refusal()
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        parameters.append(pytest.param(spec, id=str(spec), marks=marks))
    # With this scope pytest builds a layer once and runs all its benchmarks one after the other.
    metafunc.parametrize("layer", parameters, indirect=True, scope="module")


def _specs(config: pytest.Config, device: str) -> list[Spec]:
    from bench.layers.layer import Spec
    from deeprnn import implementations
    from deeprnn.cells import CELLS

    specs = []
    for name in _chosen(config, "--layers-implementations", implementations.names()):
        interpreted = implementations.interpreted(name, device)
        for sizes in _sizes(
            INTERPRETED_SIZES if interpreted else config.getoption("--layers-sizes")
        ):
            for cell in _chosen(config, "--layers-cells", list(CELLS)):
                specs.append(Spec(name, cell, *sizes, device, interpreted))
    return specs


def _chosen(config: pytest.Config, option: str, known: list[str]) -> list[str]:
    chosen = [name for name in config.getoption(option).split(",") if name] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise pytest.UsageError(f"{option} {','.join(unknown)}: use {', '.join(known)}")
    return chosen


def _sizes(text: str) -> list[tuple[int, int, int]]:
    sizes = []
    for entry in text.split(","):
        parts = entry.split(":")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise pytest.UsageError(
                f"--layers-sizes {text}: give hidden units, batch and time steps, such as "
                f"{DEFAULT_SIZES}, and a comma between sizes"
            )
        sizes.append((int(parts[0]), int(parts[1]), int(parts[2])))
    return sizes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seconds = config.getoption("--layers-seconds")
    own = [item for item in items if "layer" in getattr(item, "fixturenames", ())]
    if not seconds or not own:
        return
    # Half of the time is for building, compiling and checking.
    timed = sum(not item.get_closest_marker("skip") for item in own)
    share = min(1.0, seconds / 2 / max(1, timed))
    for item in own:
        item.add_marker(pytest.mark.benchmark(max_time=share))


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--layers-seconds")
    if seconds and time.monotonic() - item.config.stash[STARTED] > seconds:
        pytest.skip(f"{OUT_OF_TIME} {seconds:g} s")


@pytest.fixture(scope="module")
def layer(request: pytest.FixtureRequest) -> Layer:
    """One layer, checked: a wrong one is an error here and is not timed."""
    from bench.layers.layer import Incorrect, Layer

    try:
        return Layer(request.param)
    except Incorrect as error:
        pytest.fail(str(error), pytrace=False)
