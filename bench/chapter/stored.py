"""What is on disk of a chapter, loaded once, and how its seeds are summed up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.chapter.floors import FLOORS
from bench.ranking import TORCH_NN
from bench.results import CURVES, HELD_OUT, SAMPLES, ResultsError
from bench.statistics import Ratio, counted_speeds, paired_log_ratio, speedup, throughput
from bench.stored import load_environment, load_plan, load_tables


@dataclass(frozen=True)
class Learned:
    """A case that one seed of one role learned with."""

    role: str
    seed: int
    case_id: str
    epochs: int  # of which this part of the chapter speaks; a shared case may have more
    workload: dict[str, Any]
    row: dict[str, Any]  # of training.csv
    curve: pd.DataFrame  # of curves.csv, up to `epochs`

    @property
    def train_perplexity(self) -> float:
        """In the last of the epochs that count here."""
        return float(self.curve["train_perplexity"].iloc[-1])

    @property
    def best_validation(self) -> float:
        """The lowest validation perplexity within the epochs that count here."""
        return float(self.curve["validation_perplexity"].min())

    @property
    def best_epoch(self) -> int:
        at = int(np.nanargmin(self.curve["validation_perplexity"].to_numpy(dtype=float)))
        return int(self.curve["epoch"].iloc[at])

    @property
    def was_improving(self) -> bool:
        """Whether the last epoch that was validated was the best: more of them might be better."""
        validated = self.curve.dropna(subset=["validation_perplexity"])
        return not validated.empty and self.best_epoch == int(validated["epoch"].iloc[-1])

    def epochs_to(self, perplexity: float) -> int | None:
        """The first epoch whose training perplexity is at most this; None if there is none."""
        reached = self.curve[self.curve["train_perplexity"] <= perplexity]
        return None if reached.empty else int(reached["epoch"].iloc[0])


@dataclass(frozen=True)
class Timed:
    """A case whose speed was measured, beside all others of the chapter."""

    role: str
    case_id: str
    implementation: str
    tokens_per_second: float
    low: float
    high: float


class Chapter:
    """The files of a report directory, and the roles that its plan gives to its cases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plan = load_plan(directory / "plan.json")
        if "budget" not in self.plan:
            raise ResultsError(f"{directory} holds no chapter, but profile {self.plan['profile']}")
        self.environment = load_environment(directory)
        rows, self.rounds, curves = load_tables(directory)
        self.rows: dict[str, dict[str, Any]] = {
            str(row["case_id"]): {str(k): v for k, v in row.items()}
            for row in rows.to_dict("records")
        }
        self.curves = dict(tuple(curves.sort_values("epoch").groupby("case_id")))
        self.held_out = HELD_OUT.load(directory)
        self.samples = SAMPLES.load(directory)
        self.floors = FLOORS.load(directory)
        self.workloads = {w["workload"]: w for w in self.plan["workloads"]}
        self.cases = {c["case_id"]: c for c in self.plan["cases"]}

    def has(self, part: str) -> bool:
        """Whether the plan has that part of the chapter."""
        return any(entry["part"] == part for entry in self.plan["parts"])

    def _is_done(self, case_id: str) -> bool:
        return case_id in self.rows and self.rows[case_id]["status"] == "ok"

    def learned(self, part: str) -> dict[str, list[Learned]]:
        """By role, in the order of the plan, what each finished seed learned.

        Of the first implementation that the role is planned with and that has learned something.
        Raises ``ResultsError`` for one that finished and has no curve.
        """
        entries = [e for e in self.plan["parts"] if e["part"] == part and not e["timed"]]
        found: dict[str, list[Learned]] = {entry["role"]: [] for entry in entries}
        planned: dict[str, dict[str, bool]] = {role: {} for role in found}  # has it learned?
        for entry in entries:
            name = self.cases[entry["case_id"]]["implementation"]
            of_role = planned[entry["role"]]
            of_role[name] = of_role.get(name, False) or self._is_done(entry["case_id"])
        chosen = {
            role: next((name for name, is_done in of_role.items() if is_done), "")
            for role, of_role in planned.items()
        }
        for entry in entries:
            case, roles = self.cases[entry["case_id"]], found[entry["role"]]
            is_chosen = case["implementation"] == chosen[entry["role"]]
            if not is_chosen or not self._is_done(entry["case_id"]):
                continue
            if entry["case_id"] not in self.curves:
                path = CURVES.path(self.directory)
                raise ResultsError(f"{path} has no rows for {entry['case_id']}; restore the file")
            curve = self.curves[entry["case_id"]]
            roles.append(
                Learned(
                    entry["role"],
                    entry["seed"],
                    entry["case_id"],
                    entry["epochs"],
                    self.workloads[case["workload"]],
                    self.rows[entry["case_id"]],
                    curve[curve["epoch"] <= entry["epochs"]],
                )
            )
        return found

    def trained_on(self, one: Learned) -> Learned | None:
        """The same training with all its epochs, where another part of the chapter had more."""
        whole = self.curves[one.case_id]
        epochs = int(whole["epoch"].iloc[-1])
        return replace(one, epochs=epochs, curve=whole) if epochs > one.epochs else None

    def timed(self, part: str) -> list[Timed]:
        """The speeds measured for a part, in the order of the plan."""
        found = []
        for entry in self.plan["parts"]:
            row = self.rows.get(entry["case_id"])
            if entry["part"] != part or not entry["timed"] or row is None or row["status"] != "ok":
                continue
            speed, low, high = (
                float(row[f"tokens_per_second{end}"]) for end in ("", "_low", "_high")
            )
            if speeds := counted_speeds(self.rounds, entry["case_id"]):
                interval = throughput(speeds)
                low, high = interval.low, interval.high
            found.append(
                Timed(entry["role"], entry["case_id"], row["implementation"], speed, low, high)
            )
        return found

    def speed(self, part: str, role: str) -> Timed | None:
        """The faster of the implementations that a role was timed with."""
        of_role = [timed for timed in self.timed(part) if timed.role == role]
        return max(of_role, key=lambda timed: timed.tokens_per_second, default=None)

    def own_and_library(self, part: str, role: str) -> tuple[Timed | None, Timed | None]:
        """The two that a role was timed with; None for one that has no speed."""
        of_role = {t.implementation == TORCH_NN: t for t in self.timed(part) if t.role == role}
        return of_role.get(False), of_role.get(True)

    def faster(self, a: Timed | None, b: Timed | None) -> Ratio | None:
        """How many times as fast as ``b`` is ``a``, from rounds that ran in the same turn."""
        return None if a is None or b is None else speedup(self.rounds, a.case_id, b.case_id)

    def bits(self, learned: Learned, text: str, weights: str = "best") -> float | None:
        """Bits a character of a held-out text; None where it was not judged by that text."""
        found = self.held_out[
            (self.held_out["case_id"] == learned.case_id)
            & (self.held_out["text"] == text)
            & (self.held_out["weights"] == weights)
        ]
        if found.empty:
            return None
        return float(found["bits"].sum() / found["characters"].sum())

    def missing(self) -> list[str]:
        """Cases of the plan that have no row, or one that is not ``ok``, each with its reason."""
        lines = []
        for case_id in self.cases:
            row = self.rows.get(case_id)
            if row is None:
                lines.append(f"{case_id}: not run yet")
            elif row["status"] != "ok":
                lines.append(f"{case_id}: {row['status']}: {row['reason']}")
        return lines


def over_seeds(learned: Sequence[Learned], read: Callable[[Learned], float]) -> Ratio | None:
    """The geometric mean of a perplexity over seeds with a t interval on its logarithm."""
    values = [read(one) for one in learned]
    values = [value for value in values if value is not None and math.isfinite(value)]
    return paired_log_ratio(values, [1.0] * len(values)) if values else None


def against(
    a: Sequence[Learned], b: Sequence[Learned], read: Callable[[Learned], float]
) -> tuple[Ratio | None, dict[int, float]]:
    """How many times ``b``'s is ``a``'s figure, paired by seed; and that of each seed alone."""
    by_seed = {one.seed: one for one in b}
    pairs = {one.seed: (read(one), read(by_seed[one.seed])) for one in a if one.seed in by_seed}
    if not pairs:
        return None, {}
    ratio = paired_log_ratio([x for x, _ in pairs.values()], [y for _, y in pairs.values()])
    return ratio, {seed: x / y for seed, (x, y) in pairs.items()}
