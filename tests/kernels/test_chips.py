"""What is known of a GPU, and what its driver keeps."""

import pytest

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
