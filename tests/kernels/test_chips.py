"""What is known of a GPU, and what its driver keeps."""

import pytest
import torch

from kernels import chips
from kernels.chips import CHIPS


@pytest.mark.parametrize(
    ("name", "needed", "programs"),
    [
        ("sm_90", 227 * 1024, 1),
        ("sm_90", 227 * 1024 // 2, 1),  # 228 KiB are there, and each takes 1 KiB more than it wants
        ("sm_90", 113 * 1024, 2),
        ("sm_90", 113 * 1024 + 1, 1),
        ("sm_80", 81 * 1024, 2),
        ("sm_80", 81 * 1024 + 1, 1),
        ("gfx942", 32 * 1024, 2),
        ("gfx942", 32 * 1024 + 1, 1),
    ],
)
def test_what_the_driver_keeps_of_every_program_is_not_given_out(name, needed, programs):
    assert CHIPS[name].programs_each(needed) == programs


def test_a_processor_is_no_gpu(monkeypatch):
    monkeypatch.setattr(chips, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"kernels need a GPU or TRITON_INTERPRET=1 .* got cpu"):
        chips.chip_of.__wrapped__(torch.device("cpu"))
