"""Wrong use of the command line: one line that says what is accepted, and exit code 2."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.environment import usable_processors
from bench.results import ResultsError
from bench.session import open_directory

PROCESSORS = usable_processors()
ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "amd-epyc-2-cores" / "quick"
BENCH = [sys.executable, "-m", "bench"]


def said(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """The exit code, and what went to both streams."""
    monkeypatch.setattr(sys, "argv", ["python -m bench", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    streams = capsys.readouterr()
    return int(caught.value.code or 0), streams.out, streams.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run --threads -1", f"--threads -1 is not accepted; give 0 to {PROCESSORS}"),
        ("run --threads 99999", f"--threads 99999 is not accepted; give 0 to {PROCESSORS}"),
        ("run --threads two", "'two'"),
        ("run --case-seconds 1,5", "'1,5'"),
        ("run --seed -3", "--seed -3 is not accepted; give 0 to"),
        ("run --thread 1", "--thread"),
        ("run --case-seconds -1", "--case-seconds -1.0 is not accepted; give 0 or more"),
        ("run --device gpu", "--device 'gpu' is unknown; use auto, cpu or cuda"),
        ("run --resume", "--resume needs the directory to continue: --output DIR"),
        ("runn", "'runn'"),
        ("report", "'DIR'"),
        ("kernels --max-minutes 0", "--max-minutes 0.0 is not accepted; give 0.1 or more"),
        ("kernels --output .", "--output is empty or the current directory; give a directory of"),
        ("gate baseline a b --output .", "--output is empty or the current directory; give a"),
        ("gate revisions --base HEAD -o .", "--output is empty or the current directory; give a"),
        ("noise --pairs 1", "--pairs 1 is not accepted; give 2 to 200"),
        ("gate revisions", "'--base'"),
        ("gate revisions --base main --profile fast", "profile 'fast' is unknown; use one of"),
    ],
)
def test_wrong_use_gets_one_line(monkeypatch, capsys, words, line):
    code, out, err = said(monkeypatch, capsys, *words.split())
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("bench: ")
    assert line in err


def test_what_cannot_be_parsed_names_the_help_of_its_command(monkeypatch, capsys):
    assert "bench run --help" in said(monkeypatch, capsys, "run", "--thread", "1")[2]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["gate", "--help"]])
def test_help_is_no_error(monkeypatch, capsys, words):
    code, out, _ = said(monkeypatch, capsys, *words)
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("words", [[], ["gate"]])
def test_a_command_alone_shows_its_help(monkeypatch, capsys, words):
    code, out, err = said(monkeypatch, capsys, *words)
    assert code == 2
    assert "Examples:" in out + err


@pytest.mark.parametrize(
    "words",
    [
        ["revisions", "--base", "no-such-commit"],
        ["revisions", "--base", "HEAD", "--environment", "both"],
        ["revisions", "--base", "HEAD", "--min-effect", "much"],
        ["baseline", "no-report", "no-report"],
    ],
)
def test_a_gate_that_is_refused_leaves_no_older_verdict(monkeypatch, capsys, tmp_path, words):
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    code, _, err = said(monkeypatch, capsys, "gate", *words, "--output", str(tmp_path))
    assert code == 2, err
    assert not (tmp_path / "verdict.json").exists()


def test_a_disk_that_is_full_gets_one_line_and_keeps_what_there_was(tmp_path):
    """As on a full disk, no file may grow beyond a few bytes: smaller than any page of a report."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    report = tmp_path / "report"
    shutil.copytree(REPORT, report)
    before = {path.name: path.read_bytes() for path in report.iterdir() if path.is_file()}
    done = subprocess.run(
        [*BENCH, "report", str(report)], cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("bench: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "what was stored is kept" in done.stderr
    for name in ("plan.json", "training.csv", "rounds.csv"):
        assert (report / name).read_bytes() == before[name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("command", ["list", "doctor"])
def test_output_that_cannot_be_written_gets_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BENCH, command], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("bench: writing: No space left on device;")
    assert done.stderr.count("\n") == 1, done.stderr


def test_an_alphabet_without_the_characters_is_no_error():
    code = "from bench import terminal; terminal.run(lambda: terminal.console().print('± 3 → 4'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"? 3 ? 4\n", b"")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="closes file descriptors as a Unix shell does")
def test_closed_streams_are_no_error_and_catch_no_file(tmp_path):
    """With ``>&-`` the next file that is opened would be standard output, and get what is said."""
    path = tmp_path / "file"
    code = (
        "from bench import terminal\n"
        f"terminal.run(lambda: (print('said', file=open({str(path)!r}, 'w')), print('lost')) and 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False,
        preexec_fn=lambda: (os.close(0), os.close(1)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text("utf-8") == "said\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
@pytest.mark.parametrize(
    ("name", "before", "outcome"),
    [
        ("SIGTERM", "SIG_DFL", "stopped"),
        ("SIGHUP", "SIG_DFL", "stopped"),
        ("SIGHUP", "SIG_IGN", "went on"),  # as nohup starts it
    ],
)
def test_schedulers_and_closed_terminals_stop_like_ctrl_c(name, before, outcome):
    code = (
        "import os, signal\n"
        "from bench import terminal\n"
        f"signal.signal(signal.{name}, signal.{before})\n"
        "terminal.stop_like_ctrl_c()\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "    print('went on')\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (f"{outcome}\n", 0), done.stderr


def test_a_link_to_nothing_is_no_place_for_a_report(tmp_path):
    plan = {"machine": "m", "profile": "p", "commit": "c"}
    answer = {"plan": plan, "peaks": {}, "environment": {}}
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="is a link to nothing; give a directory"):
        open_directory(answer, link, resume=False)
    link.unlink()
    link.touch()
    with pytest.raises(ResultsError, match="is a file; give a directory"):
        open_directory(answer, link, resume=False)


def test_a_reader_who_leaves_gets_no_complaint():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*BENCH, "kernels", "--predicted"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("column", ["rounds", "seed"])
def test_a_number_larger_than_any_count_is_damage(tmp_path, column):
    report = tmp_path / "report"
    shutil.copytree(REPORT, report)
    rows = list(csv.reader((report / "training.csv").open(newline="")))
    assert column in rows[0]
    rows[1][rows[0].index(column)] = "9" * 25
    with (report / "training.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    done = subprocess.run(
        [*BENCH, "report", str(report)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"line 2, column {column}: '{'9' * 25}'" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_file_in_the_way_gets_one_line(tmp_path):
    report = tmp_path / "report"
    shutil.copytree(REPORT, report, ignore=shutil.ignore_patterns("plots"))
    (report / "plots").touch()
    done = subprocess.run(
        [*BENCH, "report", str(report)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "plots" in done.stderr
