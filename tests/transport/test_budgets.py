"""Requests through a guarded client go by the budget around them, with either library, plain or awaited."""

from typing import Any

import httpx
import pytest
from web import Web

from budgetguard import BudgetExceeded, Guard
from budgetguard.testing import FakeProvider, HandClock
from budgetguard.transport import GuardTransport

pytestmark = pytest.mark.anyio

HERE = "https://a.example"


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def guard(clock: HandClock) -> Guard:
    """Give a guard of 1,000 credits, which knows of them."""
    del clock
    guard = Guard(FakeProvider(1000))
    guard.balance()
    return guard


async def begin(web: Web, guard: Guard, *statuses: int, **options: Any) -> list[str]:
    """Open the client over a service with these answers, and give what the service is asked."""
    asked, rest = list[str](), list(statuses)

    def answer(request: Any) -> Any:
        asked.append(request.url.path)
        status = rest.pop(0) if rest else 200
        headers = {"location": "/moved"} if 300 < status < 400 else {}
        return web.library.Response(status, headers=headers, json={"id": 1})

    transport = web.library.MockTransport(answer)
    prices = {("POST", "/spec"): 10, ("POST", "/moved"): 10}
    await web.open(guard, **{"transport": transport, "base_url": HERE, "prices": prices} | options)
    return asked


async def test_a_request_takes_from_its_budget(web: Web, guard: Guard) -> None:
    """The next one is answered by the guard, in the words of the budget, and is not sent."""
    asked = await begin(web, guard)
    with guard.budget(25, name="run-42") as run:
        for left in (15, 5):
            reply = await web.send("POST", f"{HERE}/spec", json={})
            assert (reply.status_code, run.left, run.held) == (200, left, 0)
        refused = await web.send("POST", f"{HERE}/spec", json={})
        free = await web.send("GET", f"{HERE}/spec")
    assert (refused.status_code, free.status_code) == (402, 200)
    assert "the budget run-42 has 5 of 25 credits left" in refused.json()["message"]
    assert "op up" not in refused.text
    assert "https" not in refused.text
    assert "retry-after" not in refused.headers
    assert len(asked) == 3
    assert (await web.send("POST", f"{HERE}/spec", json={})).status_code == 200
    assert (run.spent, guard.available) == (20, 970)


async def test_a_repeat_is_counted_by_the_budget_and_not_refused(web: Web, guard: Guard) -> None:
    """A failed attempt may have been charged, and so may its repeat."""
    await begin(web, guard, 500, 200, 500, 200)
    with guard.budget(15, name="run") as run:
        first = await web.send("POST", f"{HERE}/spec", json={})
        assert (first.status_code, run.spent, run.held) == (500, 10, 0)
        again = await web.send("POST", f"{HERE}/spec", json={})
        assert (again.status_code, run.spent, run.left) == (200, 20, -5)
        other = await web.send("POST", f"{HERE}/spec", json={"other": 1})
        assert other.status_code == 402


async def test_a_redirected_request_is_one(web: Web, guard: Guard) -> None:
    """Its budget counts it once."""
    asked = await begin(web, guard, 307, 200)
    with guard.budget(10, name="run") as run:
        reply = await web.send("POST", f"{HERE}/spec", json={}, follow_redirects=True)
    assert (reply.status_code, asked) == (200, ["/spec", "/moved"])
    assert (run.spent, run.held) == (10, 0)
    assert guard.available == 990


async def test_what_a_request_may_cost_is_held_meanwhile(web: Web, guard: Guard) -> None:
    """While the service works on it, its budget has what it may cost set aside."""
    held = list[Any]()

    def answer(_: Any) -> Any:
        held.append((run.spent, run.held))
        return web.library.Response(200, json={})

    await begin(web, guard, transport=web.library.MockTransport(answer))
    with guard.budget(10, name="run") as run:
        await web.send("POST", f"{HERE}/spec", json={})
    assert held == [(0, 10)]
    assert (run.spent, run.held) == (10, 0)


def test_a_refusal_is_raised_where_that_was_asked_for(guard: Guard) -> None:
    """With all its figures."""
    behind = httpx.MockTransport(lambda _: httpx.Response(200))
    transport = GuardTransport(
        guard, transport=behind, base_url=HERE, prices={("POST", "/spec"): 10}, on_refusal="raise"
    )
    with (
        httpx.Client(transport=transport) as client,
        guard.budget(5, name="run"),
        pytest.raises(BudgetExceeded) as refused,
    ):
        client.post(f"{HERE}/spec")
    assert (refused.value.budget, refused.value.needed) == ("run", 10)
