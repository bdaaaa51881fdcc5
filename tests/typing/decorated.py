"""Checked by mypy --strict and pyright, never run: decorated code keeps its own types."""

# pyright: basic, reportUnnecessaryTypeIgnoreComment=true
import contextlib
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from decimal import Decimal
from typing import Any, assert_type

from budgetguard import (
    ApprovalRequest,
    Balance,
    BudgetExceeded,
    BudgetGuardError,
    Guard,
    GuardPool,
    Hold,
    PreDev,
    learned,
    require_credits,
)

guard = Guard(PreDev())


@guard.require_credits(min=50)
def plain(x: int, *, y: str = "") -> list[int]:
    """Plain."""
    return [x]


@guard.require_credits(cost=learned(50, 0.9, by=lambda x: x), actual=lambda result: result)
def learns(x: int) -> float:
    """Learns what it costs."""
    return float(x)


@require_credits(min=50, cost="30.5", until="close")
async def coroutine(x: int) -> dict[str, int]:
    """Async."""
    return {"x": x}


def instead(error: BudgetGuardError, x: int) -> list[int]:
    """Supplies a result."""
    return [x]


@guard.require_credits(min=1, on_refusal=instead)
def answered(x: int) -> list[int]:
    """Keeps its own type."""
    return [x]


def approves(request: ApprovalRequest) -> bool:
    """Answers."""
    return request.needed < 100 and "user" in request.labels


async def awaits(request: ApprovalRequest) -> bool:
    """Answers later."""
    return True


@guard.require_credits(min=1, approve=approves, approve_above=20)
def approved(x: int) -> list[int]:
    """Keeps its own type."""
    return [x]


@guard.budget(30, name="day", key=lambda x: x, per="day", tz="Europe/Berlin")
@require_credits(min=1, approve=awaits, approve_above="20.5", on_refusal=instead)
async def bounded(x: int) -> list[int]:
    """Keeps its own type."""
    return [x]


@guard.budget(30, share="carve")
def bounded_generator(x: int) -> Generator[int, str, bytes]:
    """Keeps its own type."""
    yield x
    return b""


@guard.require_credits(min=1)
def generator(x: int) -> Generator[int, str, bytes]:
    """A generator."""
    yield x
    return b""


@guard.require_credits(min=1)
def iterator(x: int) -> Iterator[int]:
    """A generator, less exactly."""
    yield x


@guard.require_credits(min=1)
async def async_generator(x: int) -> AsyncGenerator[int, str]:
    """An async generator."""
    yield x


@guard.require_credits(min=1)
def starts(x: int) -> Awaitable[int]:
    """Returns an awaitable."""
    raise NotImplementedError


@contextlib.contextmanager
@guard.require_credits(min=1)
def block(x: int) -> Iterator[int]:
    """A context manager."""
    yield x


assert_type(plain(1, y=""), list[int])
assert_type(learns(1), float)
assert_type(answered(1), list[int])
assert_type(approved(1), list[int])
assert_type(bounded_generator(1), Generator[int, str, bytes])
approved("")  # type: ignore[arg-type]
guard.require_credits(min=1, approve=lambda request: "yes")  # type: ignore[arg-type,return-value]
guard.budget(30, share="split")  # type: ignore[arg-type]
guard.budget(30, per="year")  # type: ignore[arg-type]
guard.labels(user=1.5)  # type: ignore[arg-type]
assert_type(generator(1), Generator[int, str, bytes])
assert_type(iterator(1), Iterator[int])
assert_type(async_generator(1), AsyncGenerator[int, str])
assert_type(starts(1), Awaitable[int])
plain("")  # type: ignore[arg-type]
plain(1, "")  # type: ignore[call-arg]
plain()  # type: ignore[call-arg]
generator("")  # type: ignore[arg-type]


class Client:
    """Methods of all kinds."""

    @guard.require_credits(min=lambda self, x: x)
    def method(self, x: int) -> str:
        """Plain."""
        return ""

    @guard.require_credits(min=1)
    async def amethod(self, x: int) -> str:
        """Async."""
        return ""

    @classmethod
    @guard.require_credits(min=1)
    def below_classmethod(cls, x: int) -> "Client":
        """Made."""
        return cls()

    @guard.require_credits(min=1)
    @classmethod
    def above_classmethod(cls, x: int) -> "Client":
        """Made."""
        return cls()

    @staticmethod
    @guard.require_credits(min=1)
    def below_staticmethod(x: int) -> bytes:
        """Stand alone."""
        return b""

    @guard.require_credits(min=1)
    @staticmethod
    def above_staticmethod(x: int) -> bytes:
        """Stand alone."""
        return b""

    @property
    @guard.require_credits(min=1)
    def below_property(self) -> float:
        """A figure."""
        return 0.0

    def __call__(self, x: int) -> complex:
        """Be called."""
        return 0j


