"""A side's source: the directory whose ``deeprnn`` and ``kernels`` are measured, and who runs it.

Also here is how it is made sure that child processes import those, and not others of their names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.worker_process import PROJECT, worker_environment

_WHERE = (
    "import importlib.util as u; "
    "names = ('bench', 'deeprnn', 'kernels'); "
    "print(*(u.find_spec(n).submodule_search_locations[0] for n in names), sep='|')"
)

OWN_PACKAGES = ("deeprnn", "kernels")
"""What a side has of its own; ``bench`` is this one's for both."""

ANSWER_SECONDS = 300.0
"""What a planner may take; it may have to fetch the text first."""


@dataclass(frozen=True)
class Source:
    """A directory with ``deeprnn`` and ``kernels``, and where its compilers keep their caches.

    ``python`` runs them; None is this process's own, with the packages that this process sees.
    """

    directory: Path
    cache: Path
    python: str | None = None

    def _run(
        self, words: Sequence[str], device: str, threads: int, said: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [self.python or sys.executable, *words]
        environment = worker_environment(
            device, threads, source=self.directory, has_own_packages=self.python is not None
        )
        try:
            return subprocess.run(
                command,
                input=said,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=ANSWER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            why = f"no answer within {ANSWER_SECONDS:.0f} s"
            return subprocess.CompletedProcess(command, 1, "", why)

    def check(self, device: str, threads: int) -> None:
        """Raises ``RuntimeError`` if child processes would import anything else."""
        done = self._run(["-c", _WHERE], device, threads)
        expected = [str(PROJECT / "bench"), *(str(self.directory / n) for n in OWN_PACKAGES)]
        if done.stdout.strip().split("|") != expected:
            raise RuntimeError(
                f"processes would import {done.stdout.strip() or done.stderr.strip()}, "
                f"not {' and '.join(expected)}"
            )

    def lacks(self) -> list[str]:
        """Packages that are not here: somebody else's of that name would be imported."""
        return [n for n in OWN_PACKAGES if not (self.directory / n / "__init__.py").is_file()]

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the planner answers here; ``{"broken": …}`` where it fails to run at all."""
        words, threads = ["-m", "bench.planner"], request["threads"] or 1
        done = self._run(words, request["device"], threads, json.dumps(request) + "\n")
        if done.returncode != 0 or not done.stdout:
            words = done.stderr.strip().splitlines() or ["no message"]
            return {"broken": words[-1].strip()}
        return dict(json.loads(done.stdout))
