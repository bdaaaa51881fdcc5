"""Errors: their tree, their figures, and the sentences that people read."""

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard import (
    ApprovalDenied,
    BalanceUnavailable,
    BudgetExceeded,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    HoldClosed,
    InsufficientCredits,
    InvalidCredentials,
    Paused,
)
from budgetguard._core.errors import NEVER_REACHED
from budgetguard._core.refresh_failure import UsedUp
from budgetguard._io.http import Transient
from budgetguard.providers.billing import Unpriced

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
    insufficient(balance=Decimal("Infinity"), cap=Decimal("12.50"), basis="cap"),
    insufficient(
        pending=Decimal("1E+2"),
        kept=Decimal("0.000001"),
        unresolved=2,
        causes={"NameError": 1},
        unresolved_for=305.25,
    ),
    ConcurrencyLimit(
        operation="browse",
        limit=3,
        in_use=3,
        provider="Anchor",
        unresolved=2,
        causes={"TimeoutError": 2},
        unresolved_for=1260.0,
    ),
    BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s", retry_after=0.5),
    InvalidCredentials(provider="pre.dev", reason="the provider answered 401"),
    HoldClosed(operation="deep_spec", state="settled", verb="release"),
    ConfigurationError("Set PREDEV_API_KEY."),
    ApprovalDenied(operation="deep_spec", needed=Decimal(50), provider="pre.dev"),
    ApprovalDenied("deep_spec", Decimal("50.5"), "OpenRouter", "USD", "outdated"),
    BudgetGuardError("something else"),
    BudgetExceeded(
        "deep_spec", Decimal(50), "run-42", Decimal(30), Decimal(20), Decimal(6), "pre.dev"
    ),
    BudgetExceeded(
        "deep_spec",
        Decimal(50),
        None,
        Decimal("60.5"),
        Decimal(20),
        Decimal(6),
        "OpenRouter",
        retry_after=60.0,
        renews_at=datetime(2026, 12, 1, tzinfo=UTC),
        unit="USD",
    ),
    ConcurrencyLimit("browse", 3, 3, "Anchor", 5.0, processes=2),
    Paused("pre.dev", "the key may have leaked"),
    Paused(provider="pre.dev", reason="the month is over", by="command"),
    insufficient(processes=4, running=7, causes={"ProcessDied": 3}, kept=Decimal(3), unresolved=3),
]
every_error = pytest.mark.parametrize(
    "error", ERRORS, ids=[f"{type(error).__name__}-{i}" for i, error in enumerate(ERRORS)]
)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (BudgetGuardError, Exception),
        (InsufficientCredits, BudgetGuardError),
        (BudgetExceeded, InsufficientCredits),
        (ConcurrencyLimit, BudgetGuardError),
        (BalanceUnavailable, BudgetGuardError),
        (InvalidCredentials, BalanceUnavailable),
        (Paused, BudgetGuardError),
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
        (ERRORS[7], 503, True),
        (ERRORS[8], 503, False),
        (ERRORS[9], 500, False),
        (ERRORS[10], 500, False),
        (ERRORS[11], 403, False),
        (ERRORS[-2], 503, True),
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


class Ours(InsufficientCredits):
    """What a user derives, to catch one kind of call's refusals apart."""


class Billed(ConcurrencyLimit):
    """A user's, made in a way of its own."""

    def __init__(self, tenant: str, error: ConcurrencyLimit) -> None:
        super().__init__(*error.args)
        self.tenant = tenant


DERIVED = [
    Ours(*ERRORS[0].args),
    Transient(provider="pre.dev", reason="it answered 503"),
    UsedUp(provider="pre.dev", reason="the request could not be made (OSError)"),
    Unpriced("the largest cost with max_duration=-1 is not known"),
]


@pytest.mark.parametrize(
    "error", ERRORS + DERIVED, ids=lambda error: f"{type(error).__name__} {len(str(error))}"
)
@pytest.mark.parametrize("travels", [lambda args: args, lambda args: json.loads(json.dumps(args))])
def test_an_error_is_made_anew_of_its_args(
    error: BudgetGuardError, travels: Callable[[Any], Any]
) -> None:
    """Queues carry a type and JSON values: the same type, message, figures and args come of them."""
    again = type(error)(*travels(error.args))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert public(again) == public(error)
    assert (str(again), again.args) == (str(error), error.args)
    kinds = [type(figure) for figure in vars(error).values()]
    assert [type(figure) for figure in vars(again).values()] == kinds


