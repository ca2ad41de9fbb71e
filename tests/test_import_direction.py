"""Imports point one way: kernels ← deeprnn ← bench, and bench names no implementation."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """The full dotted names that a file imports, wherever in the file; relative ones resolved."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def top(name: str) -> str:
    return name.partition(".")[0]


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("kernels"), ids=identify)
def test_kernels_know_nothing_but_torch_and_triton(path):
    allowed = {"kernels", "torch", "triton", *sys.stdlib_module_names}
    assert {top(name) for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", files("deeprnn"), ids=identify)
def test_deeprnn_never_imports_bench(path):
    assert "bench" not in {top(name) for name in imported(path)}


@pytest.mark.parametrize("path", files("bench"), ids=identify)
def test_bench_imports_no_implementation_and_no_kernel(path):
    names = imported(path)
    assert "kernels" not in {top(name) for name in names}
    implementations = {f.stem for f in files("deeprnn/implementations")} - {"__init__"}
    inside = [n.split(".")[2] for n in names if n.startswith("deeprnn.implementations.")]
    assert not implementations & set(inside)
