"""Options that several commands take, and what they accept."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bench.environment import default_threads, usable_processors
from bench.terminal import refuse

LARGEST_SEED = 2**63 - 2


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


def directory_of_its_own(option: typer.CallbackParam, value: Path | None) -> Path | None:
    """A check for a directory to write a report into: refuses the current one, which "" is, too."""
    if value == Path():
        name = max(option.opts, key=len)
        refuse(f"{name} is empty or the current directory; give a directory of its own")
    return value


OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        help="Only cases that match: an implementation, a piece of a case id, or a pattern of a "
        "whole one or of a part between slashes, such as 'triton_*'. May be given several times.",
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
        help="Threads of each worker; 0: one for each physical core.",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Run only what --output DIR lacks; same options, commit and packages."
    ),
]
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
