"""`require_credits`, for code that has no guard in sight."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from budgetguard.credits import Amount
from budgetguard.defaults import DEFAULT
from budgetguard.requirement import Requirement

if TYPE_CHECKING:
    from budgetguard.guard import Guard


def require_credits(
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
    guard: "Guard | Callable[..., Guard] | None" = None,
) -> Requirement:
    """A decorator and a context manager that admits a call only if its credits are there.

    - `min`: refuse unless this many credits are available; a number, or a callable given the
      call's arguments (`self` included).
    - `cost`: credits held while the call runs, likewise; default `min`. Admission needs the larger
      of both. `cost=0` checks only.
    - `actual`: a callable given the result, or a generator's return value, that says what the call
      really cost. Where it raises, the call settles at `cost` and its result is returned untouched.
      With `until="close"` it is given the result when that has ended, or what that was entered as.
    - `slots`: sessions taken out of the provider's `max_concurrency`.
    - `wait`: seconds to queue, in order of arrival, before refusing. Nobody is held longer than
      `wait` plus the guard's `timeout`.
    - `lag`, `linger`: seconds, for this call, instead of the guard's.
    - `release_on`: exception types that prove that nothing was charged.
    - `name`: the operation's name in errors and events; default the function's qualified name.
    - `until`: when the work ends that a result stands for. By default a call's hold ends when it
      returns; where it returns a generator, an async generator, a future or an awaitable, when that
      has ended. With `"close"` other results are followed too, streams and connections say: the hold
      ends when the result is exhausted, closed or left. What is dropped before is kept. A result
      that has no end, a list say, ends with the call. TypeError on a block.
    - `guard`: a Guard, or a callable that is given the call's arguments and returns one. Default is
      the one given to `set_default_guard`, else one made from the environment on first use.

    Decorates functions, coroutine functions, generators, async generators, methods, classmethods
    and staticmethods in either order, partials and callable objects; each keeps its kind and type.

    Calls raise InsufficientCredits, ConcurrencyLimit or BalanceUnavailable before the body runs.
    Raises TypeError or ValueError for arguments that cannot be, and TypeError for none of `min`,
    `cost` and `slots`.
    """
    return Requirement(
        DEFAULT if guard is None else guard,
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
