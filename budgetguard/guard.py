"""Guard: admits calls against an account's balance."""

from collections.abc import Callable, Hashable, Sequence
from datetime import tzinfo
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.alert_marks import AlertBelow
from budgetguard._core.alert_marks import parse as parse_marks
from budgetguard._core.amounts import CREDITS, Amount, cost, to_credits, to_micro
from budgetguard._core.approval import Approve
from budgetguard._core.argument_types import other
from budgetguard._core.balance import Balance
from budgetguard._core.budget_windows import period
from budgetguard._core.clean_tracebacks import WRONG, clean_traceback, clear
from budgetguard._core.durations import seconds
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.estimate import Estimate
from budgetguard._core.events import OnEvent, logger
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._core.on_refusal import OnRefusal
from budgetguard._core.pause import NO_REASON, checked_reason
from budgetguard._core.policy import GuardTerms
from budgetguard._core.provider_refusal import EXHAUSTED, ProviderRefusal
from budgetguard._engine import account_registry
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import GuardBinding
from budgetguard._engine.call_spec import NO_SLOTS, NO_WAIT, NOTHING, CallSpec, checked_name
from budgetguard._engine.estimates import estimate
from budgetguard._engine.hold import Hold
from budgetguard._engine.label_blocks import LabelBlock, checked_labels
from budgetguard._engine.listener import checked_listeners
from budgetguard._engine.subscriber import Subscriber
from budgetguard._engine.waiters import BalanceWaiter
from budgetguard.budget import Budget, budget_terms
from budgetguard.providers.base import Fetches, Profile
from budgetguard.providers.registry import is_of_another
from budgetguard.requirement import Requirement, checked_spec, plain_specs

if TYPE_CHECKING:
    from budgetguard._core.budget_key import Key
    from budgetguard.stores.base import Store

# Separate float objects, so that a default can be told by identity from the same value passed in.
FRESH_FOR = float(300)
STALE_FOR = float(600)
HOLD_FOR = float(60)


# How many round trips to the store must fit into a lease.
LEAST_TIMEOUTS = 3


