"""The chapter's page says what was planted into its files, and says what is missing."""

import re
from dataclasses import replace

import pytest

from bench import index
from bench.chapter import page
from bench.chapter.exercises import KAFKA, PARTS, WELLS
from bench.chapter.stored import Chapter
from bench.results import CURVES, TRAINING, ResultsError

from .example_chapter import TINY, make_plan, write

SINGLE = {"Wells": "timemachine", "Austen": "pride", "Kafka": "metamorphosis"}


def planted_perplexity(role, seed):
    of_role = {"printed": 1.3, "right": 1.1, "lstm": 1.05, "printed gru": 1.2}
    return of_role.get(role, 1.02) * (1 + 0.01 * seed)


def planted_bits(role, text, seed):
    """A network is best on what it was trained on, and better for more of it."""
    if role in SINGLE:
        return (2.0 if SINGLE[role] == text else 3.0) + 0.01 * seed
    characters = int(role.split()[0].replace(",", "")) if role[0].isdigit() else 4_000
    return 1.9 + 40 / characters**0.5 + 0.01 * seed


def planted_speed(role):
    return {"printed": 30_000, "right": 20_000, "lstm": 10_000}.get(role, 15_000)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    def make(directory=None, only=(), budget=TINY, **changes):
        directory = directory or tmp_path / "reports" / "some-machine" / "chapter"
        planted = {
            "perplexity": planted_perplexity,
            "bits": planted_bits,
            "speed": planted_speed,
            **changes,
        }
        write(directory, make_plan(monkeypatch, budget, only)["plan"], **planted)
        return directory

    return make


def sections(directory):
    """What the page would say, without drawing it."""
    made = [make(Chapter(directory)) for make in page.SECTIONS.values()]
    return {section.part: section for section in made if section is not None}


def test_every_part_has_question_answer_figure_table_and_command(stored):
    directory = stored()
    summary = page.render(directory)
    assert [section.part for section in summary.sections] == list(PARTS)
    html = summary.page.read_text("utf-8")
    for section in summary.sections:
        assert section.question in html
        assert all(section.answer)
        assert f"--only {section.part}" in html
        assert section.tables
        for picture in section.pictures:
            assert (directory / "plots" / f"{picture.name}.png").stat().st_size > 10_000
    assert "A reduced run" in html
    for text in (html, (directory / "summary.md").read_text("utf-8")):
        assert "nan" not in text.lower().split()
        assert "None" not in text


def test_what_comes_from_files_is_escaped(stored):
    html = page.render(stored()).page.read_text("utf-8")
    assert "<b>any" not in html
    assert "<i>you can" not in html
    assert "&lt;i&gt;you can" in html


def test_rendering_twice_gives_the_same_bytes(stored):
    directory = stored()
    first = {path: path.read_bytes() for path in [page.render(directory).page, *directory.iterdir()]
             if path.is_file()}  # fmt: skip
    page.render(directory)
    assert all(path.read_bytes() == content for path, content in first.items())


def test_the_missing_recurrence_is_found_to_matter(stored):
    answer = " ".join(sections(stored())["exercise-1"].answer)
    assert "on the text trained on is 15 % lower" in answer  # 1.1 / 1.3
    assert "262,656 parameters" in answer
    assert "1.50 times as fast" in answer  # 30,000 / 20,000


def test_no_difference_is_said_to_be_none(stored):
    def alike(role, seed):
        return 1.5 + (0.05 * seed if role == "right" else 0.05 * (2 - seed)) + 0.001 * seed

    found = sections(stored(perplexity=alike))["exercise-1"]
    assert "cannot be told" in found.answer[0]
    assert "told the opposite of the others" in found.one_seed


def with_validation(directory, perplexity):
    """The curves with other validation perplexities, of an epoch and of how many there are."""
    curves = CURVES.load(directory)
    last = curves.groupby("case_id")["epoch"].transform("max")
    pairs = zip(curves["epoch"], last, strict=True)
    curves["validation_perplexity"] = [perplexity(epoch, of) for epoch, of in pairs]
    curves.to_csv(CURVES.path(directory), index=False)
    return directory


def test_who_was_still_improving_on_other_text_is_said(stored):
    """Of 10 epochs the last was the best, so best perplexities are how soon, not how well."""
    found = sections(stored())
    assert "not how well: when 10 epochs were over, 3 of 3 trainings of the printed network and 3 "\
        "of 3 trainings of the one with recurrence" in found["exercise-1"].answer[-1]  # fmt: skip
    assert "3 of 3 trainings of the LSTM, " in found["exercise-2"].answer[-1]


def test_what_is_trained_on_elsewhere_says_what_they_come_to(stored):
    """Two seeds of the runs go on to 30 epochs."""
    directory = stored(budget=replace(TINY, run_epochs=30))
    with_validation(directory, lambda epoch, of: 40 - epoch)
    *_, said, trained_on = sections(directory)["exercise-2"].answer
    assert "3 of 3 trainings of the LSTM, 3 of 3 trainings of the GRU" in said
    assert trained_on.startswith("Trained on, the LSTM comes to 10.00 within 30 epochs (2 seeds)")


def test_nobody_is_said_to_improve_who_does_not(stored):
    directory = with_validation(stored(), lambda epoch, of: 5 + abs(epoch - 6))
    for part in ("exercise-1", "exercise-2"):
        assert "how soon" not in " ".join(sections(directory)[part].answer)


