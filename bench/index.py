"""``reports/README.md``: every stored report with its headline figures, written from the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import ranking, tables
from bench.kernel_table import KERNELS
from bench.ranking import PYTHON_LOOP, TORCH_NN, Report, Workload
from bench.results import ResultsError
from bench.stored import REPORTS, load_kernels, load_plan, load_remarks, load_tables
from bench.verdict import unreliable

INTRODUCTION = f"""# Reports

What the suite wrote, one folder a machine. Each report is a directory: open its `report.html` (a
chapter's is `chapter.html`, of kernels `kernels.html`), or read the Markdown beside it. Figures of
different machines, or of one machine on different days, do not compare; the factors of one report
do. This page is written by every run and by `python -m bench report`.

The fastest correct implementation of each workload, its tokens/s, and how many times as fast as
`{PYTHON_LOOP}` and `{TORCH_NN}` it trained in the same run; its training perplexity after the last
epoch:
"""

HEADINGS = (
    "machine",
    "profile",
    "workload",
    "fastest",
    "tokens/s",
    f"× {PYTHON_LOOP}",
    f"× {TORCH_NN}",
    "perplexity",
    "epochs",
    "commit",
)


def update(directory: Path) -> Path | None:
    """Write the index that ``directory`` belongs into; None for one that lies elsewhere."""
    root = directory.resolve().parent.parent
    return write(root) if root.name == REPORTS.name else None


def write(root: Path) -> Path:
    """Write the index of all reports below ``root``; one that cannot be read is named as such.

    A page of that name that is no such index stays as it is.
    """
    lines = [INTRODUCTION]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    unreadable, chapters = [], []
    for plan in sorted(root.glob("*/*/plan.json")):
        try:
            if "budget" in (stored := load_plan(plan)):
                chapters.append(_chapter(root, plan.parent, stored))
                continue
            report = ranking.load(plan.parent)
        except ResultsError as error:
            unreadable.append(_unreadable(root, plan.parent, error))
            continue
        for workload in report.workloads:
            cells = _row(root, report, workload)
            lines.append("| " + " | ".join(tables.markdown_text(cell) for cell in cells) + " |")
    kernels = []
    for stored_table in sorted(root.glob(f"*/*/{KERNELS.filename}")):
        try:
            kernels.append(_kernels(root, stored_table.parent))
        except ResultsError as error:
            unreadable.append(_unreadable(root, stored_table.parent, error))
    if kernels:
        lines += ["", "Microseconds a step of each kernel beside its floors:", "", *kernels]
    if chapters:
        lines += ["", "The chapter's published runs and exercises:", "", *chapters]
    gates = [
        f"- [{page.parent.parent.name}]({page.relative_to(root).as_posix()})"
        for page in sorted(root.glob("*/gate/summary.md"))
    ]
    if gates:
        lines += ["", "The regression gate, tried on planted changes:", "", *gates]
    if unreadable:
        lines += ["", "Not readable:", "", *unreadable]
    path = root / "README.md"
    title = INTRODUCTION.splitlines()[0]
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(title):
        return path  # somebody else's
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("\n".join(lines) + "\n", "utf-8")
    temporary.replace(path)
    return path


def _unreadable(root: Path, directory: Path, error: ResultsError) -> str:
    return f"- `{directory.relative_to(root)}`: {tables.markdown_text(str(error))}"


def _kernels(root: Path, directory: Path) -> str:
    table = load_kernels(directory)
    wanted = table[table["status"] != "unsupported"]
    measured = wanted[wanted["status"] == "ok"]
    devices = ", ".join(sorted({str(name) for name in table["device"] if name}))
    commits = ", ".join(sorted({str(name) for name in table["commit"] if name}))
    where = f"{directory.relative_to(root).as_posix()}/kernels.md"
    machine, own = directory.parent.name, directory.name
    label = machine if own == "kernels" else f"{machine}, {own}"
    about = f"{len(measured)} of {len(wanted)} rows on {devices}, commit {commits}"
    about += _remarked(directory)
    return f"- [{label}]({where}): {tables.markdown_text(about)}"


def _chapter(root: Path, directory: Path, plan: dict[str, Any]) -> str:
    statuses = load_tables(directory).training["status"]
    done = int((statuses == "ok").sum())
    where = f"{directory.relative_to(root).as_posix()}/summary.md"
    return (
        f"- [{directory.parent.name}]({where}): budget {plan['budget']}, "
        f"{done} of {len(plan['cases'])} cases, commit {plan['commit']}"
    )


def _remarked(directory: Path) -> str:
    return ", **with a remark**" if load_remarks(directory) else ""


def _row(root: Path, report: Report, workload: Workload) -> list[str]:
    directory = report.directory
    link = f"[{directory.name}]({directory.relative_to(root).as_posix()}/summary.md)"
    if only := report.plan.get("only"):
        link += f" of {', '.join(f'`{pattern}`' for pattern in only)} alone"
    failed = [case for case in report.cases if case.status not in ("ok", "unsupported")]
    if failed:
        able = sum(case.status != "unsupported" for case in report.cases)
        link += f", {len(failed)} of {able} cases without a result"
    if unreliable(report):
        link += ", **unreliable**"
    link += _remarked(directory)
    where = [
        directory.parent.name,
        link,
        workload.title,
    ]
    best = workload.fastest
    if best is None or not report.plan.get("speeds_count", True):
        return [*where, "not ranked", *[tables.MISSING] * 5, report.plan["commit"]]
    return [
        *where,
        report.label(best),
        tables.tokens(best["tokens_per_second"]),
        tables.factor(best.over_python_loop),
        tables.factor(best.over_torch_nn),
        tables.decimals(best["train_perplexity"], 3),
        str(best["epochs"]),
        report.plan["commit"],
    ]