def test_every_error_of_the_library_is_tried_above() -> None:
    """A new one is not forgotten."""

    def below(kind: type[BudgetGuardError]) -> set[type[BudgetGuardError]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {kind for kind in below(BudgetGuardError) if kind.__module__.startswith("budgetguard")}
    assert ours == {type(error) for error in ERRORS + DERIVED if type(error) is not Ours}


def test_amounts_may_be_given_as_text() -> None:
    """Where they come from `args` they are; an int will do, and a float as it is written."""
    error = insufficient(needed="50.50", available=12, balance=42.1)
    assert (error.needed, error.available) == (Decimal("50.50"), Decimal(12))
    assert (error.balance, error.args[3]) == (Decimal("42.1"), "42.1")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_an_error_made_in_another_way_travels_too(duplicate: Callable[[Any], Any]) -> None:
    """A user's own arguments do not have to be the figures."""
    twin = duplicate(Billed("ada", ERRORS[2]))  # type: ignore[arg-type]
    assert (type(twin), twin.tenant, str(twin)) == (Billed, "ada", str(ERRORS[2]))


def test_the_figures_of_an_error_are_its_own() -> None:
    """What is done to the causes it was made with, or shows, changes neither it nor its args."""
    causes = {"NameError": 1}
    error = insufficient(causes=causes, unresolved=1, kept=Decimal(1))
    causes["OSError"] = error.args[19]["OSError"] = 1
    assert error.causes == {"NameError": 1}


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
        "overlap": Decimal(6),
        "cap": Decimal(60),
        "kept": Decimal(3),
        "unresolved": 2,
        "causes": {"NameError": 2},
        "unresolved_for": 305.0,
    }
    error = InsufficientCredits(**figures)  # type: ignore[arg-type]
    assert {name: getattr(error, name) for name in figures} == figures


