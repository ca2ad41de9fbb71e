"""What the planner finds wrong, and when: before torch is imported, where that is not needed."""

import json
import subprocess
import sys
from pathlib import Path

from bench.planner import make

ROOT = Path(__file__).parents[2]

USUAL = {
    "profile": "smoke", "workloads": [], "epochs": 0, "learning_rate": 0, "only": [],
    "device": "cpu", "corpus": "text.txt", "seed": 0, "threads": 1, "case_seconds": 0,
    "measure": False,
}  # fmt: skip

WRONG = {
    "'fast' is unknown": {"profile": "fast"},
    "has workloads of its own": {"workloads": ["lstm-H8"]},
    "there is no cell 'elman'": {"profile": None, "workloads": ["elman-H8"]},
    "no/such/file.txt": {"corpus": "no/such/file.txt"},
    "needs 15,000": {"profile": "quick"},  # the text is short
}

ASK = """
import json, sys
from bench.planner import make
for request in json.load(sys.stdin):
    try:
        make(request)
    except Exception as error:
        print(type(error).__name__, error)
print(sorted({"torch", "triton"} & set(sys.modules)))
"""


def test_wrong_words_and_texts_are_found_without_torch(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the time traveller " * 20)
    requests = [{**USUAL, "corpus": str(text), **changed} for changed in WRONG.values()]
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(requests), cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    *said, imported = done.stdout.splitlines()
    assert len(said) == len(WRONG)
    for line, expected in zip(said, WRONG, strict=True):
        assert line.startswith(("UsageError", "CorpusError"))
        assert expected in line
    assert imported == "[]"


def test_a_plan_says_what_was_asked_for(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the time traveller for so it will be convenient " * 500)
    answer = make({**USUAL, "corpus": str(text), "only": ["torch_nn"]})
    plan = answer["plan"]
    assert (plan["profile"], plan["device"], plan["only"]) == ("smoke", "cpu", ["torch_nn"])
    assert {case["implementation"] for case in plan["cases"]} == {"torch_nn"}
    assert "environment" not in answer  # nothing was measured
