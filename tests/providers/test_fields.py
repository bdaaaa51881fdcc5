"""Fields of a reply that not every provider has: numbers written as text, and lists."""

from decimal import Decimal
from typing import Any

import pytest

from budgetguard._core.errors import BalanceUnavailable
from budgetguard.providers import Fields


def fields(value: Any) -> Fields:
    """A reply with this in its field `a`."""
    return Fields({"a": value}, provider="Acme")


@pytest.mark.parametrize("text", ["0", "110.00", "-0.30", "000.5", "0." + "1" * 20])
def test_a_number_written_as_text(text: str) -> None:
    """It is read exactly, and may be negative."""
    assert fields(text).decimal_text("a") == Decimal(text)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " 1",
        "1\n",
        "1e3",
        "1_000",
        "1,5",
        "+1",
        ".5",
        "5.",
        "NaN",
        "-Infinity",
        "\u0661",
        "0x1",
        "1" * 21,
        "1" * 13,
        1,
        Decimal(1),
        True,
        None,
        [],
        {},
    ],
)
def test_any_other_text_is_no_number(value: object) -> None:
    """Neither is a number that is not text, nor one beyond all balances."""
    with pytest.raises(BalanceUnavailable, match="a in the provider's reply is"):
        fields(value).decimal_text("a")


def test_a_list_of_objects() -> None:
    """Each is read like a reply, and an empty list is one."""
    assert [each.text("b") for each in fields([{"b": "1"}, {}]).objects("a")] == ["1", None]
    assert fields([]).objects("a") == []


@pytest.mark.parametrize("value", [None, {}, "[]", [1], [{}, None], [[]]])
def test_any_other_list_is_none(value: object) -> None:
    """An entry that is no object makes all of it unreadable."""
    with pytest.raises(BalanceUnavailable, match="a in the provider's reply is"):
        fields(value).objects("a")
    with pytest.raises(BalanceUnavailable, match="b is missing"):
        fields(value).objects("b")
