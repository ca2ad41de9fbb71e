"""What the gates of ``tests.bench.evidence`` said, as one page.

``python -m tests.bench.evidence_summary DIR`` writes ``DIR/summary.md`` from what is stored there;
the evidence does so itself at its end.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from bench.wording import counted

PLANTED_AS = {
    "same": "a comment: nothing that matters",
    "slow": "a sleep after each forward pass",
    "bigger": "memory that is kept",
    "wrong": "a gradient that is off by 0.1 %",
    "missing": "the implementation is deleted",
}


def summarise(directory: Path) -> Path:
    """Write ``summary.md`` from ``gates.csv``, ``planted.json`` and the first verdict there is."""
    with (directory / "gates.csv").open(newline="", encoding="utf-8") as file:
        gates = list(csv.DictReader(file))
    planted = json.loads((directory / "planted.json").read_text("utf-8"))
    verdicts = [d / "verdict.json" for d in sorted(directory.iterdir()) if d.is_dir()]
    verdict = json.loads(next(path for path in verdicts if path.exists()).read_text("utf-8"))
    page = directory / "summary.md"
    page.write_text("\n".join([*_head(gates, planted, verdict), *_table(gates)]) + "\n", "utf-8")
    return page


def _head(
    gates: list[dict[str, str]], planted: dict[str, Any], verdict: dict[str, Any]
) -> list[str]:
    settings, base = verdict["settings"], verdict["base"]
    packages = base["environment"]["packages"]
    cases = " and ".join(f"`{only}`" for only in settings["only"])
    right = sum(gate["as_expected"] == "True" for gate in gates)
    threads = counted(settings["threads"], "thread")
    minutes = sum(float(gate["seconds"]) for gate in gates) / 60
    lines = [
        "# The gate, tried on planted changes",
        "",
        f"{right} of {len(gates)} gates said what they should, in {minutes:.0f} minutes. Machine: "
        f"{base['machine']}, {base['device']}, {threads}; PyTorch "
        f"{packages['torch']}; commit {base['commit'][:12]}; smallest effect "
        f"{100 * settings['smallest_effects']['speed']:g} % in speed, "
        f"{100 * settings['smallest_effects']['memory']:g} % in memory; at most "
        f"{settings['max_minutes']:g} minutes a gate.",
        "",
        f"Cases: {cases} of the profile {settings['profile']}. The change is planted into the "
        "first of the two, as a commit; the second is measured beside it, untouched. A step takes "
        f"{1000 * planted['step']:.2f} ms, the planted sleep {1000 * planted['seconds']:.2f} ms, "
        f"the planted memory {planted['mib']:g} MiB.",
        "",
        "| planted | what it is | gates | verdicts | as it should |",
        "|:--|:--|--:|:--|--:|",
    ]
    for name in dict.fromkeys(gate["planted"] for gate in gates):
        of_kind = [gate for gate in gates if gate["planted"] == name]
        said = [gate["verdict"] for gate in of_kind]
        words = ", ".join(f"{word} {said.count(word)}" for word in dict.fromkeys(said))
        right = sum(gate["as_expected"] == "True" for gate in of_kind)
        lines.append(f"| {name} | {PLANTED_AS[name]} | {len(of_kind)} | {words} | {right} |")
    return lines


def _table(gates: list[dict[str, str]]) -> list[str]:
    lines = [
        "",
        "Each gate: head's cost over base's with its interval, and in brackets after how many "
        "pairs it was decided.",
        "",
        "| gate | verdict | changed case | seconds a token | memory | untouched case "
        "| seconds a token | minutes | marked rounds |",
        "|:--|:--|:--|:-:|--:|:--|:-:|--:|--:|",
    ]
    for gate in gates:
        cells = [f"{gate['planted']} {gate['number']}", gate["verdict"]]
        for side in ("changed", "untouched"):
            cells.append((gate[f"{side}_decision"] or "not there").replace("_", " "))
            cells.append(_interval(gate, side))
            if side == "changed":
                memory = gate["changed_memory_ratio"]
                cells.append(f"{float(memory):.3f}" if memory else "")
        cells.append(f"{float(gate['seconds']) / 60:.1f}")
        cells.append(f"{gate['marked_rounds']} of {gate['rounds']}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _interval(gate: dict[str, str], side: str) -> str:
    if not gate[f"{side}_ratio"]:
        return ""
    ratio, low, high = (float(gate[f"{side}_{name}"]) for name in ("ratio", "low", "high"))
    return f"{ratio:.3f} ({low:.3f} to {high:.3f}; {gate[f'{side}_pairs']})"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "gates.csv").exists():
        print(f"{__doc__}\nDIR must hold gates.csv", file=sys.stderr)
        sys.exit(2)
    print(summarise(Path(sys.argv[1])))
