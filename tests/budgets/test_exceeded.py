"""A budget's refusal: figures that add up, in words for people, for models and for programs."""

import contextlib
import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from budgetguard import BudgetExceeded, Guard, InsufficientCredits
from budgetguard._core.problem_document import SCHEMA, document
from budgetguard.integrations._client_answers import for_client
from budgetguard.integrations.tools import Tools, for_model
from budgetguard.providers.registry import VENDORS
from budgetguard.testing import FakeProvider, HandClock

RENEWS = datetime(2026, 12, 1, tzinfo=UTC)


def refusal(**figures: Any) -> BudgetExceeded:
    """Give a refusal by a budget of 30 credits, of which 26 are spent."""
    return BudgetExceeded(
        **{
            "operation": "deep_spec",
            "needed": "50",
            "budget": "run-42",
            "limit": "30",
            "spent": "26",
            "held": "0",
            "provider": "pre.dev",
            **figures,
        }
    )


def raised(guard: Guard, credits: float, name: str = "deep_spec") -> BudgetExceeded:
    """The error of a call at that cost."""
    with pytest.raises(BudgetExceeded) as refused:
        guard.acquire(credits, name=name)
    return refused.value


def test_the_figures_add_up(guard: Guard) -> None:
    """What is left is the limit, less what is spent, less what is held."""
    with guard.budget(30, name="run-42"):
        guard.acquire(20).settle()
        guard.acquire(6).keep()
        hold = guard.acquire("1.5")
        error = raised(guard, 5)
        hold.release()
    assert (error.limit, error.spent, error.held, error.needed) == (30, 26, Decimal("1.5"), 5)
    assert error.available == error.limit - error.spent - error.held == Decimal("2.5")
    assert (error.budget, error.operation, error.provider) == ("run-42", "deep_spec", "fake")
    assert (error.balance, error.pending) == (error.limit, error.spent)
    assert (error.basis, error.top_up_url, error.renews_at) == ("budget", None, None)
    assert (error.status_code, error.unit) == (402, "credits")
    assert isinstance(error, InsufficientCredits)


def test_a_retry_is_advised_only_where_it_may_help(guard: Guard) -> None:
    """Where open calls hold what is missing; a renewal is named, and is the caller's to wait for."""
    with guard.budget(30, name="run"):
        hold = guard.acquire(26)
        held = raised(guard, 5)
        assert held.retryable
        assert held.retry_after is not None
        never = raised(guard, 31)
        hold.settle()
        spent = raised(guard, 5)
    assert [(each.retryable, each.retry_after) for each in (never, spent)] == [(False, None)] * 2
    with guard.budget(30, name="daily", per="day") as daily:
        guard.acquire(26).settle()
        renewing = raised(guard, 5)
    assert renewing.renews_at == daily.renews_at
    assert (renewing.retryable, renewing.retry_after) == (False, None)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {},
            (
                "deep_spec needs 50 credits, and the budget run-42 has 4 of 30 credits left: 26 are "
                "spent. Raise the budget's limit, or make a call that needs less."
            ),
        ),
        (
            {"needed": "5"},
            (
                "deep_spec needs 5 credits, and the budget run-42 has 4 of 30 credits left: 26 are "
                "spent. Finish with what is left, or raise the budget's limit."
            ),
        ),
        (
            {"needed": "1", "budget": None, "spent": "29", "held": "1", "retry_after": 5},
            (
                "deep_spec needs 1 credit, and its budget has none of 30 credits left: 29 are spent, "
                "1 is held by calls and blocks that still run. Try again when one of them has ended."
            ),
        ),
        (
            {"needed": "5", "spent": "31", "renews_at": RENEWS},
            (
                "deep_spec needs 5 credits, and the budget run-42 has none of 30 credits left: 31 are "
                "spent. It renews at 2026-12-01 00:00 UTC."
            ),
        ),
        (
            {"spent": "0", "unit": "USD"},
            (
                "deep_spec needs 50 USD, and the budget run-42 has 30 of 30 USD left. "
                "Raise the budget's limit, or make a call that needs less."
            ),
        ),
    ],
    ids=["never", "spent", "held", "renews", "a unit"],
)
def test_in_words_for_people(figures: dict[str, Any], words: str) -> None:
    """Whole sentences, and nothing about a top-up, which would not help."""
    assert str(refusal(**figures)) == words


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (
            {},
            (
                "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 50. "
                "Do not retry; finish with what you have."
            ),
        ),
        (
            {"needed": "5", "renews_at": RENEWS},
            (
                "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 5. "
                "Do not retry before 2026-12-01 00:00 UTC; finish with what you have."
            ),
        ),
        (
            {"renews_at": RENEWS},
            (
                "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 50. "
                "Do not retry; finish with what you have."
            ),
        ),
        (
            {"needed": "0.5", "budget": None, "spent": "29.75", "unit": "USD"},
            (
                "BUDGET: the budget of this run has 0.25 of 30 USD left; deep_spec needs 0.5. "
                "Do not retry; finish with what you have."
            ),
        ),
        (
            {"needed": "5", "spent": "36"},
            (
                "BUDGET: run-42 has 0 of 30 credits left; deep_spec needs 5. "
                "Do not retry; finish with what you have."
            ),
        ),
        (
            {"needed": "5", "spent": "10", "held": "16", "retry_after": 4.2},
            (
                "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 5. The rest is held by "
                "what still runs: wait 5 s before you retry, or finish with what you have."
            ),
        ),
    ],
    ids=["never", "renews", "never in a period", "no name", "overrun", "held"],
)
def test_in_words_for_models(figures: dict[str, Any], words: str) -> None:
    """What is left, what is needed, and what to do instead."""
    assert for_model(refusal(**figures)) == words


