"""Options that several commands take, and how wrong use ends: one line, exit code 2."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.environment import default_threads, usable_processors

LARGEST_SEED = 2**63 - 2


def refuse(message: str) -> NoReturn:
    """One clear line, exit code 2."""
    typer.echo(f"bench: {message}", err=True)
    raise typer.Exit(2)


def within(
    low: float, high: float | None = None, why: str = ""
) -> Callable[[typer.CallbackParam, float], float]:
    """A check for an option: refuses numbers outside of ``low`` to ``high``."""

    def check(option: typer.CallbackParam, value: float) -> float:
        if not (low <= value < math.inf) or (high is not None and value > high):
            accepted = f"{low} or more" if high is None else f"{low} to {high}"
            name = max(option.opts, key=len)
            refuse(f"{name} {value} is not accepted; give {accepted}{why and f' ({why})'}")
        return value

    return check


OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="Only cases that match: an implementation, a piece of a case id, or a pattern over a "
        "whole one such as 'lstm-*/torch_nn/*'. May be given several times.",
    ),
]
WorkloadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--workload",
        "-w",
        help="A network of your own instead of a profile's: a cell, H, and what else differs from "
        "L2, B32, T35 and fp32, such as lstm-H384 or gru-L1-H512-B64-T100-tf32. May be given "
        "several times.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
CorpusOption = Annotated[
    str,
    typer.Option(
        "--corpus",
        help="timemachine, moreau, pride, metamorphosis, or the path of a UTF-8 text of your own. "
        "timemachine.txt is looked for in the directory DEEPRNN_CORPUS_DIR, in the cache, and on "
        "the network.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed", callback=within(0, LARGEST_SEED), help="Draws weights and minibatches; 0 or more."
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        "--threads",
        callback=within(0, usable_processors(), "the processors that may be used here"),
        help="Of each worker; 0: one a physical core.",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Run only what --output DIR lacks.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]

GPU_DEVICE_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA and AMD, and Linux within Windows, have there."""


def chosen_device(device: str) -> str:
    """``cpu`` or ``cuda`` for what ``--device`` was given; anything else is refused."""
    if device not in ("auto", "cpu", "cuda"):
        refuse(f"--device {device!r} is unknown; use auto, cpu or cuda")
    if device != "auto":
        return device
    return "cuda" if cuda_is_present() else "cpu"


def cuda_is_present() -> bool:
    """Whether PyTorch sees a CUDA device, asked in a child process if there may be one at all."""
    may_be_one = any(Path(node).exists() for node in GPU_DEVICE_NODES) or any(
        shutil.which(tool) for tool in ("nvidia-smi", "rocm-smi")
    )
    if sys.platform == "linux" and not may_be_one:
        return False  # importing torch to be told so would take a second
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"


def chosen_threads(threads: int, device: str) -> int:
    """``--threads`` as it was given, or for 0 the machine's default."""
    return threads or default_threads(device)


OUT_OF_REACH = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO,
}  # fmt: skip
"""Errors that are the disk's or its owner's, not this program's."""


def run(app: typer.Typer) -> NoReturn:
    """Run the command line and leave with its exit code.

    What cannot be parsed, and a disk that is full or may not be written to, get one line and exit
    code 2; a reader of the output who has left, nothing and exit code 1.
    """
    try:
        code = app(standalone_mode=False)
        if sys.stdout is not None:  # as it is where the caller closed it
            sys.stdout.flush()
    except OSError as error:
        output_is_lost = _output_is_lost()
        if isinstance(error, BrokenPipeError) and output_is_lost:
            sys.exit(1)
        if error.errno not in OUT_OF_REACH:
            raise
        where = f"{error.filename}: " if error.filename else "writing: "
        typer.echo(
            f"bench: {where}{error.strerror}; what was stored is kept. Make room, or choose "
            "another place, and repeat the command (a measurement goes on with --resume)",
            err=True,
        )
        sys.exit(2)
    except Exception as error:
        # typer brought its own copy of click at some time: the classes differ, their methods not.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "python -m bench"
        said = error.format_message().strip().rstrip(".")
        if "\n" in said:  # a command alone: its help
            typer.echo(said, err=True)
        else:
            typer.echo(f"bench: {said[:1].lower()}{said[1:]} (see `{command} --help`)", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _output_is_lost() -> bool:
    """Whether standard output takes nothing any more; then what is left for it goes nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
