"""What a report directory must hold to be believed: shapes of its JSON, and tables that agree.

Files are copied, merged, cut and edited by hand. What is looked at here would otherwise end in a
traceback somewhere behind, or, worse, in another figure.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bench.kernel_table import KERNELS
from bench.results import CURVES, RERUN, ROUNDS, STATUSES, TRAINING, ResultsError, read_object

REPORTS = Path("reports")
"""Where reports go unless one says otherwise: a folder a machine, and in it one a report."""

PLAN_SCHEMA = 1

PLANNED_ROWS = "Planned rows"
"""Of a ``kernels.csv``'s ``environment.json``: how many rows it has where nothing cut the run."""

Shape = Any
"""How a JSON value must look: a type or several; ``[shape]`` for a list of such; or a dictionary.

A key that ends with ``?`` may be missing or null, and ``*`` stands for every other key.
"""

TEXT: Shape = str
NUMBER: Shape = (int, float)
FLAG: Shape = bool

WORKLOAD: Shape = {
    "workload": TEXT,
    "title?": TEXT,
    "cell?": TEXT,
    "num_layers?": int,
    "hidden_size?": int,
    "batch_size?": int,
    "num_steps?": int,
    "dtype?": TEXT,
    "matmul_precision?": TEXT,
    "epochs?": int,
    "learning_rate?": NUMBER,
    "flops_per_token?": NUMBER,
    "published_tokens_per_second?": NUMBER,
    "published_perplexity?": NUMBER,
    "published_note?": TEXT,
}

CASE: Shape = {
    "case_id": TEXT,
    "workload": TEXT,
    "implementation": TEXT,
    "execution": TEXT,
    "interpreted?": FLAG,
    "unsupported?": TEXT,
    "timed?": FLAG,
}

PLAN: Shape = {
    "profile": TEXT,
    "purpose": TEXT,
    "notes": [TEXT],
    "device": TEXT,
    "seed": int,
    "threads": int,
    "commit": TEXT,
    "machine?": TEXT,
    "run_id": TEXT,
    "only?": [TEXT],
    "speeds_count?": FLAG,
    "peaks?": {"*": NUMBER},
    "custom?": {"*": object},
    "corpus": {
        "name?": TEXT,
        "title?": TEXT,
        "sha256?": TEXT,
        "note?": TEXT,
        "is_published?": FLAG,
    },
    "workloads": [WORKLOAD],
    "cases": [CASE],
}
"""What every page says of its plan, and what a resumed run goes on with."""

CHAPTER: Shape = PLAN | {
    "budget": TEXT,
    "is_reduced": FLAG,
    "held_out_characters": int,
    "texts": {"*": {"title": TEXT, "sha256": TEXT, "characters": int}},
    "parts": [
        {
            "part": TEXT,
            "role": TEXT,
            "case_id": TEXT,
            "seed?": int,
            "timed": FLAG,
            "epochs": int,
        }
    ],
    "workloads": [
        WORKLOAD
        | {
            "cell": TEXT,
            "num_layers": int,
            "hidden_size": int,
            "epochs": int,
            "parameters": int,
            "training": [list],
        }
    ],
}

ENVIRONMENT: Shape = {
    "Machine?": {"Processor?": TEXT},
    "Versions?": {"*": object},
    "Measured?": {"*": object},
    "Run?": {"Wall time (s)?": NUMBER, f"{PLANNED_ROWS}?": int},
}


def log_of(directory: Path, case_id: str) -> Path:
    """Where the worker of a case writes what it has to say; it stays after a failure alone."""
    return directory / "logs" / (case_id.replace("/", "__") + ".log")


def holds(directory: Path) -> str | None:
    """A file of a report of any kind that ``directory`` holds already; None where there is none."""
    for name in ("plan.json", TRAINING.filename, KERNELS.filename):
        if (directory / name).exists():
            return name
    return None


def load_plan(path: Path) -> dict[str, Any]:
    """The plan in ``path``, of a profile or of a chapter.

    Raises ``ResultsError``, one line, when it is missing, of another version, or damaged.
    """
    plan = read_object(path)
    if plan.get("schema") != PLAN_SCHEMA:
        raise ResultsError(
            f"{path} is not a plan of schema {PLAN_SCHEMA}: written by another version"
        )
    _require(path, plan, CHAPTER if "budget" in plan else PLAN)
    workloads = {workload["workload"] for workload in plan["workloads"]}
    ids: set[str] = set()
    for case in plan["cases"]:
        if case["workload"] not in workloads:
            raise _damaged(path, f"{case['case_id']} has no workload")
        if case["case_id"].count("/") != 2:
            raise _damaged(path, f"{case['case_id']} is no workload/implementation/execution")
        if case["case_id"] in ids:
            raise _damaged(path, f"{case['case_id']} stands there twice")
        ids.add(case["case_id"])
    for entry in plan.get("parts", []):
        if entry["case_id"] not in ids:
            raise _damaged(path, f"part {entry['part']} needs {entry['case_id']}, which is no case")
    return plan


def load_environment(directory: Path) -> dict[str, Any]:
    """What ``environment.json`` says, or nothing where there is none.

    Raises ``ResultsError``, one line, when it is damaged.
    """
    path = directory / "environment.json"
    if not path.exists():
        return {}
    environment = read_object(path)
    _require(path, environment, ENVIRONMENT)
    return environment


REMARKS = "remarks.txt"
"""What somebody found out about a report after it was written: a file that no run touches."""


def load_remarks(directory: Path) -> list[str]:
    """The remarks on a report, one a line of their file; none where there is no file.

    Raises ``ResultsError``, one line, when it cannot be read.
    """
    path = directory / REMARKS
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} cannot be read as UTF-8 text ({error}); {RERUN}") from None
    return [line.strip() for line in lines if line.strip()]


