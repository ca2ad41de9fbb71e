"""The index of reports says what their files say."""

import json
import shutil

from bench import index, ranking
from bench.kernel_rows import Row
from bench.kernel_table import KERNELS
from bench.results import ROUNDS, TRAINING, read_json
from bench.stored import REMARKS

from .conftest import TINY
from .example_report import write

DONE = ("ok", "unsupported")


def test_one_line_a_workload_and_links_that_lead_somewhere(tmp_path):
    write(tmp_path / "my-machine" / "quick")
    text = index.write(tmp_path).read_text("utf-8")
    report = ranking.load(tmp_path / "my-machine" / "quick")
    for workload in report.workloads:
        (line,) = [line for line in text.splitlines() if workload.title in line]
        assert "(my-machine/quick/summary.md)" in line
        assert f"| {workload.ranked[0].implementation}" in line
        assert f"{workload.ranked[0]['tokens_per_second']:,.0f}" in line


def test_a_run_of_some_implementations_says_so(tmp_path):
    directory = tmp_path / "my-machine" / "quick"
    write(directory)
    assert " alone |" not in index.write(tmp_path).read_text("utf-8")
    plan = read_json(directory / "plan.json")
    (directory / "plan.json").write_text(json.dumps({**plan, "only": ["torch_nn", "python_loop"]}))
    assert "of `torch_nn`, `python_loop` alone |" in index.write(tmp_path).read_text("utf-8")


def test_a_remark_is_pointed_to(tmp_path):
    directory = tmp_path / "my-machine" / "quick"
    write(directory)
    assert "remark" not in index.write(tmp_path).read_text("utf-8")
    (directory / REMARKS).write_text("\n  \n")
    assert "remark" not in index.write(tmp_path).read_text("utf-8")
    (directory / REMARKS).write_text("The fan was broken.\n")
    assert "summary.md), **with a remark** |" in index.write(tmp_path).read_text("utf-8")


def test_what_the_gate_was_tried_on_is_listed(tmp_path):
    assert "planted" not in index.write(tmp_path).read_text("utf-8")
    (tmp_path / "my-machine" / "gate").mkdir(parents=True)
    (tmp_path / "my-machine" / "gate" / "summary.md").write_text("# The gate\n")
    assert "- [my-machine](my-machine/gate/summary.md)" in index.write(tmp_path).read_text("utf-8")


def test_a_damaged_table_of_kernels_is_named(tmp_path):
    directory = tmp_path / "my-machine" / "kernels"
    directory.mkdir(parents=True)
    figures = {f"microseconds_per_step{end}": 1.0 for end in ("", "_low", "_high")}
    row = Row(TINY, "stack", "a", "cuda_graph", "forward").columns()
    row |= {"status": "ok", "device": "A | B", "commit": "c", **figures}
    KERNELS.append(directory, [row])
    text = index.write(tmp_path).read_text("utf-8")
    assert (
        "- [my-machine](my-machine/kernels/kernels.md): 1 of 1 rows on A \\| B, commit c\n" in text
    )
    (directory / REMARKS).write_text("The fan was broken.\n")
    assert "commit c, **with a remark**" in index.write(tmp_path).read_text("utf-8")
    KERNELS.path(directory).write_text("torn\n")
    text = index.write(tmp_path).read_text("utf-8")
    assert "kernels.md" not in text
    assert "- `my-machine/kernels`: " in text


def test_an_index_is_only_written_where_reports_are(tmp_path):
    for name, is_written in (("reports", True), ("elsewhere", False)):
        directory = tmp_path / name / "my-machine" / "quick"
        write(directory)
        assert (index.update(directory) is not None) is is_written
        assert (tmp_path / name / "README.md").exists() is is_written


def test_speeds_that_do_not_count_are_not_ranked(tmp_path):
    directory = tmp_path / "my-machine" / "smoke"
    write(directory)
    plan = read_json(directory / "plan.json")
    (directory / "plan.json").write_text(json.dumps({**plan, "speeds_count": False}))
    text = index.write(tmp_path).read_text("utf-8")
    (heads,) = [line for line in text.splitlines() if line.startswith("| machine | profile |")]
    unranked = [line for line in text.splitlines() if "not ranked" in line]
    assert len(unranked) == len(ranking.load(directory).workloads)
    assert {line.count(" | ") for line in unranked} == {heads.count(" | ")} == {9}
    assert not any(
        f"{case['tokens_per_second']:,.0f}" in text
        for case in ranking.load(directory).cases
        if case["tokens_per_second"]
    )


def test_a_damaged_report_is_named_and_the_others_stay(tmp_path):
    write(tmp_path / "my-machine" / "quick")
    shutil.copytree(tmp_path / "my-machine" / "quick", tmp_path / "my-machine" / "torn")
    (tmp_path / "my-machine" / "torn" / "training.csv").write_text("torn\n")
    text = index.write(tmp_path).read_text("utf-8")
    assert "`my-machine/torn`: " in text
    assert "damaged" in text
    assert "(my-machine/quick/summary.md)" in text


def test_what_cannot_be_believed_or_is_not_whole_says_so(tmp_path):
    directory = tmp_path / "my-machine" / "quick"
    write(directory, epochs=1, workloads=1)
    plain = index.write(tmp_path).read_text("utf-8")
    assert "unreliable" not in plain
    rows = TRAINING.load(directory)
    lost = rows["case_id"][rows["status"] == "ok"].iloc[-1]
    TRAINING.keep(directory, set(rows["case_id"]) - {lost})
    lacking = [case for case in ranking.load(directory).cases if case.status not in DONE]
    able = sum(case.status != "unsupported" for case in ranking.load(directory).cases)
    text = index.write(tmp_path).read_text("utf-8")
    assert f"summary.md), {len(lacking)} of {able} cases without a result |" in text
    rounds = ROUNDS.load(directory)
    ROUNDS.path(directory).unlink()
    ROUNDS.append(directory, rounds.assign(mark="contended").to_dict("records"))
    assert "cases without a result, **unreliable** |" in index.write(tmp_path).read_text("utf-8")


def test_somebody_elses_page_stays(tmp_path):
    write(tmp_path / "my-machine" / "quick")
    (tmp_path / "README.md").write_text("my own notes\n", "utf-8")
    index.write(tmp_path)
    assert (tmp_path / "README.md").read_text("utf-8") == "my own notes\n"
