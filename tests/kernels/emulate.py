r"""Run kernels as they are compiled for a GPU, on a machine without one, and print what came out.

    python -m tests.kernels.emulate \
        '{"kernels": "sequence", "cell": "lstm", "precision": "tf32", "T": 3, "B": 32, "H": 256}'

Each argument is a job, or with - each line of standard input. Each line of output is the result of
a job as JSON: relative errors against float64 `torch.nn` by name, a hash of all results, the
launches, each kernel's barriers, the batch rows of y with a NaN; or the error that was raised. It
is a process of its own because Triton decides when it is imported whether kernels are interpreted.

    kernels    step, sequence, dataflow, wavefront or marked_wavefront
    cell, T, B, H, L (2)
    precision  ieee, tf32, bfloat16 or float16
    chip       sm_80, sm_90 or sm_100
    seed       of the order in which warps go on
    watch      whether races are looked for
    plant      changes to the PTX before it is run: pairs of a pattern and what is to stand there
               instead, or numbers of barriers to drop
    where      in which kernels, by a part of their name
    multiprocessors  of the chip, where it shall have fewer than the tiles were chosen for
    poison     whether the first number of the initial state is a NaN, all bits set
    shift      elements by which the initial state lies beside an aligned address
    tiles      which of the tiles that fit are taken, forward and backward; [0, 0] is what is usual
    training   whether the initial state needs no gradient; what was left out is named then
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import warnings

os.environ["TRITON_INTERPRET"] = "0"

import torch

from kernels import tiling
from kernels.cells import GATES
from kernels.chips import CHIPS
from kernels.function import dataflow_layer, sequence_layer, step_layer
from kernels.variants import PRECISIONS as COMPILED

from . import emulated_gpu
from .conftest import Case, relative_error
from .stacks import Stack, shifted

PRECISIONS = COMPILED | {"float16": (torch.float16, "ieee")}
DEFAULTS = {"precision": "ieee", "chip": "sm_90", "L": 2, "seed": 0, "watch": True, "plant": (),
            "where": "", "multiprocessors": None, "poison": False,
            "shift": 0, "tiles": (0, 0), "training": False}  # fmt: skip


BARRIER = re.compile(r"bar\.sync\s+0;(?:\s*(?://.*|\.loc.*|\$L__tmp\d+:|bar\.sync\s+0;))*")
"""A barrier of a program, with others that follow it at once: those are one barrier."""


def drop_barrier(ptx, number):
    """The PTX without its `number`-th barrier of a program."""
    found = list(BARRIER.finditer(ptx))
    if number >= len(found):
        raise ValueError(f"there are {len(found)} barriers, none is number {number}")
    start, end = found[number].span()
    return ptx[:start] + re.sub(r"bar\.sync\s+0;", "", ptx[start:end]) + ptx[end:]


def planted(ptx, changes):
    """The PTX with all changes that it has a place for."""
    for change in changes:
        ptx = drop_barrier(ptx, change) if isinstance(change, int) else re.sub(*change, ptx)
    return ptx


@contextlib.contextmanager
def taking_tiles(job):
    """Within it launches take the tiles that the job asks for."""
    dtype, input_precision = PRECISIONS[job["precision"]]
    layers = job["L"] if job["kernels"].endswith("wavefront") else 1
    marked = job["kernels"] in ("dataflow", "marked_wavefront")
    fitting = tiling.tiles_that_fit(
        job["B"], job["H"], GATES[job["cell"]], dtype, input_precision, CHIPS[job["chip"]],
        layers, marked,
    )  # fmt: skip
    forward, backward = (tiles[index] for tiles, index in zip(fitting, job["tiles"], strict=True))
    with tiling.taking(forward, backward=False), tiling.taking(backward, backward=True):
        yield


def run(job):
    """Outputs and gradients of one job: (ours, float64's), by name."""
    if any(job["tiles"]):
        with taking_tiles(job):
            return run(job | {"tiles": (0, 0)})
    dtype, input_precision = PRECISIONS[job["precision"]]
    if job["kernels"].endswith("wavefront"):
        stack = Stack(job["cell"], job["T"], job["B"], job["H"], job["L"], dtype)
        marked = job["kernels"] == "marked_wavefront"
        ours = stack.run(
            "cpu", job["shift"], job["training"], input_precision=input_precision, marked=marked
        )
        return ours, stack.reference
    layers = {"step": step_layer, "sequence": sequence_layer, "dataflow": dataflow_layer}
    layer = layers[job["kernels"]]
    case = Case(job["cell"], job["T"], job["B"], job["H"], dtype=dtype)
    if job["poison"]:
        case.inputs["h"][0, 0] = torch.tensor(-1).view(
            torch.float64
        )  # as float32 all bits set, too

    def shifted_layer(cell, gates_x, weight_hh, bias_hh, state, **options):
        states = state if isinstance(state, tuple) else (state,)
        pair = [shifted(tensor, job["shift"]) for tensor in states]
        state = tuple(pair) if len(pair) == 2 else pair[0]
        return layer(cell, gates_x, weight_hh, bias_hh, state, **options)

    outputs, gradients = case.run(
        shifted_layer, dtype, "cpu", is_training=job["training"], input_precision=input_precision
    )

    def reference():
        wanted_outputs, wanted_gradients = case.reference()
        return wanted_outputs | wanted_gradients

    return outputs | gradients, reference


def result(job):
    """What is printed of a job."""
    translate, mutants, barriers = emulated_gpu.translate, [], {}

    def translate_planted(ptx):
        name = re.search(r"\.entry (\w+)", ptx).group(1)
        mutant = planted(ptx, job["plant"]) if job["where"] in name else ptx
        mutants.append(mutant != ptx)
        barriers[name] = len(BARRIER.findall(mutant))
        return translate(mutant)

    emulated_gpu.translate = translate_planted
    try:
        with emulated_gpu.emulated(
            job["chip"], job["seed"], job["watch"], job["multiprocessors"]
        ) as launches:
            ours, reference = run(job)
    except (AssertionError, RuntimeError) as error:
        return {"raised": type(error).__name__, "message": str(error)}
    finally:
        emulated_gpu.translate = translate
        if job["plant"] and not any(mutants):
            raise ValueError(f"{job['plant']} has no place in any of the kernels")
    wanted = reference()
    left_out = sorted(wanted.keys() - ours.keys())
    wanted = {name: tensor for name, tensor in wanted.items() if name in ours}
    errors = {name: relative_error(ours[name], wanted[name]) for name in wanted}
    launched = [vars(launch) for launch in launches]
    digest = hashlib.sha256()
    for name in wanted:
        digest.update(ours[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "errors": errors, "sha256": digest.hexdigest(), "launches": launched, "barriers": barriers,
        "left_out": left_out,
        "nan_rows": sorted(set(ours["y"].isnan().nonzero()[:, 1].tolist())),
    }  # fmt: skip


class WrongJob(ValueError):
    """No job, or a job with something missing or unknown."""


def job_of(text):
    """The job that was asked for. Raises WrongJob, with one line about what is wrong."""
    try:
        job = DEFAULTS | json.loads(text)
    except (TypeError, ValueError) as error:
        raise WrongJob(f"a job is an object in JSON; got {text!r}: {error}") from None
    missing = {"kernels", "cell", "T", "B", "H"} - set(job)
    unknown = set(job) - {"kernels", "cell", "T", "B", "H"} - set(DEFAULTS)
    if missing or unknown:
        wrong = [f"it lacks {name}" for name in sorted(missing)]
        wrong += [f"{name} is unknown" for name in sorted(unknown)]
        raise WrongJob(f"{text.strip()}: {', '.join(wrong)}")
    return job


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    warnings.simplefilter("ignore")  # numbers that overflow on purpose
    torch.set_num_threads(1)
    try:
        jobs = map(job_of, sys.stdin) if arguments == ["-"] else [job_of(a) for a in arguments]
        for job in jobs:
            print(json.dumps(result(job)), flush=True)
    except WrongJob as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
