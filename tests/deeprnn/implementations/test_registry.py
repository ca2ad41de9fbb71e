"""The registry: what is found, what is refused, what is an error."""

import pytest

from deeprnn import implementations
from deeprnn.implementations import Broken, MissingPackage
from deeprnn.stack import DeepRNN
from deeprnn.support import Request

ONE = """
from deeprnn.implementations.python_loop import PythonLoop as Loop
class Dropped(Loop):
    "A Python loop under another name."
"""


@pytest.fixture
def drop(tmp_path, monkeypatch):
    """Adds a file to the package, as a user would, and forgets it afterwards."""
    monkeypatch.setattr(implementations, "__path__", [*implementations.__path__, str(tmp_path)])
    implementations.load.cache_clear()

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")

    yield write
    implementations.load.cache_clear()


def test_the_known_ones_are_there_and_sorted():
    names = implementations.names()
    assert names == sorted(names)
    assert {
        "manual_gradient",
        "python_loop",
        "torch_compile_step",
        "torch_compile_unrolled",
        "torch_nn",
        "torchscript",
    } <= set(names)
    assert implementations.REFERENCE in names


def test_every_class_says_what_it_is():
    for name in implementations.names():
        assert implementations.load(name).__doc__ not in (None, DeepRNN.__doc__), name


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'cudnn' is unknown; known: .*python_loop, .*torch_nn"):
        implementations.load("cudnn")


def test_a_file_dropped_into_the_package_is_an_implementation(drop):
    drop("dropped_fine", ONE)
    assert "dropped_fine" in implementations.names()
    assert implementations.why_unsupported("dropped_fine", Request(cell="gru")) is None
    assert type(implementations.build("dropped_fine", "gru", 2, 3)).__name__ == "Dropped"


def test_a_missing_package_of_others_is_a_reason(drop):
    drop("dropped_needy", f"import no_such_package_anywhere.part\n{ONE}")
    with pytest.raises(MissingPackage, match="needs the package no_such_package_anywhere"):
        implementations.load("dropped_needy")
    reason = implementations.why_unsupported("dropped_needy", Request(cell="gru"))
    assert reason.startswith("needs the package no_such_package_anywhere: python -m pip install")
    assert implementations.interpreted("dropped_needy", "cpu") is False


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import kernels.no_such_file", "ModuleNotFoundError: No module named 'kernels.no_such"),
        ("from deeprnn.cells import no_such_name", "ImportError: cannot import name"),
        ("def half(", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_is_broken_fails_where_it_is_run_and_nowhere_else(drop, line, said):
    drop("dropped_broken", f"{line}\n{ONE}")
    # No lack of this machine: it must not look unsupported, which no run counts as a failure.
    assert implementations.why_unsupported("dropped_broken", Request(cell="gru")) is None
    assert implementations.interpreted("dropped_broken", "cpu") is False
    with pytest.raises(Broken, match=f"dropped_broken.py cannot be imported: {said}") as caught:
        implementations.build("dropped_broken", "gru", 2, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("copies", "said"), [(0, "defines 0"), (2, "defines 2")])
def test_one_file_is_one_implementation(drop, copies, said):
    source = "\n".join(ONE.replace("Dropped", f"Dropped{i}") for i in range(copies))
    drop(f"dropped_{copies}", source)
    with pytest.raises(Broken, match=f"{said} subclasses of DeepRNN, not one"):
        implementations.load(f"dropped_{copies}")


def test_only_interpreters_are_interpreted():
    assert implementations.interpreted("torch_nn", "cpu") is False


def test_the_fastest_of_our_own_is_one_that_runs_at_speed():
    request = Request("lstm", num_layers=2)
    name = implementations.fastest_of_our_own(request)
    assert name == "manual_gradient"  # Triton would be interpreted
    assert implementations.why_unsupported(name, request) is None
    assert set(implementations.OWN_BY_SPEED) <= set(implementations.names())
    assert implementations.REFERENCE not in implementations.OWN_BY_SPEED


def test_none_of_our_own_is_said_with_reasons():
    with pytest.raises(ValueError, match="none of our own implementations can run this: triton_"):
        implementations.fastest_of_our_own(Request("no such cell"))
