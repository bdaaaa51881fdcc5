"""Labels: read-only, and carried anywhere that an event or an error is carried."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from budgetguard import BalanceUnavailable, Event
from budgetguard._core.clock import Instant
from budgetguard._core.labels import NO_LABELS, Labels
from budgetguard._core.ledger import Ledger
from budgetguard._core.policy import CallNeed, GuardTerms
from budgetguard._engine.subscriber import Call, Subscriber

TERMS = GuardTerms(
    fresh_for=300, stale_for=600, recheck_after=5, timeout=10, floor=0, extra=0, allow_unknown=False
)
NEED = CallNeed(amount=5, cost=5, slots=0, arrived=0, until=0, give_up=0)
COPIES = [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]

copied = pytest.mark.parametrize("duplicate", COPIES, ids=["copy", "deepcopy", "pickle"])


def test_labels_are_a_mapping_that_cannot_be_changed() -> None:
    """Also not through the mapping that they were made of."""
    given = {"user": "ada"}
    labels = Labels(given)
    given["user"] = "eve"
    assert labels == {"user": "ada"}
    assert (labels["user"], len(labels), list(labels), repr(labels)) == (
        "ada",
        1,
        ["user"],
        "{'user': 'ada'}",
    )
    with pytest.raises(TypeError):
        labels["user"] = "eve"  # type: ignore[index]
    assert hash(labels) == hash(Labels({"user": "ada"}))
    assert NO_LABELS == {}


class Context:
    """What the code around a call says about it."""

    labels = Labels({"user": "ada", "run": "42"})
    budget_name = "run-42"


def event_of(context: Any, cause: str | None = None) -> Event:
    """The event of a refused call in that context."""
    told: list[Event] = []
    subscriber = Subscriber(TERMS, "fake", on_event=[told.append])
    call = Call(subscriber, "spec", NEED, 0, 0, context=context)
    effects: list[Callable[[], object]] = []
    call.emit(effects, Ledger(), "refused", Instant(0, 0), cause=cause)
    for effect in effects:
        effect()
    (event,) = told
    return event


def test_a_call_with_no_context_has_no_labels() -> None:
    """And its event belongs to no budget."""
    event = event_of(None)
    assert (event.labels, event.budget, event.cause) == ({}, None, None)


@copied
def test_an_event_carries_labels_budget_and_cause(duplicate: Callable[[Any], Any]) -> None:
    """Copies and pickles do so too."""
    event = event_of(Context, "budget")
    twin = duplicate(event)
    assert twin == event
    assert hash(twin) == hash(event)
    assert (twin.labels, twin.budget, twin.cause) == (
        {"user": "ada", "run": "42"},
        "run-42",
        "budget",
    )
    assert repr(twin).endswith(
        "labels={'user': 'ada', 'run': '42'}, budget='run-42', cause='budget')"
    )


@copied
def test_an_error_carries_labels_beside_its_args(duplicate: Callable[[Any], Any]) -> None:
    """An error that nobody set labels on has none."""
    error = BalanceUnavailable("fake", "it answered 503")
    assert error.labels == {}
    error.labels = Labels({"user": "ada"})
    twin = duplicate(error)
    assert (twin.labels, twin.args) == ({"user": "ada"}, error.args)
    assert type(error)(*error.args).labels == {}
