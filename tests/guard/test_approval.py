"""Approvals: somebody is asked about an expensive call, before anything is held."""

import copy
import pickle
import threading
import traceback
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from staging import Caller, until

from budgetguard import (
    ApprovalDenied,
    ApprovalRequest,
    Event,
    Guard,
    InsufficientCredits,
    learned,
    require_credits,
    set_active,
    set_default_guard,
)
from budgetguard.testing import FakeProvider, HandClock

DAY = 24 * 60 * 60


class Approver:
    """Says what it is told to, and notes what it was asked and what was available meanwhile."""

    def __init__(self, guard: Guard, *answers: object) -> None:
        self.guard = guard
        self.answers = list(answers)
        self.asked: list[ApprovalRequest] = []
        self.available: list[Decimal | None] = []
        self.threads: list[int] = []

    def __call__(self, request: ApprovalRequest) -> Any:
        self.asked.append(request)
        self.available.append(self.guard.available)
        self.threads.append(threading.get_ident())
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def later(self, request: ApprovalRequest) -> Any:
        """The same, for async calls."""
        await anyio.lowlevel.checkpoint()
        return self(request)


@pytest.fixture
def provider() -> FakeProvider:
    """An account with 100 credits."""
    return FakeProvider(100, max_concurrency=5)


@pytest.fixture
def guard(clock: HandClock, provider: FakeProvider) -> Guard:
    """A guard with a balance."""
    del clock
    guard = Guard(provider)
    guard.balance()
    return guard


Call = Callable[[Guard, Any, int], Any]


def by_decorator(guard: Guard, approve: Any, cost: int) -> Any:
    """Call a decorated function; returns what was available inside it."""
    return guard.require_credits(cost, name="deep_spec", approve=approve, approve_above=20)(
        lambda: guard.available
    )()


def by_computed_cost(guard: Guard, approve: Any, cost: int) -> Any:
    """The same, where the cost is computed from the arguments."""
    return guard.require_credits(
        lambda amount: amount, name="deep_spec", approve=approve, approve_above=20
    )(lambda _: guard.available)(cost)


def by_guard_found_at_each_call(guard: Guard, approve: Any, cost: int) -> Any:
    """The same, where a callable returns the guard."""
    decorate = require_credits(
        cost, name="deep_spec", approve=approve, approve_above=20, guard=lambda: guard
    )
    return decorate(lambda: guard.available)()


def by_generator(guard: Guard, approve: Any, cost: int) -> Any:
    """The same, where the function is a generator."""

    @guard.require_credits(cost, name="deep_spec", approve=approve, approve_above=20)
    def steps() -> Any:
        yield guard.available

    (seen,) = steps()
    return seen


def by_block(guard: Guard, approve: Any, cost: int) -> Any:
    """Guard a block."""
    with guard.require_credits(cost, name="deep_spec", approve=approve, approve_above=20):
        return guard.available


def by_acquire(guard: Guard, approve: Any, cost: int) -> Any:
    """Acquire a hold."""
    with guard.acquire(cost, name="deep_spec", approve=approve, approve_above=20):
        return guard.available


SYNC: list[Call] = [
    by_decorator,
    by_computed_cost,
    by_guard_found_at_each_call,
    by_generator,
    by_block,
    by_acquire,
]
sync_ways = pytest.mark.parametrize("call", SYNC, ids=lambda way: way.__name__)


@sync_ways
def test_a_call_above_the_mark_is_asked_about_before_anything_is_held(
    guard: Guard, call: Call
) -> None:
    """Once, on the caller's own thread; then it is admitted as usual."""
    approver = Approver(guard)
    assert call(guard, approver, 50) == 50
    (request,) = approver.asked
    assert (request.operation, request.needed, request.above) == ("deep_spec", 50, 20)
    assert (request.provider, request.unit, request.available) == ("fake", "credits", 100)
    assert (approver.available, approver.threads) == ([100], [threading.get_ident()])


