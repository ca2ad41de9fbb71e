"""The machine, the versions, and how fast it multiplies matrices: what a figure depends on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "triton", "numpy", "pytest-benchmark")

PROJECT = Path(__file__).resolve().parent.parent

GPU_MEMORY_A_WORKER = 2**30
MEMORY_A_WORKER = 3 * 2**29
"""Bytes reckoned for a worker beside a GPU: its CUDA context and its tensors, its libraries."""

COMMIT_VARIABLE = "DEEPRNN_COMMIT"

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def version() -> str:
    """Of the installed package; ``unknown`` where none is installed."""
    return _version("deeprnn-bench") or "unknown"


def commit() -> str:
    """The commit of this checkout, ``+dirty`` if code differs from it; else the version.

    A copy without ``.git`` has the commit that ``DEEPRNN_COMMIT`` names, if it looks like one.
    """
    if not (PROJECT / ".git").exists():
        named = os.environ.get(COMMIT_VARIABLE, "")
        return named if re.fullmatch(r"[0-9a-f]{7,40}(\+dirty)?", named) else version()
    head = _output(["git", "-C", str(PROJECT), "rev-parse", "--short=12", "HEAD"])
    # Reports are what a run writes: they do not change what it measures.
    changed = _output(
        ["git", "-C", str(PROJECT), "status", "--porcelain", "--", ".", ":(exclude)reports"]
    )
    return version() if not head else head + ("+dirty" if changed else "")


def machine_name(device: str) -> str:
    """A name for a directory: the GPU's, or the processor's with the number of cores."""
    if device == "cuda":
        import torch

        name = torch.cuda.get_device_name()
    else:
        name = f"{processor()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads(device: str = "cpu") -> int:
    """One thread a physical core that this process may use; at most four beside a GPU."""
    usable = usable_processors()
    threads = max(1, min(usable, psutil.cpu_count(logical=False) or usable))
    return threads if device == "cpu" else min(4, threads)


def prepare_at_once(device: str, threads: int, hurried: bool) -> int:
    """How many cases build and compile side by side.

    One on a CPU, where they would fight for the processors that are measured. Beside a GPU the
    processors are idle otherwise, and compilers take most of a run's time.
    """
    if hurried:
        return threads + 1  # one more than processors: while one loads, the others compute
    return 1 if device == "cpu" else usable_processors()


def workers_at_most(device: str) -> int:
    """How many workers may be alive at once, though one workload's always are.

    Beside a GPU several workloads are prepared before the first is timed: they compile together
    then, and nobody waits for the slowest of each. It has to fit into both memories.
    """
    if device == "cpu":
        return 0
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(min(free // GPU_MEMORY_A_WORKER, usable_memory() // MEMORY_A_WORKER))


def usable_memory() -> int:
    """Bytes of memory that this process may still take, also where a container has a limit."""
    limits = [psutil.virtual_memory().available]
    for path in CONTAINER_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(limits)


def describe(device: str, threads: int) -> dict[str, dict[str, Any]]:
    """Sections of facts for ``environment.json``. Imports torch."""
    import torch

    from deeprnn.cudnn_algorithm import dotted

    frequency = psutil.cpu_freq()
    sections: dict[str, dict[str, Any]] = {
        "Machine": {
            "Processor": processor(),
            "Cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
            "Logical processors": psutil.cpu_count(),
            "Memory (GiB)": round(psutil.virtual_memory().total / 2**30, 1),
            "System": f"{platform.system()} {platform.release()}",
            "Frequency governor": _governor(),
            "Frequency (MHz)": round(frequency.current) if frequency else "not told",
        },
        "Threads": {
            "Threads of a worker": threads,
            "OpenMP waiting": os.environ.get("OMP_WAIT_POLICY", "not set"),
            "Vector instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "Versions": {
            "Python": platform.python_version(),
            **{name: _version(name) or "not installed" for name in PACKAGES},
            "C++ compiler": _first_line(["c++", "--version"]),
        },
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        sections["GPU"] = {
            "Name": properties.name,
            "Compute capability": f"{properties.major}.{properties.minor}",
            "Multiprocessors": properties.multi_processor_count,
            "Memory (GiB)": round(properties.total_memory / 2**30, 1),
            "Driver": driver_version() or "not told",
        }
        sections["Versions"]["CUDA"] = torch.version.cuda or torch.version.hip or "none"
        cudnn = torch.backends.cudnn.version()
        sections["Versions"]["cuDNN"] = dotted(cudnn) if cudnn else "none"
    return sections


def driver_version() -> str | None:
    """The NVIDIA driver's version, or None where there is none to ask."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def matrix_product_flops(device: str, dtype: str, matmul_precision: str, threads: int) -> float:
    """The machine's own speed at large matrix products, in floating-point operations a second.

    The best of several square products: the ceiling that ``fraction_of_peak`` refers to. Imports
    torch and sets its thread count and precision.
    """
    import torch

    from deeprnn.precision import set_matmul_precision

    torch.set_num_threads(threads)
    set_matmul_precision(matmul_precision)
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in "ab")
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text().strip()
    except OSError:
        return "not told"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str:
    output = _output(command)
    return output.splitlines()[0] if output else "not found"


def without_git() -> dict[str, str]:
    """This process's variables without git's own, by which a hook names another repository.

    They come before ``-C``: with them git would tell of, and write into, what they name. Settings
    stay: a runner's say that this checkout may be trusted.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")
    }


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=without_git()
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
