"""What every framework's file asks: tools by name, and a refusal in words for a model."""

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest

from budgetguard import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    Guard,
    HoldClosed,
    InsufficientCredits,
    InvalidCredentials,
    Paused,
    set_active,
)
from budgetguard.integrations.tools import Tools, for_model
from budgetguard.testing import FakeProvider, HandClock


def lacking(needed: str, available: str, **figures: Any) -> InsufficientCredits:
    """Give a refusal for lack of credits."""
    zero = Decimal(0)
    return InsufficientCredits(
        **{
            "operation": "deep_spec",
            "needed": Decimal(needed),
            "available": Decimal(available),
            "balance": Decimal(available),
            "held": zero,
            "pending": zero,
            "floor": zero,
            "age": 14.2,
            "provider": "pre.dev",
            "top_up_url": "https://example.com/top-up",
            **figures,
        }
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ApprovalDenied("deep_spec", "50", "pre.dev"),
            (
                "BUDGET: deep_spec needs 50 credits, and the approval was denied. "
                "Do not retry; continue without this tool, and tell the user."
            ),
        ),
        (
            ApprovalDenied("deep_spec", "50", "pre.dev", reason="outdated"),
            (
                "BUDGET: deep_spec needs 50 credits, and the approval that was given does not cover "
                "this call any more. Call it once more to ask for another approval."
            ),
        ),
        (
            lacking("50", "12"),
            (
                "BUDGET: needs 50 credits, 12 available (as of 14 s ago). "
                "Do not retry; ask for a top-up: https://example.com/top-up"
            ),
        ),
        (
            lacking("0.25", "0.20", top_up_url=None, age=0.3),
            (
                "BUDGET: needs 0.25 credits, 0.2 available (as of just now). "
                "Do not retry; ask for a top-up."
            ),
        ),
        (
            lacking("50", "-30", held=Decimal(42)),
            (
                "BUDGET: needs 50 credits, 0 available (as of 14 s ago). "
                "Do not retry; ask for a top-up: https://example.com/top-up"
            ),
        ),
        (
            lacking("0.5", "0.02", unit="USD"),
            (
                "BUDGET: needs 0.5 USD, 0.02 available (as of 14 s ago). "
                "Do not retry; ask for a top-up: https://example.com/top-up"
            ),
        ),
        (
            lacking("5", "20", basis="busy", retry_after=11.2),
            "BUDGET: needs 5 credits, and pre.dev is busy. Wait 12 s before you retry.",
        ),
        (
            lacking("5", "20", basis="key limit"),
            (
                "BUDGET: needs 5 credits, and a limit of this key's own at pre.dev is reached. "
                "Do not retry; ask for a higher limit of this key."
            ),
        ),
        (
            lacking("50", "20", basis="cap"),
            (
                "BUDGET: needs 50 credits, 20 available (as of 14 s ago). "
                "Do not retry: the account's cost limit does not allow a single call at that cost."
            ),
        ),
        (
            lacking("50", "12", retry_after=5.2),
            (
                "BUDGET: needs 50 credits, 12 available (as of 14 s ago). "
                "The rest is counted for other calls: wait 6 s before you retry."
            ),
        ),
        (
            lacking("50", "12", retry_after=0.0),
            (
                "BUDGET: needs 50 credits, 12 available (as of 14 s ago). "
                "The rest is counted for other calls: wait 1 s before you retry."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse", limit=3, in_use=3, provider="Anchor Browser", retry_after=5
            ),
            (
                "BUDGET: 3 of 3 sessions at Anchor Browser are in use. "
                "Do something else first, or continue without this tool."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse", limit=3, in_use=1, provider="Anchor Browser", needed=4
            ),
            (
                "BUDGET: needs 4 sessions, but Anchor Browser allows 3 at once. "
                "Do not retry; continue without this tool, and tell the user."
            ),
        ),
        (
            BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s", retry_after=3),
            (
                "BUDGET: the balance at pre.dev is not known, so nothing was started. "
                "Do not retry; continue without this tool, and tell the user."
            ),
        ),
        (
            InvalidCredentials(provider="pre.dev", reason="it answered 401"),
            (
                "BUDGET: the balance at pre.dev is not known, so nothing was started. "
                "Do not retry; continue without this tool, and tell the user."
            ),
        ),
        (
            Paused("pre.dev", "the key may have leaked", by="command"),
            (
                "BUDGET: pre.dev is paused: the key may have leaked. "
                "Do not retry; continue without this tool, and tell the user."
            ),
        ),
        (
            ConfigurationError("Set PREDEV_API_KEY."),
            "BUDGET: Set PREDEV_API_KEY.",
        ),
        (
            HoldClosed(operation="deep_spec", state="settled", verb="settle"),
            "BUDGET: The hold of deep_spec is already settled: settle() came too late.",
        ),
    ],
    ids=[
        "denied",
        "outdated",
        "too little",
        "nowhere to top up",
        "less than nothing",
        "in dollars",
        "a busy provider",
        "a limit of the key",
        "more than one call may cost",
        "held by others",
        "held for a moment",
        "sessions",
        "more sessions than there ever are",
        "unknown",
        "key",
        "paused",
        "configuration",
        "hold",
    ],
)
def test_what_a_model_reads(error: BudgetGuardError, words: str) -> None:
    """It says what is lacking and what to do instead, and never more than that."""
    assert for_model(error) == words


