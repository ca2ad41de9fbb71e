"""Whether two stored reports may be compared, and what else a reader should know of the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.ranking import TORCH_NN, Report

PARTS = {
    "processor": ("Machine", "Processor"),
    "number of cores": ("Machine", "Cores"),
    "GPU": ("GPU", "Name"),
    "number of multiprocessors": ("GPU", "Multiprocessors"),
    "amount of GPU memory (GiB)": ("GPU", "Memory (GiB)"),
}
"""What makes a machine another one, though it has the same name: a server's is that of its GPU."""

SETTINGS = {
    "the GPU's driver": ("GPU", "Driver"),
    "the system": ("Machine", "System"),
    "the frequency governor": ("Machine", "Frequency governor"),
    "the set of vector instructions": ("Threads", "Vector instructions"),
}
"""What may change on a machine, and is said where it did."""


def refusals(baseline: Report, current: Report) -> list[str]:
    """Why two reports cannot be compared at all, one line each."""
    plans = (baseline.plan, current.plan)
    pairs = {
        "machine": tuple(plan.get("machine") for plan in plans),
        "device": tuple(plan.get("device") for plan in plans),
        "number of threads": tuple(plan.get("threads") for plan in plans),
        "text": tuple((plan.get("corpus") or {}).get("sha256") for plan in plans),
    }
    found = []
    for what, (there, here) in pairs.items():
        if there is None or here is None:
            found.append(f"a report does not say its {what}; run the suite again")
        elif there != here:
            found.append(f"another {what}: {_brief(there)} in the baseline, {_brief(here)} now")
    for what, there, here in _differing(baseline, current, PARTS):
        found.append(f"another {what}: {there} in the baseline, {here} now")
    return found


def _brief(value: Any) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text  # a hash


def notes(baseline: Report, current: Report, ids: set[str]) -> list[str]:
    """What else differs, and how the reference's own speed did, of the cases ``ids``."""
    found = []
    sections = [report.environment.get("Versions") or {} for report in (baseline, current)]
    for name in sorted({*sections[0], *sections[1]}):
        there, here = (section.get(name, "none") for section in sections)
        if there != here:
            found.append(f"{name} differs: {there} in the baseline, {here} now")
    for what, there, here in _differing(baseline, current, SETTINGS):
        found.append(f"{what} differs: {there} in the baseline, {here} now")
    if baseline.plan.get("seed") != current.plan.get("seed"):
        found.append("perplexities are not compared: the seeds differ")
    for workload in current.workloads:
        for case in (case for case in workload.ranked if case.case_id in ids):
            old = next((c for c in baseline.cases if c.case_id == case.case_id), None)
            if case.implementation == TORCH_NN and old and old["tokens_per_second"]:
                there, here = old["tokens_per_second"], case["tokens_per_second"]
                found.append(
                    f"for information: {case.case_id} ran at {there:,.0f} tokens/s in the "
                    f"baseline, {here:,.0f} now ({100 * (here / there - 1):+.1f} %)"
                )
    return found


def _differing(
    baseline: Report, current: Report, places: Mapping[str, tuple[str, str]]
) -> list[tuple[str, Any, Any]]:
    """What differs of these, and what it was and is, where both reports tell it."""
    found = []
    for what, (section, name) in places.items():
        there, here = (
            (report.environment.get(section) or {}).get(name) for report in (baseline, current)
        )
        if there is not None and here is not None and there != here:
            found.append((what, there, here))
    return found