class Guard:
    """Refuses calls that an account's credits cannot pay for, before anything is spent.

    `provider` is one of `budgetguard.providers`, any object with `name` and `async fetch(client)`, or
    a callable, sync or async, that returns a number or a Balance. All durations are seconds, at most
    366 days. All amounts are in the account's unit, which is credits unless its provider says otherwise.

    - `fresh_for`: a balance younger than this is used without a refresh.
    - `stale_for`: up to this age a balance is still used, and one refresh runs in the background.
      Past it, callers wait for a refresh. If you pass only a larger `fresh_for`, `stale_for` is the
      same. Passing a `stale_for` below `fresh_for` (given or default) is a ValueError.
    - `hold_for`: with a store of several machines, how long a process may admit calls while the store
      does not hear it. After that time the credits of a process that died count as unresolved. Without
      such a store it has no effect, and a warning is logged.
    - `lag`: the provider's reporting delay: how long after a call finishes the provider may take to
      post its charge. None takes the provider's own value, 5 for a callable.
    - `linger`: how long abandoned work may go on, and be charged, after the client gave up. None
      takes the provider's own value, 0 for a callable.
    - `sole_spender`: whether only guards in this process spend from the account. If so, what calls are
      charged while they run need not be counted twice, see docs/correctness.md. `"auto"` believes so
      until a balance or a refusal proves otherwise, and again after a spell without such a proof: 30
      minutes, twice as long after each further time, at most a day. True always believes it, False
      never. Of the guards of one account, False wins over True, and both win over `"auto"`. A forked
      child starts without proofs, and True counts as `"auto"` there, because its parent spends too; a
      guard made in the child may say it again.
    - `floor`: credits that are never promised to any call; they remain in the account.
    - `recheck_after`: the least time between two refreshes that were not due to age alone.
    - `timeout`: the total deadline of one refresh.
    - `if_unknown`: `"deny"` raises BalanceUnavailable while no usable balance is available;
      `"allow"` admits the calls and holds their cost.
    - `mode`: `"observe"` decides and records as usual, but never refuses a call and never waits.
    - `alert_below`: one mark, or a list or tuple of marks: an amount of credits, a share of the last
      top-up such as `"20%"`, or a runway such as `"24h"` (`m`, `h` or `d`). Emits one `low` event for
      each mark when less than that is available. The next one needs a balance that is above the mark
      and higher than the balance before. Without `on_event`, a message is logged at WARNING instead.
      docs/how-to/events.md says how shares and runways are counted.
    - `store`: where the account is kept. None keeps it in this process's memory; a
      `budgetguard.stores.SQLiteStore` shares it with all processes of this machine that use the same file.
    - `on_event`: called with each Event, outside every lock: a callable, or a list or tuple of them,
      which are called in order. What one of them raises is logged, and the others are called.

    Guards of the same account (same provider, base URL and key) in one process share its credits.
    Constructing a guard starts nothing: the balance is first requested when a call needs it. Wrong
    arguments raise TypeError, ValueError or ConfigurationError.
    """

    @clean_traceback
    def __init__(
        self,
        provider: Fetches | Callable[[], Any],
        *,
        fresh_for: float = FRESH_FOR,
        stale_for: float = STALE_FOR,
        hold_for: float = HOLD_FOR,
        lag: float | None = None,
        linger: float | None = None,
        sole_spender: Literal["auto"] | bool = "auto",
        floor: Amount = 0,
        recheck_after: float = 5,
        timeout: float = 10,
        if_unknown: Literal["deny", "allow"] = "deny",
        mode: Literal["enforce", "observe"] = "enforce",
        alert_below: AlertBelow = None,
        store: "Store | None" = None,
        on_event: OnEvent | Sequence[OnEvent] | None = None,
    ) -> None:
        ACTIVATION.read_environment()
        profile = Profile.of(provider)
        if store is not None:
            _check_store(store, profile)
        if not isinstance(sole_spender, bool | str):
            msg = f'sole_spender takes "auto", True or False, not {type(sole_spender).__name__}'
            raise TypeError(msg)
        if isinstance(sole_spender, str) and sole_spender != "auto":
            msg = 'sole_spender takes "auto", True or False, not another string'
            raise ValueError(msg)
        lag = seconds(profile.lag if lag is None else lag, "lag")
        linger = seconds(profile.linger if linger is None else linger, "linger")
        held_for = seconds(hold_for, "hold_for", positive=True)
        if store is not None and store.expires and held_for < LEAST_TIMEOUTS * store.timeout:
            msg = (
                f"hold_for must be at least {LEAST_TIMEOUTS} times the store's timeout of "
                f"{store.timeout:g} s, so that a lease can be renewed in time: {held_for:g}"
            )
            raise ValueError(msg)
        fresh, stale = _ages(fresh_for, stale_for)
        terms = GuardTerms(
            fresh_for=fresh,
            stale_for=stale,
            recheck_after=seconds(recheck_after, "recheck_after"),
            timeout=seconds(timeout, "timeout", positive=True),
            floor=cost(floor, "floor"),
            extra=cost(profile.extra_credits, "extra_credits"),
            allow_unknown=_choice(if_unknown, "if_unknown", ("deny", "allow")) == "allow",
            credential=profile.credential,
        )
        subscriber = Subscriber(
            terms,
            profile.name,
            sole_spender=sole_spender,
            observe=_choice(mode, "mode", ("enforce", "observe")) == "observe",
            alert_below=parse_marks(alert_below),
            on_event=checked_listeners(on_event),
            top_up_url=profile.top_up_url,
            unit=profile.unit or CREDITS,
            patience=lag + linger,
        )
        account = account_registry.join(profile, subscriber, store, held_for)
        self._binding = GuardBinding(profile, account, subscriber, lag=lag, linger=linger)
        self._plain_spec = plain_specs(self._binding)
        if hold_for is not HOLD_FOR and not (store is not None and store.expires):
            kind = "it applies to stores of several machines, and none is used"
            logger.warning("hold_for has no effect: %s", kind)

    def require_credits(
        self,
        min: Amount | Callable[..., Amount] | LearnedCost | None = None,
        *,
        cost: Amount | Callable[..., Amount] | LearnedCost | None = None,
        actual: Callable[[Any], Amount] | None = None,
        slots: int = NO_SLOTS,
        wait: float = NO_WAIT,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = NOTHING,
        name: str | None = None,
        until: Literal["close"] | None = None,
        on_refusal: OnRefusal | None = None,
        approve: Approve | None = None,
        approve_above: Amount | None = None,
    ) -> Requirement:
        """A decorator and context manager that admits a call only if enough credits are available.

        See `budgetguard.require_credits` for the arguments.
        """
        try:
            spec = self._spec(
                min,
                cost,
                name,
                actual=actual,
                slots=slots,
                wait=wait,
                lag=lag,
                linger=linger,
                release_on=release_on,
                until=until,
                on_refusal=on_refusal,
                approve=approve,
                approve_above=approve_above,
            )
        except WRONG as error:
            del min, cost, actual, slots, wait, lag, linger, release_on, name, until
            del on_refusal, approve, approve_above
            clear(error)
            raise
        return Requirement(spec, self)

    def acquire(
        self,
        min: Amount | LearnedCost | None = None,
        *,
        cost: Amount | LearnedCost | None = None,
        slots: int = NO_SLOTS,
        wait: float = NO_WAIT,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = NOTHING,
        name: str = "acquire()",
        approve: Approve | None = None,
        approve_above: Amount | None = None,
    ) -> Hold:
        """Admit work that does not start and finish in one block, and return its hold.

        The arguments and errors are those of `require_credits`. End the hold with `settle()`,
        `release()` or `keep()` when the work has finished. A hold that is garbage-collected while it
        is open counts as kept: its credits remain counted until a later balance shows the charge.
        """
        try:
            spec = self._spec(
                min,
                cost,
                name,
                slots=slots,
                wait=wait,
                lag=lag,
                linger=linger,
                release_on=release_on,
                approve=approve,
                approve_above=approve_above,
            )
            admitted = spec.begin()
            if isinstance(admitted, Hold):
                return admitted
            hold = spec.wait_for(*admitted, warns=True)
        except WRONG as error:
            del min, cost, slots, wait, lag, linger, release_on, name, approve, approve_above
            clear(error)
            raise
        nested.step_out(hold)
        return hold

    @clean_traceback
    async def aacquire(
        self,
        min: Amount | LearnedCost | None = None,
        *,
        cost: Amount | LearnedCost | None = None,
        slots: int = NO_SLOTS,
        wait: float = NO_WAIT,
        lag: float | None = None,
        linger: float | None = None,
        release_on: tuple[type[BaseException], ...] | type[BaseException] = NOTHING,
        name: str = "aacquire()",
        approve: Approve | None = None,
        approve_above: Amount | None = None,
    ) -> Hold:
        """The async form of `acquire`: waits without blocking the event loop."""
        spec = self._spec(
            min,
            cost,
            name,
            slots=slots,
            wait=wait,
            lag=lag,
            linger=linger,
            release_on=release_on,
            approve=approve,
            approve_above=approve_above,
        )
        hold = await spec.aopen()
        nested.step_out(hold)
        return hold

    @clean_traceback
    def budget(
        self,
        limit: Amount,
        *,
        name: str | None = None,
        key: "Key | Callable[..., Key]" = None,
        per: Literal["hour", "day", "month"] | float | None = None,
        tz: str | tzinfo | None = None,
        share: Literal["shared", "carve"] = "shared",
    ) -> Budget:
        """Bounds what the guarded calls inside a block hold and spend: `with guard.budget(30, name="run"):`.

        - `limit`: credits that may be spent in all, or in each period.
        - `name`: what errors and events call the budget. On a decorator without `per`, the default is
          the function's qualified name.
        - `per`: `"hour"`, `"day"` or `"month"`, or a number of seconds, which are rolling: at each
          moment, what was spent in the last so many seconds counts, a sixtieth longer at most. Such a
          budget is kept by `name` and `key`, for each `per` and `tz`, in this process, however often it is entered, and the
          latest limit counts. A call belongs to the period in which it was admitted.
        - `key`: tells apart budgets of one name, such as those of users: a str, an int, bytes, a UUID or
          a tuple of these. It is shown nowhere. On a decorator it may be a callable that is given the call's
          arguments.
        - `tz`: the time zone of hours, days and months: a name such as "Europe/Berlin" or a tzinfo. The
          default is UTC.
        - `share`: `"shared"` draws from the budget around it, or from the account, as calls are
          made. `"carve"` sets the whole limit aside there at once, and gives back what is unused when
          the block is left.

        Budgets nest to any depth, and each bounds what is inside. A call that exceeds one of them
        raises BudgetExceeded. Entering a carved one raises BudgetExceeded or InsufficientCredits where
        too little is left to set aside. Wrong arguments raise TypeError or ValueError.
        """
        micro = to_micro(limit, "limit", rounding="down")
        if micro < 0:
            msg = f"limit must not be negative: {limit}"
            raise ValueError(msg)
        if name is not None:
            checked_name(name)
        carved = _choice(share, "share", ("shared", "carve")) == "carve"
        if per is None and tz is not None:
            msg = 'tz= needs per="hour", "day" or "month"'
            raise TypeError(msg)
        window = None if per is None else period(per, tz)
        return Budget(self, budget_terms(micro, name, key, window, carved=carved))

    @clean_traceback
    def labels(self, **labels: str | int) -> LabelBlock:
        """A block whose labels are carried to errors and events: `with guard.labels(user="ada"):`.

        They are for this account's calls that are made in the block, and in tasks started there. Labels
        of blocks inside are added. Raises TypeError for a value that is not a str or an int.
        """
        return LabelBlock(self._binding, checked_labels(dict(labels)))

    @clean_traceback
    def balance(self, max_age: float | None = None) -> Balance:
        """The cached balance, refreshed first if it is older than `max_age` seconds.

        `max_age` defaults to `fresh_for`. With 0, a refresh that was sent before this call is not
        used. Waits at most `timeout`. Raises BalanceUnavailable if no such balance is available.
        """
        reading = self._read(max_age)
        reading.wait(self._binding.account)
        return _balance(reading)

    @clean_traceback
    async def abalance(self, max_age: float | None = None) -> Balance:
        """The async form of `balance`: waits without blocking the event loop."""
        reading = self._read(max_age)
        await reading.wait_async(self._binding.account)
        return _balance(reading)

    @property
    def provider(self) -> Any:
        """The provider, or the balance function, that was passed to this guard."""
        return self._binding.provider.source

    @property
    def available(self) -> Decimal | None:
        """Credits that are available now; None while unknown, Infinity for an unlimited account.

        Does no I/O and never waits for a refresh. Negative if more is held than the account has.
        """
        micro = self._binding.account.peek(self._binding.subscriber)
        return None if micro is None else to_credits(micro)

    @clean_traceback
    def estimate(self, operation: str, *, key: Hashable = None) -> Estimate:
        """What a call of that operation is expected to cost, and how many more the account pays for.

        `operation` is the name in errors and events. `key` is what `learned(by=...)` returned for
        such a call, for operations whose cost is learned by it. A constant cost is given as it is.

        Does no I/O and never waits for a refresh. Raises LookupError for an operation that is not
        known, or whose cost is computed for each call, and if `key` is missing or in excess.
        """
        return estimate(self._binding, operation, key)

    def mark_exhausted(self) -> None:
        """Report that the provider itself just refused a call because the credits were used up.

        This counts as a balance of zero, requested now, and starts a refresh. It holds until the
        provider reports more than the cached balance, or until a balance arrives that was requested
        at least `lag` seconds later.
        """
        self.mark_refused(EXHAUSTED)

    @clean_traceback
    def mark_refused(self, refusal: ProviderRefusal) -> None:
        """Report how the provider itself just refused a call, see `budgetguard.providers.ProviderRefusal`.

        The transports and the guarded SDK clients do this by themselves. Raises TypeError for
        anything but a ProviderRefusal.
        """
        if not isinstance(refusal, ProviderRefusal):
            msg = f"mark_refused takes a ProviderRefusal, not {type(refusal).__name__}"
            raise TypeError(msg)
        if not ACTIVATION.passive:
            binding = self._binding
            binding.account.refuse(binding.subscriber, refusal, binding.lag)

    @clean_traceback
    def pause(self, reason: str = NO_REASON) -> None:
        """Admit nothing more from this account, in this process or in all of its store, until `resume()`.

        Every call of each of its guards is refused with Paused, also one that costs nothing, that only takes
        slots, or that repeats a failed one; so is more for an open hold. A call with `wait` waits for
        `resume()`, but no longer than that. Running calls go on, and end as usual. `reason` is shown in
        errors, to models and to clients: at most 200 characters. In observe mode nothing is refused.

        Without a store nothing is written: `budgetguard pause` also reaches other processes. A child that is forked meanwhile
        is paused, too. Raises TypeError or ValueError for a wrong reason.
        """
        self._binding.account.pause("guard", checked_reason(reason))

    def resume(self) -> None:
        """End what `pause()` of any guard of this account began; waiters are admitted in order.

        Without a pause nothing happens. A pause by `budgetguard pause` goes on.
        """
        self._binding.account.pause("guard", None)

    def close(self) -> None:
        """Stop admitting calls; calling it is optional. Open holds end as usual.

        The status of submitted work is no longer requested: such holds are kept.

        Callers that are waiting for this guard, for admission or for a balance, get a RuntimeError
        at once, and no credits are held for them. Later calls get a RuntimeError too.
        """
        self._binding.account.dismiss(self._binding.subscriber)

    async def aclose(self) -> None:
        """The async form of `close`; it does not wait."""
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
        # The copy of an object that contains a guard spends from the same account.
        return self

    def __reduce_ex__(self, _: Any) -> NoReturn:
        msg = (
            f"The guard of {self._binding.subscriber.provider} cannot be pickled: its lock, its balance and its holds "
            "belong to this process, and its key is never written anywhere. Let the other process make its "
            "own guard: use budgetguard.require_credits(...), which finds the default guard where it is called, "
            "or pass guard= a function that returns a guard. A guarded function that the other process "
            "can import does not have to be sent."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"<Guard of {self._binding.subscriber.provider}{', closed' if self._binding.subscriber.closed else ''}>"

    def _spec(
        self,
        min: Any,
        cost: Any,
        name: Any,
        *,
        slots: Any,
        wait: Any,
        lag: Any,
        linger: Any,
        release_on: Any,
        approve: Any,
        approve_above: Any,
        actual: Any = None,
        until: Any = None,
        on_refusal: Any = None,
    ) -> CallSpec:
        """The checked needs of a call. Whole amounts with nothing but a name are checked only once."""
        if (
            type(min) is int
            and (cost is None or type(cost) is int)
            and (name is None or type(name) is str)
            and actual is None
            and slots is NO_SLOTS
            and wait is NO_WAIT
            and lag is None
            and linger is None
            and release_on is NOTHING
            and until is None
            and on_refusal is None
            and approve is None
            and approve_above is None
        ):
            return self._plain_spec(min, cost, name)
        return checked_spec(
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
            on_refusal=on_refusal,
            approve=approve,
            approve_above=approve_above,
        )

    def _read(self, max_age: float | None) -> BalanceWaiter:
        binding = self._binding
        binding.check_open("balance()")
        age = binding.subscriber.terms.fresh_for if max_age is None else seconds(max_age, "max_age")
        return binding.account.read(binding.subscriber, age)


def check_guard(guard: object, vendor: type | None = None) -> None:
    """Raise TypeError unless `guard` is a Guard, and not one of another built-in vendor."""
    if not isinstance(guard, Guard):
        made = f": Guard({type(guard).__name__}(...)) makes one" if hasattr(guard, "fetch") else ""
        msg = f"guard takes a Guard, not {type(guard).__name__}{made}"
        raise TypeError(msg)
    provider = guard.provider
    if vendor is not None and is_of_another(provider, vendor):
        msg = (
            f"This guard is for an account at {provider.name}, which does not pay for these calls: "
            f"pass Guard({vendor.__name__}(...))"
        )
        raise TypeError(msg)


def _balance(reading: BalanceWaiter) -> Balance:
    reading.check()
    assert reading.balance is not None
    return reading.balance


def _ages(fresh_for: float, stale_for: float) -> tuple[float, float]:
    fresh, stale = seconds(fresh_for, "fresh_for"), seconds(stale_for, "stale_for")
    if stale >= fresh:
        return fresh, stale
    if stale_for is STALE_FOR:
        return fresh, fresh
    default = ", its default" if fresh_for is FRESH_FOR else ""
    msg = (
        f"stale_for ({stale:g}) must not be less than fresh_for ({fresh:g}{default}): a balance of "
        "that age would be both fresh and too old. Lower fresh_for too, or raise stale_for."
    )
    raise ValueError(msg)


def _check_store(store: "Store", profile: Profile) -> None:
    if isinstance(store, type) or not callable(getattr(store, "link", None)):
        kind = f"the class {store.__name__}" if isinstance(store, type) else type(store).__name__
        msg = (
            f"store takes a store of budgetguard.stores, or None, not {kind}. "
            "Pass a path to the store: store=SQLiteStore(path)."
        )
        raise TypeError(msg)
    if profile.fingerprint is None:
        msg = (
            f"{profile.name} does not say which account it is, so {store.name} cannot keep it. Use a "
            "provider with a key, or give yours a `fingerprint` that is the same in all processes."
        )
        raise ConfigurationError(msg)


def _choice(value: str, what: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        msg = f"{what} must be {' or '.join(map(repr, choices))}, not {other(value, choices)}"
        raise ValueError(msg)
    return value
