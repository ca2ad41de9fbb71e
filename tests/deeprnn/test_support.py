"""Support as data: what is refused, in which order, and with which words."""

from dataclasses import replace

import pytest
import torch

from deeprnn import support
from deeprnn.support import Request, Support

LSTM = Request(cell="lstm")


def test_nothing_is_refused_by_default():
    assert Support().refusal(LSTM) is None


@pytest.mark.parametrize(
    ("offer", "asked", "said"),
    [
        ({"cells": ("gru",)}, {}, "cell lstm is not implemented here, only gru"),
        ({"devices": ("cuda",)}, {}, "device cpu is not implemented here, only cuda"),
        (
            {"dtypes": ("float32", "float64")},
            {"dtype": "bfloat16"},
            "dtype bfloat16 is not implemented here, only float32, float64",
        ),
        (
            {"executions": ("eager",)},
            {"execution": "cuda_graph", "device": "cuda"},
            "execution cuda_graph is not implemented here, only eager",
        ),
        ({}, {"execution": "cuda_graph"}, "a CUDA graph needs a CUDA device"),
        ({}, {"matmul_precision": "tf32"}, "TF32 products need a CUDA device"),
    ],
)
def test_each_list_gives_its_reason(offer, asked, said):
    assert Support(**offer).refusal(replace(LSTM, **asked)) == said


def test_the_first_unmet_requirement_gives_the_reason():
    met, first, second = (lambda r: None), (lambda r: f"not {r.cell}"), (lambda r: "not reached")
    assert Support(requirements=(met, first, second)).refusal(LSTM) == "not lstm"


def test_the_plain_lists_come_before_requirements():
    def fails(request):
        raise AssertionError("asked although the cell is refused")

    assert "cell" in Support(cells=("gru",), requirements=(fails,)).refusal(LSTM)


def test_without_a_cxx_compiler_only_the_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(support.shutil, "which", lambda name: None)
    assert "C++ compiler" in support.cxx_compiler(LSTM)
    assert support.cxx_compiler(replace(LSTM, device="cuda")) is None


@pytest.mark.parametrize("installed", ["g++", "clang++", "my-own-compiler"])
def test_any_known_compiler_will_do(monkeypatch, installed):
    monkeypatch.setenv("CXX", "my-own-compiler")
    monkeypatch.setattr(support.shutil, "which", lambda name: name if name == installed else None)
    assert support.cxx_compiler(LSTM) is None


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert support.device_present(replace(LSTM, device="cuda")) == (
        "no CUDA device is visible to PyTorch"
    )
    assert support.device_present(LSTM) is None
