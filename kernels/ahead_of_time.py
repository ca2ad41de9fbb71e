"""Compile every kernel for GPUs that are not here, and read what the compiler says about it.

    python -m kernels.ahead_of_time                  the whole table; a quarter of an hour
    python -m kernels.ahead_of_time --target sm_90 --cell lstm --precision tf32

Registers and spills come from `ptxas -v`, shared memory from Triton, and whether a product runs on
tensor cores from the instructions themselves. For AMD they come from the assembler's listing. Of
kernels that loop over time, the step's instructions, barriers and loads in flight are counted in
the machine code (`kernels/machine_code.py`; NVIDIA only).

Bounds: nothing spilled, shared memory within what the chip gives one program, tensor-core
instructions exactly where the precision means them, few barriers a step, and exchanged rows all
asked for at once. A broken bound is printed and the command exits with 1. It needs no GPU, and must
not run under TRITON_INTERPRET.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.compiler import ASTSource

from kernels import chips, machine_code, tiling
from kernels.cells import GATES
from kernels.chips import CHIPS
from kernels.variants import (
    BATCH,
    KERNELS,
    PRECISIONS,
    PUBLISHED,
    TARGETS,
    WAVEFRONT_LAYERS,
    Variant,
    exchanges,
    has_product,
    variants,
)

TRITON_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
MOST_BARRIERS = {"sequence": 2, "dataflow": 2, "wavefront": 5, "marked_wavefront": 4, "floor": 6}
"""In one step, where rows come as tensor cores want them; in a floor, to sum them up."""
MOST_BARRIERS_STAGED = {"sequence": 10, "dataflow": 4, "wavefront": 36, "marked_wavefront": 8}
"""Where they pass through shared memory, with two barriers a piece."""
IN_FLIGHT = {"sm_80": 2 / 3}
"""Of the loads asked for, how many at least are under way before one is waited for; elsewhere all.
For sm_80 ptxas begins with the backward product of a GRU after 8 of 12."""

LAUNCH_OPTIONS = (
    "num_warps", "num_stages", "launch_cooperative_grid", "maxnreg", "enable_fp_fusion",
)  # fmt: skip
THREADS = 128  # of a sequence program: four warps

FLOAT32_BUFFERS = ("cs_ptr", "dh_ptr", "dc_ptr")
COUNTER_BUFFERS = ("counter_ptr",)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a variant. `spills` and `shared` are bytes.

    The step's figures are 0 for kernels that are one step, and on AMD.
    """

    kernel: str
    cell: str
    H: int
    precision: str
    target: str
    tile: str
    programs: int
    warps: int
    registers: int
    spills: int
    shared: int
    instruction: str
    expected_shared: int
    staged: bool
    step_instructions: int
    step_barriers: int
    in_flight: int
    expected_in_flight: int
    step_shuffles: int
    broken: str


