"""What can go wrong, each with its figures.

    BudgetGuardError
    ├── InsufficientCredits    too little is available for this call (402)
    ├── ConcurrencyLimit       too many sessions are open (429)
    ├── BalanceUnavailable     no usable balance can be had (503)
    │   └── InvalidCredentials the provider did not accept the key (401 or 403 there)
    ├── HoldClosed             a hold was ended twice
    └── ConfigurationError     the program asks for something that cannot be

Every error is picklable and copyable and carries `retryable` and `status_code`.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, Self

from budgetguard.credits import spell

Basis = Literal["reported", "cost limit", "refused", "cap"]

_ZERO = Decimal(0)


class BudgetGuardError(Exception):
    """The base of all errors of budgetguard."""

    retryable: bool = False
    status_code: int = 500

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(kind: Any, args: tuple[Any, ...], figures: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    vars(error).update(figures)
    return error


class InsufficientCredits(BudgetGuardError):
    """Too few credits are available; nothing was spent.

    The figures are Decimal credits and add up: `balance + extra - held - pending + overlap - queued
    - floor` is `available`. `held` is set aside by `running` open calls, `pending` was spent or may
    have been, and may not show in the balance yet, `overlap` is the part of both that a sole
    spender's balance is known to show, `queued` is needed by callers who wait and came before. `age` is how many seconds ago the balance was asked for. `basis` says where `balance`
    comes from: `"reported"`, the room below a `"cost limit"`, zero because the provider itself
    `"refused"`, or `"cap"`: more than a cost limit allows for one call, which is then `available`.

    `retryable` is True only where open calls, young debits or waiting callers make up the
    shortfall; `retry_after` then says how many seconds to wait at least.
    """

    status_code = 402

    def __init__(
        self,
        *,
        operation: str,
        needed: Decimal,
        available: Decimal,
        balance: Decimal,
        held: Decimal,
        pending: Decimal,
        floor: Decimal,
        age: float,
        provider: str,
        top_up_url: str | None = None,
        retry_after: float | None = None,
        running: int = 0,
        queued: Decimal = _ZERO,
        extra: Decimal = _ZERO,
        overlap: Decimal = _ZERO,
        basis: Basis = "reported",
    ) -> None:
        super().__init__()
        self.operation = operation
        self.needed = needed
        self.available = available
        self.balance = balance
        self.held = held
        self.pending = pending
        self.floor = floor
        self.age = age
        self.provider = provider
        self.top_up_url = top_up_url
        self.retry_after = retry_after
        self.running = running
        self.queued = queued
        self.extra = extra
        self.overlap = overlap
        self.basis = basis
        self.retryable = retry_after is not None

    def __str__(self) -> str:
        needs = f"{self.operation} needs {_credits(self.needed)}"
        looked = f"(looked {ago(self.age)})"
        if self.basis == "cap":
            cap = spell(self.available)
            return f"{needs}, and the cost limit at {self.provider} allows {cap} for one call {looked}."
        have = (
            "none is" if self.available <= 0 else f"{spell(self.available)} {_are(self.available)}"
        )
        parts = ", ".join(self._parts())
        return f"{needs}, and {have} available: {parts} {looked}. {self._advice()}"

    def _parts(self) -> list[str]:
        parts = [
            {
                "reported": f"{self.provider} reports {spell(self.balance)}",
                "cost limit": f"the cost limit at {self.provider} leaves {spell(self.balance)}",
                "refused": f"{self.provider} itself refused a call for want of credits",
            }[self.basis]
        ]
        if self.extra:
            parts.append(f"extra_credits adds {spell(self.extra)}")
        if self.held:
            calls = f"{self.running} running call{'s' * (self.running != 1)}"
            parts.append(f"{spell(self.held)} {_are(self.held)} held by {calls}")
        if self.pending:
            parts.append(
                f"{spell(self.pending)} {_are(self.pending)} counted for calls that just ended"
            )
        if self.overlap:
            parts.append(
                f"{spell(self.overlap)} of these {_are(self.overlap)} in the balance already"
            )
        if self.queued:
            parts.append(f"callers who wait need {spell(self.queued)}")
        if self.floor:
            parts.append(f"the floor keeps {spell(self.floor)}")
        return parts

    def _advice(self) -> str:
        top_up = f"Top up: {self.top_up_url}" if self.top_up_url else "Top up the account."
        if self.retry_after is None:
            return top_up
        return f"Try again in {_seconds(self.retry_after)}. {top_up}"


class ConcurrencyLimit(BudgetGuardError):
    """More sessions would be open than the provider allows; nothing was started.

    `limit` and `in_use` count sessions; `in_use` includes those whose end is not sure yet.
    """

    status_code = 429

    def __init__(
        self,
        *,
        operation: str,
        limit: int,
        in_use: int,
        provider: str,
        retry_after: float | None = None,
        needed: int = 1,
    ) -> None:
        super().__init__()
        self.operation = operation
        self.limit = limit
        self.in_use = in_use
        self.provider = provider
        self.retry_after = retry_after
        self.needed = needed
        self.retryable = retry_after is not None

    def __str__(self) -> str:
        slots = f"{self.needed} slot{'s' * (self.needed != 1)}"
        are = "is" if self.in_use == 1 else "are"
        used = f"{self.provider} allows {self.limit} at once, and {self.in_use} {are} in use"
        if self.retry_after is None:
            return f"{self.operation} needs {slots}, and {used}. This call can never fit: ask for fewer."
        return f"{self.operation} needs {slots}, and {used}. Try again when one has ended, or pass wait=."


class BalanceUnavailable(BudgetGuardError):
    """No usable balance can be had, so nothing was promised and nothing was spent.

    `reason` says why; `retry_after` is how many seconds until the next look may be made.
    """

    retryable = True
    status_code = 503

    def __init__(self, *, provider: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__()
        self.provider = provider
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        again = "" if self.retry_after is None else f" Next look in {_seconds(self.retry_after)}."
        return f"The balance at {self.provider} is not known: {self.reason}.{again}"


class InvalidCredentials(BalanceUnavailable):
    """The provider answered 401 or 403: the key is wrong, revoked or not allowed to ask."""

    retryable = False

    def __str__(self) -> str:
        return f"The balance at {self.provider} is not known: {self.reason}."


class HoldClosed(BudgetGuardError):
    """A hold that has ended already was ended, charged or extended again."""

    def __init__(self, *, operation: str, state: str, verb: str) -> None:
        super().__init__()
        self.operation = operation
        self.state = state
        self.verb = verb

    def __str__(self) -> str:
        return f"The hold of {self.operation} is {self.state} already: {self.verb}() came too late."


class ConfigurationError(BudgetGuardError):
    """The program, or its environment, asks for something that cannot be; the message says what."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def _credits(amount: Decimal) -> str:
    return f"{spell(amount)} credit{'s' * (amount != 1)}"


def _are(amount: Decimal) -> str:
    return "is" if amount == 1 else "are"


def ago(age: float) -> str:
    """How long ago a look was, in words."""
    return "just now" if age < 1 else f"{age:.0f} s ago"


def _seconds(seconds: float) -> str:
    return f"{max(seconds, 0.1):.1f} s".replace(".0 s", " s")
