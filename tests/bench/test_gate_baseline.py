"""Two stored reports: what is compared, what is refused, and what never passes unseen."""

import importlib.util
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from bench import gate_verdict
from bench.gate_baseline import MIN_TURNS, compare
from bench.gate_commands import gate
from bench.gate_decision import ERROR
from bench.ranking import load
from bench.results import ROUNDS, TRAINING, write_json

CASE = "lstm-L2-H256-B32-T35-fp32/manual_gradient/eager"
REFERENCE = "lstm-L2-H256-B32-T35-fp32/torch_nn/eager"


def beside(name: str):
    """The module of that name beside this file: tests are no package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("stored") / "report"
    beside("example_report").write(directory, turns=12, layers=False)
    change_plan(directory, machine="example-9000-2-cores")
    return directory


@pytest.fixture
def current(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "current"))


def change_plan(directory: Path, **changes) -> None:
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    write_json(directory / "plan.json", plan | changes)


def change_rows(directory: Path, table, case_id: str, **changes) -> None:
    """Set or scale (by a function) columns of a case's rows."""
    frame = table.load(directory)
    mine = frame["case_id"] == case_id
    for column, change in changes.items():
        values = frame.loc[mine, column]
        frame.loc[mine, column] = values.map(change) if callable(change) else change
    table.path(directory).unlink()
    records = frame.astype(object).where(pd.notna(frame), None).to_dict("records")
    table.append(directory, records)


def slow(directory: Path, case_id: str, factor: float) -> None:
    def scale(value):
        return value * factor

    change_rows(directory, ROUNDS, case_id, tokens_per_second=scale)
    change_rows(directory, TRAINING, case_id, tokens_per_second=scale)


def decisions(stored: Path, current: Path, **options) -> dict[str, str]:
    verdict = compare(load(stored), load(current), **options)
    return {case.case_id: case.decision for case in verdict.cases}


def test_a_report_compared_with_itself_passes(stored, current):
    verdict = compare(load(stored), load(current))
    assert verdict.word == "pass", verdict
    by_case = {case.case_id: case for case in verdict.cases}
    assert by_case[CASE].decision == "same"
    assert by_case[CASE].speed.ratio == pytest.approx(1)
    assert by_case[CASE].speed.low < 1 < by_case[CASE].speed.high
    assert by_case[REFERENCE].speed is None  # what the others are compared with
    assert any(f"for information: {REFERENCE} ran at" in note for note in verdict.notes)


def test_a_quiet_baseline_does_not_vouch_for_a_disturbed_run(stored, current):
    for case_id in load(current).rounds["case_id"].unique():
        change_rows(current, ROUNDS, case_id, mark="contended")
    for reports in ((stored, current), (current, stored)):
        verdict = compare(*map(load, reports))
        assert verdict.word == "unreliable"
        assert any("contended or throttled" in problem for problem in verdict.problems)


def test_a_slowdown_is_found_and_only_there(stored, current):
    slow(current, CASE, 0.85)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "regression"
    slower = [case.case_id for case in verdict.cases if case.decision == "slower"]
    assert slower == [CASE]
    assert verdict.cases[0].case_id == CASE
    assert verdict.cases[0].speed.ratio == pytest.approx(1 / 0.85)


def test_the_more_cases_are_compared_the_wider_each_interval(stored, current):
    """All of them hold together with 95 %: one alone need not share its error."""
    reports = load(stored), load(current)
    alone, among = (
        next(case.speed for case in compare(*reports, only=only).cases if case.case_id == CASE)
        for only in ([CASE], [])
    )
    assert alone.ratio == among.ratio
    assert among.low < alone.low < 1 < alone.high < among.high


def test_a_slower_machine_is_no_regression(stored, current):
    for case in load(current).cases:
        if case.status == "ok":
            slow(current, case.case_id, 0.7)
    assert compare(load(stored), load(current)).word == "pass"


def test_a_speedup_is_no_regression(stored, current):
    slow(current, CASE, 1.3)
    assert decisions(stored, current)[CASE] == "faster"


@pytest.mark.parametrize(
    ("column", "factor", "word"),
    [("peak_memory_mib", 1.2, "bigger"), ("train_perplexity", 1.1, "worse")],
)
def test_memory_and_perplexity_have_their_own_thresholds(stored, current, column, factor, word):
    change_rows(current, TRAINING, CASE, **{column: lambda value: value * factor})
    verdict = compare(load(stored), load(current))
    assert verdict.word == "regression"
    assert verdict.cases[0].decision == word


@pytest.mark.parametrize("status", ["incorrect", "diverged", "oom", "timeout", "crashed"])
def test_a_failed_case_is_invalid(stored, current, status):
    change_rows(current, TRAINING, CASE, status=status, reason="planted", tokens_per_second=None)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    assert verdict.cases[0].reason == f"now {status}: planted"


def test_a_case_that_failed_in_the_baseline_is_invalid(stored, current, tmp_path):
    broken = Path(shutil.copytree(stored, tmp_path / "broken"))
    change_rows(broken, TRAINING, CASE, status="crashed", reason="planted")
    verdict = compare(load(broken), load(current))
    assert verdict.word == "invalid"
    assert "crashed in the baseline: planted; store a new baseline" in verdict.cases[0].reason