def test_every_error_has_its_words() -> None:
    """None is left out above: a class that is added must be added here as well."""
    kinds = {kind.__name__ for kind in BudgetGuardError.__subclasses__()}
    assert kinds == {
        "ApprovalDenied",
        "BalanceUnavailable",
        "ConcurrencyLimit",
        "ConfigurationError",
        "HoldClosed",
        "InsufficientCredits",
        "Paused",
    }


@pytest.mark.parametrize(
    ("costs", "kind", "words"),
    [
        ({}, ValueError, 'costs is empty: pass {"deep_spec": 50}, or {"*": 10} for all tools'),
        ({"x": -1}, ValueError, "min must not be negative: -1"),
        ({"x": "much"}, ValueError, "min is not a number"),
        ({"x": True}, TypeError, "min takes an int, float, Decimal or str, not bool"),
        ({"x": [1]}, TypeError, "min takes an int, float, Decimal or str, not list"),
        ({"x": {}}, TypeError, "require_credits needs at least one of min, cost and slots"),
        ({"x": {"mn": 1}}, TypeError, "it names 'mn', but no argument of require_credits has"),
        (
            {"x": {"min": 1, "actual": 3}},
            TypeError,
            "actual takes a callable that receives the result",
        ),
        ({"*": -1}, ValueError, "min must not be negative: -1"),
        ({len: 1}, TypeError, "costs takes tool names as keys, not a builtin_function_or_method"),
        (50, TypeError, "costs takes a mapping of tool names to costs, not int"),
        (["deep_spec"], TypeError, "not list"),
    ],
)
def test_costs_that_cannot_be(guard: Guard, costs: Any, kind: type[Exception], words: str) -> None:
    """They are refused when the tools are named, not when one is called."""
    with pytest.raises(kind) as said:
        Tools(guard, costs)
    assert words in str(said.value)
    if isinstance(costs, dict) and "x" in costs:
        assert said.value.__notes__ == ["in the cost of x"]


