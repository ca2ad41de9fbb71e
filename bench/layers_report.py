"""Times single layers in a child process, and turns what pytest-benchmark wrote into a table."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import LAYERS, TRAINING, ResultsError
from bench.worker_process import CACHE_PREFIX, worker_environment

BENCHMARKS = Path(__file__).resolve().parent / "layers"

GRACE_SECONDS = 3.0
"""From asking pytest to stop, which still writes what it has, to ending it."""


@dataclass(frozen=True)
class Choice:
    """Which layers to time; whatever is empty is left to the benchmarks' own defaults."""

    implementations: Sequence[str] = ()  # in this order, for time may run out
    cells: Sequence[str] = ()
    sizes: Sequence[tuple[int, int, int]] = ()  # H, B, T

    def arguments(self) -> list[str]:
        sizes = ",".join(":".join(map(str, size)) for size in self.sizes)
        options = {
            "--layers-implementations": ",".join(self.implementations),
            "--layers-cells": ",".join(self.cells),
            "--layers-sizes": sizes,
        }
        return [f"{option}={value}" for option, value in options.items() if value]


def run_layers(
    directory: Path,
    run_id: str,
    device: str,
    threads: int,
    *,
    max_seconds: float,
    choice: Choice | None = None,
) -> str | None:
    """Write ``layers.csv`` into ``directory``.

    Args:
        directory: a report directory. A child's output is kept in ``logs/layers.log`` on failure.
        run_id: goes into every row.
        device: ``"cpu"`` or ``"cuda"``.
        threads: of PyTorch.
        max_seconds: nothing is begun after that; after half as long again the child is stopped.
        choice: what to time. By default the sizes and cells that ``training.csv`` has in
            ``directory``, by every implementation that ran there and can be prepared in time.

    Returns:
        None, or in one line what was not timed and why. Rows that were measured are kept.
    """
    left_out: list[str] = []
    if choice is None:
        choice, left_out = choose(directory, max_seconds)
        if not choice.implementations:
            return "; ".join(left_out) or "no implementation ran"
    log = directory / "logs" / "layers.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=CACHE_PREFIX) as scratch:
        stored = Path(scratch) / "layers.json"
        command = [sys.executable, "-m", "pytest", str(BENCHMARKS)]
        command += ["-c", os.devnull, "--rootdir", str(BENCHMARKS), "-p", "pytest_benchmark.plugin"]
        command += ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
        command += ["-rfEs", "-v", f"--benchmark-json={stored}"]
        command += [f"--layers-device={device}", f"--layers-threads={threads}"]
        command += [f"--layers-seconds={max_seconds}", *choice.arguments()]
        environment = worker_environment(device, threads)
        # Nothing of the caller's own pytest settings may change what is measured.
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        environment.pop("PYTEST_XDIST_WORKER", None)  # with it pytest-benchmark times nothing
        environment["COLUMNS"] = "1000"  # reasons are read from the output: never cut them off
        code = _run(command, environment, Path(scratch), log, 1.5 * max_seconds)
        measured = rows(stored, run_id)
    LAYERS.path(directory).unlink(missing_ok=True)
    LAYERS.append(directory, measured)
    output = log.read_text("utf-8", errors="replace")
    problem = _problem(output, code, max_seconds)
    if problem is None or code == 0:
        log.unlink()
        with contextlib.suppress(OSError):
            log.parent.rmdir()  # unless it holds the logs of cases
    return "; ".join(filter(None, [problem, *left_out])) or None