def test_a_case_without_a_row_is_invalid(stored, current):
    kept = set(TRAINING.load(current)["case_id"]) - {CASE}
    TRAINING.keep(current, kept)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    assert verdict.cases[0].reason == "now not run yet"


def unplan(directory: Path, case_id: str) -> None:
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    change_plan(directory, cases=[c for c in plan["cases"] if c["case_id"] != case_id])
    TRAINING.keep(directory, set(TRAINING.load(directory)["case_id"]) - {case_id})


def test_a_deleted_case_is_invalid_and_a_new_one_is_new(stored, current):
    unplan(current, CASE)
    assert decisions(stored, current)[CASE] == "invalid"
    assert decisions(current, stored)[CASE] == "new"
    assert compare(load(current), load(stored)).word == "pass"


def test_too_few_rounds_are_invalid(stored, current):
    frame = ROUNDS.load(current)
    short = frame[(frame["case_id"] != CASE) | (frame["turn"] < MIN_TURNS)]
    ROUNDS.path(current).unlink()
    ROUNDS.append(current, short.astype(object).where(pd.notna(short), None).to_dict("records"))
    change_rows(current, TRAINING, CASE, rounds=MIN_TURNS - 1)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    assert verdict.cases[0].reason == "too few rounds: 4 turns in this run, and 5 are needed"


def test_the_interval_is_welchs(stored, current):
    """Against SciPy's, on the logs of what each turn gave; its error is shared by all cases."""
    rng = np.random.default_rng(4)
    for case_id in (CASE, REFERENCE):
        change_rows(
            current, ROUNDS, case_id, tokens_per_second=lambda v: v * rng.lognormal(0, 0.05)
        )
    reports = load(stored), load(current)
    verdict = compare(*reports)
    (found,) = [c.comparisons[0] for c in verdict.cases if c.case_id == CASE]
    logs = []
    for report in reports:
        rounds = report.rounds[~report.rounds["warm_up"].astype(bool)]
        table = np.log(rounds.pivot_table("tokens_per_second", "turn", "case_id"))
        logs.append((table[REFERENCE] - table[CASE]).to_numpy())  # of costs
    cases = verdict.settings["cases"]
    assert cases == 17
    welch = stats.ttest_ind(logs[1], logs[0], equal_var=False)
    interval = welch.confidence_interval(1 - ERROR / cases)
    assert math.log(found.low) == pytest.approx(interval.low)
    assert math.log(found.high) == pytest.approx(interval.high)
    assert found.pairs == 11


def test_five_turns_are_enough(stored, current):
    frame = ROUNDS.load(current)
    short = frame[(frame["case_id"] != CASE) | (frame["turn"] <= MIN_TURNS)]
    ROUNDS.path(current).unlink()
    ROUNDS.append(current, short.astype(object).where(pd.notna(short), None).to_dict("records"))
    change_rows(current, TRAINING, CASE, rounds=MIN_TURNS)
    verdict = compare(load(stored), load(current), only=[CASE])
    assert [c.pairs for c in verdict.cases[0].comparisons] == [MIN_TURNS, 1, 1]


def test_perplexities_of_other_seeds_are_not_compared(stored, current):
    change_plan(current, seed=1)
    verdict = compare(load(stored), load(current), only=[CASE])
    assert [c.quantity.name for c in verdict.cases[0].comparisons] == ["speed", "memory"]
    assert "perplexities are not compared: the seeds differ" in verdict.notes
    same = compare(load(stored), load(stored), only=[CASE])
    assert [c.quantity.name for c in same.cases[0].comparisons] == ["speed", "memory", "perplexity"]
    assert not any("seeds" in note for note in same.notes)


def test_where_all_have_too_few_rounds_no_option_is_blamed(stored, current):
    for directory in (
        stored_copy := Path(shutil.copytree(stored, current.with_name("b"))),
        current,
    ):
        frame = ROUNDS.load(directory)
        short = frame[frame["turn"] < MIN_TURNS]
        ROUNDS.path(directory).unlink()
        records = short.astype(object).where(pd.notna(short), None).to_dict("records")
        ROUNDS.append(directory, records)
        for case_id in set(frame["case_id"]):
            change_rows(directory, TRAINING, case_id, rounds=MIN_TURNS - 1)
    verdict = compare(load(stored_copy), load(current))
    assert verdict.word == "invalid"
    assert not any("--only" in problem for problem in verdict.problems), verdict.problems
    assert "too few rounds" in verdict.cases[0].reason


def test_notes_speak_of_the_chosen_cases_alone(stored, current):
    def about(only):
        notes = compare(load(stored), load(current), only=only).notes
        return [note for note in notes if "for information" in note]

    assert len(about(())) == 3
    assert about(["python_loop"]) == []
    (note,) = about(["lstm-*"])
    assert "lstm-L2-H256-B32-T35-fp32/torch_nn/eager" in note


