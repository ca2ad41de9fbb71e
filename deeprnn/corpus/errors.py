"""What can go wrong with a text, and how it is told: in one line."""


class CorpusError(ValueError):
    """A text that cannot be used: one line with what was given, what is accepted, what to do."""


class Unavailable(Exception):
    """A source that did not yield the text, with the reason in a few words."""


class Damaged(Unavailable):
    """A copy in the cache with other bytes than the text's; worth telling even if mended."""


def brief(reason: object) -> str:
    """One line of at most 200 characters, fit for a message."""
    return " ".join(str(reason).split())[:200]
