"""The chapter from its plan to its page, by real workers, at sizes that take seconds."""

import io
import time
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from bench import session
from bench.chapter.exercises import TEXTS
from bench.chapter.floors import FLOORS
from bench.results import CURVES, HELD_OUT, ROUNDS, SAMPLES, TRAINING

from .example_chapter import TINY, make_plan

# Texts long enough to cut held-out ends from, and a network that learns nothing in no time.
SMALL = replace(TINY, hidden_size=4, updates=6, portion=3_000, text_seeds=1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "chapter"
    with pytest.MonkeyPatch.context() as monkeypatch:
        answer = make_plan(monkeypatch, SMALL, ["exercise-4"])
    answer |= {"environment": {}, "peaks": {"float32/ieee": 1e11}, "origin": "made up"}
    session.open_directory(answer, directory, resume=False)
    printed = io.StringIO()
    failed = session.run(answer, directory, Console(file=printed, width=200), time.monotonic())
    assert not failed, printed.getvalue()
    return answer, directory, printed.getvalue()


def test_every_case_has_a_row_without_a_speed(stored):
    answer, directory, _ = stored
    rows = TRAINING.load(directory)
    assert set(rows["case_id"]) == {case["case_id"] for case in answer["plan"]["cases"]}
    assert set(rows["status"]) == {"ok"}
    # They ran side by side: a speed would mean nothing, and must not be there.
    assert rows["tokens_per_second"].isna().all()
    assert CURVES.load(directory)["seconds"].isna().all()
    assert len(ROUNDS.load(directory)) == 0
    assert set(rows["seed"]) == {0}
    assert rows["command"].str.contains("bench chapter --budget quick").all()
    assert rows["corpus"].str.contains("pride, made up").any()


def test_every_text_is_judged_in_passages(stored):
    _, directory, _ = stored
    held_out = HELD_OUT.load(directory)
    for _, found in held_out.groupby(["case_id", "weights"]):
        assert set(found["text"]) == set(TEXTS)
        assert (found.groupby("text")["characters"].sum() == 7_500).all()
    # Made-up texts of random letters: their entropy is below log2(27) and far above 2 bits.
    bits = (
        held_out.groupby("case_id")["bits"].sum() / held_out.groupby("case_id")["characters"].sum()
    )
    assert bits.between(2.5, 6).all()


def test_floors_and_samples_are_stored(stored):
    _, directory, _ = stored
    floors = FLOORS.load(directory)
    assert set(floors["model"]) == {"kneser_ney", "witten_bell", "lzma", "bz2"}
    assert floors["bits_per_character"].between(2, 8).all()
    assert floors.loc[floors["model"] == "kneser_ney", "order"].notna().all()
    assert set(SAMPLES.load(directory)["prefix"]) == {"time traveller", "traveller"}


def test_the_page_answers(stored):
    _, directory, printed = stored
    assert "May texts of different authors be merged" in printed
    assert "May texts of different authors be merged" in (directory / "chapter.html").read_text(
        "utf-8"
    )


def test_a_stopped_chapter_goes_on_where_it_was(stored):
    answer, directory, _ = stored
    tables = (TRAINING, CURVES, HELD_OUT, SAMPLES, FLOORS)
    before = {table.filename: table.load(directory) for table in tables}
    lost = before["training.csv"]["case_id"].iloc[-1]
    for table in (TRAINING, HELD_OUT):  # its curve and samples are there: left by the stopped run
        table.keep(directory, set(before["training.csv"]["case_id"]) - {lost})
    with FLOORS.path(directory).open("a") as file:
        file.write("lzma,,timemachine40")  # what a full disk leaves of a line
    answer["peaks"], measured = {"float32/ieee": 1.0}, dict(answer["peaks"])
    session.open_directory(answer, directory, resume=True)
    assert answer["peaks"] == measured  # once is enough: rows refer to one ceiling
    session.run(answer, directory, Console(file=io.StringIO()), time.monotonic())
    for table in tables:
        after = table.load(directory)
        keys = [c for c in after.columns if c in ("case_id", "epoch", "weights", "text", "passage")]
        keys = ["model", "training", "text"] if table is FLOORS else [*keys]
        keys += ["prefix"] if table is SAMPLES else []
        assert not after.duplicated(keys).any(), table.filename
        same = before[table.filename].sort_values(keys, ignore_index=True)
        figures = [c for c in same.columns if c not in ("seconds", "cold_start_seconds")]
        figures = [c for c in figures if not c.startswith("peak_memory")]
        pd.testing.assert_frame_equal(
            after.sort_values(keys, ignore_index=True)[figures], same[figures]
        )