def test_turns_and_single_figures_are_called_what_they_are(stored, current):
    change_rows(current, TRAINING, CASE, peak_memory_mib=lambda value: value * 2)
    verdict = compare(load(stored), load(current), only=[CASE])
    said = "\n".join(gate_verdict.terminal(verdict))
    assert re.search(r"speed .* \(0\.9\d+ to 1\.0\d+, 11 turns\): same", said), said
    assert "cost ratio 2.000 (single figures): bigger" in said
    page = gate_verdict.markdown(verdict)
    assert "| 2.000 | single figures | **bigger** |" in page
    assert "pairs" not in said + page


def test_without_the_reference_nothing_can_be_compared(stored, current):
    unplan(current, REFERENCE)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    reasons = {case.case_id: case.reason for case in verdict.cases}
    assert "this run has no torch_nn" in reasons[CASE]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "another-machine"}, "another machine: example-9000-2-cores in the baseline"),
        ({"device": "cuda"}, "another device: cpu in the baseline, cuda now"),
        ({"threads": 8}, "another number of threads: 2 in the baseline, 8 now"),
        ({"corpus": {"sha256": "1" * 64}}, "another text: 000000000000… in the baseline"),
    ],
)
def test_what_cannot_be_compared_is_refused(stored, current, changes, message):
    change_plan(current, **changes)
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    assert message in verdict.problems[0]
    assert not any(case.comparisons for case in verdict.cases)


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.5), ("matmul_precision", "tf32"), ("dtype", "bfloat16"), ("epochs", 500)],
)
def test_another_workload_definition_or_precision_is_refused(stored, current, key, value):
    plan = json.loads((current / "plan.json").read_text("utf-8"))
    plan["workloads"][0][key] = value
    change_plan(current, workloads=plan["workloads"])
    verdict = compare(load(stored), load(current))
    assert verdict.word == "invalid"
    assert f"another workload definition: {key}" in verdict.cases[0].reason


def test_only_leaves_the_rest_out(stored, current):
    slow(current, CASE, 0.8)
    found = decisions(stored, current, only=["python_loop"])
    assert found
    assert all("/python_loop/" in case_id for case_id in found)
    with pytest.raises(ValueError, match="matches none"):
        compare(load(stored), load(current), only=["tensorflow"])


def test_other_versions_are_said(stored, current):
    environment = json.loads((current / "environment.json").read_text("utf-8"))
    environment["Versions"]["torch"] = "9.9"
    write_json(current / "environment.json", environment)
    notes = compare(load(stored), load(current)).notes
    assert "torch differs: 2.11.0 in the baseline, 9.9 now" in notes


def change_environment(directory: Path, section: str, **changes) -> None:
    environment = json.loads((directory / "environment.json").read_text("utf-8"))
    environment[section] = (environment.get(section) or {}) | changes
    write_json(directory / "environment.json", environment)


def test_a_machine_of_the_same_name_with_other_parts_is_refused(stored, current, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(stored, before)
    change_environment(before, "GPU", Multiprocessors=132)
    change_environment(current, "Machine", Processor="another one")
    change_environment(current, "GPU", Multiprocessors=66)
    verdict = compare(load(before), load(current))
    assert verdict.exit_code == 5
    problems = "\n".join(verdict.problems)
    assert "another processor: " in problems
    assert "another number of multiprocessors: 132 in the baseline, 66 now" in problems


def test_another_driver_is_said(stored, current, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(stored, before)
    for directory, driver in ((before, "580.1"), (current, "999.0")):
        change_environment(directory, "GPU", Driver=driver)
    verdict = compare(load(before), load(current))
    assert "the GPU's driver differs: 580.1 in the baseline, 999.0 now" in verdict.notes
    assert verdict.exit_code == 0


def test_the_command_writes_and_answers(stored, current, tmp_path):
    runner, output = CliRunner(), tmp_path / "out"
    words = ["baseline", str(stored), str(current), "--output", str(output)]
    done = runner.invoke(gate, words)
    assert done.exit_code == 0, done.output
    verdict = json.loads((output / "verdict.json").read_text("utf-8"))
    assert verdict["verdict"] == "pass"
    test_gate = beside("test_gate")
    assert test_gate.violations(verdict, test_gate.SCHEMA) == []
    slow(current, CASE, 0.8)
    assert runner.invoke(gate, words).exit_code == 3
    unplan(current, CASE)
    assert runner.invoke(gate, words).exit_code == 5
    assert "Invalid" in (output / "verdict.md").read_text("utf-8")


def test_the_reference_alone_is_no_comparison(stored, current):
    """It is what speeds are held against: of them nothing would be said."""
    case_id = CASE.replace("manual_gradient", "torch_nn")
    verdict = compare(load(stored), load(current), only=[case_id])
    assert verdict.word == "invalid"
    assert any("no speeds were compared" in problem for problem in verdict.problems)


def test_a_directory_without_a_report_is_wrong_use(stored, tmp_path):
    words = ["baseline", str(stored), str(tmp_path), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(gate, words)
    assert done.exit_code == 2
    assert "plan.json does not exist: give a directory" in done.output
    assert not (tmp_path / "out" / "verdict.json").exists()
