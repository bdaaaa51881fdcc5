"""The prose is in plain English: the words that were a language of our own do not come back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import DOCS, PAGES, blocks, prose

import budgetguard

PACKAGE = Path(budgetguard.__file__).parent

# What the words meant is in the table of docs/design.md, which has to name them.
PRIVATE = re.compile(
    r"\b(?:looks?|looked|looking|books?|booked|booking|quick|quickly|stays?|stayed|sure)\b"
    r"|\bedges?\b(?! cases?\b)"
    r"|\b(?:the|in|into|a|whole|waiting|join\w*) line\b(?! of (?:code|output)\b)"
    r"|\b(?:the|its|their|of|both|all|these|those|such|by) ends\b",
    re.IGNORECASE,
)
ALLOWED_IN_DOCS = 15
TABLE = "## Old names and new ones"


def found(text: str) -> list[str]:
    """Give the private words in a text, each with what is around it."""
    return [text[max(0, m.start() - 30) : m.end() + 30].strip() for m in PRIVATE.finditer(text)]


def shown(page: Path) -> str:
    """What a reader reads on a page, but for the code on it."""
    text = prose(page)
    if page == DOCS / "design.md" and TABLE in text:
        before, _, after = text.partition(TABLE)
        _, _, after = after.partition("\n## ")
        text = before + after
    printed = [block.text for block in blocks(page) if block.language == "text"]
    return "\n".join([re.sub(r"`[^`]*`|\]\([^)]*\)", "", text), *printed])


def test_the_pages() -> None:
    """A handful of innocent uses remain in README and docs together."""
    words = [(str(page.name), each) for page in PAGES for each in found(shown(page))]
    assert len(words) <= ALLOWED_IN_DOCS, "\n".join(map(str, words))


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_code(path: Path) -> None:
    """None is left in messages, docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    words = [each for said in (*texts(text), *comments(text)) for each in found(said)]
    assert words == []


def texts(code: str) -> Iterator[str]:
    """Give the string constants that are more than a word: docstrings, messages and their parts."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield re.sub(r"`[^`]*`", "", node.value)


def comments(code: str) -> Iterator[str]:
    """Give the comments."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