@sync_ways
def test_a_call_at_the_mark_is_not_asked_about(guard: Guard, call: Call) -> None:
    """Only one that holds more."""
    approver = Approver(guard)
    assert call(guard, approver, 20) == 80
    assert approver.asked == []


@sync_ways
def test_every_call_is_asked_about_anew(guard: Guard, call: Call) -> None:
    """An approval counts for one call alone."""
    approver = Approver(guard, True, False)
    call(guard, approver, 21)
    with pytest.raises(ApprovalDenied):
        call(guard, approver, 21)
    assert len(approver.asked) == 2


@sync_ways
def test_a_denied_call_does_not_run_and_holds_nothing(guard: Guard, call: Call) -> None:
    """The error says what was asked for."""
    with pytest.raises(ApprovalDenied) as caught:
        call(guard, Approver(guard, False), 50)
    assert str(caught.value) == "deep_spec needs 50 credits, and the approval was denied."
    assert (caught.value.operation, caught.value.needed) == ("deep_spec", 50)
    assert (caught.value.status_code, caught.value.retryable) == (403, False)
    assert guard.available == 100


@sync_ways
def test_what_the_approver_raises_is_raised(guard: Guard, call: Call) -> None:
    """The same object, and nothing is held."""
    error = LookupError("nobody is there")
    with pytest.raises(LookupError) as caught:
        call(guard, Approver(guard, error), 50)
    assert caught.value is error
    assert guard.available == 100


@sync_ways
def test_an_answer_that_is_no_bool_is_no_approval(guard: Guard, call: Call) -> None:
    """The error names its type, and does not quote it."""
    with pytest.raises(TypeError, match="approve must return True or False, not str"):
        call(guard, Approver(guard, "yes"), 50)
    assert guard.available == 100


@sync_ways
def test_a_coroutine_is_no_answer_of_a_plain_call(guard: Guard, call: Call) -> None:
    """It is closed, so that Python does not warn that nobody awaited it."""
    approver = Approver(guard)
    with pytest.raises(TypeError, match="not coroutine: an async approve is for async calls"):
        call(guard, lambda request: approver.later(request), 50)  # noqa: PLW0108  a plain one
    with pytest.raises(TypeError, match="takes a plain function"):
        call(guard, approver.later, 50)
    assert (approver.asked, guard.available) == ([], 100)


@sync_ways
def test_a_late_approval_is_decided_on_the_balance_as_it_is_then(
    guard: Guard, provider: FakeProvider, clock: HandClock, call: Call
) -> None:
    """Others spent meanwhile, so the approved call is refused all the same."""

    def approve(request: ApprovalRequest) -> bool:
        assert request.available == 100
        provider.charge(70)
        clock.advance(700)
        return True

    with pytest.raises(InsufficientCredits) as caught:
        call(guard, approve, 50)
    assert (caught.value.available, guard.available) == (30, 30)


@sync_ways
def test_an_approval_expires(guard: Guard, clock: HandClock, call: Call) -> None:
    """What is approved more than a day after it was requested is requested again."""
    takes = [DAY + 1, DAY]
    requests: list[ApprovalRequest] = []

    def approve(request: ApprovalRequest) -> bool:
        requests.append(request)
        clock.advance(takes.pop(0))
        return True

    assert call(guard, approve, 50) == 50
    first, second = requests
    assert (first.expires_at - first.asked_at).total_seconds() == DAY
    assert (second.asked_at - first.asked_at).total_seconds() == DAY + 1


async def a_function(guard: Guard, approve: Any) -> Any:
    """Call a decorated coroutine function; returns what was available inside it."""

    @guard.require_credits(50, name="deep_spec", approve=approve, approve_above=20)
    async def spec() -> Any:
        return guard.available

    return await spec()


async def an_async_generator(guard: Guard, approve: Any) -> Any:
    """The same, for an async generator."""

    @guard.require_credits(50, name="deep_spec", approve=approve, approve_above=20)
    async def steps() -> Any:
        yield guard.available

    [seen] = [each async for each in steps()]
    return seen