assert_type(Client().method(1), str)
assert_type(Client.below_classmethod(1), Client)
assert_type(Client.above_classmethod(1), Client)
assert_type(Client().above_classmethod(1), Client)
assert_type(Client.below_staticmethod(1), bytes)
assert_type(Client.above_staticmethod(1), bytes)
assert_type(Client().above_staticmethod(1), bytes)
assert_type(Client().below_property, float)
Client().method("")  # type: ignore[arg-type]
Client.above_classmethod("")  # type: ignore[arg-type]
Client.above_staticmethod("")  # type: ignore[arg-type]

client = guard.require_credits(min=1)(Client())
assert_type(client, Client)
assert_type(client(1), complex)
assert_type(guard.require_credits(min=1)(Client().method)(1), str)
part = guard.require_credits(min=1)(functools.partial(int, "101", base=2))
assert_type(part, functools.partial[int])
assert_type(part(), int)
assert_type(guard.require_credits(min=1)(len)([]), int)


def spent(result: dict[str, Any]) -> Decimal:
    """What a result says it cost."""
    return Decimal(str(result["creditsUsed"]))


def choose(tenant: str) -> Guard:
    """One guard per tenant."""
    return guard


@require_credits(min=lambda tenant: 10, actual=spent, release_on=(OSError, TimeoutError))
def with_actual(tenant: str) -> dict[str, Any]:
    """Callables of all sorts."""
    return {}


@require_credits(slots=1, wait=2.5, guard=choose, lag=1, linger=2, name="mine")
def with_guard(tenant: str) -> None:
    """A guard that is chosen."""


async def blocks() -> None:
    """Context managers give holds; awaiting gives what was promised."""
    assert_type(await coroutine(1), dict[str, int])
    assert_type(await Client().amethod(1), str)
    await coroutine("")  # type: ignore[arg-type]
    with guard.require_credits(min=1) as hold:
        assert_type(hold, Hold)
        hold.settle(Decimal(1))
        hold.settle(None)
        hold.charged("1.5")
        hold.extend(1)
        await hold.aextend(1)
    async with require_credits(min=1) as ahold:
        assert_type(ahold, Hold)
    with block(1) as x:
        assert_type(x, int)
    assert_type(guard.acquire(10), Hold)
    assert_type(await guard.aacquire(10, slots=1), Hold)
    with guard.acquire(10) as held:
        assert_type(held, Hold)
        assert_type(held.id, str)
        assert_type(held.amount, Decimal)
    assert_type(guard.balance(), Balance)
    assert_type(await guard.abalance(max_age=0), Balance)
    assert_type(guard.available, Decimal | None)
    async for item in async_generator(1):
        assert_type(item, int)
    with Guard(lambda: 100) as closing:
        assert_type(closing, Guard)
    async with Guard(lambda: 100) as aclosing:
        assert_type(aclosing, Guard)


def states(hold: Hold) -> str:
    """All four states, and no other."""
    match hold.state:
        case "open" | "settled":
            return "one of two"
        case "released" | "kept" as other:
            return other


def functions() -> None:
    """Decorated functions go where the bare ones go."""
    takes: Callable[[int], Coroutine[Any, Any, dict[str, int]]] = coroutine
    steps: Callable[[int], AsyncIterator[int]] = async_generator
    wrong: Callable[[str], Any] = coroutine  # type: ignore[assignment]
    del takes, steps, wrong


pool = GuardPool(choose)
assert_type(pool["tenant"], Guard)
pool[3]  # type: ignore[index]

guard.require_credits(min=[])  # type: ignore[arg-type]
guard.require_credits(50, 30)  # type: ignore[call-arg]
guard.require_credits(min=1, waits=3)  # type: ignore[call-arg]
guard.acquire(min=lambda: 1)  # type: ignore[arg-type]
Guard(PreDev(), mode="watch")  # type: ignore[arg-type]
Guard(PreDev(), if_unknown="maybe")  # type: ignore[arg-type]
Guard(PreDev(), 300)  # type: ignore[call-arg]

Guard(PreDev(), alert_below=["20%", 50, "24h"], on_event=[print, print])
Guard(PreDev(), alert_below=("7d",), on_event=print)
Guard(PreDev(), alert_below={50})  # type: ignore[arg-type]
Guard(PreDev(), on_event=[3])  # type: ignore[list-item]


async def budget_blocks() -> None:
    """Budgets and labels as blocks."""
    assert_type(await bounded(1), list[int])
    await bounded("")  # type: ignore[arg-type]
    with guard.labels(user="ada", run=42), guard.budget(30) as run:
        assert_type(run.left, Decimal)
    async with guard.budget(30, name="run", share="carve") as carved:
        assert_type(carved.limit, Decimal)
        with carved.use():
            hold = await guard.aacquire(5, approve=awaits)
            assert_type(hold, Hold)
    try:
        guard.acquire(5, approve=approves, approve_above=1)
    except BudgetExceeded as error:
        assert_type(error.budget, str | None)
