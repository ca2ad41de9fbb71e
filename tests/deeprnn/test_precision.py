"""One switch, seen alike by everything that asks."""

import pytest
import torch

from deeprnn.precision import get_matmul_precision, set_matmul_precision

pytestmark = pytest.mark.usefixtures("precision_as_before")


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_what_is_set_is_what_libraries_and_compilers_read(precision):
    set_matmul_precision(precision)
    is_tf32 = precision == "tf32"
    assert get_matmul_precision() == precision
    # Reading any of these raises an error when older and newer settings were mixed.
    assert torch.backends.cuda.matmul.allow_tf32 is is_tf32
    assert torch.backends.cudnn.allow_tf32 is is_tf32
    assert torch.get_float32_matmul_precision() == ("high" if is_tf32 else "highest")
    assert (torch.backends.cudnn.rnn.fp32_precision == "tf32") is is_tf32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'fast' is unknown; use ieee or tf32"):
        set_matmul_precision("fast")


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_torchs_new_switch_is_understood(precision):
    """After it torch refuses to read the old one."""
    torch.backends.cuda.matmul.fp32_precision = precision
    assert get_matmul_precision() == precision
