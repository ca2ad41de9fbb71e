"""bench/results.py: what is stored comes back, and what is damaged is refused in one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.results import (
    CURVES,
    LAYERS,
    ROUNDS,
    TRAINING,
    ResultsError,
    read_json,
    read_object,
    write_json,
)

TABLES = (TRAINING, ROUNDS, CURVES, LAYERS)

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=30)
NINE_DIGITS = st.floats(allow_nan=False).map(lambda value: float(f"{value:.9g}"))


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "case_id": TEXT,
            "turn": st.integers(-(2**53), 2**53) | st.none(),
            "warm_up": st.booleans() | st.none(),
            "seconds": NINE_DIGITS | st.none(),
        }
    )
)
def test_values_come_back_as_they_were_stored(row):
    with TemporaryDirectory() as name:
        ROUNDS.append(Path(name), [row])
        stored = ROUNDS.load(Path(name)).iloc[0]
    for column, value in row.items():
        assert pd.isna(stored[column]) if value is None else stored[column] == value


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.filename)
def test_every_column_comes_back(tmp_path, table):
    example = {str: "text, with a comma", int: 7, float: 0.25, bool: True}
    row = {name: example[kind] for name, kind in table.columns.items()}
    table.append(tmp_path, [row, {}])
    loaded = table.load(tmp_path)
    assert list(loaded.columns) == list(table.columns)
    assert loaded.iloc[0].to_dict() == row
    assert all(value == "" or pd.isna(value) for value in loaded.iloc[1].fillna(""))


def test_a_table_without_a_file_is_empty_and_typed(tmp_path):
    loaded = TRAINING.load(tmp_path)
    assert loaded.empty
    assert str(loaded["rounds"].dtype) == "Int64"
    assert str(loaded["tokens_per_second"].dtype) == "float64"


@pytest.mark.parametrize("missing", [None, np.nan, np.float32("nan"), pd.NA, pd.NaT], ids=repr)
def test_what_was_not_measured_is_an_empty_field(tmp_path, missing):
    row = dict.fromkeys(ROUNDS.columns, missing) | {"case_id": "a"}
    ROUNDS.append(tmp_path, [row])
    assert ROUNDS.path(tmp_path).read_text("utf-8").splitlines()[1] == "a" + "," * 14


def test_a_reason_over_several_lines_becomes_one_line(tmp_path):
    reason = 'said "no",\r\nthen\rstopped\u2028there'
    TRAINING.append(tmp_path, [{"case_id": "a", "reason": reason}])
    assert len(TRAINING.path(tmp_path).read_text("utf-8").splitlines()) == 2
    assert TRAINING.load(tmp_path)["reason"][0] == 'said "no", then stopped there'


def test_rows_are_added_below_the_rows_that_are_there(tmp_path):
    CURVES.append(tmp_path, [{"case_id": "a", "epoch": 1}])
    CURVES.append(tmp_path, [{"case_id": "a", "epoch": 2}])
    assert CURVES.load(tmp_path)["epoch"].tolist() == [1, 2]


def test_an_unknown_column_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ResultsError, match=r"rounds\.csv has no column speed"):
        ROUNDS.append(tmp_path, [{"case_id": "a"}, {"case_id": "b", "speed": 1.0}])
    assert not ROUNDS.path(tmp_path).exists()


HEADER = ",".join(CURVES.columns)


def test_a_writer_stopped_within_the_header_lost_nothing(tmp_path):
    path = CURVES.path(tmp_path)
    path.write_text(HEADER[:9])
    CURVES.drop_half_line(tmp_path)
    assert CURVES.load(tmp_path).empty
    CURVES.keep(tmp_path, ["a"])
    assert path.read_text("utf-8") == HEADER + "\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("case_id,epoch\n", "line 1"),
        (f"{HEADER}\na,1,2.0\n", "line 2 has 3 fields, not 6"),
        (f"{HEADER}\na,1,2.0,3.0,4.0,run\na,2,2.0,3.0,4.0,run,more\n", "line 3 has 7 fields"),
        (f"{HEADER}\na,one,2.0,3.0,4.0,run\n", "line 2, column epoch: 'one'"),
        (f"{HEADER}\na,1,fast,3.0,4.0,run\n", "line 2, column seconds: 'fast'"),
        (f'{HEADER}\n"a,1,2.0,3.0,4.0,run\n', "damaged"),
        (f'{HEADER}\n"a"b,1,2.0,3.0,4.0,run\n', "damaged"),
        (f"{HEADER}\n\n", "line 2 has 0 fields"),
        (b"\xff\xfe\x00", "utf-8"),
    ],
)
def test_a_damaged_table_is_one_line_that_names_the_place(tmp_path, content, named):
    raw = content if isinstance(content, bytes) else content.encode()
    CURVES.path(tmp_path).write_bytes(raw)
    for read in (lambda: CURVES.load(tmp_path), lambda: CURVES.keep(tmp_path, ["a"])):
        with pytest.raises(ResultsError) as caught:
            read()
        message = str(caught.value)
        assert named in message
        assert "curves.csv" in message
        assert "\n" not in message
    assert CURVES.path(tmp_path).read_bytes() == raw


def test_a_truth_value_is_true_or_false(tmp_path):
    header = ",".join(ROUNDS.columns)
    ROUNDS.path(tmp_path).write_text(f"{header}\na,1,0,yes,1,1,1,,,,,,,,\n", "utf-8")
    with pytest.raises(ResultsError, match="column warm_up: 'yes' is not of type bool"):
        ROUNDS.load(tmp_path)


def without(directory: Path, columns: tuple[str, ...]) -> None:
    """Make ``rounds.csv`` a file of the version that did not have ``columns`` yet."""
    frame = pd.read_csv(ROUNDS.path(directory), dtype=str, keep_default_na=False)
    frame.drop(columns=list(columns)).to_csv(ROUNDS.path(directory), index=False)


@pytest.mark.parametrize("lacking", [ROUNDS.added, ROUNDS.added[-1:]], ids=["all", "last"])
def test_a_file_from_before_a_column_was_added_still_loads(tmp_path, lacking):
    row = {"case_id": "a", "mark": "contended", "power_watts": 300.0, "run_id": "r"}
    ROUNDS.append(tmp_path, [row])
    without(tmp_path, lacking)
    ROUNDS.append(tmp_path, [row])  # a resumed run: the file stays of one piece
    ROUNDS.keep(tmp_path, ["a"])
    loaded = ROUNDS.load(tmp_path)
    assert list(loaded.columns) == list(ROUNDS.columns)
    assert loaded["run_id"].tolist() == ["r", "r"]
    assert loaded["mark"].tolist() == ["contended", "contended"]
    assert loaded["power_watts"].isna().all()
    assert str(loaded["power_watts"].dtype) == "float64"


def test_only_added_columns_may_be_missing(tmp_path):
    ROUNDS.append(tmp_path, [{"case_id": "a"}])
    without(tmp_path, ("mark",))
    with pytest.raises(ResultsError, match=r"rounds\.csv is damaged: line 1"):
        ROUNDS.load(tmp_path)


def test_keep_drops_only_the_rows_of_other_cases(tmp_path):
    reason = 'a "quoted", reason'
    cases = [{"case_id": name, "reason": reason, "tokens_per_second": 0.1} for name in "abc"]
    TRAINING.append(tmp_path, cases)
    before = TRAINING.path(tmp_path).read_text("utf-8").splitlines()
    mode = stat.S_IMODE(TRAINING.path(tmp_path).stat().st_mode)
    TRAINING.keep(tmp_path, ["a", "c", "z"])
    after = TRAINING.path(tmp_path).read_text("utf-8").splitlines()
    assert after == [before[0], before[1], before[3]]
    assert stat.S_IMODE(TRAINING.path(tmp_path).stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["training.csv"]


def test_keep_without_a_file_makes_none(tmp_path):
    ROUNDS.keep(tmp_path, ["a"])
    assert not list(tmp_path.iterdir())


def test_files_are_the_same_bytes_on_every_system(tmp_path):
    """UTF-8 whatever the locale is, and lines end as on Unix."""
    rows = [{"case_id": "é", "epoch": 1}, {"case_id": "ü", "epoch": 2}]
    CURVES.append(tmp_path, rows)
    lines = CURVES.path(tmp_path).read_bytes().split(b"\n")
    assert lines[0] == HEADER.encode()
    assert [line.split(b",")[:2] for line in lines[1:]] == [
        ["é".encode(), b"1"], ["ü".encode(), b"2"], [b""],
    ]  # fmt: skip
    CURVES.keep(tmp_path, ["ü"])
    assert CURVES.path(tmp_path).read_bytes() == b"\n".join([lines[0], *lines[2:]])
    write_json(tmp_path / "plan.json", {"title": "é"})
    assert (tmp_path / "plan.json").read_bytes() == '{\n "title": "é"\n}\n'.encode()


def test_json_comes_back(tmp_path):
    content = {"name": "é", "list": [1, None, 2.5]}
    write_json(tmp_path / "plan.json", content)
    assert read_json(tmp_path / "plan.json") == content
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_missing_and_damaged_json_is_one_line(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(ResultsError, match="does not exist") as missing:
        read_json(path)
    path.write_text(json.dumps({"a": 1})[:-2], "utf-8")
    with pytest.raises(ResultsError, match="is damaged") as damaged:
        read_json(path)
    for caught in (missing, damaged):
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", [1, 5, 200])
def test_a_half_written_line_is_dropped_before_more_is_appended(tmp_path, lost):
    """A killed writer: the newline is missing, or more; or the line is a whole row short of one."""
    rows = [{"case_id": f"case {n}", "epoch": n, "run_id": "r"} for n in range(3)]
    CURVES.append(tmp_path, rows)
    path = CURVES.path(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"case 3,3,1.5" + b"0" * lost)
    CURVES.drop_half_line(tmp_path)
    assert path.read_bytes() == whole
    CURVES.drop_half_line(tmp_path)  # and nothing else
    ROUNDS.drop_half_line(tmp_path)  # no file, no harm
    assert path.read_bytes() == whole
    assert len(CURVES.load(tmp_path)) == 3


def test_what_is_no_directory_or_no_object_is_one_line(tmp_path):
    (tmp_path / "file").write_text("null", "utf-8")
    with pytest.raises(ResultsError, match=r"cannot be read .*give a directory"):
        read_json(tmp_path / "file" / "plan.json")
    with pytest.raises(ResultsError, match="holds no JSON object"):
        read_object(tmp_path / "file")
    (tmp_path / "rounds.csv").mkdir()
    with pytest.raises(ResultsError, match=r"rounds\.csv cannot be read"):
        ROUNDS.load(tmp_path)
