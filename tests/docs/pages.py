"""The pages of README and docs/, and the fenced blocks on them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [path for path in (README, *sorted(DOCS.rglob("*.md"))) if path.exists()]

FENCE = re.compile(
    r"^(?:(?P<pad> *)<!-- (?P<marker>[^\n]*?) -->\n)?"
    r"(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, with the comment right before it."""

    page: Path
    line: int
    language: str
    text: str
    verb: str
    words: tuple[str, ...]

    @property
    def where(self) -> str:
        """The block's place, as editors open it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        verb, _, words = (match["marker"] or "").partition(":")
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("text")) + 1,
            language=match["language"],
            text=dedent(match["text"]),
            verb=verb.strip(),
            words=tuple(words.split()),
        )


def prose(page: Path) -> str:
    """Give a page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    """Give the page's id in the tests' names."""
    return str(page.relative_to(ROOT))
