"""What holds the project together: packaging, front door, continuous integration, documents."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from bench.results import LAYERS, TRAINING, write_json
from bench.verification import verify
from deeprnn import implementations
from deeprnn.cells import CELLS
from tests.conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bench", "deeprnn", "kernels")
SESSIONS = {"bench", "chapter", "gate", "gpu", "report", "doctor", "tests", "lint", "types"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def run(*command: str, **options) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files behind, and may take up those of an older one."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", str(target), str(source))
    (built,) = target.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    present = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    templates = [path for path in (ROOT / "bench" / "templates").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in (*code, *templates)}
    assert wanted - present == set()
    assert {name.partition("/")[0] for name in present} == set(PACKAGES)


@pytest.mark.slow
def test_an_installed_wheel_times_layers(wheel, tmp_path):
    site = tmp_path / "site"
    run(
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"),
        *(str(site), str(wheel)),
    )
    code = (
        "from pathlib import Path\n"
        "from bench import layers_report as r\n"
        f"assert Path(r.__file__).is_relative_to({str(site)!r}), r.__file__\n"
        "choice = r.Choice(['torch_nn'], ['gru'], [(8, 2, 3)])\n"
        "print(r.run_layers(Path('.'), 'run-1', 'cpu', 1, max_seconds=60, choice=choice))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    assert run(sys.executable, "-c", code, cwd=tmp_path, env=environment).strip() == "None"
    assert len(LAYERS.load(tmp_path)) == 2


# The front door


def test_sessions_exist_and_say_what_they_do(tmp_path):
    pytest.importorskip("nox", reason="nox is not installed in this environment")
    listed = run(sys.executable, "-m", "nox", "--list", "--noxfile", str(ROOT / "noxfile.py"))
    sessions = dict(re.findall(r"^[*-] (\S+) -> (.+)$", listed, re.MULTILINE))
    assert sessions.keys() >= SESSIONS


def commands(document: str) -> list[str]:
    """The indented command lines of a document, without their comments."""
    lines = re.findall(r"^    (\S.*)$", document, re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines]


def test_the_two_commands_of_the_readme_are_those_that_are_tried():
    shown = commands(text("README.md"))
    assert "python -m pip install nox && nox -s bench" in shown
    assert "nox -s tests" in shown
    tried = text(".ci/run").splitlines()
    assert "python -m pip install nox && nox -s tests" in tried
    assert any(line.startswith("nox -s bench -- --profile smoke ") for line in tried)


def test_documents_name_sessions_that_exist():
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml"):
        # A line of .ci/run may name several sessions; options follow after --.
        for names in re.findall(r"nox -s ((?:[a-z]+ ?)+)", text(name)):
            for session in names.split():
                assert f"def {session}(session: nox.Session)" in text("noxfile.py"), (name, session)


def test_continuous_integration_runs_the_same_checks():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run("bash", "-n", str(ROOT / ".ci" / "run"))
    for name in (".ci/run", ".github/workflows/ci.yml"):
        content = text(name)
        for session in ("lint", "types", "tests", "bench"):
            assert re.search(rf"nox -s (?:\w+ )*{session}\b", content), (name, session)
        assert "check_smoke.py" in content


def test_modules_that_go_first_exist():
    modules = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert all(modules.count(name) == 1 for name in LONGEST_FIRST)


def test_versions_agree():
    newest = re.search(r"^## (\d\S*)", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest.group(1).strip("[]") == PROJECT["version"]


# The check of the smoke run


@pytest.fixture(scope="module")
def check_smoke():
    spec = importlib.util.spec_from_file_location("check_smoke", ROOT / ".ci" / "check_smoke.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def smoke(tmp_path, check_smoke):
    """smoke(of, **changes): a directory as a good run leaves it, but for ``changes`` to one row."""

    def write(of: str = "torch_compile_step", **changes) -> list[str]:
        rows = [
            {
                "case_id": f"{cell}/{name}",
                "status": "ok",
                "implementation": name,
                "cell": cell,
                "interpreted": False,
                "tokens_per_second": 1000.0,
                "train_perplexity": 20.0,
                "gradient_error": 2e-7,
            }
            for cell in CELLS
            for name in implementations.names()
        ]
        planned = [{"case_id": r["case_id"], "interpreted": r["interpreted"]} for r in rows]
        next(row for row in rows if row["implementation"] == of).update(changes)
        for name in check_smoke.FILES:
            (tmp_path / name).touch()
        write_json(tmp_path / "plan.json", {"cases": planned})
        for table, content in ((TRAINING, rows), (LAYERS, [{"benchmark": "test_forward[x]"}])):
            table.path(tmp_path).unlink()
            table.append(tmp_path, content)
        return check_smoke.problems(tmp_path)

    return write


def test_a_good_smoke_run_passes(smoke):
    assert smoke() == []
    assert smoke(status="unsupported", reason="no compiler", tokens_per_second=None) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"case_id": "gru/other"}, "0 rows instead of one"),
        ({"case_id": "gru/other"}, "gru/other: a row that was not planned"),
        ({"cell": "gru"}, "no row for cell rnn_tanh"),
        ({"status": "incorrect", "reason": "off by 1"}, "incorrect: off by 1"),
        ({"status": "unsupported"}, "unsupported without a reason"),
        ({"gradient_error": 1e-3}, "gradient_error is 0.001"),
        ({"gradient_error": float("nan")}, "gradient_error is empty"),
        ({"train_perplexity": None}, "train_perplexity is empty"),
        ({"tokens_per_second": None}, "tokens_per_second is empty"),
        ({"interpreted": True}, "interpreted is 'true', planned was False"),
    ],
)
def test_a_bad_smoke_run_is_named(smoke, changes, problem):
    assert any(problem in line for line in smoke(**changes))


def test_what_runs_everywhere_may_not_be_unsupported(smoke):
    found = smoke("torch_nn", status="unsupported", reason="no PyTorch")
    assert found == ["rnn_tanh/torch_nn: unsupported, which it is nowhere: no PyTorch"]


def test_a_smoke_run_without_its_report_is_named(smoke, check_smoke, tmp_path):
    smoke()
    (tmp_path / "report.html").unlink()
    assert check_smoke.problems(tmp_path) == [f"{tmp_path} lacks report.html"]


# The worked example


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """The implementation that CONTRIBUTING.md works through, as the one file that it says."""
    document = text("CONTRIBUTING.md")
    (code,) = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    name = re.search(r"Write\s+`deeprnn/implementations/(\w+)\.py`", document).group(1)
    assert name not in implementations.names(), "the example has become part of the suite"
    (tmp_path / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.setattr(implementations, "__path__", [*implementations.__path__, str(tmp_path)])
    yield name
    implementations.load.cache_clear()
    sys.modules.pop(f"{implementations.__name__}.{name}", None)


@pytest.mark.parametrize("cell", CELLS)
def test_the_worked_example_is_right(contributed, cell):
    assert contributed in implementations.names()
    stack = implementations.build(contributed, cell, 5, 6, num_layers=2)
    outcome = verify(stack, batch_size=3, num_steps=4, seed=1, bound=1e-5)
    assert outcome.passed, str(outcome)


def test_the_worked_example_keeps_to_the_style(contributed, tmp_path):
    pytest.importorskip("ruff", reason="ruff is not installed in this environment")
    file = str(tmp_path / f"{contributed}.py")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    run(sys.executable, "-m", "ruff", "check", *config, file)
    run(sys.executable, "-m", "ruff", "format", "--check", *config, file)
