"""What one time step is in machine code: counted in the loop of a kernel that was compiled.

Registers and spills do not tell whether a step is a short chain. Four counts do, for the kernels
that loop over time:

    instructions  of a warp in one step, everything in the loop once
    barriers      among the warps of a program; at each, the fastest waits for the slowest
    in flight     loads of exchanged rows that a warp has asked for before it waits for one of them:
                  few, and the latency of L2 is paid again and again
    shuffles      in which lanes of a warp hand over what others of them need

Read from `cuobjdump -sass`, which Triton ships beside its ptxas.
"""

import dataclasses
import re
import subprocess
import tempfile
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclasses.dataclass(frozen=True)
class Step:
    """One pass of the longest loop. Counts are a warp's."""

    instructions: int
    barriers: int
    in_flight: int
    shuffles: int


def read_step(cubin: bytes) -> Step:
    """The time step of a compiled kernel. Raises RuntimeError if no loop is found in it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        words = [str(TOOLS / "cuobjdump"), "-sass", file.name]
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"cuobjdump: {answer.stderr.strip() or 'no message'}")
    return count(longest_loop(answer.stdout))


def longest_loop(listing: str) -> list[str]:
    """The instructions between a branch backwards and its target, of the longest such stretch.

    What is done when lanes of a warp have gone apart, ptxas puts behind the program's end and ends
    with a branch back. That is no loop.
    """
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", listing, re.MULTILINE)
    instructions = [(int(address, 16), text) for address, text in found]
    ends = [address for address, text in instructions if text == "EXIT"]
    loops = [
        (int(target.group(1), 16), address)
        for address, text in instructions
        if (not ends or address < ends[0])
        and (target := re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text))
        and int(target.group(1), 16) < address
    ]
    if not loops:
        raise RuntimeError("there is no loop in this machine code")
    first, last = max(loops, key=lambda loop: loop[1] - loop[0])
    return [text for address, text in instructions if first <= address <= last]


def count(loop: list[str]) -> Step:
    """Count in a loop; predicates (`@!P0`) do not matter, everything counts once."""
    plain = [re.sub(r"^@!?U?P\w+\s+", "", text) for text in loop]
    opcodes = [text.split()[0] for text in plain]
    in_flight: list[set[int]] = []  # the registers that each load will fill, oldest first
    most = 0
    for opcode, text in zip(opcodes, plain, strict=True):
        named = {int(number) for number in re.findall(r"\bR(\d+)", text)}
        # What names a register waits for it, and so for what was asked for before.
        waited = [i for i, filled in enumerate(in_flight) if filled & named]
        in_flight = in_flight[waited[-1] + 1 :] if waited else in_flight
        if opcode.startswith("BAR."):
            in_flight = []
        if opcode.startswith("LDG.") and "STRONG.GPU" in opcode:
            first = int(re.findall(r"\bR(\d+)", text)[0])
            words = next((n // 32 for n in (128, 64) if f".{n}." in opcode), 1)
            in_flight = [*in_flight, set(range(first, first + words))]
            most = max(most, len(in_flight))
    barriers, shuffles = (
        sum(opcode.startswith(kind) for opcode in opcodes) for kind in ("BAR.", "SHFL")
    )
    return Step(len(opcodes), barriers, most, shuffles)
