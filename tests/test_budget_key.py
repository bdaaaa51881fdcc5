"""Keys of budgets: plain values, whatever they come as."""

from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest

from budgetguard._core.budget_key import plain_key


class Plan(StrEnum):
    """An enumeration of text."""

    FREE = "free"


class Shouting(str):
    """Text that hashes, compares and shows itself in its own way."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise AssertionError

    def __eq__(self, _: object) -> bool:
        raise AssertionError

    def __str__(self) -> str:
        raise AssertionError


class Colour(Enum):
    """An enumeration of nothing in particular."""

    RED = 1


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (None, None),
        ("ada", "ada"),
        (Shouting("ada"), "ada"),
        (Plan.FREE, "free"),
        (7, 7),
        (True, 1),
        (b"\x00", b"\x00"),
        (UUID(int=5), UUID(int=5)),
        (("team", (Plan.FREE, 3)), ("team", ("free", 3))),
    ],
    ids=range(9),
)
def test_what_a_key_becomes(given: Any, plain: Any) -> None:
    """Its own type is not asked how it compares."""
    key = plain_key(given)
    assert (key, type(key)) == (plain, type(plain))


@pytest.mark.parametrize("key", [[], {}, 1.5, float("nan"), object(), Colour.RED, ("team", [])])
def test_anything_else_is_a_type_error(key: Any) -> None:
    """The message names the type, and never shows the value."""
    inner = key[1] if isinstance(key, tuple) else key
    with pytest.raises(TypeError, match=f"or a tuple of these, not {type(inner).__name__}$"):
        plain_key(key)
