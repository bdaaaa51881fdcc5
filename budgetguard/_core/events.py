"""The events that a guard reports, for logs, metrics and alarms."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from budgetguard._core.amounts import to_credits
from budgetguard._core.clock import Instant
from budgetguard._core.labels import NO_LABELS, Labels

Kind: TypeAlias = Literal[
    "admitted",
    "refused",
    "settled",
    "kept",
    "released",
    "overrun",
    "refreshed",
    "refresh_failed",
    "exhausted",
    "busy",
    "paused",
    "resumed",
    "allowed_unknown",
    "low",
    "store_lost",
    "store_back",
    "regrouped",
    "lease_lost",
]

logger = logging.getLogger("budgetguard")


_Fields: TypeAlias = tuple[
    Kind,
    str,  # provider
    str | None,  # operation
    bool,  # enforced
    str | None,  # reason
    int | Decimal | None,  # micro-credits, or a balance
    float | None,  # available micro-credits
    float,  # monotonic seconds
    float,  # seconds since the epoch
    Instant | None,  # when the balance was requested
    int | None,  # the hold's number
    int | None,  # micro-credits that it held
    float,  # when it was opened, in monotonic seconds
    Labels | None,
    str | None,  # budget
    str | None,  # cause
]


class Event(_Fields):
    """One thing that happened. Guards make events, your code never does; an event is immutable.

    Figures are computed when they are read, so a listener that only counts calls pays for no
    Decimal.
    """

    # A plain tuple, because two events are made for each call with a listener, and nothing else is as
    # fast to make. The order of its items is private.
    __slots__ = ()

    @property
    def kind(self) -> Kind:
        """What happened."""
        return self[0]

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self[1]

    @property
    def operation(self) -> str | None:
        """The operation's name; None where the event is about the account."""
        return self[2]

    @property
    def credits(self) -> Decimal | None:
        """The credits held, settled, refused, released or overrun, or else the account's balance."""
        amount = self[5]
        return to_credits(amount) if isinstance(amount, int) else amount

    @property
    def available(self) -> Decimal | None:
        """Credits that were available right after the event; None while unknown."""
        available = self[6]
        return None if available is None else to_credits(available)

    @property
    def age(self) -> float | None:
        """The balance's age in seconds; None without a balance."""
        sent = self[9]
        return None if sent is None else Instant(self[7], self[8]).since(sent)

    @property
    def enforced(self) -> bool:
        """False where observe mode admitted a call that would have been refused."""
        return self[3]

    @property
    def reason(self) -> str | None:
        """Why a refresh failed, why `sole_spender` is contradicted, or which limit or mark was reached.

        For a kept hold it is the name of the exception that the call raised, None if not known.
        """
        return self[4]

    @property
    def at(self) -> datetime:
        """When it happened: UTC, by the machine's clock."""
        return datetime.fromtimestamp(self[8], UTC)

    @property
    def hold_id(self) -> str | None:
        """The `id` of the hold that the event is about; None without a hold."""
        number = self[10]
        return None if number is None else spell_id(number)

    @property
    def held(self) -> Decimal | None:
        """Credits that the hold had set aside, extensions included; None without a hold."""
        held = self[11]
        return None if held is None else to_credits(held)

    @property
    def duration(self) -> float | None:
        """Seconds since the hold was opened; None without a hold."""
        return None if self[10] is None else max(self[7] - self[12], 0.0)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that the code around the call set; empty without any."""
        return self[13] or NO_LABELS

    @property
    def budget(self) -> str | None:
        """The name of the innermost budget that the call belongs to; None outside every budget."""
        return self[14]

    @property
    def cause(self) -> str | None:
        """Why a call was refused, in one word; the exception's name for `kept`; None for other kinds.

        For `refused` it is one of

        - `"credits"`, `"slots"`: too few are available.
        - `"cap"`, `"key limit"`, `"budget"`: a cost limit for one call, the key's own limit, or a
          budget does not allow it.
        - `"busy"`: the provider refused another call for now.
        - `"unknown"`: there is no usable balance.
        - `"paused"`, `"approval"`: the guard was paused, or the call was not approved.
        """
        return self[15]

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in _NAMES)
        shown = (f"{name}={value!r}" for name, value in values if value not in (None, NO_LABELS))
        return f"Event({', '.join(shown)})"


_NAMES = tuple(name for name, member in vars(Event).items() if isinstance(member, property))


def spell_id(number: int) -> str:
    """A hold's number as its `id` shows it: 32 hexadecimal digits."""
    return f"{number:032x}"


OnEvent: TypeAlias = Callable[[Event], object]


def report(message: str, *args: Any, exc_info: bool = False) -> None:
    """Log an error that has no caller to be raised to, such as one in a user's callback."""
    # Log handlers are the user's code as well: if one raises, the error can go nowhere else.
    with contextlib.suppress(BaseException):
        logger.error(message, *args, exc_info=exc_info)