def choose(directory: Path, max_seconds: float) -> tuple[Choice, list[str]]:
    """What to time after a run, and what is left out for which reason.

    The layers are those of the run's workloads. Whatever compiles, compiles for a layer about as
    long as it did for the run, so the implementations come in the order of their cold starts.
    """
    ran = TRAINING.load(directory)
    ran = ran[ran["status"] == "ok"]
    sizes = ran[["hidden_size", "batch_size", "num_steps"]].drop_duplicates()
    # What is interpreted has no speed to show: it comes last.
    order = ran.groupby("implementation")[["interpreted", "cold_start_seconds"]].max()
    order = order.sort_values(["interpreted", "cold_start_seconds"], kind="stable")
    chosen, left_out = [], []
    for name, seconds in zip(order.index, order["cold_start_seconds"], strict=True):
        if seconds > max_seconds / 2:
            left_out.append(
                f"{name}, whose cold start of {seconds:.0f} s is too long for the "
                f"{max_seconds:g} s that layers may take"
            )
        else:
            chosen.append(str(name))
    choice = Choice(
        chosen,
        list(dict.fromkeys(ran["cell"])),
        [(int(h), int(b), int(t)) for h, b, t in sizes.itertuples(index=False)],
    )
    return choice, left_out


def rows(stored: Path, run_id: str) -> list[dict[str, Any]]:
    """The rows of ``layers.csv`` from a file of ``--benchmark-json``; none if there is no file."""
    if not stored.exists() or not stored.stat().st_size:
        return []
    try:
        benchmarks = json.loads(stored.read_text("utf-8"))["benchmarks"]
        return [_row(benchmark, run_id) for benchmark in benchmarks]
    except (json.JSONDecodeError, KeyError) as error:
        raise ResultsError(f"{stored} is not what pytest-benchmark writes: {error!r}") from error


def _row(benchmark: dict[str, Any], run_id: str) -> dict[str, Any]:
    statistics, layer = benchmark["stats"], benchmark["extra_info"]
    return {
        **{name: layer[name] for name in LAYERS.columns if name in layer},
        "benchmark": benchmark["name"],
        "rounds": statistics["rounds"],
        "milliseconds": 1e3 * statistics["median"],
        "milliseconds_low": 1e3 * statistics["q1"],
        "milliseconds_high": 1e3 * statistics["q3"],
        "microseconds_per_step": 1e6 * statistics["median"] / layer["num_steps"],
        "run_id": run_id,
    }


def _run(
    command: list[str], environment: dict[str, str], place: Path, log: Path, limit: float
) -> int | None:
    """The exit code; None for a child that had to be stopped. It never outlives this call."""
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=place,
            start_new_session=True,  # so that all it started can be ended with it
        )
        try:
            return child.wait(limit)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _problem(output: str, code: int | None, max_seconds: float) -> str | None:
    """What the child's output says about benchmarks that gave no figure though they should have."""
    found = []
    failures = re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+) - (.*)$", output, re.MULTILINE)
    if failures:
        name, reason = failures[0]
        reason = reason.removeprefix("Failed: ")
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        found.append(f"{name}: {reason}{more}")
    late = sum(map(int, re.findall(r"^SKIPPED \[(\d+)\] .*not begun within", output, re.MULTILINE)))
    if late:
        found.append(f"{late} benchmarks not begun within {max_seconds:g} s")
    last = re.findall(r"^\S+::(test_\S+)", output, re.MULTILINE)
    where = f" during {last[-1]}" if last else ""
    if code is None:
        interrupted = re.search(r"^!+ KeyboardInterrupt !+$", output, re.MULTILINE)
        is_done = re.search(r"^=+ .* in [\d.]+s.*=$", output, re.MULTILINE) and not interrupted
        if not is_done:  # else only Python took its time to end
            found.append(f"stopped{where} after {1.5 * max_seconds:g} s")
    elif code < 0:
        found.append(f"ended by {signal.Signals(-code).name}{where}")
    elif code not in (0, 1) or (code == 1 and not failures):
        lines = [line for line in output.splitlines() if line.strip()] or ["no output"]
        wrong_use = [line for line in lines if line.startswith("ERROR: ")]
        found.append((wrong_use or lines)[-1].removeprefix("ERROR: ").strip())
    return "; ".join(found) or None
