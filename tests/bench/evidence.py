"""Does the paired gate find what is planted, and only that? Real gates, through the command line.

``python -m tests.bench.evidence --output DIR`` clones this checkout's commit, plants changes into
one implementation as commits of the clone, and runs one gate after the other over that
implementation and a second one that nothing is planted into. One line a gate goes to the terminal
and to ``DIR/gates.csv``; their verdicts and output are kept beside it. Stopped, it goes on where it
was with the same command. The machine should do nothing else meanwhile.

Exit codes: 0 every gate said what it should; 1 some did not, or the script failed; 2 wrong use.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.evidence_summary import summarise

PROJECT = Path(__file__).resolve().parents[2]
TAG = "planted-"

QUIET = ("same", "not_worse", "faster", "smaller", "better")
"""Decisions that pass."""

ALARMS = ("slower", "bigger", "worse", "invalid", "unreliable")
"""What nothing must be called that nothing was planted into; noise may leave it ambiguous."""

WRAPPED = """

def _plant():
    (found,) = [
        value
        for value in globals().values()
        if isinstance(value, type) and value.__module__ == __name__ and hasattr(value, "support")
    ]
    forward = found.forward

    def planted(self, *arguments):
        y, state = forward(self, *arguments)
        {change}
        return y, state

    found.forward = planted


_plant()
"""


@dataclass(frozen=True)
class Planted:
    """A change, how often it is tried, and what the gate must say about it."""

    name: str
    repeat: int
    verdict: str
    changed: tuple[str, ...]  # decisions that the implementation may come to
    plant: Callable[[Path, dict[str, float]], None]  # into the implementation's file


def wrap(change: str) -> Callable[[Path, dict[str, float]], None]:
    """Do ``change`` after each forward pass; figures in braces are filled in."""

    def plant(file: Path, figures: dict[str, float]) -> None:
        with file.open("a", encoding="utf-8") as source:
            source.write(WRAPPED.replace("{change}", change.format(**figures)))

    return plant


def comment(file: Path, figures: dict[str, float]) -> None:
    with file.open("a", encoding="utf-8") as source:
        source.write("\n# A line that changes nothing.\n")


def delete(file: Path, figures: dict[str, float]) -> None:
    file.unlink()


PLANTED = {
    planted.name: planted
    for planted in (
        Planted("same", 10, "pass", QUIET, comment),
        Planted(
            "slow", 5, "regression", ("slower",), wrap("__import__('time').sleep({seconds:.6f})")
        ),
        Planted(
            "bigger",
            2,
            "regression",
            ("bigger",),
            wrap("found.kept = getattr(found, 'kept', None) or [y.new_ones({mib:.0f} * 2**18)]"),
        ),
        Planted("wrong", 1, "invalid", ("invalid",), wrap("y = y + 0.001 * (y - y.detach())")),
        Planted("missing", 1, "invalid", ("invalid",), delete),
    )
}

OF_A_CASE = ("decision", "speed", "ratio", "low", "high", "pairs", "memory", "memory_ratio")
COLUMNS = (
    *("planted", "number", "commit", "verdict", "exit_code", "as_expected", "seconds"),
    *("rounds", "marked_rounds"),
    *(f"{side}_{name}" for side in ("changed", "untouched") for name in OF_A_CASE),
    "problems",
)


def run(*words: str, cwd: Path | None = None, **variables: str) -> str:
    """What a command prints. Raises ``RuntimeError`` with its last words."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = ((done.stderr + done.stdout).strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{' '.join(words[:4])} …: {last}")
    return done.stdout.strip()