def test_the_message_of_the_contract() -> None:
    """The example of the contract, word by word."""
    assert str(insufficient()) == (
        "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
        "1 running call (as of 14 s ago). Top up: https://pre.dev/..."
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
                "deep_spec needs 1 credit, and none is available: pre.dev reports 0 (as of 14 s ago). "
                "Top up: https://pre.dev/..."
            ),
        ),
        (
            {"available": Decimal(-8), "held": Decimal(50), "running": 2},
            (
                "deep_spec needs 50 credits, and none is available: pre.dev reports 42, 50 are held by "
                "2 running calls (as of 14 s ago). Top up: https://pre.dev/..."
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
                "1 running call, 1 is counted for calls that just finished (as of 14 s ago). "
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
                "just finished, 1 of these is already deducted in the balance, earlier waiters "
                "need 7, the floor reserves 8 (as of 14 s ago). "
                "Try again in 2 s. Top up: https://pre.dev/..."
            ),
        ),
        (
            {"held": Decimal(0), "available": Decimal(42), "age": 0.9, "top_up_url": None},
            (
                "deep_spec needs 50 credits, and 42 are available: pre.dev reports 42 "
                "(as of just now). Top up the account."
            ),
        ),
        (
            {"held": Decimal(0), "available": Decimal(42), "age": 1.0, "basis": "cost limit"},
            (
                "deep_spec needs 50 credits, and 42 are available: the cost limit at pre.dev leaves 42 "
                "(as of 1 s ago). Raise the cost limit: https://pre.dev/..."
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
                "lack of credits (as of 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {"available": Decimal(40), "basis": "cap"},
            (
                "deep_spec needs 50 credits, and the cost limit at pre.dev allows 40 for one call "
                "(as of 14 s ago). Raise the cost limit: https://pre.dev/..."
            ),
        ),
        (
            {"available": Decimal(-390), "basis": "cap", "cap": Decimal(30)},
            (
                "deep_spec needs 50 credits, and the cost limit at pre.dev allows 30 for one call "
                "(as of 14 s ago). Raise the cost limit: https://pre.dev/..."
            ),
        ),
        (
            {"balance": Decimal(60), "available": Decimal(30), "retry_after": 3.0},
            (
                "deep_spec needs 50 credits, and 30 are available: pre.dev reports 60, 30 are held by "
                "1 running call (as of 14 s ago). Try again in 3 s."
            ),
        ),
        (
            {
                "balance": Decimal(120),
                "available": Decimal(20),
                "held": Decimal(0),
                "pending": Decimal(100),
                "kept": Decimal(100),
                "unresolved": 2,
                "causes": {"NameError": 2},
                "unresolved_for": 305.0,
                "retry_after": 300.0,
            },
            (
                "deep_spec needs 50 credits, and 20 are available: pre.dev reports 120, 100 are "
                "unresolved for up to 305 s because 2 calls raised NameError (as of 14 s ago). "
                f"Try again in 300 s. {NEVER_REACHED}"
            ),
        ),
        (
            {
                "available": Decimal(2),
                "held": Decimal(0),
                "pending": Decimal(40),
                "kept": Decimal(1),
                "unresolved": 1,
                "unresolved_for": 0.0,
            },
            (
                "deep_spec needs 50 credits, and 2 are available: pre.dev reports 42, 39 are counted "
                "for calls that just finished, 1 is unresolved until the next refresh because the "
                "outcome of a call is not known "
                "(as of 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {
                "pending": Decimal(7),
                "kept": Decimal(7),
                "unresolved": 9,
                "causes": {"A": 1, "B": 3, "C": 1, "D": 2},
                "available": Decimal(5),
            },
            (
                "deep_spec needs 50 credits, and 5 are available: pre.dev reports 42, 30 are held by 1 "
                "running call, 7 are unresolved because 3 calls raised B and 2 raised D and 1 raised A "
                "and 3 ended in another way (as of 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {"retry_after": 0.01},
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
                "1 running call (as of 14 s ago). Try again in 0.1 s. Top up: https://pre.dev/..."
            ),
        ),
        (
            {"running": 7, "processes": 4},
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
                "7 running calls of 4 processes (as of 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {"running": 0, "processes": 1},
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are held by "
                "1 process (as of 14 s ago). Top up: https://pre.dev/..."
            ),
        ),
        (
            {
                "balance": Decimal(120),
                "held": Decimal(0),
                "pending": Decimal(100),
                "kept": Decimal(100),
                "unresolved": 2,
                "causes": {"ProcessDied": 2},
                "unresolved_for": 35.0,
                "retry_after": 30.0,
            },
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 120, 100 are "
                "unresolved for up to 35 s because a process died (as of 14 s ago). Try again in 30 s."
            ),
        ),
        (
            {
                "held": Decimal(0),
                "pending": Decimal(30),
                "kept": Decimal(30),
                "unresolved": 4,
                "causes": {"A": 1, "ProcessDied": 2},
            },
            (
                "deep_spec needs 50 credits, and 12 are available: pre.dev reports 42, 30 are "
                "unresolved because a process died and a call raised A and 1 ended in another way "
                "(as of 14 s ago). Top up: https://pre.dev/..."
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
        "cap below what others hold",
        "the balance alone would do",
        "kept",
        "kept by hand, and settled",
        "kept for many reasons",
        "soon",
        "of several processes",
        "of a process without calls",
        "a process died",
        "a process died, and calls failed",
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
                "browse needs 1 slot, but 3 of the 3 that Anchor allows are in use. "
                "Try again when a session has ended, or pass wait=."
            ),
        ),
        (
            ConcurrencyLimit(operation="browse", limit=3, in_use=0, provider="Anchor", needed=4),
            (
                "browse needs 4 slots, but Anchor allows 3, and 0 are in use. "
                "This call can never be admitted: request fewer slots."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=1,
                in_use=1,
                provider="Anchor",
                retry_after=1260.0,
                unresolved=1,
                causes={"NameError": 1},
                unresolved_for=1260.0,
            ),
            (
                "browse needs 1 slot, but 1 of the 1 that Anchor allows is in use, unresolved for up "
                f"to 1260 s because a call raised NameError. Try again in 1260 s. {NEVER_REACHED}"
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=4,
                in_use=4,
                provider="Anchor",
                retry_after=5.0,
                unresolved=2,
                causes={"NameError": 1, "OSError": 1},
                unresolved_for=60.0,
            ),
            (
                "browse needs 1 slot, but 4 of the 4 that Anchor allows are in use, 2 of them "
                "unresolved for up to 60 s because calls raised NameError or OSError. "
                "Try again when a session has ended, or pass wait=."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=3,
                in_use=3,
                provider="Anchor",
                retry_after=60.0,
                needed=2,
                unresolved=2,
            ),
            (
                "browse needs 2 slots, but 3 of the 3 that Anchor allows are in use, 2 of them "
                "unresolved because the outcome of calls is not known. Try again in 60 s."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=3,
                in_use=3,
                provider="Anchor",
                retry_after=60.0,
                unresolved=3,
                causes={"ProcessDied": 1, "OSError": 1},
            ),
            (
                "browse needs 1 slot, but 3 of the 3 that Anchor allows are in use, unresolved "
                "because a process died and calls raised OSError. "
                f"Try again in 60 s. {NEVER_REACHED}"
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=2,
                in_use=2,
                provider="Anchor",
                retry_after=60.0,
                unresolved=2,
                causes={"ProcessDied": 1},
            ),
            (
                "browse needs 1 slot, but 2 of the 2 that Anchor allows are in use, unresolved "
                "because a process died and the outcome of a call is not known. Try again in 60 s."
            ),
        ),
        (
            ConcurrencyLimit(
                operation="browse",
                limit=3,
                in_use=3,
                provider="Anchor",
                retry_after=5.0,
                unresolved=1,
                processes=2,
            ),
            (
                "browse needs 1 slot, but 3 of the 3 that Anchor allows are in use by 2 processes, "
                "1 of them unresolved because the outcome of a call is not known. "
                "Try again when a session has ended, or pass wait=."
            ),
        ),
        (
            ConcurrencyLimit(operation="browse", limit=1, in_use=2, provider="Anchor", processes=1),
            (
                "browse needs 1 slot, but Anchor allows 1, and 2 are in use by 1 process. "
                "This call can never be admitted: request fewer slots."
            ),
        ),
        (
            BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s", retry_after=2.5),
            "The balance at pre.dev is not known: no answer within 10 s. Next attempt in 2.5 s.",
        ),
        (
            BalanceUnavailable(provider="pre.dev", reason="no answer within 10 s"),
            "The balance at pre.dev is not known: no answer within 10 s.",
        ),
        (
            HoldClosed(operation="deep_spec", state="kept", verb="settle"),
            "The hold of deep_spec is already kept: settle() came too late.",
        ),
        (ConfigurationError("Set a key."), "Set a key."),
    ],
    ids=[
        "slots",
        "never",
        "slots kept",
        "running ones suffice",
        "running ones do not suffice",
        "slots of a dead process, and kept",
        "slots of a dead process, and others",
        "slots of several processes",
        "more slots than there are, of one process",
        "unavailable, when",
        "unavailable",
        "closed",
        "configuration",
    ],
)
def test_messages(error: BudgetGuardError, message: str) -> None:
    """Messages are whole sentences that a person can act on."""
    assert str(error) == message


SUMS = st.decimals(0, 10**6, allow_nan=False, places=2)


@given(SUMS, SUMS, SUMS, SUMS, SUMS, SUMS, SUMS)
def test_the_figures_in_a_message_add_up(
    balance: Decimal,
    extra: Decimal,
    held: Decimal,
    settled: Decimal,
    kept: Decimal,
    queued: Decimal,
    floor: Decimal,
) -> None:
    """Every part that is not zero is in the message, as the attribute says it."""
    pending = settled + kept
    available = balance + extra - held - pending - queued - floor
    error = insufficient(
        needed=max(available, Decimal(0)) + 1,
        available=available,
        balance=balance,
        extra=extra,
        held=held,
        pending=pending,
        kept=kept,
        unresolved=1 if kept else 0,
        queued=queued,
        floor=floor,
    )
    said = str(error).split(" available: ")[1].split(" (as of")[0].split(", ")
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
