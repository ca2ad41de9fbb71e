"""In which order the sides of a pair are measured, and where. The sides here are made up."""

import contextlib
import os

import pytest

from bench.gate_pairs import Measurement, turn_order
from bench.gate_runner import (
    COMPARED_EPOCHS,
    PairedCase,
    PairRunner,
    SideFailed,
    _summary,
    shared_processors,
)


class MadeUp:
    """A worker whose turns take so many slices; ``said`` is what all of them did, in order."""

    def __init__(self, name: str, slices: int, said: list[str]) -> None:
        self.name, self.slices, self.said = name, slices, said
        self.left = 0

    def send(self, message) -> None:
        if "turn" in message:
            assert self.left == 0
            self.left = self.slices
        else:
            assert message == {"go": True}

    def receive(self) -> dict:
        self.said.append(self.name)
        self.left -= 1
        return {"paused": True} if self.left else {"rounds": [self.name]}


def measured(slices: int, number: int = 0) -> tuple[list[str], list[str]]:
    """What was run, slice by slice, and whose turns ended, in order."""
    runner = PairRunner({}, {}, "", None, 0.0, print)
    case = PairedCase(Measurement("w/i/eager"), {}, "i", "eager", 3, slices > 1)
    order = turn_order(number)
    said: list[str] = []
    workers = {side: MadeUp(side, slices, said) for side in order}
    turns = [side for side, rounds in runner._there_and_back(workers, order, case)]
    return said, turns


def test_short_epochs_take_turns_there_and_back():
    said, turns = measured(slices=1)
    assert said == turns == ["base", "head", "control", "control", "head", "base"]


@pytest.mark.parametrize("slices", [2, 3, 8])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_long_epochs_take_turns_slice_by_slice(slices, number):
    said, turns = measured(slices, number)
    order = list(turn_order(number))
    assert said == order * slices
    assert sorted(turns) == sorted(order)
    # Nobody's turn is over before everybody's is nearly so: they share the same moments.
    assert len(said) - said[::-1].index(turns[0]) >= len(said) - len(order)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinities")
def test_all_processors_are_used_in_turn(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4})
    assert [shared_processors(pair, 1) for pair in range(4)] == [{0}, {2}, {4}, {0}]
    assert [shared_processors(pair, 2) for pair in range(3)] == [{0, 2}, {0, 4}, {2, 4}]
    assert shared_processors(1, 8) == {0, 2, 4}


def test_perplexities_are_compared_where_rounding_has_not_led_networks_apart():
    rounds = [
        {"tokens": 100, "seconds": 1.0, "train_perplexity": 100.0 - n, "mark": ""}
        for n in range(1, COMPARED_EPOCHS + 21)
    ]
    early, late = rounds[: COMPARED_EPOCHS - 10], rounds
    side = _summary([late[:30], late[30:]], {})
    assert side.train_perplexity == 100.0 - COMPARED_EPOCHS
    assert side.rounds == COMPARED_EPOCHS + 20
    assert _summary([early], {}).train_perplexity == 100.0 - (COMPARED_EPOCHS - 10)


class Idle:
    def pin(self, processors) -> None:
        pass


def test_sides_that_count_other_tokens_have_no_speeds_to_compare(monkeypatch):
    runner = PairRunner({}, {"seed": 0, "threads": 1}, "", None, 0.0, print)
    case = PairedCase(Measurement("w/i/eager"), {}, "i", "eager", 1, 0)
    of_head = [100]

    def turns(workers, order, case):
        for side in order:
            tokens = of_head[0] if side == "head" else 100
            yield side, [{"tokens": tokens, "seconds": 1.0, "train_perplexity": 2.0, "mark": ""}]

    idle = contextlib.nullcontext({side: Idle() for side in turn_order(0)})
    monkeypatch.setattr(runner, "_workers", lambda *arguments: idle)
    monkeypatch.setattr(runner, "_ask", lambda *arguments: {})
    monkeypatch.setattr(runner, "_there_and_back", turns)
    assert runner._pair(case, 0).head.tokens_per_second == pytest.approx(100.0)
    of_head[0] = 200
    with pytest.raises(SideFailed, match="head counts other tokens in the same epochs than base"):
        runner._pair(case, 0)