def test_a_tool_tells_its_model(guard: Guard) -> None:
    """Of the budget around the run, not of the account."""
    tools = Tools(guard, {"deep_spec": 50})
    with guard.budget(30, name="run-42"):
        guard.acquire(26).settle()
        with pytest.raises(BudgetExceeded) as refused:
            tools.open("deep_spec", {})
    assert tools.refusal("deep_spec", refused.value) == (
        "BUDGET: run-42 has 4 of 30 credits left; deep_spec needs 50. "
        "Do not retry; finish with what you have."
    )


def test_as_a_problem_document() -> None:
    """With the budget's own members, which fit the published schema."""
    found = document(refusal(needed="5", limit="30.5", renews_at=RENEWS))
    jsonschema.validate(found, SCHEMA)
    assert (found["type"], found["title"]) == ("urn:budgetguard:budget-exceeded", "Budget exceeded")
    assert (found["budget"], found["limit"], found["spent"], found["available"]) == (
        "run-42",
        30.5,
        26,
        4.5,
    )
    assert (found["status"], found["retryable"]) == (402, False)
    assert found["renews_at"] == "2026-12-01T00:00:00+00:00"
    assert not {"top_up_url", "in_use", "retry_after"} & found.keys()
    unnamed = document(refusal(budget=None, retry_after=3))
    jsonschema.validate(unnamed, SCHEMA)
    assert "budget" not in unnamed
    assert unnamed["retry_after"] == 3


def test_as_figures_for_a_client() -> None:
    """An MCP client's program sees that it was a budget, and which."""
    words, figures = for_client("deep_spec", refusal(needed="5", renews_at=RENEWS))
    assert words.startswith("BUDGET: run-42 has 4 of 30 credits left")
    assert figures == {
        "error": "budget_exceeded",
        "budget": "run-42",
        "limit": 30,
        "needed": 5,
        "available": 4,
        "retry_after": None,
        "renews_at": "2026-12-01T00:00:00+00:00",
    }


@pytest.mark.parametrize("path", ["/deep-spec", "/browser-agent", "/v1/chat/completions"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_no_vendors_shape_says_top_up(vendor: str, path: str) -> None:
    """A transport's refusal has the sentence about the budget, and no address where credits are sold."""
    billing = VENDORS[vendor].make("key-0123456789").billing
    body = str(billing.refusal_body(refusal(needed="5"), path))
    assert "the budget run-42 has 4 of 30 credits left" in body
    assert "top up" not in body.lower()
    assert "http" not in body


@pytest.mark.parametrize(
    ("retry_after", "source"),
    [(None, "openrouter_guardrail_budget"), (5, "openrouter_in_flight_budget")],
)
def test_openrouters_programs_branch_rightly(retry_after: float | None, source: str) -> None:
    """They are told of a budget, not of an account without credits."""
    billing = VENDORS["openrouter"].make("key-0123456789").billing
    body = billing.refusal_body(refusal(needed="5", retry_after=retry_after), "/chat/completions")
    assert body["error"]["metadata"]["limit_source"] == source


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_it_travels(guard: Guard, duplicate: Callable[[Any], Any]) -> None:
    """Copied, pickled, or made again of its arguments, which are JSON values: equal figures."""
    with guard.labels(user="ada"), guard.budget(30, name="daily", per="day"):
        guard.acquire(26).settle()
        error = raised(guard, 5)
    for other in (duplicate(error), BudgetExceeded(*error.args)):
        assert type(other) is BudgetExceeded
        assert (str(other), other.args) == (str(error), error.args)
        for figure in ("budget", "limit", "spent", "held", "available", "renews_at", "retryable"):
            assert getattr(other, figure) == getattr(error, figure)
    assert duplicate(error).labels == error.labels == {"user": "ada"}


def test_the_innermost_budget_without_room_is_named(guard: Guard) -> None:
    """As that is what the caller can do least about; without a name there is none to give."""
    with guard.budget(10, name="outer"), guard.budget(20, name="inner"):
        assert raised(guard, 15).budget == "outer"
        assert raised(guard, 25).budget == "inner"
        with guard.budget(5):
            assert raised(guard, 25).budget is None


def test_the_budget_comes_before_the_account(guard: Guard) -> None:
    """A call that neither has room for is refused by its budget, which no top-up changes."""
    with guard.budget(10, name="run"):
        assert raised(guard, 5000).budget == "run"


def test_an_amounts_unit_is_the_accounts(clock: HandClock) -> None:
    """Where the account is not counted in credits."""
    del clock

    class Dollars(FakeProvider):
        unit = "USD"

    guard = Guard(Dollars(10))
    with guard.budget("0.5", name="run"):
        with contextlib.suppress(InsufficientCredits):
            guard.balance()
        assert str(raised(guard, 1)).startswith(
            "deep_spec needs 1 USD, and the budget run has 0.5 of 0.5 USD left"
        )
