"""The errors that budgetguard raises, each with its figures.

    BudgetGuardError
    ├── InsufficientCredits    too few credits are available for this call (402)
    │   └── BudgetExceeded     too few are left in a budget around it (402)
    ├── ConcurrencyLimit       too many sessions are open (429)
    ├── BalanceUnavailable     no usable balance is available (503)
    │   └── InvalidCredentials the provider rejected the key (it answered 401 or 403)
    ├── ApprovalDenied         somebody was asked about the call, and said no (403)
    ├── Paused                 somebody paused the account (503)
    ├── HoldClosed             a hold was used after it had ended
    └── ConfigurationError     the program or its environment is configured wrongly

Every error is picklable and copyable, and carries `retryable` and `status_code`. Its `args` are JSON
values (amounts of credits are text), and `type(error)(*error.args)` is an equal error.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self, TypeAlias

from budgetguard._core.amounts import CREDITS, spell
from budgetguard._core.labels import NO_LABELS
from budgetguard._core.pause import PausedBy

Basis = Literal["reported", "cost limit", "refused", "cap", "key limit", "busy", "budget"]

Unapproved: TypeAlias = Literal["denied", "outdated", "unknown"]

WHY: dict[Unapproved, str] = {
    "denied": "the approval was denied",
    "outdated": "the approval that was given does not cover this call any more",
    "unknown": "no approval of this call is known",
}
"""Why a call counts as not approved, in words."""

Credits: TypeAlias = Decimal | str
"""An amount as errors take it. It is text where it comes from `args`."""

NEVER_REACHED = (
    "If the call never reached the provider, its credits need not be kept: list the exception in "
    "release_on=, or call hold.release()."
)

DIED = "ProcessDied"
"""The cause of calls whose process is gone without a word; nothing ever raises it."""

# These interrupt a call that has begun, so it most likely reached the provider.
_INTERRUPTS = {
    "KeyboardInterrupt",
    "SystemExit",
    "GeneratorExit",
    "CancelledError",
    "Cancelled",
    DIED,
}

# How an account was paused, and what ends that.
_PAUSED_BY: Mapping[PausedBy, tuple[str, str]] = {
    "guard": ("guard.pause()", "guard.resume() is called"),
    "command": ("`budgetguard pause` on this machine", "`budgetguard resume` is run"),
    "store": ("`budgetguard pause --store`", "`budgetguard resume --store` is run"),
}

_ZERO = Decimal(0)
_MOST_NAMES = 3
_PROCESS_DIED = "a process died"


class BudgetGuardError(Exception):
    """The base class of all budgetguard errors.

    `labels` are those that the code around a refused call set. They are not in `args`.
    """

    retryable: bool = False
    status_code: int = 500
    labels: Mapping[str, str] = NO_LABELS

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(kind: Any, args: tuple[Any, ...], figures: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    vars(error).update(figures)
    return error


class InsufficientCredits(BudgetGuardError):
    """Too few credits are available for the call. Nothing was spent.

    The figures are Decimal amounts in `unit`, and they add up: `balance + extra - held - pending + overlap - queued
    - floor` is `available`.

    - `held`: set aside by the `running` open calls.
    - `pending`: spent, or possibly spent, and perhaps not deducted from the balance yet.
    - `overlap`: the part of `held` and `pending` that the balance is known to show already (only
      with `sole_spender`).
    - `queued`: needed by earlier waiters.
    - `age`: how many seconds ago the balance was requested.
    - `basis`: where `balance` comes from. `"reported"`: the provider's figure. `"cost limit"`: what
      is left below the cost limit. `"refused"`: zero, because the provider itself refused a call.
      `"cap"`: the call needs more than a cost limit allows for one call; `cap` is that limit, and
      `available` is at most that. `"key limit"`: the provider refused a call because of a limit of
      the key's own. `"busy"`: it refused one for now, although the account has credits.
    - `kept`: the part of `pending` whose real cost is not known. It belongs to `unresolved` calls,
      and balances resolve it within `unresolved_for` seconds. `causes` counts those calls by the
      name of the exception they raised. Calls whose hold was dropped or kept by hand are not in it.
    - `renews_at`: when the account's allocation renews; None if that is not known.
    - `processes`: with a store, how many processes hold `held`; None without one. With a store all figures
      are those of all its processes.

    `retryable` is True only where open calls, recent debits or waiters make up the shortfall, or where
    the provider is busy; `retry_after` is then the least number of seconds to wait.
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
        unit: str = CREDITS,
        renews_at: datetime | str | None = None,
        processes: int | None = None,
    ) -> None:
        renews_at = _moment(renews_at)
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
            unit,
            None if renews_at is None else renews_at.isoformat(),
            processes,
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
        self.unit = unit
        self.renews_at = renews_at
        self.processes = processes
        self.retryable = retry_after is not None

    def __str__(self) -> str:
        needs = f"{self.operation} needs {amount_of(self.needed, self.unit)}"
        as_of = f"(as of {ago(self.age)})"
        if self.basis == "busy":
            busy = (
                f"{self.provider} is busy: it refused a call for now, not for lack of {self.unit}"
            )
            return f"{needs}, and {busy}. {self._advice()}"
        if self.basis == "key limit":
            limit = f"{self.provider} refused a call because of a limit of this key's own"
            renewal = "".join(f" {each}" for each in self._renewal())
            return f"{needs}, and {limit}. Raise that limit, or use another key.{renewal}"
        if self.basis == "cap":
            cap = self._spell(self.available if self.cap is None else self.cap)
            allows = f"the cost limit at {self.provider} allows {cap} for one call"
            return f"{needs}, and {allows} {as_of}. {self._remedy()}"
        have = (
            "none is"
            if self.available <= 0
            else f"{self._spell(self.available)} {self._are(self.available)}"
        )
        parts = ", ".join(self._parts())
        return f"{needs}, and {have} available: {parts} {as_of}. {self._advice()}"

    def _parts(self) -> list[str]:
        parts = [
            {
                "reported": f"{self.provider} reports {self._spell(self.balance)}",
                "cost limit": f"the cost limit at {self.provider} leaves {self._spell(self.balance)}",
                "refused": f"{self.provider} itself refused a call for lack of credits",
            }[self.basis]
        ]
        if self.extra:
            parts.append(f"extra_credits adds {self._spell(self.extra)}")
        if self.held:
            parts.append(
                f"{self._spell(self.held)} {self._are(self.held)} held by {self._holders()}"
            )
        settled = self.pending - self.kept
        if settled:
            parts.append(
                f"{self._spell(settled)} {self._are(settled)} counted for calls that just finished"
            )
        if self.kept:
            because = _calls_raised(self.unresolved, self.causes)
            unresolved = _unresolved(self.unresolved_for, because)
            parts.append(f"{self._spell(self.kept)} {self._are(self.kept)} {unresolved}")
        if self.overlap:
            parts.append(
                f"{self._spell(self.overlap)} of these {self._are(self.overlap)} already deducted in the balance"
            )
        if self.queued:
            parts.append(f"earlier waiters need {self._spell(self.queued)}")
        if self.floor:
            parts.append(f"the floor reserves {self._spell(self.floor)}")
        return parts

    def _holders(self) -> str:
        calls = f"{self.running} running call{'s' * (self.running != 1)}"
        if self.processes is None:
            return calls
        processes = _in_processes(self.processes)
        return f"{calls} of {processes}" if self.running else processes

    def _spell(self, amount: Decimal) -> str:
        # Credits are the unit that goes without saying.
        return spell(amount) if self.unit == CREDITS else amount_of(amount, self.unit)

    def _are(self, amount: Decimal) -> str:
        return "is" if amount == 1 or self.unit != CREDITS else "are"

    def _renewal(self) -> list[str]:
        renews = self.renews_at
        if renews is None:
            return []
        return [f"The allocation renews at {renews.astimezone(UTC):%Y-%m-%d %H:%M} UTC."]

    def _remedy(self) -> str:
        limited = self.basis in {"cap", "cost limit"}
        if self.top_up_url is None:
            return "Raise the cost limit." if limited else "Top up the account."
        return f"{'Raise the cost limit' if limited else 'Top up'}: {self.top_up_url}"

    def _advice(self) -> str:
        advice = []
        if self.retry_after is not None:
            advice.append(f"Try again in {in_seconds(self.retry_after)}.")
        lacks = self.basis != "busy" and self.balance + self.extra - self.floor < self.needed
        if self.retry_after is None or lacks:
            advice += [*self._renewal(), self._remedy()]
        elif may_never_have_begun(self.causes):
            advice.append(NEVER_REACHED)
        return " ".join(advice)


