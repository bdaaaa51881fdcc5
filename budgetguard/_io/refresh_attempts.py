"""One refresh: up to three attempts within one deadline; the result is a snapshot or a failure."""

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from budgetguard._core.amounts import exact
from budgetguard._core.backoff import SHORTEST_DELAY, backoff
from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant
from budgetguard._core.errors import BalanceUnavailable, InvalidCredentials
from budgetguard._core.events import report
from budgetguard._core.refresh_failure import AT_ONCE, Failure, Transient, UsedUp, causes, used_up
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._io.loop import in_daemon_thread

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Miss:
    """A failed attempt; `again` if another attempt within this refresh may succeed.

    `ours` if the provider is not at fault.
    """

    reason: str
    again: bool = False
    denied: bool = False
    ours: bool = False
    retry_after: float | None = None
    cause: Exception | None = None


async def fetch_balance(
    source: "Source",
    runtime: "Runtime",
    timeout: float,  # noqa: ASYNC109  a deadline around all attempts, enforced by anyio below
    failures: int,
    sent: Callable[[Instant], None],
    *,
    after_freeze: bool,
) -> BalanceSnapshot | Failure:
    """Request the balance; `sent` is called with the time of each attempt, before it is made.

    `after_freeze` if it replaces a refresh that was lost while the process was frozen.
    """
    ask = partial(source.ask, runtime, after_freeze=after_freeze)
    clock = runtime.clock
    at = clock.now()
    deadline = at.mono + timeout
    miss = _Miss(f"no answer within {timeout:g} s")
    delay, hung = None, 0.0
    with anyio.move_on_after(timeout) as scope:
        for attempt in range(1, ATTEMPTS + 1):
            at = clock.now()
            sent(at)
            answer = await _attempt(ask, runtime, at, scope)
            if isinstance(answer, BalanceSnapshot):
                return answer
            miss = answer
            if miss.ours:
                return Failure(miss.reason, miss.cause, miss.denied, failures, AT_ONCE)
            failures += 1
            delay = backoff(failures, miss.retry_after, runtime.jitter)
            if not miss.again or attempt == ATTEMPTS or clock.monotonic() + delay >= deadline:
                break
            await anyio.sleep(delay)
    if scope.cancelled_caught:
        miss = _Miss(f"no answer within {timeout:g} s")
        failures += 1
        delay, hung = None, clock.monotonic() - at.mono
    if delay is None:
        # Counted from when it was sent: the time that a refresh hung must not add to the backoff.
        delay = max(backoff(failures, None, runtime.jitter) - hung, SHORTEST_DELAY)
    return Failure(miss.reason, miss.cause, miss.denied, failures, delay)


async def _attempt(
    ask: Callable[[], Awaitable[Balance]],
    runtime: "Runtime",
    at: Instant,
    scope: anyio.CancelScope,
) -> BalanceSnapshot | _Miss:
    try:
        balance = await ask()
        return BalanceSnapshot.of(balance.sent_at(at, runtime.clock), at)
    except Exception as error:  # noqa: BLE001  whatever a provider raises is a failed refresh
        return _classified(error, runtime)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and (scope.cancel_called or _cancelled()):
            raise
        # It would stop the private loop and every guard's refreshes, or lose this one unnoticed.
        name = type(error).__name__
        report("The balance request raised %s, which is treated as a failed refresh", name)
        return _Miss(f"the balance request raised {name}")


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _classified(error: Exception, runtime: "Runtime") -> _Miss:
    lack = used_up(error)
    if isinstance(error, BalanceUnavailable):
        return _Miss(
            error.reason,
            again=isinstance(error, Transient),
            denied=isinstance(error, InvalidCredentials),
            ours=isinstance(error, UsedUp),
            retry_after=error.retry_after,
            cause=error.__cause__,  # type: ignore[arg-type]
        )
    if lack is not None:
        cause = None if _holds_request(error) else error
        return _Miss(f"the request could not be made: {lack}", ours=True, cause=cause)
    httpx = sys.modules.get("httpx")  # if it was never imported, this is not one of its errors
    if httpx is not None and isinstance(error, httpx.HTTPError):
        return _of_httpx(error, runtime)
    cause = None if _holds_request(error) else error
    # An ImportError's text contains no key, and the provider is not at fault.
    missing = isinstance(error, ImportError)
    words = f": {error}" if missing else ""
    reason = f"the balance request raised {type(error).__name__}{words}"
    return _Miss(reason, ours=missing, cause=cause)


def _of_httpx(error: Exception, runtime: "Runtime") -> _Miss:
    import httpx

    from budgetguard._core.retry_after import longest_wait
    from budgetguard._io.http import DENIED, is_page

    # An httpx exception refers to the request and so to the key: only its type may be used.
    if isinstance(error, httpx.HTTPStatusError):
        status, headers = error.response.status_code, error.response.headers
        again = (
            status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR
        )
        denied = status in DENIED and not is_page(headers)
        wait = longest_wait(headers.get_list("retry-after"), runtime.clock.wall())
        return _Miss(f"the provider answered {status}", again, denied, retry_after=wait)
    again = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return _Miss(f"the balance request raised {type(error).__name__}", again)


def _holds_request(error: BaseException) -> bool:
    """Whether an HTTP client's request, and so possibly a key, is reachable from an exception."""
    kept = ("request", "_request", "response")
    return any(not vars(cause).keys().isdisjoint(kept) for cause in causes(error))


class Source:
    """Where balances come from: a provider's `fetch`, or a plain callable."""

    def __init__(self, source: Any, name: str, *, fetches: bool, trust_env: bool) -> None:
        self._source = source
        self._name = name
        self._fetches = fetches
        self._trust_env = trust_env
        # Set when the call that is under way in a thread returns.
        self._returns: asyncio.Event | None = None

    async def ask(self, runtime: "Runtime", *, after_freeze: bool) -> Balance:
        """One balance; raises what the provider raises, or BalanceUnavailable for an invalid result.

        A plain function runs in one thread at a time. If an earlier call has not returned, this one
        fails; only `after_freeze` does it wait, because the earlier call may not be hanging.
        """
        if self._fetches:
            async with runtime.client(self, trust_env=self._trust_env) as client:
                answer = await self._source.fetch(client)
        else:
            answer = await self._call(after_freeze=after_freeze)
        return self._balance(answer)

    async def _call(self, *, after_freeze: bool) -> Any:
        function = self._source
        if _is_async(function):
            return await function()
        earlier = self._returns
        if earlier is not None:
            if not after_freeze:
                reason = "an earlier call of the balance function has not returned yet"
                raise self._unavailable(reason)
            # Its result was requested before the freeze, and is too old.
            await earlier.wait()
        returns, loop = asyncio.Event(), asyncio.get_running_loop()

        def call() -> Any:
            self._returns = returns
            try:
                return function()
            finally:
                self._returns = None
                with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits
                    loop.call_soon_threadsafe(returns.set)

        answer = await in_daemon_thread(call)
        return await answer if inspect.isawaitable(answer) else answer

    def _balance(self, answer: Any) -> Balance:
        if isinstance(answer, Balance):
            return answer
        if answer is None:
            reason = (
                "the balance function returned None (for unlimited, return Balance(credits=None))"
            )
            raise self._unavailable(reason)
        try:
            return Balance(credits=exact(answer, "the balance"))
        except (TypeError, ValueError) as error:
            reason = str(error)
        raise self._unavailable(reason)

    def _unavailable(self, reason: str) -> BalanceUnavailable:
        return BalanceUnavailable(provider=self._name, reason=reason)


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  an object's async __call__ counts
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
