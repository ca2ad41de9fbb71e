"""What a machine has room for, and how it is described."""

import types
from datetime import datetime

import psutil
import pytest
import torch

from bench import environment
from bench.runner import wall_time

GIB = 2**30


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """A machine with 128 GiB available, whose container's limit a test may write."""
    told = types.SimpleNamespace(available=128 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: told)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(environment, "CONTAINER_LIMITS", (tmp_path / "nothing", limit))
    return limit


@pytest.mark.parametrize(
    ("limit", "usable"), [(None, 128), ("max\n", 128), (str(16 * GIB), 16), (str(999 * GIB), 128)]
)
def test_memory_is_what_the_container_may_take(memory, limit, usable):
    if limit is not None:
        memory.write_text(limit)
    assert environment.usable_memory() == usable * GIB


@pytest.mark.parametrize(
    ("on_gpu", "limit", "workers"), [(99, 999, 85), (20, 999, 20), (78, 16, 10), (0.5, 999, 0)]
)
def test_workers_fit_into_both_memories(memory, monkeypatch, on_gpu, limit, workers):
    memory.write_text(str(limit * GIB))
    free = int(on_gpu * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 * GIB))
    assert environment.workers_at_most("cuda") == workers


def test_on_a_cpu_nothing_is_prepared_ahead():
    assert environment.workers_at_most("cpu") == 0
    assert environment.prepare_at_once("cpu", threads=8, hurried=False) == 1


@pytest.mark.parametrize(
    ("named", "is_taken"),
    [("0123456789ab", True), ("0123456+dirty", True), ("main", False), ("", False)],
)
def test_a_copy_without_git_has_the_commit_that_is_named(tmp_path, monkeypatch, named, is_taken):
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    monkeypatch.setenv("DEEPRNN_COMMIT", named)
    assert (environment.commit() == named) == is_taken
    assert environment.commit() != ""


def test_a_checkout_knows_its_commit_itself(monkeypatch):
    if not (environment.PROJECT / ".git").exists():
        pytest.skip("no checkout")
    monkeypatch.setenv("DEEPRNN_COMMIT", "0123456789ab")
    assert environment.commit() != "0123456789ab"


def test_a_run_began_when_its_command_did():
    early, late = wall_time(90), wall_time()
    first, second = (datetime.strptime(text, "%Y-%m-%d %H:%M:%S UTC") for text in (early, late))
    assert 89 <= (second - first).total_seconds() <= 91
