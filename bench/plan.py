"""workloads × implementations × executions → cases with stable ids, each run or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.selection import MatchesNothing, choose
from bench.workloads import Profile, UsageError, Workload
from deeprnn import implementations
from deeprnn.support import Request


@dataclass(frozen=True)
class Case:
    """One row to come: a workload, an implementation and how it is executed."""

    workload: Workload
    implementation: str
    execution: str
    device: str
    interpreted: bool
    unsupported: str  # why it cannot be run here, in one line; empty if it can

    @property
    def id(self) -> str:
        return f"{self.workload.id}/{self.implementation}/{self.execution}"


def plan(
    profile: Profile, device: str, only: Sequence[str] = (), vocabulary_size: int = 28
) -> list[Case]:
    """Every case of ``profile`` on ``device`` whose id matches one of ``only``, or all.

    What a pattern is, see ``bench.selection``.

    Raises:
        UsageError: a pattern that matches nothing, which is most often a misspelt name.
    """
    cases = [
        _case(profile, workload, implementation, execution, device, vocabulary_size)
        for workload in profile.workloads
        for implementation in implementations.names()
        for execution in profile.executions
        if device == "cuda" or execution == "eager"
    ]
    for pattern in only:
        if not pattern.strip():
            raise UsageError(
                "--only '' is empty; give an implementation, a piece of a case id or a pattern"
            )
    try:
        ids = set(choose([case.id for case in cases], only))
    except MatchesNothing as error:
        raise UsageError(
            f"--only {error.pattern!r} matches none of the {len(cases)} cases of profile "
            f"{profile.name}; implementations: {', '.join(implementations.names())}; "
            "`python -m bench list`, with the same options but this, shows all ids"
        ) from None
    return [case for case in cases if case.id in ids]


def _case(
    profile: Profile,
    workload: Workload,
    implementation: str,
    execution: str,
    device: str,
    vocabulary_size: int,
) -> Case:
    request = Request(
        cell=workload.cell,
        device=device,
        dtype=workload.dtype,
        matmul_precision=workload.matmul_precision,
        execution=execution,
        input_size=vocabulary_size,
        hidden_size=workload.hidden_size,
        num_layers=workload.num_layers,
        batch_size=workload.batch_size,
        num_steps=workload.num_steps,
        recurrent=workload.recurrent,
    )
    reason = implementations.why_unsupported(implementation, request) or ""
    interpreted = implementations.interpreted(implementation, device)
    if not reason and interpreted and not profile.runs_interpreted:
        reason = (
            f"runs only in an interpreter on {device}: right for checking, meaningless for speed; "
            "profile smoke runs it"
        )
    return Case(workload, implementation, execution, device, interpreted, reason)