@contextmanager
def clone() -> Iterator[Path]:
    """A clone of this checkout's commit, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="deeprnn-evidence-")).resolve()
    try:
        root = directory / "project"
        run("git", "clone", "--quiet", "--no-hardlinks", str(PROJECT), str(root))
        run("git", "checkout", "--quiet", "--detach", commit(), cwd=root)
        run("git", "tag", f"{TAG}base", cwd=root)
        yield root
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def commit() -> str:
    return run("git", "-C", str(PROJECT), "rev-parse", "HEAD")


def plant(root: Path, planted: Planted, implementation: str, figures: dict[str, float]) -> None:
    """A commit after ``planted-base`` that differs in the one file of an implementation."""
    identity = ["-c", "user.name=evidence", "-c", "user.email=evidence@example.org"]
    run("git", "checkout", "--quiet", "--detach", f"{TAG}base", cwd=root)
    planted.plant(root / "deeprnn" / "implementations" / f"{implementation}.py", figures)
    words = ["commit", "--quiet", "--all", "--message", f"Plant: {planted.name}"]
    run("git", *identity, *words, cwd=root)
    run("git", "tag", f"{TAG}{planted.name}", cwd=root)
    run("git", "checkout", "--quiet", "--detach", f"{TAG}base", cwd=root)


def step_seconds(root: Path, options: argparse.Namespace) -> float:
    """How long a training step of the implementation takes here, as a run measures it."""
    with tempfile.TemporaryDirectory(prefix="deeprnn-evidence-") as directory:
        words = ["--profile", options.profile, "--device", options.device, "--output", directory]
        words += ["--threads", str(options.threads)]
        only = f"{options.workload}/{options.changed}/eager"
        command = [sys.executable, "-m", "bench", "run", "--only", only, *words]
        run(*command, cwd=root, PYTHONPATH=str(root))
        with (Path(directory) / "training.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
    return float(row["step_milliseconds"]) / 1000


def gate(
    root: Path, planted: Planted, number: int, options: argparse.Namespace, commit: str
) -> dict[str, Any]:
    """Run one gate; its line of ``gates.csv``. Stopped with Ctrl-C, so is the gate."""
    output = options.output / f"{planted.name}-{number}"
    words = ["--base", f"{TAG}base", "--head", f"{TAG}{planted.name}", "--output", str(output)]
    words += ["--profile", options.profile, "--device", options.device]
    for name in (options.changed, options.untouched):
        words += ["--only", f"{options.workload}/{name}/eager"]
    words += ["--max-minutes", f"{options.max_minutes:g}", "--min-effect", options.min_effect]
    words += ["--seed", str(1000 * number), "--threads", str(options.threads)]
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (output / "output.txt").open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", "gate", "revisions", *words],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes one on
        )
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code == 130:
        raise KeyboardInterrupt
    line: dict[str, Any] = {"planted": planted.name, "number": number, "commit": commit}
    line |= {"exit_code": code, "seconds": round(time.monotonic() - started, 1)}
    if not (output / "verdict.json").exists():
        last = ((output / "output.txt").read_text("utf-8").strip().splitlines() or [""])[-1]
        return line | {"verdict": "none", "as_expected": False, "problems": last}
    verdict = json.loads((output / "verdict.json").read_text("utf-8"))
    for side in ("changed", "untouched"):
        name = getattr(options, side)
        found = [c for c in verdict["cases"] if c["case_id"].split("/")[1] == name]
        for case in found:
            line |= {f"{side}_{key}": value for key, value in figures_of(case).items()}
    line["as_expected"] = (
        verdict["verdict"] == planted.verdict
        and line.get("changed_decision") in planted.changed
        and line.get("untouched_decision", "invalid") not in ALARMS
    )
    return line | {
        "verdict": verdict["verdict"],
        "rounds": sum(case["rounds"] for case in verdict["cases"]),
        "marked_rounds": sum(case["marked_rounds"] for case in verdict["cases"]),
        "problems": "; ".join([*verdict["problems"], *(c["reason"] for c in verdict["cases"])]),
    }


def figures_of(case: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"decision": case["decision"]}
    for comparison in case["comparisons"]:
        if comparison["quantity"] == "speed":
            found["speed"] = comparison["decision"]
            found |= {"ratio": comparison["cost_ratio"], "pairs": comparison["pairs"]}
            found |= {key: comparison[key] for key in ("low", "high")}
        elif comparison["quantity"] == "memory":
            found["memory"], found["memory_ratio"] = (
                comparison["decision"],
                comparison["cost_ratio"],
            )
    return found


def sentence(line: dict[str, Any]) -> str:
    """A line of ``gates.csv`` for a terminal."""
    parts = []
    for side in ("changed", "untouched"):
        said = f"{side} {line.get(f'{side}_decision') or 'not there'}"
        if line.get(f"{side}_ratio"):
            ratio, low, high = (float(line[f"{side}_{k}"]) for k in ("ratio", "low", "high"))
            said += f" {ratio:.3f} ({low:.3f} to {high:.3f}, {line[f'{side}_pairs']} pairs"
            said += f"; memory {float(line[f'{side}_memory_ratio']):.3f})"
        parts.append(said)
    is_expected = str(line["as_expected"]) == "True"
    return (
        f"{line['planted']} {line['number']}: {line['verdict']} (exit code {line['exit_code']}), "
        f"{'as it should' if is_expected else 'NOT as it should'}; {'; '.join(parts)}; "
        f"{float(line['seconds']):.0f} s"
    )


def finished(table: Path) -> list[dict[str, Any]]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def keep(table: Path, line: dict[str, Any]) -> None:
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(line)


def calibrated(root: Path, options: argparse.Namespace, commit: str) -> dict[str, float]:
    """What is planted, in figures; measured once for all gates of a directory."""
    stored = options.output / "planted.json"
    if not stored.exists():
        seconds = step_seconds(root, options)
        figures = {"step": seconds, "seconds": options.slower * seconds, "mib": options.mib}
        stored.write_text(json.dumps({"commit": commit, **figures}, indent=1) + "\n", "utf-8")
    return dict(json.loads(stored.read_text("utf-8")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan = ", ".join(f"{p.name}={p.repeat}" for p in PLANTED.values())
    parser.add_argument("--output", type=Path, required=True, help="where the evidence goes")
    parser.add_argument(
        "--repeat",
        action="append",
        metavar="KIND=N",
        help=f"how often what is planted; given once, the others are left out; default: {plan}",
    )
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--workload", default="rnn_tanh-L2*", help="a pattern of workloads")
    parser.add_argument("--changed", default="manual_gradient", help="planted into this one")
    parser.add_argument("--untouched", default="torch_nn", help="measured beside it")
    parser.add_argument("--slower", type=float, default=0.1, help="share of a training step")
    parser.add_argument("--mib", type=float, default=80, help="memory that bigger keeps")
    parser.add_argument("--min-effect", default="3%")
    parser.add_argument("--max-minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=0, help="of a process; 0: one a core")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    options.times = {p.name: p.repeat for p in PLANTED.values()}
    if options.repeat:
        options.times = {}
        for word in options.repeat:
            name, _, count = word.partition("=")
            if name not in PLANTED or not count.isdigit():
                parser.error(f"--repeat {word!r}: give one of {', '.join(PLANTED)} as {name}=3")
            options.times[name] = int(count)
    options.output = options.output.resolve()
    return options


def main() -> int:
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    table, here = options.output / "gates.csv", commit()
    done = finished(table)
    others = {line["commit"] for line in done} - {here}
    if others:
        print(f"{table} is of commit {others.pop()[:12]}; give another --output", file=sys.stderr)
        return 2
    have = {(line["planted"], int(line["number"])) for line in done}
    missing = [
        (PLANTED[name], number)
        for name, times in options.times.items()
        for number in range(1, times + 1)
        if (name, number) not in have
    ]
    with clone() as root:
        figures = calibrated(root, options, here)
        print(
            f"A step takes {1000 * figures['step']:.2f} ms; slow sleeps "
            f"{1000 * figures['seconds']:.2f} ms, bigger keeps {figures['mib']:.0f} MiB. "
            f"{len(missing)} gates to run, {len(have)} done.",
            flush=True,
        )
        for name in dict.fromkeys(planted.name for planted, _ in missing):
            plant(root, PLANTED[name], options.changed, figures)
        for place, (planted, number) in enumerate(missing):
            line = gate(root, planted, number, options, here)
            keep(table, line)
            done.append({key: str(value) for key, value in line.items()})
            spent = [float(entry["seconds"]) for entry in done]
            left = sum(spent) / len(spent) * (len(missing) - place - 1) / 60
            print(f"{sentence(line)}; about {left:.0f} minutes left", flush=True)
    code = conclude(done)
    print(f"See {summarise(options.output)}")
    return code


def conclude(done: list[dict[str, Any]]) -> int:
    """Print how often each kind was called what it is; the exit code."""
    right = Counter(line["planted"] for line in done if line["as_expected"] == "True")
    for name, count in Counter(line["planted"] for line in done).items():
        verdicts = Counter(line["verdict"] for line in done if line["planted"] == name)
        said = ", ".join(f"{verdict} {times}" for verdict, times in verdicts.items())
        print(f"{name}: {right[name]} of {count} as it should ({said})")
    print(f"{sum(float(line['seconds']) for line in done) / 60:.0f} minutes of gates")
    return 0 if sum(right.values()) == len(done) else 1


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(stop, signal.default_int_handler)
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"evidence: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