class BudgetExceeded(InsufficientCredits):
    """A budget around the call has too little left for it. Nothing was spent.

    The figures are Decimal amounts in `unit`, and they add up: `limit - spent - held` is `available`,
    which is what is left of the budget. What the account itself has is not in here.

    - `budget`: the budget's name; None for a block without one.
    - `limit`: what the budget allows in all, or in the current period.
    - `spent`: what its calls cost, or may have cost.
    - `held`: set aside by its open calls, and by budgets that were carved out of it.
    - `renews_at`: when more is left again; None for a budget without a period.

    `retryable` is True where open calls of the budget make up the shortfall. A budget that renews does
    so at `renews_at`, which is for the caller to wait for.
    `balance` and `pending` repeat `limit` and `spent`, `basis` is `"budget"`, and `top_up_url` is None.
    """

    def __init__(
        self,
        operation: str,
        needed: Credits,
        budget: str | None,
        limit: Credits,
        spent: Credits,
        held: Credits,
        provider: str,
        retry_after: float | None = None,
        renews_at: datetime | str | None = None,
        unit: str = CREDITS,
    ) -> None:
        limit, spent, held = _exact(limit), _exact(spent), _exact(held)
        super().__init__(
            operation,
            needed,
            limit - spent - held,
            limit,
            held,
            spent,
            _ZERO,
            0.0,
            provider,
            retry_after=retry_after,
            basis="budget",
            unit=unit,
            renews_at=renews_at,
        )
        self.budget = budget
        self.limit = limit
        self.spent = spent
        renewal = None if self.renews_at is None else self.renews_at.isoformat()
        self.args = (
            operation,
            str(self.needed),
            budget,
            str(limit),
            str(spent),
            str(held),
            provider,
            retry_after,
            renewal,
            unit,
        )

    def __str__(self) -> str:
        parts = []
        if self.spent:
            parts.append(f"{self._spell(self.spent)} {self._are(self.spent)} spent")
        if self.held:
            parts.append(
                f"{self._spell(self.held)} {self._are(self.held)} held by calls and blocks that still run"
            )
        because = f": {', '.join(parts)}" if parts else ""
        return f"{self.operation} needs {amount_of(self.needed, self.unit)}, and {self.left}{because}. {self._advice()}"

    @property
    def left(self) -> str:
        """What is left of the budget, in words."""
        name = "its budget" if self.budget is None else f"the budget {self.budget}"
        left = spell(max(self.available, _ZERO)) if self.available > 0 else "none"
        return f"{name} has {left} of {amount_of(self.limit, self.unit)} left"

    def _advice(self) -> str:
        if self.limit < self.needed:
            return "Raise the budget's limit, or make a call that needs less."
        if self.retry_after is None and self.renews_at is not None:
            return f"It renews at {self.renews_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
        if self.retry_after is None:
            return "Finish with what is left, or raise the budget's limit."
        return "Try again when one of them has ended."


