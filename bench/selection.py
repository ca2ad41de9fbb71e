"""Which cases ``--only`` means: the same in a run, a gate over commits and one over reports."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence


class MatchesNothing(ValueError):
    """A pattern that no case matches, which is most often a misspelt name."""

    def __init__(self, pattern: str) -> None:
        super().__init__(f"--only {pattern!r} matches nothing")
        self.pattern = pattern


def choose(case_ids: Sequence[str], only: Sequence[str]) -> list[str]:
    """The ids that match one of the patterns, in their order; all, where there is no pattern.

    Raises ``MatchesNothing``, with the first such pattern.
    """
    implementations = {case_id.split("/")[1] for case_id in case_ids}
    for pattern in only:
        if not any(_matches(case_id, pattern, implementations) for case_id in case_ids):
            raise MatchesNothing(pattern)
    return [
        case_id
        for case_id in case_ids
        if not only or any(_matches(case_id, pattern, implementations) for pattern in only)
    ]


def _matches(case_id: str, pattern: str, implementations: Collection[str]) -> bool:
    """Whether ``pattern`` is an implementation, a shell pattern, or a piece of the id.

    A shell pattern is one of the whole id, or of a whole part such as ``triton_*``. An
    implementation means itself alone: ``gru`` is a piece of many ids, but ``torch_nn`` must not
    also choose ``torch_nn_persistent``.
    """
    parts = case_id.split("/")
    if any(character in pattern for character in "*?["):
        return any(fnmatch.fnmatchcase(whole, pattern) for whole in (case_id, *parts))
    return pattern in (parts if pattern in implementations else case_id)
