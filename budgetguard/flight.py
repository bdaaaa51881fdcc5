"""One look: up to three attempts inside one deadline, and the backoff between them."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from budgetguard.balance import Balance
from budgetguard.clock import Instant
from budgetguard.credits import exact
from budgetguard.errors import BalanceUnavailable, InvalidCredentials
from budgetguard.events import report
from budgetguard.failures import AT_ONCE, Failure, Transient, UsedUp, causes, used_up
from budgetguard.ledger import Look
from budgetguard.loop import in_daemon_thread

if TYPE_CHECKING:
    from budgetguard.loop import Runtime

ATTEMPTS = 3
FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
_SHORTEST_DELAY = 0.001
_MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class _Miss:
    """One attempt that brought no balance; `again` where another may, within this look.

    `ours` where the provider is not to blame.
    """

    reason: str
    again: bool = False
    denied: bool = False
    ours: bool = False
    retry_after: float | None = None
    cause: Exception | None = None


def backoff(
    failures: int, retry_after: float | None, jitter: Callable[[float, float], float]
) -> float:
    """Seconds until the next attempt after `failures` in a row: exponential, with full jitter."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, _MOST_DOUBLINGS))
    delay = max(jitter(0.0, longest), _SHORTEST_DELAY)
    return max(delay, min(retry_after or 0.0, LONGEST_DELAY))


async def fly(
    source: "Source",
    runtime: "Runtime",
    timeout: float,  # noqa: ASYNC109  a deadline around all attempts, kept by anyio below
    failures: int,
    sent: Callable[[Instant], None],
) -> Look | Failure:
    """Ask for the balance; `sent` is told the moment of each attempt, before it is made."""
    clock = runtime.clock
    at = clock.now()
    deadline = at.mono + timeout
    miss = _Miss(f"no answer within {timeout:g} s")
    delay, hung = None, 0.0
    with anyio.move_on_after(timeout) as scope:
        for attempt in range(1, ATTEMPTS + 1):
            at = clock.now()
            sent(at)
            answer = await _attempt(source, runtime, at, scope)
            if isinstance(answer, Look):
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
        # From when it was sent: a look that hung is not to be noticed that much later once over.
        delay = max(backoff(failures, None, runtime.jitter) - hung, _SHORTEST_DELAY)
    return Failure(miss.reason, miss.cause, miss.denied, failures, delay)


async def _attempt(
    source: "Source", runtime: "Runtime", at: Instant, scope: anyio.CancelScope
) -> Look | _Miss:
    try:
        balance = await source.ask(runtime)
        return Look.of(balance.sent_at(at, runtime.clock), at)
    except Exception as error:  # noqa: BLE001  whatever a provider raises is a failed look
        return _classified(error, runtime)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and (scope.cancel_called or _cancelled()):
            raise
        # It would end the private loop, and with it every guard's looks, or this look unheard.
        name = type(error).__name__
        report("Asking for the balance raised %s, which ends nothing here", name)
        return _Miss(f"asking raised {name}")


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
        return _Miss(f"it could not be asked for: {lack}", ours=True, cause=cause)
    httpx = sys.modules.get("httpx")  # where it could not be imported, this is none of its errors
    if httpx is not None and isinstance(error, httpx.HTTPError):
        return _of_httpx(error, runtime)
    cause = None if _holds_request(error) else error
    # What an import says holds no key, and the provider is not to blame for it.
    missing = isinstance(error, ImportError)
    words = f": {error}" if missing else ""
    return _Miss(f"asking raised {type(error).__name__}{words}", ours=missing, cause=cause)


def _of_httpx(error: Exception, runtime: "Runtime") -> _Miss:
    import httpx

    from budgetguard.fetching import DENIED, is_page, longest_wait

    # An httpx exception holds the request, and that holds the key: its words will have to do.
    if isinstance(error, httpx.HTTPStatusError):
        status, headers = error.response.status_code, error.response.headers
        again = (
            status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR
        )
        denied = status in DENIED and not is_page(headers)
        wait = longest_wait(headers.get_list("retry-after"), runtime.clock.wall())
        return _Miss(f"the provider answered {status}", again, denied, retry_after=wait)
    again = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return _Miss(f"{type(error).__name__} while asking", again)


def _holds_request(error: BaseException) -> bool:
    """Whether an HTTP client's request, and so perhaps a key, can be reached from an exception."""
    kept = ("request", "_request", "response")
    return any(not vars(cause).keys().isdisjoint(kept) for cause in causes(error))


class Source:
    """Where balances come from: a provider's `fetch`, or a plain callable."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._fetch = getattr(provider, "fetch", None)
        self._stuck = False

    async def ask(self, runtime: "Runtime") -> Balance:
        """One balance; raises whatever the provider raises, and BalanceUnavailable for nonsense."""
        if self._fetch is not None:
            trust_env = bool(getattr(self._provider, "trust_env", False))
            async with runtime.client(self, trust_env=trust_env) as client:
                answer = await self._fetch(client)
        else:
            answer = await self._call()
        return self._balance(answer)

    async def _call(self) -> Any:
        function = self._provider
        if _is_async(function):
            return await function()
        if self._stuck:
            reason = "an earlier call of the balance function has not returned yet"
            raise self._unavailable(reason)

        def call() -> Any:
            self._stuck = True
            try:
                return function()
            finally:
                self._stuck = False

        answer = await in_daemon_thread(call)
        return await answer if inspect.isawaitable(answer) else answer

    def _balance(self, answer: Any) -> Balance:
        if isinstance(answer, Balance):
            return answer
        if answer is None:
            reason = "the balance function returned None (unlimited is Balance(credits=None))"
            raise self._unavailable(reason)
        try:
            return Balance(credits=exact(answer, "the balance"))
        except (TypeError, ValueError) as error:
            reason = str(error)
        raise self._unavailable(reason)

    def _unavailable(self, reason: str) -> BalanceUnavailable:
        return BalanceUnavailable(provider=str(getattr(self._provider, "name", "")), reason=reason)


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  an object's async __call__ counts
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
