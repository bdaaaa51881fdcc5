"""`require_credits`, for code that has no guard object of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from budgetguard._core.amounts import Amount
from budgetguard._core.approval import Approve
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._core.on_refusal import OnRefusal
from budgetguard.defaults import DEFAULT
from budgetguard.requirement import Requirement, checked_spec

if TYPE_CHECKING:
    from budgetguard.guard import Guard


@clean_traceback
def require_credits(
    min: Amount | Callable[..., Amount] | LearnedCost | None = None,
    *,
    cost: Amount | Callable[..., Amount] | LearnedCost | None = None,
    actual: Callable[[Any], Amount] | None = None,
    slots: int = 0,
    wait: float = 0,
    lag: float | None = None,
    linger: float | None = None,
    release_on: tuple[type[BaseException], ...] | type[BaseException] = (),
    name: str | None = None,
    until: Literal["close"] | None = None,
    on_refusal: OnRefusal | None = None,
    approve: Approve | None = None,
    approve_above: Amount | None = None,
    guard: "Guard | Callable[..., Guard] | None" = None,
) -> Requirement:
    """A decorator and context manager that admits a call only if enough credits are available.

    - `min`: refuse the call unless this many credits are available. A number, or a callable that is
      given the call's arguments (`self` included) and returns one.
    - `cost`: credits held while the call runs; a number or a callable, like `min`, which is its
      default. Admission needs the larger of the two. `cost=0` only checks and holds nothing.
      `learned(start)` holds what calls of the operation really cost.
    - `actual`: a callable that is given the result, or a generator's return value, and returns what
      the call really cost. If it raises, the hold is settled at `cost`, and the result is returned
      unchanged. With `until="close"` it is called when the result has ended, and is given the
      result, or the object that entering the result returned.
    - `slots`: concurrent sessions that the call takes out of the provider's `max_concurrency`.
    - `wait`: seconds to wait in the queue, in order of arrival, before the call is refused. No call
      waits longer than `wait` plus the guard's `timeout`.
    - `lag`, `linger`: seconds; they replace the guard's values for this call.
    - `release_on`: exception types that prove that nothing was charged. An exception group, such as
      a nursery or a TaskGroup raises, proves it too if it contains nothing else.
    - `name`: the operation's name in errors and events. The default is the function's qualified
      name.
    - `until`: when the work behind a result counts as finished. By default a call's hold ends when
      the call returns. If the call returns a generator, an async generator, a future or an
      awaitable, the hold ends when that has finished. With `"close"`, other results are followed
      too, such as streams and connections: the hold ends when the result is exhausted, closed or
      left as a context manager. If the result is garbage-collected first, the hold is kept. For a
      result that cannot be closed or exhausted, such as a list, the hold ends with the call. On a
      block, `until` is a TypeError.
    - `on_refusal`: a callable that supplies the result of a refused call. It is given the error and
      the call's arguments (`self` included), in the caller's own thread or task, while nothing is held for
      the call, and may make guarded calls itself. What it raises, the caller gets. It is called for
      refusals of this call alone, not for those of calls inside the body, nor for what `min`, `cost`,
      `guard` or the body raise. For an async function it may be async. For a generator it returns an
      iterable (or is a generator) whose items are yielded instead, for an async generator an iterable or
      an async one. An async `on_refusal` of a function that is not async is a TypeError at decoration,
      and so is any on a block, when it is entered.
    - `approve`: a callable that is given an ApprovalRequest and returns True or False. It is asked
      about each call that would hold more than `approve_above` credits (without it, about each call
      that holds anything), before anything is held. It may take as long as it likes, and be async
      for async calls. After a no the call raises ApprovalDenied. After a yes it is admitted like any
      other, on the balance as it is by then. A yes counts for this call alone, and for 24 hours after
      the request; one that comes later is asked for again. It is not asked again by a
      `hold.extend()`, and not at all by a guard that only observes or is switched off.
    - `guard`: a Guard, or a callable that is given the call's arguments and returns one. The default
      is the guard given to `set_default_guard`, or else one made from the environment on first use.

    It decorates functions, coroutine functions, generators, async generators, methods, classmethods
    and staticmethods in either order, partials and callable objects. Each keeps its kind and type.

    A refused call raises InsufficientCredits, ConcurrencyLimit, BalanceUnavailable, Paused or
    ApprovalDenied before the body runs, unless `on_refusal` is given. What `approve` itself raises is
    raised, with nothing held. `min`, `cost`, `actual` and `guard` must be plain callables, because their
    results are needed at once; an async one is a TypeError. So is an async `approve` for a function that
    is not.

    Wrong arguments raise TypeError or ValueError. Passing none of `min`, `cost` and `slots` is a
    TypeError. So is `lag` or `linger` on a decorated call that holds nothing (`cost=0`), where they
    would have no effect.
    """
    spec = checked_spec(
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
        on_refusal=on_refusal,
        approve=approve,
        approve_above=approve_above,
    )
    return Requirement(spec)
