"""Errors: their tree, their figures, and the sentences that people read."""

import copy
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    HoldClosed,
    InsufficientCredits,
    InvalidCredentials,
)

TOP_UP = "https://pre.dev/projects/key?upgrade=credits"


def insufficient(**figures: Any) -> InsufficientCredits:
    """The contract's example, but for `figures`."""
    example: dict[str, Any] = {
        "operation": "deep_spec",
        "needed": Decimal(50),
        "available": Decimal(12),
        "balance": Decimal(42),
        "held": Decimal(30),
        "pending": Decimal(0),
        "floor": Decimal(0),
        "age": 14.2,
        "provider": "pre.dev",
        "top_up_url": "https://pre.dev/...",
        "running": 1,
    }
    return InsufficientCredits(**(example | figures))


ERRORS = [
    insufficient(),
    insufficient(retry_after=3.5, queued=Decimal(2), extra=Decimal(1), basis="cost limit"),
    ConcurrencyLimit(operation="browse", limit=3, in_use=3, provider="Anchor", retry_after=5.0),
    ConcurrencyLimit(operation="browse", limit=3, in_use=0, provider="Anchor", needed=4),
    BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s", retry_after=0.5),
    InvalidCredentials(provider="pre.dev", reason="the provider answered 401"),
    HoldClosed(operation="deep_spec", state="settled", verb="release"),
    ConfigurationError("Set PREDEV_API_KEY."),
    BudgetGuardError("something else"),
]
every_error = pytest.mark.parametrize(
    "error", ERRORS, ids=[f"{type(error).__name__}-{i}" for i, error in enumerate(ERRORS)]
)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (BudgetGuardError, Exception),
        (InsufficientCredits, BudgetGuardError),
        (ConcurrencyLimit, BudgetGuardError),
        (BalanceUnavailable, BudgetGuardError),
        (InvalidCredentials, BalanceUnavailable),
        (HoldClosed, BudgetGuardError),
        (ConfigurationError, BudgetGuardError),
    ],
)
def test_the_tree(kind: type[Exception], base: type[Exception]) -> None:
    """Each error has the one base that the contract draws, and none is an HTTP client's."""
    assert kind.__bases__ == (base,)
    assert not issubclass(kind, httpx.HTTPError | OSError | ValueError)


@pytest.mark.parametrize(
    ("error", "status_code", "retryable"),
    [
        (insufficient(), 402, False),
        (insufficient(retry_after=0.0), 402, True),
        (ERRORS[2], 429, True),
        (ERRORS[3], 429, False),
        (ERRORS[4], 503, True),
        (ERRORS[5], 503, False),
        (ERRORS[6], 500, False),
        (ERRORS[7], 500, False),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else str(given),
)
def test_what_a_server_answers(error: BudgetGuardError, status_code: int, retryable: bool) -> None:
    """Every error knows its status code, and whether trying again can help."""
    assert error.status_code == status_code
    assert error.retryable is retryable


def public(error: BaseException) -> dict[str, Any]:
    """Every public attribute of an error that is no method."""
    found = {name: getattr(error, name) for name in dir(error) if not name.startswith("_")}
    return {name: value for name, value in found.items() if not callable(value)}


@every_error
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *[
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ],
    ],
    ids=["copy", "deepcopy", *[f"pickle {n}" for n in range(pickle.HIGHEST_PROTOCOL + 1)]],
)
def test_a_copy_says_the_same(error: BudgetGuardError, duplicate: Callable[[Any], Any]) -> None:
    """Copies and pickles keep the type, each figure, the message and the repr."""
    twin = duplicate(error)
    assert type(twin) is type(error)
    assert public(twin) == public(error)
    assert str(twin) == str(error)
    assert repr(twin) == repr(error)


def test_notes_travel_along() -> None:
    """What a caller added to an error is not lost on its way between processes."""
    error = insufficient()
    error.add_note("while planning")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while planning"]


@every_error
def test_a_repr_is_the_type_and_the_message(error: BudgetGuardError) -> None:
    """A repr says what went wrong, not how the error was built."""
    assert repr(error) == f"{type(error).__name__}({str(error)!r})"


def test_insufficient_credits_carries_its_figures() -> None:
    """Every figure of the contract can be read off the error."""
    figures = {
        "operation": "deep_spec",
        "needed": Decimal(50),
        "available": Decimal(5),
        "balance": Decimal(42),
        "held": Decimal(30),
        "pending": Decimal(4),
        "floor": Decimal(2),
        "age": 14.2,
        "provider": "pre.dev",
        "top_up_url": TOP_UP,
        "retry_after": 2.0,
        "running": 3,
        "queued": Decimal(2),
        "extra": Decimal(1),
        "basis": "reported",
    }
    error = InsufficientCredits(**figures)  # type: ignore[arg-type]
    assert {name: getattr(error, name) for name in figures} == figures