def test_a_bound_is_not_rounded_down(stored):
    found = sections(stored(perplexity=lambda role, seed: 1.0311))
    assert "training perplexity of 1.032 or less" in found["runs"].answer[0]


def test_gru_and_lstm(stored):
    found = sections(stored())["exercise-2"]
    assert "trains faster than the LSTM (1.50 times, 95 % interval" in found.answer[0]
    assert "2.9 % lower perplexity" in found.answer[0]  # 1.02 / 1.05
    assert "14 % higher perplexity" in found.answer[2]  # 1.2 / 1.05


def test_the_floors_that_are_lower_are_admitted(stored):
    worse = stored(bits=lambda *about: planted_bits(*about) + 0.3)
    answer = " ".join(sections(worse)["exercise-3"].answer)
    assert re.search(r"\d of the \d simple models need fewer bits", answer)


def test_and_the_network_that_is_below_them_all_is_not_talked_down(stored):
    better = stored(bits=lambda *about: planted_bits(*about) - 1.0)
    assert "All 4 simple models need more" in " ".join(sections(better)["exercise-3"].answer)


def test_authors_are_told_apart_by_their_own_networks(stored):
    confusion = sections(stored())["exercise-4"].tables[1]
    told = {row[0].main: [cell.main for cell in row[1:]] for row in confusion.rows}
    assert told["Wells, The Time Machine"] == ["100%", "0%", "0%"]
    assert told["Austen, Pride and Prejudice"] == ["0%", "100%", "0%"]
    assert told["Kafka, Metamorphosis"] == ["0%", "0%", "100%"]


def test_merging_is_judged_by_held_out_wells(stored):
    def worse_when_merged(role, text, seed):
        harm = 0.3 if "+" in role or "third" in role else 0.0
        return planted_bits(role, text, seed) + harm

    assert "Not for Wells' sake" in sections(stored(bits=worse_when_merged))["exercise-4"].answer[0]


def test_the_published_runs(stored):
    found = sections(stored(perplexity=lambda role, seed: 1.03))["runs"]
    assert found.answer[0].startswith("Yes: after 10 epochs, all 6 trainings")


def test_published_runs_that_are_cut_short(stored):
    found = sections(stored(perplexity=lambda role, seed: 9.0))["runs"]
    assert found.answer[0].startswith("Not in this reduced run: after 10 epochs of 500")


def test_what_is_missing_is_named_and_its_part_left_unanswered(stored):
    directory = stored(leave_out=lambda case_id: "metamorphosis" in case_id)
    summary = page.render(directory)
    assert "exercise-4" not in {section.part for section in summary.sections}
    html = summary.page.read_text("utf-8")
    assert "Not answered yet" in html
    assert "not run yet" in html
    assert f"{KAFKA}2000" in html


def test_a_failed_case_counts_as_missing(stored):
    directory = stored(leave_out=lambda case_id: f"{WELLS}5000-seed0" in case_id)
    failed = next(c for c in Chapter(directory).cases if f"{WELLS}5000-seed0" in c)
    TRAINING.append(directory, [{"case_id": failed, "status": "diverged", "reason": "it did"}])
    assert Chapter(directory).missing() == [f"{failed}: diverged: it did"]


def test_a_case_without_its_curve_is_one_line(stored):
    directory = stored()
    CURVES.path(directory).unlink()
    with pytest.raises(ResultsError, match=r"curves\.csv has no rows for"):
        page.render(directory)


def test_where_our_own_learned_nothing_the_library_answers(tmp_path, monkeypatch):
    """Planned with both, as the largest budget is; one of the two speaks, never a mixture."""
    budget = replace(TINY, implementations=2)
    plan = make_plan(monkeypatch, budget, ["exercise-2"])["plan"]
    planted = {"perplexity": planted_perplexity, "bits": planted_bits, "speed": planted_speed}
    for name, fails in (("all", ()), ("some", ("lstm",)), ("none", ("lstm", "gru"))):
        write(
            tmp_path / name,
            plan,
            leave_out=lambda case_id, fails=fails: (
                case_id.startswith(fails or "nothing") and "/manual_gradient/" in case_id
            ),
            **planted,
        )
        for role, learned in Chapter(tmp_path / name).learned("exercise-2").items():
            used = {one.row["implementation"] for one in learned}
            is_library = any(kind in role for kind in fails)
            assert used == {"torch_nn" if is_library else "manual_gradient"}, (name, role)
            assert len(learned) == budget.seeds
    # One seed of our own that failed hands nothing over to the library: the others speak.
    write(
        tmp_path / "one",
        plan,
        leave_out=lambda case_id: "seed0" in case_id and "/manual_gradient/" in case_id,
        **planted,
    )
    for learned in Chapter(tmp_path / "one").learned("exercise-2").values():
        assert {one.row["implementation"] for one in learned} == {"manual_gradient"}
        assert len(learned) == budget.seeds - 1


def test_only_some_parts(stored):
    assert list(sections(stored(only=["exercise-1"]))) == ["exercise-1"]


def test_the_index_names_the_chapter(stored):
    directory = stored()
    text = index.write(directory.parent.parent).read_text("utf-8")
    assert "[some-machine](some-machine/chapter/summary.md): budget quick" in text


def test_a_damaged_file_is_one_line(stored):
    directory = stored()
    (directory / "held_out.csv").write_text("case_id,weights\n")
    with pytest.raises(ResultsError, match=r"held_out\.csv is damaged"):
        page.render(directory)