class Tables(NamedTuple):
    """What was measured: the rows of the cases, and what each of them sums up."""

    training: pd.DataFrame
    rounds: pd.DataFrame
    curves: pd.DataFrame


def load_tables(directory: Path) -> Tables:
    """``training.csv``, ``rounds.csv`` and ``curves.csv``, which must agree.

    A run that still goes on may have rounds without a row, never a row without its rounds.

    Raises ``ResultsError``, one line, for a damaged table, two rows for one case, an unknown
    status, or a row of which ``rounds.csv`` or ``curves.csv`` holds more or less than it says.
    """
    path = TRAINING.path(directory)
    training = TRAINING.load(directory)
    _unique(path, training["case_id"])
    _known(path, training["status"])
    tables = Tables(training, ROUNDS.load(directory), CURVES.load(directory))
    rounds = tables.rounds
    counting = rounds[~rounds["warm_up"].fillna(False).astype(bool)]
    speeds = counting["tokens_per_second"]
    counting = counting[(speeds > 0) & (speeds < math.inf)]
    _agree(directory, training, "rounds", ROUNDS.filename, counting, "rounds that count")
    _agree(directory, training, "epochs", CURVES.filename, tables.curves, "epochs")
    speeds = training["tokens_per_second"]
    is_timed = (training["status"] == "ok") & (training["rounds"].fillna(0) > 0)
    without = training["case_id"][is_timed & ~((speeds > 0) & (speeds < math.inf))].tolist()
    if without:
        raise _damaged(path, f"{without[0]} was timed and has no tokens_per_second")
    return tables


IDENTITY = (
    *("row_id", "part", "kernel", "cell", "num_layers", "hidden_size", "batch_size", "num_steps"),
    *("dtype", "matmul_precision", "execution", "mode"),
)
"""Columns without which nobody knows what a row of ``kernels.csv`` is of."""


def load_kernels(directory: Path) -> pd.DataFrame:
    """``kernels.csv``, of a run that may still go on.

    Raises ``ResultsError``, one line, where there is none, for a damaged one, two rows with one
    id, a row that does not say what it is of, an unknown status, or a row that was timed and has
    no figure.
    """
    path = KERNELS.path(directory)
    if not path.exists():
        raise ResultsError(f"{path} is missing; give a directory that `bench kernels` wrote")
    table = KERNELS.load(directory)
    _unique(path, table["row_id"])
    _known(path, table["status"])
    for column in IDENTITY:
        empty = table["row_id"][table[column].isna() | (table[column] == "").fillna(False)]
        if not empty.empty:
            raise _damaged(path, f"{empty.iloc[0] or 'a row'} has no {column}")
    figures = [f"microseconds_per_step{end}" for end in ("", "_low", "_high")]
    timed = table[table["status"] == "ok"]
    is_sound = ((timed[figures] > 0) & (timed[figures] < math.inf)).all(axis=1)
    if not is_sound.all():
        raise _damaged(path, f"{timed['row_id'][~is_sound].iloc[0]} was timed and has no figure")
    return table


def _unique(path: Path, ids: pd.Series) -> None:
    repeated = ids[ids.duplicated()].tolist()
    if repeated:
        raise ResultsError(f"{path} has two rows for {repeated[0]}")


def _known(path: Path, statuses: pd.Series) -> None:
    strange = sorted(set(statuses) - set(STATUSES))
    if strange:
        raise ResultsError(
            f"{path} has the status {strange[0]!r}, which is none of "
            f"{', '.join(STATUSES)}; restore the file"
        )


def _agree(
    directory: Path, training: pd.DataFrame, column: str, name: str, lines: pd.DataFrame, what: str
) -> None:
    stored = lines["case_id"].value_counts()
    for case_id, said in zip(training["case_id"], training[column], strict=True):
        there = int(stored.get(case_id, 0))
        if not pd.isna(said) and there != said:
            raise ResultsError(
                f"{directory / name} holds {there} {what} of {case_id}, where "
                f"{TRAINING.filename} says {said}; {RERUN}"
            )


def _require(path: Path, value: Any, shape: Shape) -> None:
    fault = _fault(value, shape, "")
    if fault:
        raise _damaged(path, fault)


def _damaged(path: Path, fault: str) -> ResultsError:
    return ResultsError(f"{path} is damaged: {fault}; {RERUN}")


def _fault(value: Any, shape: Shape, at: str) -> str:
    """Where and how ``value`` is not of ``shape``; empty if it is."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{at} is no object"
        return next(filter(None, (_fault_of_key(value, key, shape, at) for key in shape)), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at} is no list"
        faults = (_fault(item, shape[0], f"{at}[{i}]") for i, item in enumerate(value))
        return next(filter(None, faults), "")
    kinds = shape if isinstance(shape, tuple) else (shape,)
    # In Python true is a number.
    is_right = isinstance(value, kinds) and (not isinstance(value, bool) or shape in (FLAG, object))
    names = " or ".join(kind.__name__ for kind in kinds)
    return "" if is_right else f"{at} is not of type {names}"


def _fault_of_key(value: dict[str, Any], key: str, shapes: dict[str, Shape], at: str) -> str:
    if key == "*":
        others = [name for name in value if name not in shapes and f"{name}?" not in shapes]
        faults = (_fault(value[name], shapes[key], _within(at, name)) for name in others)
        return next(filter(None, faults), "")
    name = key.removesuffix("?")
    if key != name and value.get(name) is None:
        return ""
    if name not in value:
        return f"{_within(at, name)} is missing"
    return _fault(value[name], shapes[key], _within(at, name))


def _within(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
