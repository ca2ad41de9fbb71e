"""A stored report, put in order: which case ranks where, and why a case does not rank.

Reads only the files of a report directory. The two implementations that the others are measured
against are named here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.results import LAYERS
from bench.statistics import Ratio, counted_speeds, factors_over, speedup, throughput
from bench.stored import load_environment, load_plan, load_tables
from bench.wording import counted, precision

PYTHON_LOOP = "python_loop"  # as a textbook writes it: run eagerly
TORCH_NN = "torch_nn"  # the library: run in whichever way is the fastest

EAGER = "eager"
"""The ordinary execution: names without a suffix ran like this."""

NOT_RUN = "not run yet"
"""The status of a planned case without a row. It is never stored."""

INTERPRETED = "ran in an interpreter, which is right for checking and meaningless for speed"


@dataclass(frozen=True)
class Case:
    """One planned case: its row of ``training.csv`` where there is one, and its place."""

    case_id: str
    workload: str
    implementation: str
    execution: str
    interpreted: bool
    status: str
    reason: str
    row: dict[str, Any]  # by column of training.csv; None for what was not measured
    rank: int | None  # from 1, among the cases of its workload; None when it does not rank
    over_python_loop: Ratio | None
    over_torch_nn: Ratio | None

    @property
    def command(self) -> str:
        """What repeats this row; empty where none was stored."""
        return self.row.get("command") or ""

    def __getitem__(self, column: str) -> Any:
        return self.row.get(column)


@dataclass(frozen=True)
class Workload:
    """One network, text and batch shape, and its cases: ranked by tokens/s, the rest in order."""

    name: str
    title: str
    spec: dict[str, Any]  # from plan.json
    ranked: list[Case]
    unranked: list[Case]

    @property
    def cases(self) -> list[Case]:
        return [*self.ranked, *self.unranked]

    @property
    def fastest(self) -> Case | None:
        return self.ranked[0] if self.ranked else None

    @property
    def floor(self) -> float | None:
        """Tokens/s if a step were nothing but its matrix products, at the speed measured here."""
        for case in self.ranked:
            if case["fraction_of_peak"]:
                return float(case["tokens_per_second"] / case["fraction_of_peak"])
        return None

    @property
    def shape(self) -> list[tuple[str, str]]:
        """T, B, H and L, by letter, as far as the plan tells."""
        letters = (
            ("T", "num_steps"), ("B", "batch_size"), ("H", "hidden_size"), ("L", "num_layers"),
        )  # fmt: skip
        return [(letter, str(self.spec[name])) for letter, name in letters if name in self.spec]

    @property
    def settings(self) -> list[str]:
        """In words: what products are made in, learning rate, epochs."""
        spec = self.spec
        words = []
        if spec.get("dtype"):
            words.append(precision(spec["dtype"], spec.get("matmul_precision")))
        if "learning_rate" in spec:
            words.append(f"learning rate {spec['learning_rate']}")
        if "epochs" in spec:
            words.append(counted(spec["epochs"], "epoch"))
        return words

    @property
    def published(self) -> float | None:
        return _number(self.spec.get("published_tokens_per_second"))


@dataclass(frozen=True)
class Report:
    """Everything that a report directory holds."""

    directory: Path
    plan: dict[str, Any]
    environment: dict[str, dict[str, Any]]
    workloads: list[Workload]
    rounds: pd.DataFrame
    curves: pd.DataFrame
    layers: list[dict[str, Any]]
    unplanned: list[str]  # case ids in training.csv that plan.json does not hold

    @property
    def cases(self) -> list[Case]:
        return [case for workload in self.workloads for case in workload.cases]

    @property
    def refused_everywhere(self) -> list[list[Case]]:
        """What is unsupported in every workload, and for the same reason, to be said once.

        Each is the cases of one implementation and execution, one a workload. Empty for a report
        of a single workload, whose list says it already.
        """
        if len(self.workloads) < 2:
            return []
        alike: dict[tuple[str, str, str], list[Case]] = {}
        for case in self.cases:
            if case.status == "unsupported":
                key = (case.implementation, case.execution, case.reason)
                alike.setdefault(key, []).append(case)
        return [cases for cases in alike.values() if len(cases) == len(self.workloads)]

    def unranked(self, workload: Workload) -> list[Case]:
        """The cases of ``workload`` without a rank, but for those that are refused everywhere."""
        said = {case.case_id for cases in self.refused_everywhere for case in cases}
        return [case for case in workload.unranked if case.case_id not in said]

    @property
    def implementations(self) -> list[str]:
        """All that were planned, by name."""
        return sorted({case["implementation"] for case in self.plan["cases"]})

    @property
    def has_executions(self) -> bool:
        """Whether cases differ in how they are run, so that a label must say it."""
        return len({case["execution"] for case in self.plan["cases"]}) > 1

    def label(self, case: Case) -> str:
        """How a plot or a sentence calls ``case`` among the cases of its workload."""
        if case.execution == EAGER:
            return case.implementation
        return f"{case.implementation} · {case.execution}"

    def compare(self, a: Case, b: Case) -> Ratio | None:
        """How many times as fast as ``b`` is ``a``, from rounds that ran in turns."""
        return speedup(self.rounds, a.case_id, b.case_id)


def load(directory: Path) -> Report:
    """Read a report directory, finished or not.

    Raises ``ResultsError``, one line, when ``plan.json`` is missing, any file is damaged, or two
    of them do not agree.
    """
    plan = load_plan(directory / "plan.json")
    environment = load_environment(directory)
    training, rounds, curves = load_tables(directory)
    rows = {row["case_id"]: row for row in records(training)}
    planned = {case["case_id"] for case in plan["cases"]}
    return Report(
        directory,
        plan,
        environment,
        [_workload(spec, plan["cases"], training, rows, rounds) for spec in plan["workloads"]],
        rounds,
        curves,
        records(LAYERS.load(directory)),
        sorted(set(rows) - planned),
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain Python values, with ``None`` for what was not measured."""
    columns = {
        name: [None if pd.isna(value) else value for value in frame[name].tolist()]
        for name in frame.columns
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _workload(
    spec: dict[str, Any],
    planned: list[dict[str, Any]],
    training: pd.DataFrame,
    rows: dict[str, dict[str, Any]],
    rounds: pd.DataFrame,
) -> Workload:
    mine = [case for case in planned if case["workload"] == spec["workload"]]
    ids = [case["case_id"] for case in mine]
    frame = training[training["case_id"].isin(ids)]
    over_loop = factors_over(PYTHON_LOOP, frame, rounds, execution=EAGER)
    over_library = factors_over(TORCH_NN, frame, rounds)
    cases = []
    for case in mine:
        row = _with_interval(rows.get(case["case_id"], {}), rounds)
        unsupported = str(case.get("unsupported") or "")
        missing = "unsupported" if unsupported else NOT_RUN
        stored = _number(row.get("speedup_over_torch_nn"))
        from_stored = None if stored is None else Ratio(stored, 0.0, math.inf, 0)
        cases.append(
            Case(
                case["case_id"],
                case["workload"],
                case["implementation"],
                case["execution"],
                bool(row.get("interpreted", case.get("interpreted", False))),
                row.get("status", missing),
                row.get("reason", unsupported),
                row,
                None,
                over_loop.get(case["case_id"]),
                over_library.get(case["case_id"], from_stored),
            )
        )
    timed = [c for c in cases if c.status == "ok" and not c.interpreted and c["tokens_per_second"]]
    timed.sort(key=lambda case: (-case["tokens_per_second"], case.case_id))
    ranked = [_with_rank(case, rank) for rank, case in enumerate(timed, start=1)]
    unranked = [case for case in cases if case not in timed]
    return Workload(
        spec["workload"], str(spec.get("title") or spec["workload"]), spec, ranked, unranked
    )


def _with_interval(row: dict[str, Any], rounds: pd.DataFrame) -> dict[str, Any]:
    """The row with the interval that its rounds give.

    Reports until November 2026 stored others: they took neighbouring rounds for independent, and
    were two to four times too narrow.
    """
    if not row.get("tokens_per_second"):
        return row
    speeds = counted_speeds(rounds, row["case_id"])
    if not speeds:
        return row
    interval = throughput(speeds)
    has_spread = len(speeds) > 1
    return {
        **row,
        "tokens_per_second_low": interval.low if has_spread else None,
        "tokens_per_second_high": interval.high if has_spread else None,
    }


def _with_rank(case: Case, rank: int) -> Case:
    return Case(**{**case.__dict__, "rank": rank})


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
