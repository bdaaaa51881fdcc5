"""Changes to a valid JSON reply that leave nothing to read in one of its fields."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

FieldSteps: TypeAlias = tuple[str | int, ...]
"""The way from the top of a reply to one of its fields."""

_DIGITS = 5_000
_ITEMS = 3


@dataclass(frozen=True, slots=True)
class RawJSON:
    """JSON text for which there is no Python value."""

    text: str


@dataclass(frozen=True, slots=True)
class RepeatedField:
    """A field that is there twice, with these two values."""

    first: Any
    second: Any


MISSING: Final = object()
"""Stands for a field that is not there."""


class ReplyField(NamedTuple):
    """A field of a reply; `path` is written like `data.items[0].left`."""

    path: str
    steps: FieldSteps
    value: Any


class FieldChange(NamedTuple):
    """What a field is changed to, and how a sentence describes that after "was"."""

    said: str
    value: Any


def spell(value: Any) -> str:
    """The JSON text of a value."""
    match value:
        case RawJSON():
            return value.text
        case Mapping():
            return "{" + ", ".join(_member(name, each) for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(spell, value)) + "]"
        case Decimal():
            return str(value)
    return json.dumps(value)


def fields(value: Any, path: str = "", steps: FieldSteps = ()) -> Iterator[ReplyField]:
    """Every field below the top of a reply; of a list, the first three items."""
    if isinstance(value, Mapping):
        inner = [(f"{path}.{name}" if path else name, name) for name in value]
    elif isinstance(value, list | tuple):
        inner = [(f"{path}[{index}]", index) for index in range(min(len(value), _ITEMS))]
    else:
        return
    for where, step in inner:
        found = value[step]
        yield ReplyField(where, (*steps, step), found)
        yield from fields(found, where, (*steps, step))


def replaced(value: Any, steps: FieldSteps, by: Any) -> Any:
    """A copy of a reply with one field replaced by `by`, or left out if that is MISSING."""
    if not steps:
        return by
    step, rest = steps[0], steps[1:]
    new = replaced(value[step], rest, by)
    if isinstance(value, Mapping):
        kept = {name: new if name == step else each for name, each in value.items()}
        return {name: each for name, each in kept.items() if each is not MISSING}
    items = [new if index == step else each for index, each in enumerate(value)]
    return [each for each in items if each is not MISSING]


def distinct(value: Any) -> Any:
    """A copy of a reply with 2 for each 0 and 1, which nonsense can be mistaken for."""
    if isinstance(value, Mapping):
        return {name: distinct(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [distinct(each) for each in value]
    return 2 if _is_number(value) and value in (0, 1) else value


def changes(field: ReplyField) -> Iterator[FieldChange]:
    """What is wrong in place of a field's value: another JSON type, or not a finite number."""
    value = field.value
    yield FieldChange("missing", MISSING)
    for said, other in _ANYTHING:
        # Of two truth values, either may be right.
        if not (isinstance(value, bool) and isinstance(other, bool)):
            yield FieldChange(said, other)
    yield FieldChange("in a list", [value])
    yield FieldChange("in an object", {"value": value})
    more = _more(value)
    # An item of a list has no name that could be there twice.
    if isinstance(field.steps[-1], str) and spell(more) != spell(value):
        yield FieldChange("there twice, with different values", RepeatedField(value, more))
    if _is_number(value):
        yield FieldChange("that number as a text", spell(value))


def _member(name: str, value: Any) -> str:
    values = [value.first, value.second] if isinstance(value, RepeatedField) else [value]
    return ", ".join(f"{json.dumps(name)}: {spell(each)}" for each in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _more(value: Any) -> Any:
    """The same with larger numbers."""
    if isinstance(value, Mapping):
        return {name: _more(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_more(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
        return str(abs(Decimal(value)) * 2 + 7)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return abs(Decimal(str(value))) * 2 + 7
    return value


_ANYTHING: Final[list[tuple[str, Any]]] = [
    ("null", None),
    ("true", True),
    ("false", False),
    ("an empty list", []),
    ("an empty object", {}),
    ("NaN", RawJSON("NaN")),
    ("Infinity", RawJSON("Infinity")),
    ("-Infinity", RawJSON("-Infinity")),
    ("1e400", RawJSON("1e400")),
    ("-1e400", RawJSON("-1e400")),
    ("a number of 5,000 digits", RawJSON("9" * _DIGITS)),
    ("a text of 5,000 digits", "9" * _DIGITS),
    ("an empty text", ""),
    *(
        (f'the text "{text}"', text)
        for text in (
            "many",
            "unlimited",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "1_000",
            "\N{ARABIC-INDIC DIGIT SEVEN}",
            "0x10",
            "7,5",
        )
    ),
]
