"""What a chapter's directory holds, for people: so far a list on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench.chapter.exercises import PARTS
from bench.chapter.stored import Chapter, over_seeds


@dataclass(frozen=True)
class Summary:
    """What the terminal prints when a chapter is done."""

    chapter: Chapter

    def print(self, console: Console) -> None:
        """Each part's networks with their training perplexity over seeds, and what is missing."""
        for part, title in PARTS.items():
            for role, learned in self.chapter.learned(part).items():
                found = over_seeds(learned, lambda one: one.train_perplexity)
                if found is not None:
                    line = f"{title}: {role}: training perplexity {found.ratio:.3f}"
                    console.print(Text(f"{line}, {found.pairs} seeds"), soft_wrap=True)
        for line in self.chapter.missing():
            console.print(Text(line), soft_wrap=True)


def render(directory: Path) -> Summary:
    """What ``directory`` holds. Raises ``ResultsError`` for a damaged file."""
    return Summary(Chapter(directory))
