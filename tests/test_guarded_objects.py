"""Any object whose methods spend: guarded by name, and otherwise what it was."""

import copy
import inspect
import pickle
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, Self

import anyio
import pytest
from predev_api import PredevAPI

from budgetguard import Guard, InsufficientCredits, PreDev
from budgetguard.integrations import guarded, predev
from budgetguard.testing import FakeProvider
from budgetguard.testing.sandbox import Sandbox


class Sessions:
    """A part of a client."""

    def __init__(self) -> None:
        self.created: list[str] = []

    def create(self, name: str) -> str:
        self.created.append(name)
        return name

    async def acreate(self, name: str) -> str:
        self.created.append(name)
        return name


class Client:
    """An SDK's client, more or less."""

    timeout = 60

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.calls: list[str] = []

    def spec(self, prompt: str, *, deep: bool = False) -> dict[str, Any]:
        """Write one."""
        self.calls.append(prompt)
        return {"prompt": prompt, "creditsUsed": 40 if deep else 8}

    def pages(self) -> Iterator[int]:
        self.calls.append("pages")
        yield from (1, 2)

    async def apages(self) -> AsyncIterator[int]:
        self.calls.append("apages")
        yield 1

    def both(self) -> None:
        self.spec("from inside")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append("left")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append("left, awaiting")


COSTS: dict[str, Any] = {
    "spec": lambda _, deep=False: 50 if deep else 10,
    "pages": 60,
    "apages": 60,
    "sessions.create": 60,
    "sessions.acreate": {"min": 60, "actual": len},
}


@pytest.fixture
def guard() -> Guard:
    """A guard with 100 credits that nothing is taken from."""
    return Guard(FakeProvider(100))


@pytest.fixture
def client(guard: Guard) -> Client:
    """A guarded client."""
    return guarded(Client(), guard, COSTS)


def test_a_priced_method_is_held_for(guard: Guard, client: Client) -> None:
    """Its cost is what the callable says, given the method's own arguments."""
    assert client.spec("one")["prompt"] == "one"
    assert guard.available == 90
    client.spec("two", deep=True)
    assert guard.available == 40
    with pytest.raises(InsufficientCredits, match=r"^Client\.spec needs 50 credits"):
        client.spec("three", deep=True)
    assert client.calls == ["one", "two"]


def test_every_kind_of_method_is_guarded(guard: Guard, client: Client) -> None:
    """Generators are admitted at their first step, and refused there."""
    assert list(client.pages()) == [1, 2]
    with pytest.raises(InsufficientCredits):
        next(client.pages())
    with pytest.raises(InsufficientCredits):
        client.sessions.create("late")
    with pytest.raises(InsufficientCredits):
        anyio.run(client.sessions.acreate, "late")

    async def step() -> None:
        await anext(client.apages())

    with pytest.raises(InsufficientCredits):
        anyio.run(step)
    assert client.calls == ["pages"]
    assert client.sessions.created == []
    assert guard.available == 40


def test_a_mapping_is_what_require_credits_takes(guard: Guard, client: Client) -> None:
    """Here, the real cost."""
    assert anyio.run(client.sessions.acreate, "four") == "four"
    assert guard.available == 96


def test_everything_else_is_the_objects_own(client: Client) -> None:
    """Attributes are read and written there, and it passes for what it stands for."""
    client.timeout = 5
    assert client.timeout == 5
    assert isinstance(client, Client)
    assert inspect.signature(client.spec) == inspect.signature(Client().spec)
    assert client.spec.__doc__ == "Write one."
    assert "spec" in dir(client)
    with pytest.raises(AttributeError):
        client.nothing  # type: ignore[attr-defined]  # noqa: B018
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises((NotImplementedError, TypeError)):
            make(client)


def test_the_object_itself_is_left_as_it_is(guard: Guard) -> None:
    """Whoever has it calls it unguarded, its own methods among them."""
    own = Client()
    through = guarded(own, guard, {"spec": 1000})
    through.both()
    own.spec("unguarded")
    assert own.calls == ["from inside", "unguarded"]


@pytest.mark.parametrize("name", ["spec", "sessions"])
def test_what_is_guarded_cannot_be_replaced(client: Client, name: str) -> None:
    """A stand-in, of a test, would be set behind it, and the real method be called all the same."""
    with pytest.raises(AttributeError, match=f"{name} is guarded: replace it in the object itself"):
        setattr(client, name, lambda prompt: prompt)
    assert client.spec("one")["prompt"] == "one"


def test_an_error_in_a_cost_says_whose(guard: Guard) -> None:
    """Of many prices, the wrong one is named."""
    with pytest.raises(ValueError, match="min is not a number") as said:
        guarded(Client(), guard, {"spec": 1, "sessions.create": "much"})
    assert said.value.__notes__ == ["in the cost of Client.sessions.create"]


