"""What can go wrong, each with its figures.

    BudgetGuardError
    ├── InsufficientCredits    too little is available for this call (402)
    ├── ConcurrencyLimit       too many sessions are open (429)
    ├── BalanceUnavailable     no usable balance can be had (503)
    │   └── InvalidCredentials the provider did not accept the key (401 or 403 there)
    ├── HoldClosed             a hold was ended twice
    └── ConfigurationError     the program asks for something that cannot be

Every error is picklable and copyable and carries `retryable` and `status_code`. Its `args` are JSON
values, an amount of credits as text, and made of them anew it is the same: `type(error)(*error.args)`.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal, Self, TypeAlias

from budgetguard.credits import spell

Basis = Literal["reported", "cost limit", "refused", "cap"]

Credits: TypeAlias = Decimal | str
"""An amount as errors take it: it is text where it comes from `args`."""

NEVER_REACHED = (
    "Of a call that never reached the provider nothing need be kept: name what it raises in "
    "release_on=, or call hold.release()."
)

_ZERO = Decimal(0)
_MOST_NAMES = 3


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
    spender's balance is known to show, `queued` is needed by callers who wait and came before. `age`
    is how many seconds ago the balance was asked for. `basis` says where `balance` comes from:
    `"reported"`, the room below a `"cost limit"`, zero because the provider itself `"refused"`, or
    `"cap"`: more than a cost limit allows for one call, which is `cap`; `available` is that or less.

    `kept` is the part of `pending` whose cost nobody knows: that of `unresolved` calls, which
    balances will have resolved in `unresolved_for` seconds. `causes` has the names of what they
    raised, and how many did; calls whose hold was dropped, or kept by hand, are not among them.

    `retryable` is True only where open calls, young debits or waiting callers make up the
    shortfall; `retry_after` then says how many seconds to wait at least.
    """

    status_code = 402

    def __init__(
        self,
        operation: str,
        needed: Credits,
        available: Credits,
        balance: Credits,
        held: Credits,
        pending: Credits,
        floor: Credits,
        age: float,
        provider: str,
        top_up_url: str | None = None,
        retry_after: float | None = None,
        running: int = 0,
        queued: Credits = _ZERO,
        extra: Credits = _ZERO,
        overlap: Credits = _ZERO,
        basis: Basis = "reported",
        cap: Credits | None = None,
        kept: Credits = _ZERO,
        unresolved: int = 0,
        causes: Mapping[str, int] | None = None,
        unresolved_for: float | None = None,
    ) -> None:
        super().__init__(
            operation,
            str(needed),
            str(available),
            str(balance),
            str(held),
            str(pending),
            str(floor),
            age,
            provider,
            top_up_url,
            retry_after,
            running,
            str(queued),
            str(extra),
            str(overlap),
            basis,
            None if cap is None else str(cap),
            str(kept),
            unresolved,
            dict(causes or {}),
            unresolved_for,
        )
        self.operation = operation
        self.needed = _exact(needed)
        self.available = _exact(available)
        self.balance = _exact(balance)
        self.held = _exact(held)
        self.pending = _exact(pending)
        self.floor = _exact(floor)
        self.age = age
        self.provider = provider
        self.top_up_url = top_up_url
        self.retry_after = retry_after
        self.running = running
        self.queued = _exact(queued)
        self.extra = _exact(extra)
        self.overlap = _exact(overlap)
        self.basis = basis
        self.cap = None if cap is None else _exact(cap)
        self.kept = _exact(kept)
        self.unresolved = unresolved
        self.causes = dict(causes or {})
        self.unresolved_for = unresolved_for
        self.retryable = retry_after is not None

    def __str__(self) -> str:
        needs = f"{self.operation} needs {_credits(self.needed)}"
        looked = f"(looked {ago(self.age)})"
        if self.basis == "cap":
            cap = spell(self.available if self.cap is None else self.cap)
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
        settled = self.pending - self.kept
        if settled:
            parts.append(f"{spell(settled)} {_are(settled)} counted for calls that just ended")
        if self.kept:
            because = _calls_raised(self.unresolved, self.causes)
            unresolved = _unresolved(self.unresolved_for, because)
            parts.append(f"{spell(self.kept)} {_are(self.kept)} {unresolved}")
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
        advice = []
        if self.retry_after is not None:
            advice.append(f"Try again in {in_seconds(self.retry_after)}.")
        if self.retry_after is None or self.balance + self.extra - self.floor < self.needed:
            advice.append(
                f"Top up: {self.top_up_url}" if self.top_up_url else "Top up the account."
            )
        elif self.kept:
            advice.append(NEVER_REACHED)
        return " ".join(advice)


