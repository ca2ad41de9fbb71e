"""``bench kernels`` itself: wrong use, where its table goes, what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import kernel_runner, kernels_command
from bench.kernel_rows import Row
from bench.kernel_table import KERNELS
from bench.kernels_command import kernels
from bench.results import ResultsError
from bench.stored import load_environment

from .conftest import TINY

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_it_says_what_is_needed():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "kernels"],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"bench: .*CUDA device.*--predicted.*\n", done.stderr)


@pytest.fixture
def command():
    """The command alone, in this process."""
    app = typer.Typer()
    app.command()(kernels)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_predictions_need_no_gpu(command):
    done = command("--predicted", "--cell", "lstm")
    assert done.exit_code == 0, done.output
    assert "not measured" in done.output
    assert re.search(r"\| lstm-L1-H256-B32-T35-tf32 \| triton_sequence \| \d\.\d\d \|", done.output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cell", "elman"), "--cell 'elman' is unknown; use rnn_tanh, rnn_relu, gru, lstm"),
        (("--precision", "int8"), "--precision 'int8' is unknown; use ieee, tf32"),
        (("--hidden", "0"), "--hidden 0 is too small; give 1 or more"),
        (("--steps", "-3"), "--steps -3 is too small"),
    ],
)
def test_wrong_use_is_one_line(arguments, said, command):
    done = command(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_table_is_not_written_over(tmp_path):
    KERNELS.append(tmp_path, [])
    with pytest.raises(ResultsError, match=r"a report \(kernels.csv\); give another --output"):
        kernels_command._directory(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "training.csv"])
def test_nor_is_a_report_of_another_kind(name, tmp_path):
    (tmp_path / name).write_text("", "utf-8")
    with pytest.raises(ResultsError, match=rf"a report \({name}\); give another --output"):
        kernels_command._directory(tmp_path)


def test_a_second_table_is_written_beside_the_first(tmp_path):
    assert kernels_command._usual(tmp_path, "20260102-030405") == tmp_path / "kernels"
    (tmp_path / "kernels").mkdir()
    KERNELS.append(tmp_path / "kernels", [])
    beside = tmp_path / "kernels-20260102-030405"
    assert kernels_command._usual(tmp_path, "20260102-030405") == beside


def test_a_run_without_an_output_is_in_the_index(
    command, tmp_path, monkeypatch, misbehaving, hurried
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.kernels_command.cuda_is_present", lambda: True)
    monkeypatch.setattr(kernel_runner, "MODULE", "misbehaving_child")
    for _ in range(2):
        assert command("--max-minutes", "1").exit_code == 1
    one, two = sorted(path.name for path in (tmp_path / "reports" / "m").iterdir())
    assert one == "kernels"
    assert re.fullmatch(r"kernels-\d{8}-\d{6}", two)
    index = (tmp_path / "reports" / "README.md").read_text("utf-8")
    assert "- [m](m/kernels/kernels.md): 2 of 6 rows on d, commit c\n" in index
    assert f"- [m, {two}](m/{two}/kernels.md): 2 of 6 rows on d, commit c\n" in index


def test_a_whole_run_leaves_table_and_page(command, tmp_path, monkeypatch, misbehaving, hurried):
    """The command around a child that misbehaves: everything is stored, and the code says so."""
    monkeypatch.setattr("bench.kernels_command.cuda_is_present", lambda: True)
    monkeypatch.setattr(kernel_runner, "MODULE", "misbehaving_child")
    done = command("--max-minutes", "1", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1, done.output
    assert "2 crashed, 2 ok, 2 timeout, 1 unsupported" in done.output
    table = KERNELS.load(tmp_path / "out")
    assert list(table["status"]).count("ok") == 2
    assert set(table["device"]) == {"d"}
    assert "took longer than" in (tmp_path / "out" / "kernels.md").read_text("utf-8")
    assert "took longer than" in (tmp_path / "out" / "kernels.html").read_text("utf-8")
    environment = load_environment(tmp_path / "out")
    assert environment["GPU"] == {"Name": "d"}
    assert environment["Run"]["Commit"] == "c"
    assert environment["Run"]["Started"] <= environment["Run"]["Finished"]
    assert 0 < environment["Run"]["Wall time (s)"] < 60
    assert environment["Run"]["Planned rows"] == len(table) == 7


def test_a_run_that_is_stopped_before_its_first_row_leaves_no_table(tmp_path, monkeypatch, capsys):
    class Stopped:
        def __init__(self, *arguments, **options):
            self.about = {"device": "d", "machine": "m", "commit": "c", "environment": {}}
            self.rows = {}

        def plan(self):
            pass

        def kernels(self):
            return []

        def compile(self, done):
            raise KeyboardInterrupt

        def close(self):
            pass

    monkeypatch.setattr(kernel_runner, "KernelRun", Stopped)
    with pytest.raises(typer.Exit) as left:
        kernels_command._time([], tmp_path / "k", 0.0, None, False)
    assert left.value.exit_code == 130
    assert "Stopped." in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "k").iterdir()] == ["environment.json"]
    assert "Finished" not in load_environment(tmp_path / "k")["Run"]


def test_a_cache_that_cannot_be_had_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ResultsError, match=r"^--cache .*file: .*; give a directory"):
        kernels_command._time([], tmp_path / "k", 0.0, tmp_path / "file", False)


def test_what_many_rows_say_is_said_once(tmp_path, monkeypatch, capsys):
    class OutOfTime:
        def __init__(self, *arguments, **options):
            self.about = {"device": "d", "machine": "m", "commit": "c", "environment": {}}
            columns = Row(TINY, "stack", "a", "cuda_graph", "forward").columns()
            self.rows = {str(n): {**columns, "row_id": str(n), "status": ""} for n in range(5)}

        def plan(self):
            pass

        def kernels(self):
            return []

        def compile(self, done):
            pass

        def close(self):
            pass

        def run(self, keep, doing):
            for number, row in enumerate(self.rows.values()):
                reason = "no time" if number else "a fault"
                keep({**row, "status": "timeout", "reason": reason})

    monkeypatch.setattr(kernel_runner, "KernelRun", OutOfTime)
    assert kernels_command._time([], tmp_path / "k", 0.0, None, False)
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "timeout" in line][:3] == [
        "  0: timeout: a fault", "  1: timeout: no time", "  3 more: timeout: no time",
    ]  # fmt: skip
    assert "5 timeout.\n" in said
    assert f"Page: {tmp_path / 'k' / 'kernels.html'}" in said