def test_what_is_no_guard() -> None:
    """A provider is not one yet."""
    with pytest.raises(TypeError, match=r"takes a Guard, not FakeProvider: Guard\(FakeProvider"):
        Tools(FakeProvider(100), {"x": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("on_refusal", ["raise", "", None, True])
def test_on_refusal_is_a_word_or_a_callable(guard: Guard, on_refusal: Any) -> None:
    """A word that is misspelled does not quietly mean the other."""
    with pytest.raises(ValueError, match="on_refusal must be 'tell', 'stop' or a callable, not "):
        Tools(guard, {"x": 1}, on_refusal=on_refusal)


def test_a_tools_own_on_refusal_replaces_that_of_all(guard: Guard) -> None:
    """A word or a callable, in the tool's mapping; also in that of "*"."""
    given: list[Any] = []

    def note(*args: Any) -> str:
        given.append(args)
        return "instead"

    costs: dict[str, Any] = {
        "deep": {"min": 1, "on_refusal": "stop"},
        "fast": {"min": 1, "on_refusal": note},
        "slow": 1,
        "*": {"min": 1, "on_refusal": "tell"},
    }
    error = lacking("50", "12")
    tools = Tools(guard, costs, on_refusal=note)
    with pytest.raises(InsufficientCredits):
        tools.refusal("deep", error)
    assert tools.refusal("other", error) == for_model(error)
    assert tools.refusal("fast", error, {"x": 1}) == "instead"
    assert tools.refusal("slow", error) == "instead"
    assert given == [(error, "fast", {"x": 1}), (error, "slow", {})]
    assert costs["fast"]["on_refusal"] is note
    assert [tools.stops(name) for name in ("deep", "fast", "other")] == [True, False, False]
    with pytest.raises(ValueError, match="on_refusal must be 'tell'") as raised:
        Tools(guard, {"x": {"min": 1, "on_refusal": "ask"}})
    assert raised.value.__notes__ == ["in the cost of x"]


def test_a_callable_is_asked_about_refusals_alone(guard: Guard) -> None:
    """A price that raises is no refusal, nor is a wrong configuration: the model is told."""

    def unasked(*_: Any) -> Any:
        raise AssertionError

    tools = Tools(guard, {"x": 1}, on_refusal=unasked)
    for error in (LookupError("no price"), ConfigurationError("none")):
        assert not tools.supplies("x", error)
        assert tools.refusal("x", error).startswith("BUDGET: ")
    assert tools.supplies("x", lacking("50", "12"))


@pytest.mark.anyio
async def test_an_async_callable_is_awaited_where_tools_are(guard: Guard) -> None:
    """On asyncio and trio; where they are not, it is a TypeError, and never left unawaited."""

    async def instead(error: InsufficientCredits, name: str, arguments: Any) -> str:
        await anyio.lowlevel.checkpoint()
        return name

    error = lacking("50", "12")
    for on_refusal in (instead, lambda *args: instead(*args)):  # noqa: PLW0108  not seen to be async
        tools = Tools(guard, {"x": 1}, on_refusal=on_refusal)
        assert await tools.arefusal("x", error, {}) == "x"
        with pytest.raises(TypeError, match="on_refusal of a tool that is not awaited"):
            tools.refusal("x", error)
    assert await Tools(guard, {"x": 1}).arefusal("x", error) == for_model(error)


def by_open(tools: Tools, name: str, arguments: dict[str, Any]) -> Any:
    """Ask, blocking."""
    return tools.open(name, arguments)


def by_aopen(tools: Tools, name: str, arguments: dict[str, Any]) -> Any:
    """Ask and await."""
    return anyio.run(tools.aopen, name, arguments)


@pytest.fixture(params=[by_open, by_aopen], ids=["open", "aopen"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ask for a tool's credits in each of both ways."""
    way: Callable[..., Any] = request.param
    return way


def test_a_tool_is_found_by_its_name(guard: Guard, ask: Callable[..., Any]) -> None:
    """Its own price goes before the star's, also where it is None."""
    tools = Tools(guard, {"deep_spec": 50, "free": None, "*": 10})
    held = {}
    for name in ("deep_spec", "free", "other"):
        with ask(tools, name, {}) as hold:
            held[name] = (hold.operation, hold.amount, guard.available)
            hold.release()
    assert held == {
        "deep_spec": ("deep_spec", 50, 50),
        "free": ("free", 0, 100),
        "other": ("other", 10, 90),
    }


def test_a_price_that_was_meant_for_another_name_is_told(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: a tool that is almost called that has no price."""
    tools = Tools(guard, {"deep_spek": 50, "*": 1})
    for _ in range(2):
        tools.expect(["fast_spec", "deep_spec"])
    assert caplog.messages == [
        "costs names 'deep_spek', but no tool has that name. Did you mean deep_spec?"
    ]


@pytest.mark.parametrize("names", [["deep_spek", "search"], ["search", "deep_specs"], []])
def test_prices_for_other_agents_are_not_told(
    guard: Guard, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A name may be another agent's, and what is like it a tool that has its own price."""
    Tools(guard, {"deep_spek": 50, "deep_specs": None}).expect(names)
    assert caplog.messages == []


def test_a_tool_without_a_price_asks_nobody(clock: HandClock, ask: Callable[..., Any]) -> None:
    """Not even a balance is fetched, and what becomes of the call does not matter."""
    provider = FakeProvider(100)
    tools = Tools(Guard(provider), {"deep_spec": {"min": 50, "actual": lambda _: 1 / 0}})
    with ask(tools, "other", {}) as hold:
        tools.settle("other", hold, "result")
    assert provider.requests == 0


def test_a_callable_is_given_the_arguments_by_name(guard: Guard, ask: Callable[..., Any]) -> None:
    """As the framework hands them over, which are left as they are."""
    arguments = {"prompt": "shop", "pages": 4}
    tools = Tools(guard, {"deep_spec": lambda *, prompt, pages: len(prompt) * pages})
    with ask(tools, "deep_spec", arguments) as hold:
        assert hold.amount == 16
    assert arguments == {"prompt": "shop", "pages": 4}


def test_a_name_of_ones_own(guard: Guard, ask: Callable[..., Any]) -> None:
    """`name` among the terms is what errors and events say."""
    tools = Tools(guard, {"deep_spec": {"min": 120, "name": "the long one"}})
    with pytest.raises(InsufficientCredits, match=r"^the long one needs 120 credits"):
        ask(tools, "deep_spec", {})


def test_settling_asks_what_it_cost(guard: Guard, ask: Callable[..., Any]) -> None:
    """Without `actual`, it is the cost; a hold that has ended does not change."""
    tools = Tools(guard, {"deep_spec": {"min": 50, "actual": len}, "fast_spec": 10})
    hold = ask(tools, "deep_spec", {})
    tools.settle("deep_spec", hold, "seven..")
    assert (hold.state, guard.available) == ("settled", 93)
    hold = ask(tools, "fast_spec", {})
    tools.settle("fast_spec", hold, "whatever")
    assert (hold.state, guard.available) == ("settled", 83)
    for name in ("deep_spec", "fast_spec"):
        hold = ask(tools, name, {})
        hold.release()
        tools.settle(name, hold, "late")
        assert (hold.state, guard.available) == ("released", 83)


def test_slots_are_held_too(clock: HandClock, ask: Callable[..., Any]) -> None:
    """A tool may open a session instead of costing credits, or do both."""
    guard = Guard(FakeProvider(max_concurrency=1))
    tools = Tools(guard, {"browse": {"slots": 1}})
    with ask(tools, "browse", {}), pytest.raises(ConcurrencyLimit) as refused:
        ask(tools, "browse", {})
    assert tools.refusal("browse", refused.value).startswith("BUDGET: 1 of 1 sessions at fake")


def test_a_refusal_is_told_or_raised(guard: Guard) -> None:
    """Told, it is in words; raised, it is the error itself."""
    error = lacking("50", "12")
    assert Tools(guard, {"x": 1}).refusal("x", error) == for_model(error)
    with pytest.raises(InsufficientCredits) as raised:
        Tools(guard, {"x": 1}, on_refusal="stop").refusal("x", error)
    assert raised.value is error


def test_an_error_of_the_users_own_is_logged(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """The model reads it in short, and the traceback is for the one who wrote the callable."""
    error = LookupError("no price for shop")
    with caplog.at_level(logging.ERROR, "budgetguard"):
        words = Tools(guard, {"x": 1}).refusal("deep_spec", error)
    assert words == (
        "BUDGET: deep_spec was not run because the credits for it could not be set aside "
        "(LookupError: no price for shop). Do not retry with the same arguments."
    )
    [record] = caplog.records
    assert record.getMessage() == "deep_spec was not run: the credits for it could not be set aside"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_refusal_for_want_of_credits_is_not_logged(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    """It is what a budget is for."""
    Tools(guard, {"x": 1}).refusal("x", lacking("50", "12"))
    assert caplog.records == []


def test_tools_are_let_in_while_guards_are_off(guard: Guard, ask: Callable[..., Any]) -> None:
    """As everywhere; not even the callable for the cost is asked."""
    set_active(False)
    tools = Tools(guard, {"deep_spec": lambda: 1 / 0})
    with ask(tools, "deep_spec", {}) as hold:
        tools.settle("deep_spec", hold, None)
    assert guard.available == 100
