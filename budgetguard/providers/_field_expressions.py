"""Figures that are computed from the fields of a JSON reply, such as `data.limit - data.used`.

`_expression_parser` has the grammar.

Items whose field `currency`, `unit` or `units` is a text are only selected by that: their position may
change, and amounts in different units are not added up.

A figure is a JSON number, or a text that is a decimal number, and nothing else. Everything is exact.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any, Final, TypeAlias

from budgetguard._core.amounts import LIMIT
from budgetguard.providers._fields import kind_of

BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BARE_TEXT = re.compile(r"[A-Za-z0-9_.:-]+")

# A figure in a text. Decimal itself would also accept underscores, spaces, other scripts' digits and NaN.
_FIGURE = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
MOST_DIGITS = 64
# Figures within these powers of ten add up exactly in this many digits, at a cost that is bounded.
LARGEST, _SMALLEST = 30, -120
EXACT: Final = Context(prec=400, traps=[Inexact, InvalidOperation, Overflow])

_UNIT_FIELDS = ("currency", "unit", "units")
_CODE = re.compile(r"[A-Za-z]{3}")
_MOST_NAMES = 12
_LONGEST_NAME = 40


class UnreadableField(ValueError):
    """A reply from which a figure cannot be read; its text is a reason without a final period."""


class MissingField(UnreadableField):
    """A reply that does not have a field, or not the list item that was selected."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How figures are to be read.

    `nulls_are_unlimited` if null means no limit in every field. `unit` is the one that a currency beside a
    figure must not contradict. `most` is the largest figure, by its amount. `clean` makes the names in a reply
    fit to be shown.
    """

    nulls_are_unlimited: bool = False
    unit: str | None = None
    most: Decimal = LIMIT
    clean: Callable[[str], str] = field(default=str, repr=False)


@dataclass(frozen=True, slots=True)
class PickedItem:
    """`[name=text]`: the items whose field `name` is `text`."""

    name: str
    text: str

    def __str__(self) -> str:
        bare = BARE_TEXT.fullmatch(self.text)
        return f"[{_spelled(self.name)}={self.text if bare else _quoted(self.text)}]"

    def matches(self, item: Any) -> bool:
        """Whether an item of a list is one of those."""
        return isinstance(item, dict) and _is(item.get(self.name), self.text)


@dataclass(frozen=True, slots=True)
class EveryItem:
    """`[*]`: all items."""

    def __str__(self) -> str:
        return "[*]"


PathStep: TypeAlias = str | int | PickedItem | EveryItem


@dataclass(frozen=True, slots=True)
class FieldPath:
    """Where a value is found in a reply."""

    steps: tuple[PathStep, ...]

    def __str__(self) -> str:
        text = ""
        for step in self.steps:
            if isinstance(step, str):
                text += f".{_spelled(step)}" if text else _spelled(step)
            else:
                text += f"[{step}]" if isinstance(step, int) else str(step)
        return text

    def value(self, reply: Mapping[str, Any], reading: Reading) -> Any:
        """What is found there; raises UnreadableField unless exactly one value is."""
        [(_, value)] = self.values(reply, reading, every=False)
        return value

    def values(
        self, reply: Mapping[str, Any], reading: Reading, *, every: bool
    ) -> list[tuple[Any, Any]]:
        """All that is found there, each with the object or list that it is in; only with `every` more than one."""
        found: list[tuple[Any, Any]] = [(None, reply)]
        for number, step in enumerate(self.steps):
            where = _Where(self, number, reading)
            found = [pair for _, value in found for pair in where.inside(value, step, every=every)]
        return found


@dataclass(frozen=True, slots=True)
class _Where:
    """One step of a path, and how errors name what it starts from and what it leads to."""

    path: FieldPath
    number: int
    reading: Reading

    @property
    def label(self) -> str:
        """What the step starts from."""
        return str(FieldPath(self.path.steps[: self.number])) or "it"

    @property
    def goal(self) -> str:
        """What the step leads to."""
        return str(FieldPath(self.path.steps[: self.number + 1]))

    def inside(self, value: Any, step: PathStep, *, every: bool) -> list[tuple[Any, Any]]:
        """What the step finds in a value."""
        if isinstance(step, str):
            return [(value, self._field(value, step))]
        if not isinstance(value, list):
            msg = f"{self.label} in the provider's reply is {kind_of(value)}, not a list"
            raise UnreadableField(msg)
        if isinstance(step, PickedItem):
            return [(value, item) for item in self._picked(value, step, every=every)]
        self._check_units(value)
        if isinstance(step, EveryItem):
            if not value:
                msg = f"{self.label} in the provider's reply is an empty list"
                raise MissingField(msg)
            return [(value, item) for item in value]
        if step >= len(value):
            msg = f"{self.goal} is missing from the provider's reply: {self.label} has {_items(len(value))}"
            raise MissingField(msg)
        return [(value, value[step])]

    def _field(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            msg = (
                f"{self.label} in the provider's reply is a list: select an item, such as "
                f"{self.label}[0] or {self.label}[currency=USD]"
            )
            raise UnreadableField(msg)
        if not isinstance(value, dict):
            msg = f"{self.label} in the provider's reply is {kind_of(value)}, not an object"
            raise UnreadableField(msg)
        if name not in value:
            names = _names(value, self.reading.clean)
            msg = f"{self.goal} is missing from the provider's reply: {self.label} has {names}"
            raise MissingField(msg)
        return value[name]

    def _picked(self, items: list[Any], pick: PickedItem, *, every: bool) -> list[Any]:
        for item in items:
            if not isinstance(item, dict):
                msg = f"an item of {self.label} in the provider's reply is {kind_of(item)}, not an object"
                raise UnreadableField(msg)
        matching = [item for item in items if pick.matches(item)]
        if not matching:
            msg = f"no item of {self.label} in the provider's reply has {str(pick)[1:-1]}"
            raise MissingField(msg)
        if len(matching) > 1 and not every:
            msg = (
                f"{len(matching)} items of {self.label} in the provider's reply have {str(pick)[1:-1]}: "
                "use sum(...) to add them up, or select one by another field"
            )
            raise UnreadableField(msg)
        if pick.name not in _UNIT_FIELDS and every:
            self._check_units(matching)
        return matching

    def _check_units(self, items: list[Any]) -> None:
        for name in _UNIT_FIELDS:
            if any(isinstance(item, dict) and isinstance(item.get(name), str) for item in items):
                msg = (
                    f"the items of {self.label} in the provider's reply have a {name}: select by it, "
                    f"such as {self.label}[{name}=USD]"
                )
                raise UnreadableField(msg)


@dataclass(frozen=True, slots=True)
class NumberTerm:
    """A number."""

    value: Decimal

    def __str__(self) -> str:
        return f"{self.value:f}"

    def figure(self, _reply: Any, _reading: Reading, *, positive: bool) -> Decimal:
        """The number."""
        del positive
        return self.value

    def paths(self) -> Iterator[FieldPath]:
        """No path at all."""
        return iter(())


@dataclass(frozen=True, slots=True)
class FigureTerm:
    """The figure at a path: with `every` the sum of all; with `unlimited` null means no limit."""

    path: FieldPath
    every: bool = False
    unlimited: bool = False

    def __str__(self) -> str:
        if self.every:
            return f"sum({self.path})"
        return f"unlimited({self.path})" if self.unlimited else str(self.path)

    def figure(self, reply: Any, reading: Reading, *, positive: bool) -> Decimal | None:
        """The figure; None for no limit."""
        found = self.path.values(reply, reading, every=self.every)
        read = [self._read(within, value, reading, positive=positive) for within, value in found]
        known = [each for each in read if each is not None]
        return None if len(known) < len(read) else _sum(known)

    def _read(self, within: Any, value: Any, reading: Reading, *, positive: bool) -> Decimal | None:
        if value is None:
            if not (self.unlimited or reading.nulls_are_unlimited):
                msg = (
                    f"{self.path} in the provider's reply is null, which is unknown unless "
                    f'null="unlimited" or unlimited({self.path}) says that it means no limit'
                )
                raise UnreadableField(msg)
            if not positive:
                msg = (
                    f"{self.path} in the provider's reply is null, and is subtracted: it is unknown"
                )
                raise UnreadableField(msg)
            return None
        self._check_currency(within, reading.unit)
        figure = _number(value, str(self.path))
        if figure.copy_abs() > reading.most:
            msg = f"{self.path} in the provider's reply is beyond 10^12"
            raise UnreadableField(msg)
        return figure

    def _check_currency(self, within: Any, unit: str | None) -> None:
        """A currency beside the figure is that of the account, where both are written as codes."""
        given = within.get("currency") if isinstance(within, dict) else None
        if not isinstance(given, str) or not _CODE.fullmatch(given):
            return
        if unit is not None and _CODE.fullmatch(unit) and given.casefold() != unit.casefold():
            msg = f"the currency beside {self.path} in the provider's reply is not {unit}"
            raise UnreadableField(msg)

    def paths(self) -> Iterator[FieldPath]:
        """Its path."""
        yield self.path


@dataclass(frozen=True, slots=True)
class LeastTerm:
    """The least of some terms."""

    terms: tuple["Term", ...]

    def __str__(self) -> str:
        return f"min({', '.join(map(str, self.terms))})"

    def figure(self, reply: Any, reading: Reading, *, positive: bool) -> Decimal | None:
        """The least figure; what has no limit drops out."""
        figures = [each.figure(reply, reading, positive=positive) for each in self.terms]
        known = [each for each in figures if each is not None]
        # What is subtracted without a limit, twice, is below everything.
        if not positive and len(known) < len(figures):
            return None
        return min(known, default=None)

    def paths(self) -> Iterator[FieldPath]:
        """Those of all terms."""
        return (path for term in self.terms for path in term.paths())


@dataclass(frozen=True, slots=True)
class SumTerm:
    """Terms to add, or to subtract where the flag is False."""

    terms: tuple[tuple[bool, "Term"], ...]

    def __str__(self) -> str:
        text = ""
        for adds, term in self.terms:
            shown = f"({term})" if isinstance(term, SumTerm) else str(term)
            if text:
                text += f" {'+' if adds else '-'} {shown}"
            else:
                text = shown if adds else f"-{shown}"
        return text

    def figure(self, reply: Any, reading: Reading, *, positive: bool) -> Decimal | None:
        """The sum; None if something has no limit."""
        figures = [
            (adds, term.figure(reply, reading, positive=positive == adds))
            for adds, term in self.terms
        ]
        known = [each if adds else EXACT.minus(each) for adds, each in figures if each is not None]
        return None if len(known) < len(figures) else _sum(known)

    def paths(self) -> Iterator[FieldPath]:
        """Those of all terms."""
        return (path for _, term in self.terms for path in term.paths())


Term: TypeAlias = NumberTerm | FigureTerm | LeastTerm | SumTerm


@dataclass(frozen=True, slots=True)
class FieldExpression:
    """A figure that is computed from a reply; `str()` gives it in one form, which can be parsed again."""

    root: Term

    def __str__(self) -> str:
        return str(self.root)

    def figure(self, reply: Mapping[str, Any], reading: Reading) -> Decimal | None:
        """The figure, exact; None if it has no limit. Raises UnreadableField."""
        return self.root.figure(reply, reading, positive=True)

    def fields(self) -> set[str]:
        """The fields of the reply itself that the figure is computed from."""
        return {path.steps[0] for path in self.root.paths() if isinstance(path.steps[0], str)}


@dataclass(frozen=True, slots=True)
class ReplyCondition:
    """`path = text`: the field is this text or number; `path ~ text`: the text occurs in it, in any case."""

    path: FieldPath
    text: str
    contains: bool

    def holds(self, reply: Any) -> bool:
        """Whether a reply's JSON fulfils it; False where the field is missing."""
        if not isinstance(reply, dict):
            return False
        try:
            value = self.path.value(reply, Reading())
        except UnreadableField:
            return False
        if self.contains:
            return isinstance(value, str) and self.text.casefold() in value.casefold()
        return _is(value, self.text)