def test_a_block_gets_the_guarded_object(client: Client) -> None:
    """The one behind it has no guard, so it is not handed out."""
    with client as inside:
        assert inside is client

    async def block() -> None:
        async with client as entered:
            assert entered is client

    anyio.run(block)
    assert client.calls == ["left", "left, awaiting"]


class Lines:
    """An object that is awaited, and iterated over in both ways."""

    uses = "its own"

    def __init__(self) -> None:
        self.left = [1, 2]

    def write(self, line: int) -> int:
        return line

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        if self.left:
            return self.left.pop(0)
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        for line in self:
            return line
        raise StopAsyncIteration

    async def _opened(self) -> Self:
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._opened().__await__()


@pytest.mark.anyio
async def test_an_object_can_be_used_as_before(guard: Guard) -> None:
    """Awaited, iterated over: and it is the guarded one that is handed out for itself."""
    await guard.abalance()
    lines: Any = guarded(Lines(), guard, {"write": 10})
    assert lines.uses == "its own"
    assert await lines is lines
    assert iter(lines) is lines
    assert aiter(lines) is lines
    assert next(lines) == 1
    assert [line async for line in lines] == [2]
    assert list(guarded(Lines(), guard, {"write": 10})) == [1, 2]  # type: ignore[call-overload]
    assert lines.write(3) == 3
    assert guard.available == 90


def test_an_object_can_do_no_more_than_before(client: Client) -> None:
    """Frameworks ask what it is by what it can do."""
    assert not isinstance(client, Iterable | AsyncIterable | Awaitable)


@pytest.mark.parametrize(
    ("costs", "kind", "words"),
    [
        ({"spek": 1}, AttributeError, "Client has no 'spek' to guard. Did you mean spec?"),
        ({"sessions.crate": 1}, AttributeError, "Client.sessions has no 'crate' to guard."),
        ({"timeout": 1}, TypeError, "Client.timeout is not a method, but int"),
        ({"sessions": 1}, TypeError, "Client.sessions is not a method, but Sessions"),
        ({"__call__": 1}, TypeError, "decorate the function instead"),
        ({"spec": -1}, ValueError, "min must not be negative"),
        ({"spec": {"mn": 1}}, TypeError, "mn"),
        ({"spec": {}}, TypeError, "min, cost and slots"),
        ({}, ValueError, "needs the cost of at least one method of Client"),
    ],
)
def test_what_cannot_be_guarded_is_said_at_once(
    guard: Guard, costs: Mapping[str, Any], kind: type[Exception], words: str
) -> None:
    """A typo never becomes a method that spends unguarded."""
    with pytest.raises(kind) as said:
        guarded(Client(), guard, costs)
    assert words in str(said.value)


def test_a_class_is_no_object(guard: Guard) -> None:
    """Its instances would not be guarded."""
    with pytest.raises(TypeError, match="not the class Client"):
        guarded(Client, guard, {"spec": 1})


def test_what_is_no_guard() -> None:
    """Arguments in another order are told from a guard."""
    provider: Any = FakeProvider(100)
    with pytest.raises(TypeError, match="guard takes a Guard, not FakeProvider"):
        guarded(Client(), provider, {"spec": 1})


def test_a_real_sdk() -> None:
    """pre.dev's client against the sandbox: refused before the request is sent."""
    with Sandbox(credits=60, clock="real", speed=1e6) as sandbox:
        guard = Guard(PreDev(sandbox.predev_key, base_url=sandbox.url))
        terms = {"min": PreDev.DEEP_SPEC, "actual": lambda spec: spec["creditsUsed"]}
        api = guarded(PredevAPI(sandbox.predev_key, sandbox.url), guard, {"deep_spec": terms})
        spec = api.deep_spec("An invoicing service")
        assert guard.available == 60 - spec["creditsUsed"]
        with pytest.raises(InsufficientCredits, match=r"PredevAPI\.deep_spec needs 50 credits"):
            for _ in range(7):
                api.deep_spec("Another")


def test_a_methods_on_refusal_supplies_its_result() -> None:
    """In a method's mapping it is what the decorator takes; a guarded SDK's own methods take none."""
    guard = Guard(FakeProvider(1))
    own: dict[str, Any] = {"min": 10, "on_refusal": lambda error, name: f"{error.needed} {name}"}
    assert guarded(Sessions(), guard, {"create": own}).create("a") == "10 a"
    api = PredevAPI("key", "https://api.example.com")
    with pytest.raises(TypeError, match="own methods take no on_refusal"):
        predev.guarded(api, guard, costs={"deep_spec": own})