async def an_async_block(guard: Guard, approve: Any) -> Any:
    """Guard a block."""
    async with guard.require_credits(50, name="deep_spec", approve=approve, approve_above=20):
        return guard.available


async def an_acquired_hold(guard: Guard, approve: Any) -> Any:
    """Acquire a hold."""
    with await guard.aacquire(50, name="deep_spec", approve=approve, approve_above=20):
        return guard.available


@pytest.mark.parametrize("is_async", [False, True], ids=["plain approver", "async approver"])
@pytest.mark.parametrize("call", [a_function, an_async_generator, an_async_block, an_acquired_hold])
async def test_async_calls(
    guard: Guard,
    call: Callable[[Guard, Any], Awaitable[Any]],
    is_async: bool,
    anyio_backend: str,
) -> None:
    """A plain approver serves them, and an async one; a denied call does not run."""
    del anyio_backend
    approver = Approver(guard, False, True, "yes")
    approve = approver.later if is_async else approver
    with pytest.raises(ApprovalDenied):
        await call(guard, approve)
    assert guard.available == 100
    assert await call(guard, approve) == 50
    with pytest.raises(TypeError, match="approve must return True or False, not str"):
        await call(guard, approve)
    assert approver.available == [100, 100, 50]
    assert approver.threads == [threading.get_ident()] * 3


@pytest.mark.parametrize("form", ["function", "block", "acquire"])
async def test_cancelled_while_asked(guard: Guard, form: str, anyio_backend: str) -> None:
    """Nothing is left behind, and the same block can be entered again."""
    del anyio_backend
    asked = anyio.Event()
    answers: list[bool] = []

    async def approve(_: ApprovalRequest) -> bool:
        if not answers:
            asked.set()
            await anyio.sleep_forever()
        return answers.pop()

    block = guard.require_credits(50, approve=approve)

    async def call() -> None:
        if form == "block":
            async with block:
                pass
        elif form == "acquire":
            (await guard.aacquire(50, approve=approve)).release()
        else:

            @block
            async def spec() -> None: ...

            await spec()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await asked.wait()
        assert guard.available == 100
        tasks.cancel_scope.cancel()
    assert guard.available == 100
    answers.append(True)
    await call()


def test_who_is_asked_keeps_nobody_waiting(guard: Guard) -> None:
    """Other threads spend while somebody thinks about an approval, which may take guards itself."""
    asked, decided = threading.Event(), threading.Event()

    def approve(_: ApprovalRequest) -> bool:
        asked.set()
        decided.wait(20)
        with guard.require_credits(10) as hold:
            hold.release()
        return True

    caller = Caller(lambda: by_block(guard, approve, 50))
    until(asked.is_set)
    with guard.require_credits(40) as hold:
        assert guard.available == 60
        hold.release()
    decided.set()
    assert caller.outcome() == 50


def test_approve_alone_asks_about_every_call_that_holds_something(guard: Guard) -> None:
    """Credits or slots; a call that only checks holds nothing."""
    approver = Approver(guard)
    guard.require_credits(1, approve=approver)(lambda: None)()
    guard.require_credits(slots=1, approve=approver)(lambda: None)()
    assert [(request.needed, request.slots) for request in approver.asked] == [(1, 0), (0, 1)]
    assert approver.asked[0].above is None
    guard.require_credits(50, cost=0, approve=approver)(lambda: None)()
    guard.require_credits(lambda: 0, approve=approver)(lambda: None)()
    assert len(approver.asked) == 2


def test_what_is_held_counts_and_not_what_must_be_there(guard: Guard) -> None:
    """`min` may be more than a call costs."""
    approver = Approver(guard)
    guard.require_credits(90, cost=20, approve=approver, approve_above=20)(lambda: None)()
    assert approver.asked == []
    guard.require_credits(70, cost=21, approve=approver, approve_above=20)(lambda: None)()
    assert [request.needed for request in approver.asked] == [21]