class ConcurrencyLimit(BudgetGuardError):
    """More sessions would be open than the provider allows; nothing was started.

    `limit` and `in_use` count sessions; `in_use` includes the `unresolved` ones, of which nobody
    knows whether they have ended. They count no longer in `unresolved_for` seconds; `causes` has the
    names of what their calls raised, and for how many of them.
    """

    status_code = 429

    def __init__(
        self,
        operation: str,
        limit: int,
        in_use: int,
        provider: str,
        retry_after: float | None = None,
        needed: int = 1,
        unresolved: int = 0,
        causes: Mapping[str, int] | None = None,
        unresolved_for: float | None = None,
    ) -> None:
        self.operation = operation
        self.limit = limit
        self.in_use = in_use
        self.provider = provider
        self.retry_after = retry_after
        self.needed = needed
        self.unresolved = unresolved
        self.causes = dict(causes or {})
        self.unresolved_for = unresolved_for
        self.retryable = retry_after is not None
        super().__init__(
            operation,
            limit,
            in_use,
            provider,
            retry_after,
            needed,
            unresolved,
            dict(self.causes),
            unresolved_for,
        )

    def __str__(self) -> str:
        slots = f"{self.needed} slot{'s' * (self.needed != 1)}"
        are = "is" if self.in_use == 1 else "are"
        used = f"{self.provider} allows {self.limit} at once, and {self.in_use} {are} in use"
        if self.unresolved:
            names = " or ".join(name for name, _ in _foremost(self.causes))
            call = "a call" if self.unresolved == 1 else "calls"
            because = f"{call} raised {names}" if names else _not_known(self.unresolved)
            are = "is" if self.unresolved == 1 else "are"
            those = "" if self.unresolved == self.in_use else f"of which {self.unresolved} {are} "
            used += f", {those}{_unresolved(self.unresolved_for, because)}"
        return f"{self.operation} needs {slots}, and {used}. {self._advice()}"

    def _advice(self) -> str:
        if self.retry_after is None:
            return "This call can never fit: ask for fewer."
        if self.unresolved + self.needed <= self.limit:
            return "Try again when one has ended, or pass wait=."
        return f"Try again in {in_seconds(self.retry_after)}. {NEVER_REACHED}"


class BalanceUnavailable(BudgetGuardError):
    """No usable balance can be had, so nothing was promised and nothing was spent.

    `reason` says why; `retry_after` is how many seconds until the next look may be made.
    """

    retryable = True
    status_code = 503

    def __init__(self, provider: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(provider, reason, retry_after)
        self.provider = provider
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        again = "" if self.retry_after is None else f" Next look in {in_seconds(self.retry_after)}."
        return f"The balance at {self.provider} is not known: {self.reason}.{again}"


class InvalidCredentials(BalanceUnavailable):
    """The provider answered 401 or 403: the key is wrong, revoked or not allowed to ask."""

    retryable = False

    def __str__(self) -> str:
        return f"The balance at {self.provider} is not known: {self.reason}."


class HoldClosed(BudgetGuardError):
    """A hold that has ended already was ended, charged or extended again."""

    def __init__(self, operation: str, state: str, verb: str) -> None:
        super().__init__(operation, state, verb)
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


def _exact(amount: Credits) -> Decimal:
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def _credits(amount: Decimal) -> str:
    return f"{spell(amount)} credit{'s' * (amount != 1)}"


def _are(amount: Decimal) -> str:
    return "is" if amount == 1 else "are"


def ago(age: float) -> str:
    """How long ago a look was, in words."""
    return "just now" if age < 1 else f"{age:.0f} s ago"


def _unresolved(for_seconds: float | None, because: str) -> str:
    until = ""
    if for_seconds is not None:
        until = (
            f" for up to {in_seconds(for_seconds)}" if for_seconds else " until the next refresh"
        )
    return f"unresolved{until} because {because}"


def _calls_raised(count: int, causes: Mapping[str, int]) -> str:
    """What `count` calls raised; those whose hold was dropped, or kept by hand, raised nothing."""
    ends = [(number, f"raised {name}") for name, number in _foremost(causes)]
    if not ends:
        return _not_known(count)
    rest = count - sum(number for number, _ in ends)
    if rest > 0:
        ends.append((rest, "ended otherwise"))
    (first, did), *others = ends
    calls = "a call" if first == 1 else f"{first} calls"
    return " and ".join([f"{calls} {did}", *(f"{number} {did}" for number, did in others)])


def _not_known(count: int) -> str:
    return f"what {'a call' if count == 1 else 'calls'} came to is not known"


def _foremost(causes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(causes.items(), key=lambda cause: -cause[1])[:_MOST_NAMES]


def in_seconds(seconds: float) -> str:
    """A duration in words, not below a tenth of a second."""
    return f"{max(seconds, 0.1):.1f} s".replace(".0 s", " s")
