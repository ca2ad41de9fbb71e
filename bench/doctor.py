"""What is here, what is missing, and what to do about each lack. A child process: it asks CUDA."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import torch
from rich.table import Table

from bench import environment, terminal
from bench.wording import counted
from deeprnn import corpus, implementations
from deeprnn.cells import GATES
from deeprnn.support import Request


@dataclass(frozen=True)
class Finding:
    """One line of the answer. ``remedy`` is empty when all is well."""

    what: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything a run depends on, without changing anything."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = environment.describe(device, environment.default_threads(device))
    findings = [
        Finding("Python", facts["Versions"]["Python"]),
        Finding("PyTorch", facts["Versions"]["torch"]),
        _device(device, facts),
        Finding("Processor", f"{facts['Machine']['Processor']}, {facts['Machine']['Cores']} cores"),
        _compiler(facts["Versions"]["C++ compiler"]),
        _triton(device, facts["Versions"]["triton"]),
        _text(),
    ]
    findings += [_implementation(name, device) for name in implementations.names()]
    return findings


def _implementation(name: str, device: str) -> Finding:
    what = f"implementation {name}"
    try:
        implementations.load(name)
    except implementations.Broken as error:
        return Finding(what, "broken", str(error))
    except implementations.MissingPackage:
        pass  # is a reason, below
    reasons = {
        implementations.why_unsupported(name, Request(cell=cell, device=device)) for cell in GATES
    } - {None}
    runs = "interpreted: checks only" if implementations.interpreted(name, device) else "runs"
    return Finding(
        what,
        f"unsupported for {counted(len(reasons), 'reason')}" if reasons else runs,
        "; ".join(sorted(str(r) for r in reasons)),
    )


def _device(device: str, facts: dict[str, dict[str, object]]) -> Finding:
    if device == "cuda":
        gpu = facts["GPU"]
        return Finding("CUDA device", f"{gpu['Name']}, driver {gpu['Driver']}")
    if torch.version.cuda is None and torch.version.hip is None:
        remedy = "this PyTorch is built for CPUs; on a machine with a GPU install a CUDA build"
    else:
        remedy = "PyTorch is built for GPUs but sees none: check the driver with nvidia-smi"
    return Finding("CUDA device", "none: runs use the CPU", remedy)


def _compiler(found: str) -> Finding:
    present = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
    remedy = "" if present else "install g++ or clang++; torch.compile needs it on a CPU"
    return Finding("C++ compiler", found, remedy)


def _triton(device: str, version: str) -> Finding:
    if version == "not installed":
        return Finding("Triton", version, "python -m pip install triton (Linux only)")
    where = "compiles for the GPU" if device == "cuda" else "runs in its interpreter (checks only)"
    return Finding("Triton", f"{version}, {where}")


def _text() -> Finding:
    try:
        path = corpus.locate()
    except corpus.CorpusError as error:
        return Finding("The Time Machine", "cannot be used", str(error))
    if path is not None:
        return Finding("The Time Machine", str(path))
    return Finding(
        "The Time Machine",
        "not here yet",
        f"the first run looks for it on the network; offline, set {corpus.CORPUS_DIR_VARIABLE} to "
        "a directory that holds timemachine.txt",
    )


def main() -> int:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in examine():
        table.add_row(finding.what, finding.found, finding.remedy)
    terminal.console().print(table, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    terminal.run(main)
