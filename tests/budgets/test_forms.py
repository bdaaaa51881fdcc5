"""Every form of a guarded call takes from the budget around it what it takes from the account."""

import asyncio
import functools
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from looking import NOTHING, figures, open_in

from budgetguard import BudgetExceeded, Guard, GuardPool, HoldClosed, learned, require_credits
from budgetguard.integrations import guarded
from budgetguard.integrations.tools import Tools
from budgetguard.testing import FakeProvider, HandClock

Call = Callable[[], object]


class Site:
    """Methods of each kind that cost 10."""

    def __init__(self, guard: Guard) -> None:
        self.plain = guard.require_credits(min=10)(self.read)

    def read(self) -> str:
        """Read it."""
        return "page"


def of_class(guard: Guard, kind: Any) -> Call:
    """A class method or a static method, called on an instance."""

    class Shop:
        @kind
        @guard.require_credits(min=10)
        def read(*_: Any) -> str:
            return "page"

    return lambda: Shop().read()


class Reader:
    """An object that can be called."""

    def __call__(self) -> str:
        """Read it."""
        return "page"


def steps(guard: Guard) -> Call:
    """A generator, read to its end."""

    @guard.require_credits(min=10)
    def parts() -> Iterator[int]:
        yield 1
        yield 2

    return lambda: list(parts())


class Reply:
    """A result that is open until it is closed."""

    def read(self) -> str:
        """Read it."""
        return "page"

    def close(self) -> None:
        """Close it."""


def until_close(guard: Guard) -> Call:
    """A reply that is read after the call returned."""
    reply = guard.require_credits(min=10, until="close")(lambda *_: Reply())

    def call() -> None:
        found = reply()
        found.read()
        found.close()

    return call


def block(guard: Guard) -> Call:
    """A block."""

    def call() -> None:
        with guard.require_credits(min=10):
            pass

    return call


FORMS: dict[str, Callable[[Guard], Call]] = {
    "a function": lambda guard: guard.require_credits(min=10)(lambda: "page"),
    "a computed amount": lambda guard: guard.require_credits(min=lambda: 10)(lambda: "page"),
    "a computed cost": lambda guard: guard.require_credits(
        min=1, cost=lambda: 11, actual=lambda _: 10
    )(lambda: "page"),
    "at actual": lambda guard: guard.require_credits(min=11, actual=lambda _: 10)(lambda: "page"),
    "a learned cost": lambda guard: guard.require_credits(cost=learned(10), actual=lambda _: 10)(
        lambda: "page"
    ),
    "a guard that is looked up": lambda guard: require_credits(min=10, guard=lambda: guard)(
        lambda: "page"
    ),
    "a method": lambda guard: Site(guard).plain,
    "a class method": lambda guard: of_class(guard, classmethod),
    "a static method": lambda guard: of_class(guard, staticmethod),
    "a partial": lambda guard: guard.require_credits(min=10)(functools.partial(str, "page")),
    "an object": lambda guard: guard.require_credits(min=10)(Reader()),
    "a generator": steps,
    "until close": until_close,
    "a block": block,
    "acquire": lambda guard: lambda: guard.acquire(10).settle(),
    "acquire, at less": lambda guard: lambda: guard.acquire(11).settle(10),
    "acquire, at more": lambda guard: lambda: guard.acquire("9.5").settle(10),
    "extend": lambda guard: lambda: _extended(guard),
    "charged": lambda guard: lambda: _charged(guard),
    "keep": lambda guard: lambda: guard.acquire(10).keep(),
    "a dropped hold": lambda guard: lambda: guard.acquire(10) and gc.collect(),
    "a tool": lambda guard: lambda: Tools(guard, {"it": 10}).open("it", {}).finish(None),
    "an SDK's method": lambda guard: guarded(Site(guard), guard, {"read": 10}).read,
}


def _extended(guard: Guard) -> None:
    hold = guard.acquire("9.5")
    hold.extend("0.5")
    hold.settle()


def _charged(guard: Guard) -> None:
    hold = guard.acquire(11)
    hold.charged(4)
    hold.charged(3)
    hold.settle(10)


