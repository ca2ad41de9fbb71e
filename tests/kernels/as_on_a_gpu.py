"""Runs these tests as they would run where there is a GPU: compiled, on an emulated H100.

    TRITON_INTERPRET=0 python -m pytest -p tests.kernels.as_on_a_gpu -n 2 tests/kernels/test_step.py

A pytest plugin, for what is tested in the interpreter else: a tile that the interpreter takes and
the compiler does not, or a bound that only tensor cores break, is found before a GPU is at hand.
"""

import pytest


@pytest.fixture(autouse=True)
def as_on_a_gpu():
    from .emulated_gpu import emulated

    with emulated(watch=False):
        yield
