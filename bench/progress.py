"""What runs, what is done, how much time is left: a bar on a terminal, plain lines in a file."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

SECONDS_BETWEEN_LINES = 20.0


class RunProgress:
    """Keeps the time left from an estimate that the run itself corrects.

    Args:
        console: where to write.
        estimated_seconds: the whole run, roughly; only proportions matter.
    """

    def __init__(self, console: Console, estimated_seconds: float) -> None:
        self._console = console
        self._total = max(estimated_seconds, 1e-9)
        self._done = 0.0
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0, left="")
            self._bar.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def doing(self, text: str, estimated_seconds: float = 0.0) -> None:
        """``text`` is what runs now; ``estimated_seconds`` of the estimate were just done."""
        self._done = min(self._total, self._done + estimated_seconds)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self._done / self._total,
                description=text,
                left=self._left(),
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"  {self._done / self._total:4.0%} done, {self._left()}; {text}")

    def _left(self) -> str:
        elapsed = time.monotonic() - self._start
        if self._done <= 0 or elapsed < 2:
            return "time left unknown"
        seconds = elapsed * (self._total - self._done) / self._done
        if seconds < 90:
            return f"about {seconds:.0f} s left"
        return f"about {seconds / 60:.0f} min left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
