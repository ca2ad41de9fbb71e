"""The page of planted changes: it says what the stored gates say, and counts those that erred."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.bench.evidence_summary import summarise

STORED = Path(__file__).resolve().parents[2] / "reports" / "amd-epyc-2-cores" / "gate"

VERDICT = {
    "settings": {
        "only": ["rnn_tanh-L2*/manual_gradient/eager", "rnn_tanh-L2*/torch_nn/eager"],
        "threads": 1,
        "smallest_effects": {"speed": 0.03, "memory": 0.05},
        "max_minutes": 6.0,
        "profile": "quick",
    },
    "base": {
        "environment": {"packages": {"torch": "2.13.0+cpu"}},
        "machine": "amd-epyc-2-cores",
        "device": "cpu",
        "commit": "b33db3d723061234",
    },
}


@pytest.fixture
def gates(tmp_path):
    for name in ("gates.csv", "planted.json"):
        shutil.copy(STORED / name, tmp_path)
    (tmp_path / "same-1").mkdir()
    (tmp_path / "same-1" / "verdict.json").write_text(json.dumps(VERDICT))
    return tmp_path


def test_the_stored_page_is_what_the_stored_gates_give(gates):
    found = summarise(gates).read_text("utf-8").splitlines()
    stored = (STORED / "summary.md").read_text("utf-8").splitlines()
    tables = [line for line in stored if line.startswith("|")]
    assert [line for line in found if line.startswith("|")] == tables
    assert len(tables) == 2 * 2 + 5 + 19  # heads, kinds, gates
    assert found[2].startswith("19 of 19 gates said what they should")
    assert "1 thread;" in found[2]


def test_a_gate_that_erred_is_counted_and_shown(gates):
    with (gates / "gates.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    lines[0] |= {"verdict": "regression", "as_expected": "False", "changed_decision": "slower"}
    with (gates / "gates.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    page = summarise(gates).read_text("utf-8")
    assert "18 of 19 gates said what they should" in page
    assert "| 10 | regression 1, pass 9 | 9 |" in page
    assert "| same 1 | regression | slower |" in page
