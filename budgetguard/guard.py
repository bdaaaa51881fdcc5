"""Guard: an account's balance, and what may be promised of it."""

from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from budgetguard import nested, process
from budgetguard.asker import Asker
from budgetguard.balance import Balance
from budgetguard.credits import Amount, cost, to_credits
from budgetguard.discreet import discreet
from budgetguard.durations import seconds
from budgetguard.errors import ConfigurationError
from budgetguard.events import OnEvent, logger
from budgetguard.hold import Hold
from budgetguard.plain import check_plain
from budgetguard.policy import Terms
from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.requirement import Requirement
from budgetguard.switch import SWITCH
from budgetguard.waiting import Reading
from budgetguard.wrong import other

if TYPE_CHECKING:
    from budgetguard.account import Account
    from budgetguard.loop import Runtime

# Floats of their own, told from a user's 300, 600 and 60 by identity: what was said counts.
FRESH_FOR = float(300)
STALE_FOR = float(600)
HOLD_FOR = float(60)
PLAIN_LAG = 5.0
PLAIN_LINGER = 0.0


class Guard:
    """Refuses calls that an account's credits will not pay for, before anything is spent.

    `provider` is PreDev, AnchorBrowser, any object with `name` and `async fetch(client)`, or a
    callable, sync or async, that returns a number or a Balance. All durations are seconds, at most
    366 days, all amounts credits:

    - `fresh_for`: a balance younger than this is used as it is; pre.dev advises to ask every 5 to
      10 minutes (its page on the credits balance, 2026-11).
    - `stale_for`: up to this age a balance is still used while one refresh runs behind; past it,
      callers wait for a refresh. Where only a larger `fresh_for` is given, it is that; one that is
      given and less than `fresh_for`, also than its default, is a ValueError.
    - `hold_for`: in shared stores, how long the hold of a process that died stays open; of no effect
      without one, which the log tells of.
    - `lag`, `linger`: how long after its work ends the provider may still book it, and how long it
      may work on after a client gave up; None takes the provider's own, 5 and 0 for a callable.
    - `sole_spender`: True says that nobody but guards in this process spends from the account. What
      calls were charged while they run is then not counted twice, see docs/correctness.md. One
      guard that says so says it for all guards of the account; a forked child has to say it anew.
    - `floor`: credits that are never promised to anyone.
    - `recheck_after`: at least this long between two looks that were not due to age alone.
    - `timeout`: the total deadline of one look.
    - `if_unknown`: `"deny"` raises BalanceUnavailable while no usable balance can be had,
      `"allow"` lets calls through and holds their cost.
    - `mode`: `"observe"` decides and books the same, but never refuses and never waits.
    - `alert_below`: tell of a `low` event once when less than this is available; again only after a
      balance above it that is higher than the one before. Without `on_event` it is a line in the log,
      at WARNING.
    - `store`: None keeps holds in this process's memory; there is no other store yet.
    - `on_event`: is called with an Event outside every lock; what it raises is logged.

    Guards of one account (same provider, base URL and key) in one process share its credits.
    Constructing one starts nothing; the first call that needs a balance does. Raises TypeError,
    ValueError or ConfigurationError for arguments that cannot be.
    """

    @discreet
    def __init__(
        self,
        provider: Any,
        *,
        fresh_for: float = FRESH_FOR,
        stale_for: float = STALE_FOR,
        hold_for: float = HOLD_FOR,
        lag: float | None = None,
        linger: float | None = None,
        sole_spender: bool = False,
        floor: Amount = 0,
        recheck_after: float = 5,
        timeout: float = 10,
        if_unknown: Literal["deny", "allow"] = "deny",
        mode: Literal["enforce", "observe"] = "enforce",
        alert_below: Amount | None = None,
        store: None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        SWITCH.read_environment()
        _check_provider(provider)
        if store is not None:
            msg = "store takes None: holds are kept in this process's memory, there is no other store."
            raise ConfigurationError(msg)
        if not isinstance(sole_spender, bool):
            msg = f"sole_spender takes True or False, not {type(sole_spender).__name__}"
            raise TypeError(msg)
        self.lag = _default(lag, provider, "lag", PLAIN_LAG)
        self.linger = _default(linger, provider, "linger", PLAIN_LINGER)
        self.hold_for = seconds(hold_for, "hold_for", positive=True)
        fresh, stale = _ages(fresh_for, stale_for)
        terms = Terms(
            fresh_for=fresh,
            stale_for=stale,
            recheck_after=seconds(recheck_after, "recheck_after"),
            timeout=seconds(timeout, "timeout", positive=True),
            floor=cost(floor, "floor"),
            extra=cost(getattr(provider, "extra_credits", 0), "extra_credits"),
            allow_unknown=_choice(if_unknown, "if_unknown", ("deny", "allow")) == "allow",
        )
        if on_event is not None and not callable(on_event):
            msg = f"on_event takes a callable, not {type(on_event).__name__}"
            raise TypeError(msg)
        if on_event is not None:
            check_plain(on_event, "on_event")
        name = str(getattr(provider, "name", None) or "the provider")
        self.asker = Asker(
            terms,
            name,
            sole_spender=sole_spender,
            observe=_choice(mode, "mode", ("enforce", "observe")) == "observe",
            alert_below=None if alert_below is None else cost(alert_below, "alert_below"),
            on_event=on_event,
            top_up_url=getattr(provider, "top_up_url", None),
        )
        self.provider = provider
        self.account: Account = process.join(provider, self.asker)
        self.closed = False
        self._said: set[str] = set()
        if hold_for is not HOLD_FOR:
            logger.warning("hold_for has no effect: it is for shared stores, and there is none")

    @discreet
    def require_credits(
        self,
        min: Amount | Callable[..., Amount] | None = None,
        *,
        cost: Amount | Callable[..., Amount] | None = None,
        actual: Callable[[Any], Amount] | None = None,
        slots: int = 0,
        wait: float = 0,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        name: str | None = None,
        until: Literal["close"] | None = None,
    ) -> Requirement:
        """A decorator and a context manager that admits a call only if its credits are there.

        See `budgetguard.require_credits` for the arguments.
        """
        return Requirement(
            self,
            min=min,
            cost=cost,
            actual=actual,
            slots=slots,
            wait=wait,
            lag=lag,
            linger=linger,
            release_on=release_on,
            name=name,
            until=until,
        )

    @discreet
    def acquire(
        self,
        min: Amount | None = None,
        *,
        cost: Amount | None = None,
        slots: int = 0,
        wait: float = 0,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        name: str = "acquire()",
    ) -> Hold:
        """Admit a piece of work whose begin and end are not in one block, and return its hold.

        Arguments and errors are those of `require_credits`. The hold ends when it is told to; one
        that is dropped while open is kept.
        """
        requirement = self._requirement(min, cost, slots, wait, lag, linger, release_on, name)
        hold = requirement.open(warns=True)
        nested.step_out(hold)
        return hold

    @discreet
    async def aacquire(
        self,
        min: Amount | None = None,
        *,
        cost: Amount | None = None,
        slots: int = 0,
        wait: float = 0,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        name: str = "aacquire()",
    ) -> Hold:
        """`acquire`, for code that awaits: waits without blocking the event loop."""
        requirement = self._requirement(min, cost, slots, wait, lag, linger, release_on, name)
        hold = await requirement.aopen()
        nested.step_out(hold)
        return hold

    @discreet
    def balance(self, max_age: float | None = None) -> Balance:
        """The balance, asked for first if the one at hand is older than `max_age` seconds.

        `max_age` defaults to `fresh_for`; 0 never joins a look that was sent before this call.
        Waits at most `timeout`. Raises BalanceUnavailable when no such balance can be had.
        """
        reading = self._read(max_age)
        reading.wait(self.account)
        return _balance(reading)

    @discreet
    async def abalance(self, max_age: float | None = None) -> Balance:
        """`balance`, for code that awaits: waits without blocking the event loop."""
        reading = self._read(max_age)
        await reading.wait_async(self.account)
        return _balance(reading)

    @property
    def available(self) -> Decimal | None:
        """Credits that could be promised now; None while unknown, Infinity without a bound.

        Does no I/O and never waits for a look. Below zero when more is promised than there is.
        """
        micro = self.account.peek(self.asker)
        return None if micro is None else to_credits(micro)

    def mark_exhausted(self) -> None:
        """Tell the guard that the provider itself just refused a call for want of credits.

        Counts as a balance of zero, sent now, and starts a look. It ends with a higher balance than
        the one at hand, or with one that was asked for `lag` seconds later.
        """
        if not SWITCH.passive:
            self.account.refuse(self.asker, self.lag)

    def close(self) -> None:
        """Admit nobody any more; optional. Holds that are open end as they would have.

        Who waits for this guard already, to be let in or for a balance, gets the RuntimeError at once
        that comes after: no credits are held for it.
        """
        self.closed = True
        SWITCH.turn()
        self.account.dismiss(self.asker)

    async def aclose(self) -> None:
        """`close`, for code that awaits; it does not wait either."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        # What is copied with a guard in it spends from the same account.
        return self

    def __reduce_ex__(self, _: Any) -> NoReturn:
        msg = (
            f"The guard of {self.asker.provider} cannot be pickled: its lock, its balance and its holds "
            "are this process's, and its key is not written anywhere. Have the other process make its "
            "own: with budgetguard.require_credits(...), which finds a default guard where it is called, "
            "or with guard=, a function that returns one. A guarded function that is imported there "
            "need not be sent either."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<Guard of {self.asker.provider}{', closed' if self.closed else ''}>"

    @property
    def runtime(self) -> "Runtime":
        """The private loop and clock that this guard goes by."""
        return self.account.runtime

    def check_open(self, operation: str) -> None:
        """Raise RuntimeError if this guard was closed."""
        if self.closed:
            msg = f"{operation} came after the guard of {self.asker.provider} was closed."
            raise RuntimeError(msg)

    def say_once(self, what: str, level: int, message: str, *args: object) -> None:
        """Log of this guard what need be said once; `what` tells it from other such things."""
        if what not in self._said:
            self._said.add(what)
            logger.log(level, message, *args)

    def _requirement(
        self,
        min_: Amount | None,
        cost_: Amount | None,
        slots: int,
        wait: float,
        lag: float | None,
        linger: float | None,
        release_on: tuple[type[BaseException], ...] | type[BaseException],
        name: str,
    ) -> Requirement:
        return Requirement(
            self,
            min=min_,
            cost=cost_,
            slots=slots,
            wait=wait,
            lag=lag,
            linger=linger,
            release_on=release_on,
            name=name,
        )

    def _read(self, max_age: float | None) -> Reading:
        self.check_open("balance()")
        age = self.asker.terms.fresh_for if max_age is None else seconds(max_age, "max_age")
        return self.account.read(self.asker, age)


def check_guard(guard: object, provider: type | None = None) -> None:
    """Raise TypeError for what is no Guard, and for one of another of our providers than named."""
    if not isinstance(guard, Guard):
        made = f": Guard({type(guard).__name__}(...)) makes one" if hasattr(guard, "fetch") else ""
        msg = f"guard takes a Guard, not {type(guard).__name__}{made}"
        raise TypeError(msg)
    theirs = guard.provider
    if provider and isinstance(theirs, PreDev | AnchorBrowser) and not isinstance(theirs, provider):
        msg = (
            f"This guard is of {theirs.name}'s account, which does not pay for these calls: "
            f"pass Guard({provider.__name__}(...))"
        )
        raise TypeError(msg)


def _balance(reading: Reading) -> Balance:
    reading.check()
    assert reading.balance is not None
    return reading.balance


def _check_provider(provider: Any) -> None:
    if isinstance(provider, type) or not (
        callable(getattr(provider, "fetch", None)) or callable(provider)
    ):
        msg = (
            "Guard takes a provider: PreDev(), AnchorBrowser(), an object with `name` and "
            f"`async fetch(client)`, or a callable that returns the balance; not {_kind(provider)}. "
            "A key belongs into the provider: Guard(PreDev(key))."
        )
        raise TypeError(msg)


def _kind(provider: Any) -> str:
    if isinstance(provider, type):
        return f"the class {provider.__name__}"
    return type(provider).__name__


def _ages(fresh_for: float, stale_for: float) -> tuple[float, float]:
    fresh, stale = seconds(fresh_for, "fresh_for"), seconds(stale_for, "stale_for")
    if stale >= fresh:
        return fresh, stale
    if stale_for is STALE_FOR:
        return fresh, fresh
    default = ", its default" if fresh_for is FRESH_FOR else ""
    msg = (
        f"stale_for ({stale:g}) must not be less than fresh_for ({fresh:g}{default}): a balance of "
        "that age would be both good and too old. Lower fresh_for too, or raise stale_for."
    )
    raise ValueError(msg)


def _default(value: float | None, provider: Any, what: str, otherwise: float) -> float:
    return seconds(getattr(provider, what, otherwise) if value is None else value, what)


def _choice(value: str, what: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        msg = f"{what} must be {' or '.join(map(repr, choices))}, not {other(value)}"
        raise ValueError(msg)
    return value
