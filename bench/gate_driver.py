"""The process that runs a paired gate or a noise measurement: ``python -m bench.gate_driver FILE``.

It is started from a frozen copy of the caller's ``bench``, so that editing the checkout meanwhile,
or a difference between the revisions' own measuring code, changes nothing. ``FILE`` holds the
request as JSON; the exit code is the gate's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import gate_verdict, terminal
from bench.gate import Thresholds, Verdict, conclude, judge_pairs
from bench.gate_decision import AMBIGUOUS, ERROR, LOOKS
from bench.gate_pairs import SIDES, Measurement
from bench.gate_runner import PairedCase, PairRunner
from bench.gate_source import Source
from bench.selection import MatchesNothing, choose
from bench.wording import counted
from bench.worker_process import PROJECT


class Refused(ValueError):
    """A wrong use: one line, exit code 2."""


def chosen(case_ids: Sequence[str], only: Sequence[str]) -> list[str]:
    """The ids that match one of the patterns, or all. Raises ``Refused``: one matches nothing."""
    try:
        return choose(case_ids, only)
    except MatchesNothing as error:
        raise Refused(
            f"--only {error.pattern!r} matches none of the {len(case_ids)} cases of base and "
            "head; `python -m bench list --profile …` shows the ids of this checkout"
        ) from None


def sort_cases(
    plans: Mapping[str, Mapping[str, Any]], only: Sequence[str]
) -> tuple[list[PairedCase], list[PairedCase], list[Measurement]]:
    """Cases to pair, cases that head need only verify, and those with nothing to run."""
    of = {side: {c["case_id"]: c for c in plans[side]["cases"]} for side in ("base", "head")}
    workloads = {w["workload"]: w for side in ("base", "head") for w in plans[side]["workloads"]}
    paired, checked, rest = [], [], []
    for case_id in chosen(list(dict.fromkeys([*of["base"], *of["head"]])), only):
        base, head = of["base"].get(case_id), of["head"].get(case_id)
        case = head or base
        assert case is not None
        measurement = Measurement(case_id)
        entry = PairedCase(
            measurement, workloads[case["workload"]], case["implementation"], case["execution"]
        )
        runs_in_base = base is not None and not base["unsupported"]
        runs_in_head = head is not None and not head["unsupported"]
        if runs_in_base and not runs_in_head:
            why = "head lacks it" if head is None else f"head unsupported: {head['unsupported']}"
            measurement.kind, measurement.reason = "invalid", why
            rest.append(measurement)
        elif runs_in_head and not runs_in_base:
            why = "base lacks it" if base is None else f"base unsupported: {base['unsupported']}"
            measurement.kind, measurement.reason = "new", why
            checked.append(entry)
        elif not runs_in_head:
            measurement.kind = "untimed"
            measurement.reason = f"unsupported: {case['unsupported']}"
            rest.append(measurement)
        elif base is not None and head is not None and base["interpreted"] != head["interpreted"]:
            side = "head" if head["interpreted"] else "base"
            measurement.kind = "invalid"
            measurement.reason = f"an interpreter runs it in {side} alone"
            rest.append(measurement)
        elif case["interpreted"]:
            measurement.kind = "untimed"
            measurement.reason = "an interpreter runs it: checked, not timed"
            checked.append(entry)
        else:
            paired.append(entry)
    return paired, checked, rest


def make_plans(
    request: Mapping[str, Any], sources: Mapping[str, Source]
) -> tuple[dict[str, Any], list[str]]:
    """The planners' answers by side, and what keeps the two from being compared."""
    question = {
        "profile": request["profile"],
        "workloads": request["workloads"],
        "only": [],
        "device": request["device"],
        "corpus": request["corpus"],
        "seed": request["seed"],
        "threads": request["threads"],
        "case_seconds": request["case_seconds"],
        "measure": False,
    }
    answers, problems = {}, []
    for side in ("base", "head"):
        answers[side] = sources[side].plan(question)
        if "error" in answers[side]:
            raise Refused(answers[side]["error"])
        if "broken" in answers[side]:
            problems.append(f"{side} cannot be planned: {answers[side]['broken']}")
    if not problems and answers["base"]["text"] != answers["head"]["text"]:
        problems.append("base and head read the corpus as different texts")
    return answers, problems