@pytest.mark.parametrize("share", ["shared", "carve"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_takes_from_its_budget(guard: Guard, form: str, share: Any) -> None:
    """Three at 10 in a budget of 39, of which two are in one of 29 inside it; the next is refused."""
    call = FORMS[form](guard)
    call()
    with guard.budget(39, name="run") as run:
        with guard.budget(29, name="part", share=share) as part:
            # A call on the fast path needs room for two: the second one is decided about.
            call()
            call()
            assert figures(part) == (20, 0, 9)
            with pytest.raises(BudgetExceeded) as refused:
                call()
            assert refused.value.budget == "part"
        assert run.spent == 20
        call()
        assert figures(run) == (30, 0, 9)
        with pytest.raises(BudgetExceeded) as refused:
            call()
        assert refused.value.budget == "run"
    call()
    assert figures(run) == (30, 0, 9)
    assert guard.available == 950
    assert open_in(guard) == NOTHING


async def _read() -> str:
    return "page"


async def _parts() -> AsyncIterator[int]:
    yield 1
    yield 2


class AsyncReader:
    """An object whose calls are awaited."""

    async def __call__(self) -> str:
        """Read it."""
        return "page"


async def _block(guard: Guard) -> None:
    async with guard.require_credits(min=10):
        pass


async def _listed(parts: AsyncIterator[int]) -> list[int]:
    return [each async for each in parts]


async def _aextended(guard: Guard) -> None:
    hold = await guard.aacquire("9.5")
    await hold.aextend("0.5")
    hold.settle()


AWAITED: dict[str, Callable[[Guard], Callable[[], Awaitable[object]]]] = {
    "a coroutine function": lambda guard: guard.require_credits(min=10)(_read),
    "at actual": lambda guard: guard.require_credits(min=11, actual=lambda _: 10)(_read),
    "a plain function that returns an awaitable": lambda guard: guard.require_credits(min=10)(
        lambda *_: _read()
    ),
    "an async generator": lambda guard: lambda: _listed(guard.require_credits(min=10)(_parts)()),
    "a partial": lambda guard: guard.require_credits(min=10)(functools.partial(_read)),
    "an object": lambda guard: guard.require_credits(min=10)(AsyncReader()),
    "a block": lambda guard: lambda: _block(guard),
    "aextend": lambda guard: lambda: _aextended(guard),
}


@pytest.mark.anyio
@pytest.mark.parametrize("form", AWAITED)
async def test_an_awaited_call_takes_from_its_budget(guard: Guard, form: str) -> None:
    """The same for what is awaited."""
    call = AWAITED[form](guard)
    async with guard.budget(39, name="run") as run:
        async with guard.budget(29, name="part") as part:
            await call()
            await call()
            assert figures(part) == (20, 0, 9)
            with pytest.raises(BudgetExceeded):
                await call()
        await call()
        assert figures(run) == (30, 0, 9)
        with pytest.raises(BudgetExceeded):
            await call()
    await call()
    assert guard.available == 960
    assert open_in(guard) == NOTHING


def test_what_a_call_takes_it_holds_until_it_ends(guard: Guard) -> None:
    """A budget counts a call from its begin on, and all of what it may cost."""
    with guard.budget(100) as run, guard.require_credits(min=30) as hold:
        assert figures(run) == (0, 30, 70)
        hold.extend(20)
        assert figures(run) == (0, 50, 50)
        hold.charged(10)
        assert figures(run) == (10, 40, 50)
        hold.settle(25)
        assert figures(run) == (25, 0, 75)


def test_what_is_released_is_given_back(guard: Guard) -> None:
    """By hand, or because an exception proves that nothing was charged."""
    fails = guard.require_credits(min=40, release_on=LookupError)({}.popitem)
    with guard.budget(50) as run:
        guard.acquire(40).release()
        assert figures(run) == (0, 0, 50)
        with pytest.raises(KeyError):
            fails()
        assert figures(run) == (0, 0, 50)


def test_what_may_have_been_charged_stays_spent(
    guard: Guard, provider: FakeProvider, clock: HandClock
) -> None:
    """A balance that shows that nothing was charged frees the account, and corrects no budget."""
    fails = guard.require_credits(min=40)({}.popitem)
    with guard.budget(50, name="run") as run:
        with pytest.raises(KeyError):
            fails()
        assert figures(run) == (40, 0, 10)
        clock.advance(60)
        guard.balance(max_age=0)
        assert guard.available == provider.credits == 1000
        assert figures(run) == (40, 0, 10)
        with pytest.raises(BudgetExceeded):
            guard.acquire(11)


def test_an_overrun_is_spent_and_stops_the_next_call(guard: Guard) -> None:
    """The money is gone: what is left is below zero, and the figures still add up."""
    with guard.budget(100, name="all") as everything:
        with guard.budget(50, name="run") as run:
            guard.acquire(45).settle(70)
            assert figures(run) == (70, 0, -20)
            with pytest.raises(BudgetExceeded) as refused:
                guard.acquire(1)
            assert (refused.value.available, refused.value.spent) == (-20, 70)
        assert figures(everything) == (70, 0, 30)


def test_an_extension_beyond_the_budget_is_refused(guard: Guard) -> None:
    """The call goes on with what it has."""
    with guard.budget(50, name="run") as run:
        hold = guard.acquire(40, name="deep_spec")
        with pytest.raises(BudgetExceeded, match="deep_spec needs 11 credits"):
            hold.extend(11)
        assert (hold.state, hold.amount) == ("open", 40)
        hold.extend(10)
        assert figures(run) == (0, 50, 0)
        hold.settle()
        with pytest.raises(HoldClosed):
            hold.extend(1)
    assert figures(run) == (50, 0, 0)


def test_an_extension_after_the_block_counts_where_the_call_began(guard: Guard) -> None:
    """A hold belongs to the budgets that it was admitted in, wherever it is used."""
    with guard.budget(50, name="run") as run:
        hold = guard.acquire(40)
    with guard.budget(5, name="other") as other:
        hold.extend(10)
        with pytest.raises(BudgetExceeded, match="the budget run has none"):
            hold.extend(1)
        hold.settle()
    assert figures(run) == (50, 0, 0)
    assert figures(other) == (0, 0, 5)


@pytest.mark.parametrize("share", ["shared", "carve"])
def test_an_attempt_that_may_have_been_charged_counts_once_more(guard: Guard, share: Any) -> None:
    """Although the budget has no room for it: the money may be gone."""
    with guard.budget(50, name="run", share=share) as run:
        hold = guard.acquire(30)
        hold.keep_attempt()
        assert figures(run) == (30, 30, -10)
        hold.settle(20)
        assert figures(run) == (50, 0, 0)
    assert guard.available == 950
    assert open_in(guard) == NOTHING


def test_slots_alone_cost_a_budget_nothing(clock: HandClock) -> None:
    """Also where nothing is left of it."""
    del clock
    guard = Guard(FakeProvider(1000, max_concurrency=2))
    guard.balance()
    with guard.budget(5) as run:
        guard.acquire(5).settle()
        with guard.require_credits(slots=1):
            assert figures(run) == (5, 0, 0)
    assert open_in(guard) == NOTHING


def test_slots_and_credits_together(clock: HandClock) -> None:
    """A call with slots goes by a decision, which takes from the budget as well."""
    del clock
    guard = Guard(FakeProvider(1000, max_concurrency=2))
    guard.balance()
    with guard.budget(15) as run, guard.require_credits(min=10, slots=1) as hold:
        assert figures(run) == (0, 10, 5)
        with pytest.raises(BudgetExceeded):
            guard.acquire(10, slots=1)
        hold.settle(3)
        assert figures(run) == (3, 0, 12)
    assert open_in(guard) == NOTHING


def test_a_check_needs_as_much_of_the_budget(guard: Guard) -> None:
    """What only checks holds nothing, and is refused where less is left than `min`."""
    check = guard.require_credits(min=10, cost=0)(lambda: "page")
    check()
    with guard.budget(15) as run:
        check()
        assert figures(run) == (0, 0, 15)
        guard.acquire(6).settle()
        with pytest.raises(BudgetExceeded):
            check()
        with pytest.raises(BudgetExceeded), guard.require_credits(min=10, cost=0):
            pass
    check()


def test_an_async_check_needs_as_much_of_the_budget(guard: Guard) -> None:
    """The same for a coroutine function."""
    check = guard.require_credits(min=10, cost=0)(_read)

    async def main() -> None:
        async with guard.budget(15):
            await check()
            guard.acquire(6).settle()
            with pytest.raises(BudgetExceeded):
                await check()

    asyncio.run(main())


def test_more_must_be_left_than_is_held(guard: Guard) -> None:
    """`min` above `cost`: as much must be left of the budget as of the account."""
    call = guard.require_credits(min=10, cost=2)(lambda: "page")
    with guard.budget(13) as run:
        call()
        call()
        assert figures(run) == (4, 0, 9)
        with pytest.raises(BudgetExceeded):
            call()


def test_nothing_of_it_is_left_behind_where_the_account_refuses(guard: Guard) -> None:
    """One admission decides all, or changes nothing."""
    with guard.budget(5000) as everything, guard.budget(4000) as run:
        with pytest.raises(Exception, match="fake reports 1000"):
            guard.acquire(2000)
        assert figures(everything) == (0, 0, 5000)
        assert figures(run) == (0, 0, 4000)


def test_nothing_of_it_is_left_behind_where_an_outer_budget_refuses(guard: Guard) -> None:
    """Nor does the inner one take anything."""
    with guard.budget(10, name="outer") as outer, guard.budget(50, name="inner") as inner:
        with pytest.raises(BudgetExceeded) as refused:
            guard.acquire(20)
        assert refused.value.budget == "outer"
        assert figures(outer) == (0, 0, 10)
        assert figures(inner) == (0, 0, 50)
        assert guard.available == 1000


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_any_depth(guard: Guard, depth: int) -> None:
    """Each budget counts each call, however many there are around it."""
    call = guard.require_credits(min=1)(lambda: "page")
    budgets = [guard.budget(20 + each) for each in range(depth)]
    for budget in reversed(budgets):
        budget.__enter__()
    for _ in range(18):
        call()
        guard.acquire(1).release()
    guard.acquire(2).settle()
    with pytest.raises(BudgetExceeded):
        call()
    for budget in budgets:
        budget.__exit__(None, None, None)
    assert [budget.spent for budget in budgets] == [20] * depth
    call()
    assert guard.available == 979


def test_a_generator_counts_from_its_first_step_to_its_end(guard: Guard) -> None:
    """In the budget in which it was first asked for something."""

    @guard.require_credits(min=10)
    def parts() -> Iterator[int]:
        yield 1
        yield 2

    made_outside = parts()
    with guard.budget(10) as run:
        assert figures(run) == (0, 0, 10)
        next(made_outside)
        assert figures(run) == (0, 10, 0)
        with pytest.raises(BudgetExceeded):
            next(parts())
    assert figures(run) == (0, 10, 0)
    assert list(made_outside) == [2]
    assert figures(run) == (10, 0, 0)


@pytest.mark.anyio
async def test_an_async_generator_that_is_closed_half_way_is_spent(guard: Guard) -> None:
    """What it may have cost counts."""
    parts = guard.require_credits(min=10)(_parts)()
    with guard.budget(10) as run:
        await anext(parts)
        assert figures(run) == (0, 10, 0)
        await parts.aclose()
        assert figures(run) == (10, 0, 0)


def test_a_pools_guards_have_budgets(clock: HandClock) -> None:
    """A customer's budget bounds the calls of the customer's guard alone."""
    del clock
    pool = GuardPool(lambda _: Guard(FakeProvider(1000)))
    with pool["ada"].budget(10, name="ada") as hers:
        pool["ada"].acquire(10).settle()
        pool["bob"].acquire(50).settle()
        with pytest.raises(BudgetExceeded):
            pool["ada"].acquire(1)
    assert figures(hers) == (10, 0, 0)


def test_a_pool_keeps_a_guard_with_a_running_window(clock: HandClock) -> None:
    """What a customer has spent today is not forgotten because others came; tomorrow it is."""
    made = list[str]()

    def make(key: str) -> Guard:
        made.append(key)
        return Guard(FakeProvider(1000))

    pool = GuardPool(make, maxsize=1)

    def spend(key: str) -> None:
        guard = pool[key]
        with guard.budget(10, name="daily", per="day"):
            guard.acquire(10).settle()

    spend("ada")
    clock.advance(600)
    gc.collect()
    for key in "bcd":
        _ = pool[key].available
    with pytest.raises(BudgetExceeded):
        spend("ada")
    assert made.count("ada") == 1
    clock.advance(86_400)
    for key in "efghi":
        _ = pool[key].available
    gc.collect()
    spend("ada")
    assert made.count("ada") == 2


@pytest.mark.anyio
async def test_within_a_request_of_a_web_service(guard: Guard) -> None:
    """An app that enters a budget for a request bounds what that request spends, and no other's."""
    from budgetguard.asgi import GuardMiddleware

    spent = list[tuple[Any, ...]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        async with guard.budget(15, name=scope["path"]) as run:
            guard.acquire(10).settle()
            await anyio.lowlevel.checkpoint()
            spent.append((scope["path"], *figures(run)))
            if scope["path"] == "/twice":
                guard.acquire(10).settle()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    service = GuardMiddleware(app, guard, {("GET", "/paid"): 5})
    statuses = dict[str, int]()

    async def request(path: str) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses[path] = message["status"]

        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        await service(scope, receive, send)

    async with anyio.create_task_group() as tasks:
        for path in ("/once", "/twice", "/paid"):
            tasks.start_soon(request, path)
    assert statuses == {"/once": 200, "/twice": 402, "/paid": 200}
    assert sorted(spent) == [(path, 10, 0, 5) for path in ("/once", "/paid", "/twice")]
    assert guard.available == 1000 - 30 - 5
