"""What is counted in a listing, from listings written by hand."""

import pytest

from kernels.machine_code import Step, count, longest_loop

LISTING = """
        Function : some_kernel
        .headerflags    @"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;  /* 0x0000000000007b1d */
        /*0020*/              @!P2 LDG.E.128.STRONG.GPU R12, desc[UR14][R16.64] ;
        /*0030*/                   LDG.E.128.STRONG.GPU R16, desc[UR14][R20.64] ;
        /*0040*/                   LDG.E R20, desc[UR14][R24.64] ;
        /*0050*/                   LDG.E.128.STRONG.GPU R28, desc[UR14][R32.64] ;
        /*0060*/                   STS.128 [R3+UR8], R12 ;
        /*0070*/                   LDG.E.128.STRONG.GPU R12, desc[UR14][R36.64] ;
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0090*/              @!P2 BRA 0x80 ;
        /*00a0*/              @P1  BRA 0x10 ;
        /*00b0*/                   BRA 0xb0 ;
        /*00c0*/                   BRA 0xd0 ;
        /*00d0*/                   EXIT ;
"""


def test_the_longest_loop_is_found():
    loop = longest_loop(LISTING)
    assert len(loop) == 10
    assert loop[0].startswith("BAR.SYNC")
    assert loop[-1].endswith("BRA 0x10")


def test_what_stands_behind_the_end_is_no_loop():
    behind = "".join(f"        /*{16 * place:04x}*/  NOP ;\n" for place in range(14, 40))
    assert longest_loop(LISTING + behind + "        /*0280*/ BRA 0xd0 ;") == longest_loop(LISTING)


def test_what_is_counted():
    assert count(longest_loop(LISTING)) == Step(10, barriers=2, in_flight=3, shuffles=0)


def test_a_load_is_in_flight_until_one_of_its_registers_is_named():
    """And so are those asked for after it, which come later."""
    loop = [
        "LDG.E.128.STRONG.GPU R4, desc[UR4][R2.64] ",
        "LDG.E.128.STRONG.GPU R8, desc[UR4][R2.64+0x10] ",
        "FFMA R20, R20, R21, R22 ",  # none of theirs
        "LDG.E.STRONG.GPU R12, desc[UR4][R2.64+0x20] ",
        "FFMA R20, R9.reuse, R21, R20 ",  # of the second: the first has come, too
        "LDG.E.64.STRONG.GPU R14, desc[UR4][R2.64+0x30] ",
        "FFMA R20, R15, R21, R20 ",
        "BRA 0x10 ",
    ]
    assert count(loop) == Step(8, barriers=0, in_flight=3, shuffles=0)
    loop[2] = "FFMA R20, R7, R21, R22 "  # the last word of the first
    assert count(loop).in_flight == 2


def test_shuffles_are_counted():
    loop = ["SHFL.IDX PT, R4, R4, R5, 0x1f ", "@!P0 SHFL.BFLY PT, R6, R4, 0x1, 0x1f ", "BRA 0x10 "]
    assert count(loop).shuffles == 2


def test_straight_code_has_no_step():
    with pytest.raises(RuntimeError, match="no loop"):
        longest_loop(LISTING.replace("BRA", "NOP"))