def compile_variant(variant: Variant) -> Compiled:
    """Compile one variant and hold it to the bounds."""
    dtype = PRECISIONS[variant.precision][0]
    target = TARGETS[variant.target]
    options = dict(variant.options)
    launch = {name: options.pop(name) for name in LAUNCH_OPTIONS if name in options}
    signature, aligned = {}, {}
    for position, name in enumerate(variant.function.arg_names):
        if name in options:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + pointed_type(name, dtype)
            # torch allocates at multiples of 16 bytes, and Triton uses that when it launches
            aligned[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(variant.function, signature, constexprs=options, attrs=aligned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = triton.compile(source, target=target, options=launch)
    if target.backend == "hip":
        registers, spills, instruction = read_amd(built.asm["amdgcn"])
    else:
        registers, spills = ask_ptxas(built.asm["ptx"])
        instruction = first(r"wgmma\.mma_async|tcgen05\.mma|mma\.sync", built.asm["ptx"])
    if exchanges(variant.kernel) and target.backend == "cuda":
        in_loop = machine_code.read_step(built.asm["cubin"])
        in_flight = expected_in_flight(options, dtype)
    else:
        in_loop, in_flight = machine_code.Step(0, 0, 0, 0), 0
    tile, programs = "", 0  # a barrier knows no tile
    if "BLOCK_H" in options:
        tile = f"{options['BLOCK_B']}x{options['BLOCK_H']}x{options['BLOCK_K']}"
        programs = -(-variant.H // options["BLOCK_H"]) * -(-BATCH // options["BLOCK_B"])
        if "wavefront" in variant.kernel:
            programs *= WAVEFRONT_LAYERS
    compiled = Compiled(
        variant.kernel, variant.cell, variant.H, variant.precision, variant.target,
        tile=tile, programs=programs, warps=launch["num_warps"],
        registers=registers, spills=spills, shared=built.metadata.shared,
        instruction=instruction, expected_shared=expected_shared(variant),
        staged=variant.tile is not None and variant.tile.staged,
        step_instructions=in_loop.instructions, step_barriers=in_loop.barriers,
        in_flight=in_loop.in_flight, expected_in_flight=in_flight,
        step_shuffles=in_loop.shuffles, broken="",
    )  # fmt: skip
    return dataclasses.replace(compiled, broken="; ".join(broken_bounds(compiled)))


def expected_shared(variant: Variant) -> int:
    """What `tiling` thinks the variant needs: whether a sequence kernel fits is decided by that."""
    chip = CHIPS[variant.target]
    if variant.tile is None:
        return chip.shared_memory
    dtype, backward = PRECISIONS[variant.precision][0], variant.kernel.endswith("backward")
    weights = 2 if "wavefront" in variant.kernel else 1
    return tiling.shared_memory(
        variant.tile, variant.H, GATES[variant.cell], dtype, backward, chip, weights
    )


def expected_in_flight(options: dict[str, Any], dtype: torch.dtype) -> int:
    """Vectors of 16 bytes that a thread loads of the pieces asked for at a time."""
    if "K" in options:  # the traffic floor
        return int(options["BLOCK_B"] * options["BLOCK_K"] * dtype.itemsize // (THREADS * 16))
    inner = options["H"] * (1 if "SAVE" in options else options["G"])  # forward, backward
    if options["BLOCK_K"] == tiling.QUAD:  # each has its own, and no room for all at a time
        quads = triton.cdiv(inner, options["SHARES"] * tiling.QUAD)
        return int(options["BLOCK_B"] * min(options["AHEAD"], 4, quads))
    ahead = min(inner, options["AHEAD"] * options["SHARES"] * options["BLOCK_K"])
    return options["BLOCK_B"] * ahead * dtype.itemsize // (THREADS * 16)


def pointed_type(name: str, dtype: torch.dtype) -> str:
    """The element type of the buffer behind a kernel's pointer argument."""
    if name in COUNTER_BUFFERS:
        return "i32"
    return "fp32" if name in FLOAT32_BUFFERS else TRITON_TYPES[dtype]


def broken_bounds(compiled: Compiled) -> Iterator[str]:
    """Says which bounds a compiled kernel breaks."""
    if compiled.spills:
        yield f"{compiled.spills} bytes spilled"
    limit = CHIPS[compiled.target].shared_memory
    if compiled.shared > limit:
        yield f"{compiled.shared} bytes of shared memory, {limit} available"
    elif compiled.shared > compiled.expected_shared:
        expected = compiled.expected_shared
        yield f"{compiled.shared} bytes of shared memory, tiling.py expects {expected}"
    allowed = MOST_BARRIERS_STAGED if compiled.staged else MOST_BARRIERS
    most = allowed.get(compiled.kernel.rpartition("_")[0], 0)
    if compiled.step_barriers > most:
        yield f"{compiled.step_barriers} barriers a step, {most} at most"
    in_flight = compiled.expected_in_flight * IN_FLIGHT.get(compiled.target, 1)
    if compiled.in_flight < in_flight:
        yield f"{compiled.in_flight} loads in flight, {compiled.expected_in_flight} asked for"
    wanted = has_product(compiled.kernel) and tiling.uses_tensor_cores(
        *PRECISIONS[compiled.precision]
    )
    if wanted and not compiled.instruction:
        yield "no tensor-core instruction"
    if wanted and compiled.step_shuffles and not compiled.staged:
        yield f"{compiled.step_shuffles} shuffles a step, of what should come as it is needed"
    if not wanted and compiled.instruction and compiled.target != "gfx942":
        # AMD's matrix units do compute IEEE float32, so there it is no sign of lost precision
        yield f"{compiled.instruction} where IEEE float32 was asked for"


def ask_ptxas(ptx: str) -> tuple[int, int]:
    """Registers a thread and bytes spilled, by the first ptxas that takes this PTX."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    target = first(r"(?<=\.target )\w+", ptx)
    said = ""
    for name in ("ptxas", "ptxas-blackwell"):
        if not (folder / name).exists():
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            answer = subprocess.run(
                [str(folder / name), "-v", f"-arch={target}", file.name, "-o", "/dev/null"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        said = answer.stderr
        if answer.returncode == 0:
            registers = int(first(r"(?<=Used )\d+(?= registers)", said))
            spills = sum(int(bytes_) for bytes_ in re.findall(r"(\d+) bytes spill", said))
            return registers, spills
    raise RuntimeError(f"no ptxas in {folder} takes this PTX: {said.strip()}")


def read_amd(listing: str) -> tuple[int, int, str]:
    """Vector registers, bytes spilled and the matrix instruction, from an AMD listing."""
    spilled = int(first(r"(?<=\.vgpr_spill_count:)\s*\d+", listing) or 0)
    return (
        int(first(r"(?<=\.vgpr_count:)\s*\d+", listing)),
        4 * spilled,
        first(r"v_s?mfma_\w+", listing),
    )


def first(pattern: str, text: str) -> str:
    """The first match, or an empty string."""
    found = re.search(pattern, text)
    return found.group() if found else ""


def main(arguments: list[str] | None = None) -> int:
    """Print the table (or JSON lines); 1 if a bound is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.ahead_of_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, choices in (
        ("kernel", KERNELS), ("cell", PUBLISHED), ("precision", PRECISIONS), ("target", TARGETS),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", action="append", choices=list(choices))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args(arguments)
    if chips.INTERPRETED:
        print("unset TRITON_INTERPRET: an interpreted kernel cannot be compiled", file=sys.stderr)
        return 2
    if not asked.json:
        print(
            "| kernel | cell | H | precision | target | tile B×H×K | programs | warps "
            "| registers | spilled B | shared KiB | instruction | room KiB | staged "
            "| step instructions | barriers | in flight | asked for | shuffles | broken |"
        )
        print("|---" * 20 + "|")
    failed = False
    for variant in variants(
        asked.kernel or KERNELS, asked.cell or PUBLISHED, asked.precision or PRECISIONS,
        asked.target or TARGETS,
    ):  # fmt: skip
        compiled = compile_variant(variant)
        failed |= bool(compiled.broken)
        if asked.json:
            print(json.dumps(dataclasses.asdict(compiled)), flush=True)
        else:
            cells = dataclasses.asdict(compiled) | {
                "shared": f"{compiled.shared / 1024:.0f}",
                "expected_shared": f"{compiled.expected_shared / 1024:.0f}",
            }
            print("| " + " | ".join(str(value) for value in cells.values()) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
