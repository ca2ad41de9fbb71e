"""A rendered report as the tests read it: its page, and what a terminal shows."""

from __future__ import annotations

import io
from collections import Counter
from html.parser import HTMLParser

from rich.console import Console

from bench.report import Summary

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.cases: list[tuple[str, str]] = []  # tag and case id; a tag may stand for several
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            value = value or ""
            assert not name.startswith("on"), f"{tag} has {name}"
            if name == "id":
                self.ids.append(value)
            elif name == "href":
                self.links.append(value)
            elif name == "src":
                self.images.append(value)
            elif name == "data-case":
                self.cases.extend((tag, case_id) for case_id in value.split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def printed(summary: Summary, width: int = 80) -> str:
    buffer = io.StringIO()
    summary.print(Console(file=buffer, width=width))
    return buffer.getvalue()