class ConcurrencyLimit(BudgetGuardError):
    """More sessions would be open than the provider allows. Nothing was started.

    `limit` and `in_use` count sessions. `in_use` includes the `unresolved` ones: sessions that may
    or may not have ended. They no longer count after `unresolved_for` seconds. `causes` counts them
    by the name of the exception that their call raised. With a store, all figures are those of all its
    processes, and `processes` is how many of them have open sessions; None without one.
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
        processes: int | None = None,
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
        self.processes = processes
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
            processes,
        )

    def __str__(self) -> str:
        slots = f"{self.needed} slot{'s' * (self.needed != 1)}"
        are = "is" if self.in_use == 1 else "are"
        if self.in_use > self.limit or self.needed > self.limit:
            used = f"{self.provider} allows {self.limit}, and {self.in_use} {are} in use"
        else:
            used = f"{self.in_use} of the {self.limit} that {self.provider} allows {are} in use"
        if self.processes:
            used += f" by {_in_processes(self.processes)}"
        if self.unresolved:
            because = _sessions_raised(self.unresolved, self.causes)
            those = "" if self.unresolved == self.in_use else f"{self.unresolved} of them "
            used += f", {those}{_unresolved(self.unresolved_for, because)}"
        return f"{self.operation} needs {slots}, but {used}. {self._advice()}"

    def _advice(self) -> str:
        if self.retry_after is None:
            return "This call can never be admitted: request fewer slots."
        if self.unresolved + self.needed <= self.limit:
            return "Try again when a session has ended, or pass wait=."
        again = f"Try again in {in_seconds(self.retry_after)}."
        return f"{again} {NEVER_REACHED}" if may_never_have_begun(self.causes) else again


class BalanceUnavailable(BudgetGuardError):
    """No usable balance is available, so the call was not admitted and nothing was spent.

    `reason` says why. `retry_after` is the number of seconds until the guard may request the
    balance again.
    """

    retryable = True
    status_code = 503

    def __init__(self, provider: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(provider, reason, retry_after)
        self.provider = provider
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        wait = self.retry_after
        again = "" if wait is None else f" Next attempt in {in_seconds(wait)}."
        return f"The balance at {self.provider} is not known: {self.reason}.{again}"


class InvalidCredentials(BalanceUnavailable):
    """The provider answered 401 or 403: the key is wrong, revoked or may not read the balance."""

    retryable = False

    def __str__(self) -> str:
        return f"The balance at {self.provider} is not known: {self.reason}."


class ApprovalDenied(BudgetGuardError):
    """The call was not approved, so it was not admitted. Nothing was held and nothing was spent.

    - `needed`: what the call would have held, a Decimal amount in `unit`.
    - `provider`: the provider's name.
    - `reason`: `"denied"` if `approve` said no. Where a framework keeps approvals, `"outdated"` if
      one was given for less, for other arguments or too long ago, and `"unknown"` if none is known.
    """

    status_code = 403

    def __init__(
        self,
        operation: str,
        needed: Credits,
        provider: str,
        unit: str = CREDITS,
        reason: Unapproved = "denied",
    ) -> None:
        super().__init__(operation, str(needed), provider, unit, reason)
        self.operation = operation
        self.needed = _exact(needed)
        self.provider = provider
        self.unit = unit
        self.reason: Unapproved = reason

    def __str__(self) -> str:
        return (
            f"{self.operation} needs {amount_of(self.needed, self.unit)}, and {WHY[self.reason]}."
        )


class Paused(BudgetGuardError):
    """Somebody paused the account, so the call was not admitted and nothing was spent.

    `reason` is theirs. `by` is `"guard"` for `Guard.pause()` in this process, or in another one of its
    store, `"command"` for `budgetguard pause` on this machine, and `"store"` for `budgetguard pause --store`.
    How long the pause lasts is not known: `retry_after` is None.
    """

    retryable = True
    status_code = 503
    retry_after: float | None = None

    def __init__(self, provider: str, reason: str, by: PausedBy = "guard") -> None:
        super().__init__(provider, reason, by)
        self.provider = provider
        self.reason = reason
        self.by: PausedBy = by

    def __str__(self) -> str:
        how, until = _PAUSED_BY[self.by]
        return f"The account at {self.provider} is paused by {how}: {self.reason}. No call is admitted until {until}."


class HoldClosed(BudgetGuardError):
    """A method was called on a hold that had already ended: to end, charge or extend it."""

    def __init__(self, operation: str, state: str, verb: str) -> None:
        super().__init__(operation, state, verb)
        self.operation = operation
        self.state = state
        self.verb = verb

    def __str__(self) -> str:
        return f"The hold of {self.operation} is already {self.state}: {self.verb}() came too late."


class ConfigurationError(BudgetGuardError):
    """The program or its environment is configured wrongly. The message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