def _spelled(name: str) -> str:
    return name if BARE_NAME.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is(value: Any, text: str) -> bool:
    """Whether a value is this text, or the number that it spells."""
    if isinstance(value, Decimal):
        return _FIGURE.fullmatch(text) is not None and Decimal(text) == value
    return isinstance(value, str) and value == text


def _number(value: Any, label: str) -> Decimal:
    """A figure; raises UnreadableField for anything that is not one."""
    if isinstance(value, str):
        if len(value) > MOST_DIGITS or not _FIGURE.fullmatch(value):
            msg = f"{label} in the provider's reply is text that is not a decimal number"
            raise UnreadableField(msg)
        number = Decimal(value)
    elif isinstance(value, Decimal):
        number = value
    else:
        msg = f"{label} in the provider's reply is {kind_of(value)}, not a number"
        raise UnreadableField(msg)
    digits = number.as_tuple()
    exponent = digits.exponent
    in_range = isinstance(exponent, int) and exponent >= _SMALLEST and number.adjusted() < LARGEST
    if not in_range or len(digits.digits) > MOST_DIGITS:
        msg = f"{label} in the provider's reply is out of range"
        raise UnreadableField(msg)
    return number


def _sum(figures: list[Decimal]) -> Decimal:
    total = Decimal(0)
    for figure in figures:
        total = EXACT.add(total, figure)
    return total


def _items(count: int) -> str:
    return f"{count} item{'s' * (count != 1)}"


def _names(fields: Mapping[str, Any], clean: Callable[[str], str]) -> str:
    """The names of an object's fields: cleaned, cut and only so many, because an object may be keyed by secrets."""
    shown = [_spelled(_cut(clean(name))) for name in list(fields)[:_MOST_NAMES]]
    more = len(fields) - len(shown)
    if not shown:
        return "no fields"
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
