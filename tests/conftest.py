"""Before anything imports torch or triton: how threads wait, and where kernels run."""

import faulthandler
import os
import signal
import sys

import pytest

# Threads that spin for work make tests a hundred times slower when something else runs beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # only now: libgomp reads the variable when it is loaded

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # no GPU: kernels run in the interpreter

# Started in the background, a shell's children ignore SIGINT, and so would those of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FIRST = (
    "test_compiled", "test_compiled_published", "test_compiled_bugs", "test_gate_revisions",
    "test_concurrent", "test_run", "test_ahead_of_time", "test_contract", "test_layers",
    "test_noise", "test_chapter_run", "test_page",
)  # fmt: skip
"""Modules that take minutes. In order of their number of tests they came last, one after the other
in one process, while the other had nothing left to do."""


def pytest_collection_modifyitems(config, items):
    if "exhaustive" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
    place = {module: number for number, module in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadscope`` a module stays whole, but those for a GPU, here and in CI.

    Each of their tests compiles kernels of its own, and one process would compile them all.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            is_for_a_gpu = nodeid.split("::")[0].endswith("test_gpu.py")
            return nodeid if is_for_a_gpu else super()._split_scope(nodeid)

    return ByModule(config, log)


# Beside other test processes each has a processor of its own.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


GPU_TEST_SECONDS = 150


@pytest.fixture(autouse=True)
def a_hang_on_a_gpu_ends_its_process(request):
    """A kernel that waits for ever would take the whole run with it."""
    if request.node.get_closest_marker("gpu") is None or not torch.cuda.is_available():
        yield
        return
    faulthandler.dump_traceback_later(GPU_TEST_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def precision_as_before():
    """Put back what `set_matmul_precision` sets; torch's two defaults differ from each other."""
    flags = [(b, b.allow_tf32) for b in (torch.backends.cuda.matmul, torch.backends.cudnn)]
    yield
    for backend, is_allowed in flags:
        backend.allow_tf32 = is_allowed