REFUSALS = (InsufficientCredits, ConcurrencyLimit, BalanceUnavailable, Paused, ApprovalDenied)
"""The errors that a refused admission raises."""


def _exact(amount: Credits) -> Decimal:
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def _moment(given: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(given) if isinstance(given, str) else given


def amount_of(amount: Decimal, unit: str) -> str:
    """An amount with its unit, as people write it: "1 credit", "12.5 credits", "0.5 USD"."""
    return f"{spell(amount)} {unit.removesuffix('s') if unit == CREDITS and amount == 1 else unit}"


def ago(age: float) -> str:
    """How long ago the balance was requested, in words."""
    return "just now" if age < 1 else f"{age:.0f} s ago"


def _in_processes(processes: int) -> str:
    return f"{processes} process{'es' * (processes != 1)}"


def _unresolved(for_seconds: float | None, because: str) -> str:
    until = ""
    if for_seconds is not None:
        until = (
            f" for up to {in_seconds(for_seconds)}" if for_seconds else " until the next refresh"
        )
    return f"unresolved{until} because {because}"


def may_never_have_begun(causes: Iterable[str]) -> bool:
    """Whether one of these exceptions, by type name, may come from a call that reached nobody."""
    return any(cause not in _INTERRUPTS for cause in causes)


def _calls_raised(count: int, causes: Mapping[str, int]) -> str:
    """What `count` calls raised. Calls whose hold was dropped, or kept by hand, raised nothing."""
    died = causes.get(DIED, 0)
    if died:
        count -= died
        raised = {name: number for name, number in causes.items() if name != DIED}
        return " and ".join([_PROCESS_DIED, *([_calls_raised(count, raised)] if count > 0 else [])])
    kinds = [(number, f"raised {name}") for name, number in _foremost(causes)]
    if not kinds:
        return _not_known(count)
    rest = count - sum(number for number, _ in kinds)
    if rest > 0:
        kinds.append((rest, "ended in another way"))
    (first, did), *others = kinds
    calls = "a call" if first == 1 else f"{first} calls"
    return " and ".join([f"{calls} {did}", *(f"{number} {did}" for number, did in others)])


def _sessions_raised(count: int, causes: Mapping[str, int]) -> str:
    """The same of sessions, without saying how many calls had them."""
    died = causes.get(DIED, 0)
    raised = {name: number for name, number in causes.items() if name != DIED}
    names = " or ".join(name for name, _ in _foremost(raised))
    call = "a call" if count - died == 1 else "calls"
    reasons = [_PROCESS_DIED] * bool(died)
    if names:
        reasons.append(f"{call} raised {names}")
    elif count > died:
        reasons.append(_not_known(count - died))
    return " and ".join(reasons)


def _not_known(count: int) -> str:
    return f"the outcome of {'a call' if count == 1 else 'calls'} is not known"


def _foremost(causes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(causes.items(), key=lambda cause: -cause[1])[:_MOST_NAMES]


def in_seconds(seconds: float) -> str:
    """A duration in words, not below a tenth of a second."""
    return f"{max(seconds, 0.1):.1f} s".replace(".0 s", " s")