def run_pairs(
    request: Mapping[str, Any], looks: Sequence[int], scratch: Path
) -> tuple[list[Measurement], list[PairedCase], dict[str, Any], list[str], list[str]]:
    """Measure; returns measurements, the paired cases, base's plan, problems and notes."""
    pythons = request.get("pythons", {})
    sources = {
        side: Source(Path(request["sources"][name]), scratch / f"cache-{name}", pythons.get(name))
        for side, name in zip(SIDES, ("base", "head", "base"), strict=True)
    }
    nothing = {"machine": "", "device": request["device"]}
    if problems := [
        f"{name} has no package {package}"
        for name in ("base", "head")
        for package in sources[name].lacks()
    ]:
        return [], [], nothing, problems, []
    for name in ("base", "head"):
        sources[name].check(request["device"], request["threads"] or 1)
    answers, problems = make_plans(request, sources)
    if problems:
        return [], [], nothing, problems, []
    plan = answers["base"]["plan"]
    paired, checked, rest = sort_cases(
        {side: answers[side]["plan"] for side in ("base", "head")}, request["only"]
    )
    logs = scratch / "logs"
    logs.mkdir()
    deadline = time.monotonic() + 60 * request["max_minutes"]
    runner = PairRunner(sources, plan, answers["base"]["text"], logs, deadline, _say)
    thresholds = Thresholds(**request["smallest_effects"])
    _say(
        f"{counted(len(paired), 'case')} to pair on {plan['machine']}, "
        f"{counted(plan['threads'], 'thread')}; "
        f"looks after {', '.join(map(str, looks))} pairs, "
        f"{request['max_minutes']:g} minutes at most"
    )
    try:
        for case in checked:
            runner.check(case)
        runner.run(
            paired,
            looks,
            lambda measurement: judge_pairs(measurement, thresholds, len(paired), looks),
            lambda verdict: bool(request["stops_early"]) and verdict.decision != AMBIGUOUS,
        )
    finally:
        runner.stop()
    measurements = [*(case.measurement for case in (*paired, *checked)), *rest]
    notes = [plan["corpus"]["note"]] if plan["corpus"]["note"] else []
    if runner.is_out_of_time:
        notes.append(f"--max-minutes {request['max_minutes']:g} ended it before every look was had")
    return measurements, paired, plan, problems, notes


def gate(request: Mapping[str, Any], scratch: Path) -> int:
    """Measure, write the verdict, print it; the exit code."""
    measurements, paired, plan, problems, notes = run_pairs(request, LOOKS, scratch)
    thresholds = Thresholds(**request["smallest_effects"])
    sides = {
        side: {**request[side], "machine": plan["machine"], "device": plan["device"]}
        for side in ("base", "head")
    }
    verdict: Verdict = conclude(
        "revisions",
        [judge_pairs(m, thresholds, len(paired), LOOKS) for m in measurements],
        sides["base"],
        sides["head"],
        {
            "smallest_effects": request["smallest_effects"],
            "looks": list(LOOKS),
            "error": ERROR,
            "cases": len(paired),
            "reading": gate_verdict.reading(LOOKS, len(paired)),
            "profile": plan.get("profile", request["profile"]),
            "only": request["only"],
            "max_minutes": request["max_minutes"],
            "threads": plan.get("threads", request["threads"]),
            "seed": request["seed"],
            "corpus_sha256": plan.get("corpus", {}).get("sha256", ""),
        },
        problems,
        [*request["notes"], *notes],
    )
    output = Path(request["output"])
    gate_verdict.write(verdict, output)
    for line in gate_verdict.terminal(verdict):
        _say(line)
    _say(f"Verdict: {output / 'verdict.json'}")
    return verdict.exit_code


def noise(request: Mapping[str, Any], scratch: Path) -> int:
    """Measure the same code against itself and print what can be resolved."""
    from bench.noise import is_measured, report

    looks = (request["pairs"],)
    _, paired, _, problems, notes = run_pairs(request, looks, scratch)
    for line in [*problems, *notes]:
        _say(line)
    lines = report(
        [(case.measurement, case.pair_seconds) for case in paired],
        request["smallest_effects"]["speed"],
    )
    for line in lines:
        _say(line)
    return 0 if any(is_measured(case.measurement) for case in paired) else 5


def _say(line: str) -> None:
    print(line, flush=True)


def _end_with(parent: int) -> None:
    """Stop as by Ctrl-C once the gate that started this is gone: killed, it can pass nothing on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    parent = os.getppid()
    request = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if (PROJECT / "deeprnn").exists():
        raise RuntimeError(f"{PROJECT} is not a frozen copy of the measuring code alone")
    scratch = Path(sys.argv[1]).parent
    terminal.open_streams()
    terminal.stop_like_ctrl_c()
    _end_with(parent)
    try:
        return (noise if request["kind"] == "noise" else gate)(request, scratch)
    except Refused as refused:
        print(f"bench: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        what = "nothing was measured" if request["kind"] == "noise" else "there is no verdict"
        if os.getppid() != parent:
            shutil.rmtree(scratch, ignore_errors=True)  # nobody else is left to do it
            return 130
        print(f"bench: stopped; {what}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that read from workers may still wait
