"""TorchScript is deprecated: said where it is declared, silent where it is used."""

import warnings

import torch

from deeprnn.implementations import torchscript, why_unsupported
from deeprnn.support import Request


def test_from_python_3_14_on_it_is_unsupported(monkeypatch):
    monkeypatch.setattr(torchscript.sys, "version_info", (3, 14, 0))
    assert "Python 3.14" in why_unsupported("torchscript", Request(cell="lstm"))


def test_its_deprecation_is_not_repeated_to_users():
    torchscript._scripted.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchscript.TorchScript("gru", 2, 3)(torch.zeros(1, 1, 2))


def test_it_is_scripted():
    assert isinstance(torchscript._scripted("lstm"), torch.jit.ScriptFunction)
