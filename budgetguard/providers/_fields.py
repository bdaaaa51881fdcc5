"""Typed fields of a reply; an invalid field raises a BalanceUnavailable that names it."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from budgetguard._core.amounts import exact
from budgetguard._core.errors import BalanceUnavailable

_MISSING = object()
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


class Fields:
    """A provider's reply, read field by field; every method raises BalanceUnavailable.

    With `optional`, a missing field is None; with `nullable`, so is a field that is null. A null anywhere
    else is refused, because it must not be taken for "unlimited".
    """

    def __init__(self, reply: Mapping[str, object], *, provider: str) -> None:
        self._reply = reply
        self._provider = provider

    @property
    def said(self) -> str:
        """The provider's own message in the reply; "" if there is none."""
        # Deferred, because it imports an HTTP client.
        from budgetguard._io.http import said

        return said(dict(self._reply))

    def nonsense(self, reason: str) -> BalanceUnavailable:
        """The error for a reply with this fault."""
        return BalanceUnavailable(provider=self._provider, reason=reason)

    def has(self, name: str) -> bool:
        """Whether there is a field `name`, be it null."""
        return name in self._reply

    def inner(self, name: str) -> "Fields":
        """The object in the field `name`."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self._mistyped(name, value, "an object")
        return Fields(value, provider=self._provider)

    def optional_inner(self, name: str) -> "Fields | None":
        """The object in the field `name`, which may be missing or null, because no decision depends on it."""
        if self._value(name, optional=True, nullable=True) is None:
            return None
        return self.inner(name)

    def flag(self, name: str) -> bool:
        """The bool in the field `name`."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self._mistyped(name, value, "true or false")
        return value

    def text(self, name: str) -> str | None:
        """The text in the field `name`, which may be missing or null, because no decision depends on it."""
        value = self._value(name, optional=True, nullable=True)
        if value is not None and not isinstance(value, str):
            raise self._mistyped(name, value, "text")
        return value

    def credits(self, name: str) -> Decimal:
        """The credits in the field `name`, which may be negative."""
        return self._number(name, self._value(name))

    def signed_credits(self, name: str) -> Decimal | None:
        """The credits in the field `name`, which may be negative; None for null, of a vendor that says what it means."""
        value = self._value(name, nullable=True)
        return None if value is None else self._number(name, value)

    def decimal_text(self, name: str) -> Decimal:
        """The credits in the field `name`, written as text, which may be negative."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self._mistyped(name, value, "a number as text")
        # Not what Decimal accepts besides: exponents, NaN, underscores, white space, other scripts' digits.
        if not _DECIMAL.fullmatch(value):
            msg = f"{name} in the provider's reply is text, and not a number"
            raise self.nonsense(msg)
        return self._number(name, Decimal(value))

    def objects(self, name: str) -> "list[Fields]":
        """The objects in the list in the field `name`."""
        value = self._value(name)
        if not isinstance(value, list):
            raise self._mistyped(name, value, "a list")
        for each in value:
            if not isinstance(each, dict):
                entry = f"an entry of {name}"
                raise self._mistyped(entry, each, "an object")
        return [Fields(each, provider=self._provider) for each in value]

    def optional_credits(self, name: str, *, nullable: bool = False) -> Decimal | None:
        """The credits in the field `name`, which may be missing but not negative."""
        value = self._value(name, optional=True, nullable=nullable)
        return None if value is None else self._not_negative(name, value)

    def used(self, name: str) -> Decimal:
        """The credits in the field `name`, which must not be negative, such as those already used."""
        return self._not_negative(name, self._value(name))

    def limit(self, name: str, *, unlimited: str | None) -> Decimal | None:
        """The limit in the field `name`, which must not be negative; None if there is no limit.

        `unlimited` is what the vendor documents as "no limit", a text or null.
        """
        value = self._value(name, nullable=unlimited is None)
        return None if value == unlimited else self._not_negative(name, value)

    def moment(self, name: str) -> datetime | None:
        """The time in the field `name`, in seconds since the epoch; it may be missing or null."""
        value = self._value(name, optional=True, nullable=True)
        if value is None:
            return None
        try:
            return datetime.fromtimestamp(float(self._not_negative(name, value)), UTC)
        except (OverflowError, ValueError, OSError):
            problem = self.nonsense(f"{name} in the provider's reply is beyond the year 9999")
        raise problem

    def sessions(self, name: str) -> int | None:
        """The limit in the field `name`, which may be missing; -1 means no limit."""
        value = self._value(name, optional=True)
        limit = None if value is None else self._number(name, value)
        if limit is None or limit == -1:
            return None
        return self.count(name)

    def count(self, name: str) -> int:
        """The number of sessions in the field `name`, which has to be there."""
        number = self._number(name, self._value(name))
        if number < 0 or number.as_integer_ratio()[1] != 1:
            msg = f"{name} in the provider's reply is not a whole number of sessions"
            raise self.nonsense(msg)
        return int(number)

    def _not_negative(self, name: str, value: object) -> Decimal:
        number = self._number(name, value)
        if number < 0:
            msg = f"{name} in the provider's reply is negative"
            raise self.nonsense(msg)
        return number

    def _number(self, name: str, value: object) -> Decimal:
        if not isinstance(value, Decimal):
            raise self._mistyped(name, value, "a number")
        try:
            return exact(value, name)
        except ValueError:
            problem = self.nonsense(f"{name} in the provider's reply is beyond 10^12")
        raise problem

    def _value(self, name: str, *, optional: bool = False, nullable: bool = False) -> object:
        value = self._reply.get(name, _MISSING)
        if value is _MISSING:
            if optional:
                return None
            msg = f"{name} is missing from the provider's reply"
            raise self.nonsense(msg)
        if value is None and not nullable:
            msg = f"{name} in the provider's reply is null"
            raise self.nonsense(msg)
        return value

    def _mistyped(self, name: str, value: object, wanted: str) -> BalanceUnavailable:
        return self.nonsense(f"{name} in the provider's reply is {kind_of(value)}, not {wanted}")


def kind_of(value: object) -> str:
    """What a JSON value is, in words that do not show it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "text", Decimal: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")