def test_the_message_of_the_contract() -> None:
    """The example of the contract, word by word."""
    assert str(insufficient()) == (
        "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
        "1 running call (looked 14 s ago). Top up: https://pre.dev/..."
    )


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            {
                "needed": Decimal(1),
                "available": Decimal(0),
                "balance": Decimal(0),
                "held": Decimal(0),
            },
            (
                "deep_spec needs 1 credit, and none is available: pre.dev reports 0 (looked 14 s ago). "
                "Top up: https://pre.dev/..."
            ),
        ),
        (
            {"available": Decimal(-8), "held": Decimal(50), "running": 2},
            (
                "deep_spec needs 50 credits, and none is available: pre.dev reports 42, 50 are held by "
                "2 running calls (looked 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {
                "available": Decimal(1),
                "held": Decimal(1),
                "pending": Decimal(1),
                "balance": Decimal(3),
            },
            (
                "deep_spec needs 50 credits, and 1 is available: pre.dev reports 3, 1 is held by "
                "1 running call, 1 is counted for calls that just ended (looked 14 s ago). "
                "Top up: https://pre.dev/..."
            ),
        ),
        (
            {
                "needed": Decimal("50.50"),
                "available": Decimal("12.25"),
                "balance": Decimal("29.25"),
                "extra": Decimal(10),
                "held": Decimal(5),
                "pending": Decimal(8),
                "overlap": Decimal(1),
                "queued": Decimal(7),
                "floor": Decimal(8),
                "retry_after": 2.04,
            },
            (
                "deep_spec needs 50.5 credits, and 12.25 are available: pre.dev reports 29.25, "
                "extra_credits adds 10, 5 are held by 1 running call, 8 are counted for calls that "
                "just ended, 1 of these is in the balance already, callers who wait need 7, the floor keeps 8 (looked 14 s ago). "
                "Try again in 2 s. Top up: https://pre.dev/..."
            ),
        ),
        (
            {"held": Decimal(0), "available": Decimal(42), "age": 0.9, "top_up_url": None},
            (
                "deep_spec needs 50 credits, and 42 are available: pre.dev reports 42 "
                "(looked just now). Top up the account."
            ),
        ),
        (
            {"held": Decimal(0), "available": Decimal(42), "age": 1.0, "basis": "cost limit"},
            (
                "deep_spec needs 50 credits, and 42 are available: the cost limit at pre.dev leaves 42 "
                "(looked 1 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {
                "held": Decimal(0),
                "available": Decimal(0),
                "balance": Decimal(0),
                "basis": "refused",
            },
            (
                "deep_spec needs 50 credits, and none is available: pre.dev itself refused a call for "
                "want of credits (looked 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {"available": Decimal(40), "basis": "cap"},
            (
                "deep_spec needs 50 credits, and the cost limit at pre.dev allows 40 for one call "
                "(looked 14 s ago)."
            ),
        ),
        (
            {"retry_after": 0.01},
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
                "1 running call (looked 14 s ago). Try again in 0.1 s. Top up: https://pre.dev/..."
            ),
        ),
    ],
    ids=[
        "one, none",
        "below zero",
        "singular",
        "every part",
        "nowhere to top up",
        "cost limit",
        "refused",
        "cap",
        "soon",
    ],
)
def test_messages_of_too_few_credits(figures: dict[str, Any], message: str) -> None:
    """Every figure that led to a refusal has its place in the sentence, and no other has."""
    assert str(insufficient(**figures)) == message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConcurrencyLimit(
                operation="browse", limit=3, in_use=3, provider="Anchor", retry_after=5
            ),
            (
                "browse needs 1 slot, and Anchor allows 3 at once, and 3 are in use. "
                "Try again when one has ended, or pass wait=."
            ),
        ),
        (
            ConcurrencyLimit(operation="browse", limit=3, in_use=0, provider="Anchor", needed=4),
            (
                "browse needs 4 slots, and Anchor allows 3 at once, and 0 are in use. "
                "This call can never fit: ask for fewer."
            ),
        ),
        (
            BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s", retry_after=2.5),
            "The balance at pre.dev is not known: no answer within 10 s. Next look in 2.5 s.",
        ),
        (
            BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s"),
            "The balance at pre.dev is not known: no answer within 10 s.",
        ),
        (
            HoldClosed(operation="deep_spec", state="kept", verb="settle"),
            "The hold of deep_spec is kept already: settle() came too late.",
        ),
        (ConfigurationError("Set a key."), "Set a key."),
    ],
    ids=["slots", "never", "unavailable, when", "unavailable", "closed", "configuration"],
)
def test_messages(error: BudgetGuardError, message: str) -> None:
    """Messages are whole sentences that a person can act on."""
    assert str(error) == message


SUMS = st.decimals(0, 10**6, allow_nan=False, places=2)


@given(SUMS, SUMS, SUMS, SUMS, SUMS, SUMS)
def test_the_figures_in_a_message_add_up(
    balance: Decimal,
    extra: Decimal,
    held: Decimal,
    pending: Decimal,
    queued: Decimal,
    floor: Decimal,
) -> None:
    """Every part that is not zero is in the message, as the attribute says it."""
    available = balance + extra - held - pending - queued - floor
    error = insufficient(
        needed=max(available, Decimal(0)) + 1,
        available=available,
        balance=balance,
        extra=extra,
        held=held,
        pending=pending,
        queued=queued,
        floor=floor,
    )
    said = str(error).split(" available: ")[1].split(" (looked")[0].split(", ")
    numbers = [Decimal(word) for part in said for word in part.split() if word[0].isdigit()]
    total = numbers.pop(0)
    if extra:
        total += numbers.pop(0)
    if held:
        total -= numbers.pop(0)
        assert numbers.pop(0) == error.running
    assert total - sum(numbers) == available


def test_a_cause_can_be_given() -> None:
    """An unavailable balance says what it was caused by, where that is known."""
    cause = TimeoutError("slow")
    with pytest.raises(BalanceUnavailable) as caught:
        raise BalanceUnavailable(provider="pre.dev", reason="no answer") from cause
    assert caught.value.__cause__ is cause