def test_the_request_shows_the_arguments_but_not_in_its_repr(guard: Guard) -> None:
    """It is frozen, too."""
    approver = Approver(guard)

    @guard.require_credits(50, approve=approver)
    def spec(prompt: str, *, pages: int) -> int:
        return len(prompt) * pages

    spec("secret", pages=2)
    (request,) = approver.asked
    assert (request.args, request.kwargs) == (("secret",), {"pages": 2})
    assert "secret" not in repr(request)
    with pytest.raises(AttributeError):
        request.needed = Decimal(0)  # type: ignore[misc]


def test_a_cost_is_computed_once_a_call(guard: Guard) -> None:
    """So that what was approved is what is held, whatever it would be by then."""
    costs = [50, 90]
    approver = Approver(guard)
    guard.require_credits(lambda: costs.pop(0), approve=approver)(lambda: None)()
    assert (len(approver.asked), guard.available) == (1, 50)


@pytest.mark.parametrize("how", ["callable", "default"])
def test_the_guard_that_was_asked_about_admits(clock: HandClock, how: str) -> None:
    """Whichever would be found by then."""
    del clock
    guards = [Guard(FakeProvider(100)), Guard(FakeProvider(100))]
    for guard in guards:
        guard.balance()
    found = list(guards)
    set_default_guard(guards[0])

    def approve(_: ApprovalRequest) -> bool:
        set_default_guard(guards[1])
        require_credits(1)(lambda: None)()
        return True

    options: dict[str, Any] = {"guard": lambda: found.pop(0)} if how == "callable" else {}
    require_credits(50, approve=approve, **options)(lambda: None)()
    assert [guard.available for guard in guards] == [50, 99]


def test_no_frame_of_an_error_contains_the_answer(guard: Guard) -> None:
    """It may be a key that a program returned by mistake."""
    with pytest.raises(TypeError) as caught:
        by_block(guard, Approver(guard, "sk_secret"), 50)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [frame for frame in frames if "budgetguard/" in frame.f_code.co_filename]
    assert ours
    assert "sk_secret" not in str([frame.f_locals for frame in ours])


def test_a_learned_cost_that_rose_is_asked_about_again(clock: HandClock) -> None:
    """Calls that ended meanwhile taught a higher one."""
    del clock
    guard = Guard(FakeProvider(1000))
    guard.balance()
    asked: list[Decimal] = []

    def approve(request: ApprovalRequest) -> bool:
        asked.append(request.needed)
        if len(asked) == 1:
            for _ in range(30):
                with guard.require_credits(cost=learned(5), name="spec") as hold:
                    hold.settle(20)
        return True

    with guard.require_credits(cost=learned(5), name="spec", approve=approve) as hold:
        assert len(asked) == 2
        assert (asked[0], hold.amount) == (5, asked[1])
        assert asked[1] >= 20


def test_a_guard_that_observes_asks_nobody(provider: FakeProvider, clock: HandClock) -> None:
    """Nor does one that is switched off."""
    del clock
    watching = Guard(provider, mode="observe")
    watching.balance()
    approver = Approver(watching, False)
    assert by_decorator(watching, approver, 50) == 50
    guard = Guard(FakeProvider(100))
    set_active(False)
    assert by_decorator(guard, approver, 50) is None
    assert approver.asked == []


def test_guards_switched_off_while_somebody_is_asked(guard: Guard) -> None:
    """The call runs as if undecorated."""

    def approve(_: ApprovalRequest) -> bool:
        set_active(False)
        return True

    assert by_decorator(guard, approve, 50) == 100


def test_a_guard_closed_while_somebody_is_asked(guard: Guard) -> None:
    """The call is not admitted."""

    def approve(_: ApprovalRequest) -> bool:
        guard.close()
        return True

    with pytest.raises(RuntimeError, match="closed"):
        by_decorator(guard, approve, 50)


def test_an_extension_is_not_asked_about(guard: Guard) -> None:
    """The call was approved, and goes on."""
    approver = Approver(guard)
    with guard.require_credits(30, approve=approver) as hold:
        hold.extend(30)
    assert len(approver.asked) == 1


def test_nobody_is_asked_inside_the_library(clock: HandClock) -> None:
    """A listener's guarded call raises before anybody is asked."""
    del clock
    raised: list[Exception] = []

    def on_event(event: Event) -> None:
        if event.kind == "settled":
            try:
                by_block(guard, approver, 50)
            except Exception as error:
                raised.append(error)

    guard = Guard(FakeProvider(100), on_event=on_event)
    approver = Approver(guard)
    with guard.require_credits(10):
        pass
    assert approver.asked == []
    assert [type(error) for error in raised] == [RuntimeError]


def test_a_denial_is_an_event_and_a_log_record(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As a refusal for any other reason."""
    del clock
    events: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=events.append)
    guard.balance()
    events.clear()
    caplog.set_level("INFO", "budgetguard")
    with pytest.raises(ApprovalDenied):
        by_decorator(guard, Approver(guard, False), 50)
    (event,) = events
    assert (event.kind, event.operation, event.credits) == ("refused", "deep_spec", 50)
    assert (event.cause, event.enforced) == ("approval", True)
    assert "Refused: deep_spec needs 50 credits, and the approval was denied." in caplog.messages


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"approve_above": 20}, "approve_above= needs approve="),
        ({"approve": "yes"}, "approve takes a callable that returns a bool, not str"),
        ({"approve": bool, "approve_above": "much"}, "approve_above"),
        ({"approve": bool, "approve_above": -1}, "approve_above"),
        ({"approve": bool, "approve_above": True}, "approve_above"),
    ],
    ids=["above alone", "no callable", "text", "negative", "bool"],
)
def test_wrong_arguments(guard: Guard, options: dict[str, Any], error: str) -> None:
    """At decoration, in every place."""
    for place in (guard.require_credits, guard.acquire, require_credits):
        with pytest.raises((TypeError, ValueError), match=error):
            place(10, **options)


def test_an_async_approver_of_a_plain_function_is_refused_at_decoration(guard: Guard) -> None:
    """Nobody could await it; an async function may have either."""
    approver = Approver(guard)
    decorate = guard.require_credits(50, approve=approver.later)
    with pytest.raises(TypeError, match="approve, for synchronous calls, takes a plain function"):
        decorate(len)

    def steps() -> Any:
        yield

    with pytest.raises(TypeError, match="approve, for synchronous calls"):
        decorate(steps)


def test_the_error_can_be_copied_and_pickled() -> None:
    """Its arguments are JSON values."""
    error = ApprovalDenied("deep_spec", Decimal("50.5"), "pre.dev", "USD", "outdated")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert (vars(other), str(other)) == (vars(error), str(error))
    assert error.args == ("deep_spec", "50.5", "pre.dev", "USD", "outdated")


def test_a_requirement_with_an_approver_can_be_pickled() -> None:
    """If the approver can."""
    other = pickle.loads(pickle.dumps(require_credits(50, approve=bool, approve_above=20)))
    assert (other.spec.approve, other.spec.approve_above) == (bool, 20_000_000)


def test_labels_are_in_the_request_the_error_and_the_event() -> None:
    """Whose call it is may decide the answer."""
    heard: list[Event] = []
    guard = Guard(FakeProvider(100), on_event=heard.append)
    asked: list[ApprovalRequest] = []

    def denies(request: ApprovalRequest) -> bool:
        asked.append(request)
        return False

    with (
        guard.labels(user="ada"),
        guard.budget(80, name="run"),
        pytest.raises(ApprovalDenied) as caught,
    ):
        guard.acquire(50, approve=denies)
    refused = heard[-1]
    assert asked[0].labels == caught.value.labels == refused.labels == {"user": "ada"}
    assert (refused.kind, refused.cause, refused.budget) == ("refused", "approval", "run")
