"""What is wrong with what a provider did, in sentences."""

from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

from budgetguard._core.amounts import Amount, exact
from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable
from budgetguard.testing.provider_check.cases import MISSED
from budgetguard.testing.provider_check.run import Observation

_LONGEST: Final = 24
_NO_LIMIT: Final = ("null", 'the text "unlimited"')
_COMPARED: Final = ("credits", "cost_limit", "credits_used", "max_concurrency", "unit")


class Fault(NamedTuple):
    """What a provider was given and did, and what to do about it."""

    said: str
    advice: str


def report(name: str, faults: Collection[Fault]) -> str:
    """All faults, those with the same advice together."""
    count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
    by_advice: dict[str, list[str]] = {}
    for fault in faults:
        by_advice.setdefault(fault.advice, []).append(f"  - {fault.said}")
    groups = ("\n".join([f"\n{advice}", *said]) for advice, said in by_advice.items())
    return "\n".join([f"check_provider found {count} in {name}.", *groups])


def faults_of_the_example(seen: Observation) -> Iterator[Fault]:
    """What keeps a provider from being checked at all."""
    outcome = seen.outcome
    if seen.unknown is not None:
        yield Fault(f"fetch requested {seen.unknown}", _GIVE_ALL_PATHS)
    elif not seen.requests:
        yield Fault("fetch sent no request", _USE_THE_CLIENT)
    elif isinstance(outcome, BaseException):
        words = f": {outcome}" if isinstance(outcome, BalanceUnavailable) else ""
        yield Fault(
            f"fetch did not accept `reply`: it raised {type(outcome).__name__}{words}", _BE_VALID
        )
    elif outcome is None:
        yield Fault("fetch did not return a balance for `reply`", _BE_VALID)
    elif outcome.credits is None and outcome.cost_limit is None:
        yield Fault("the balance of `reply` is unlimited", _BE_LIMITED)
    elif seen.refusal is not None:
        yield Fault(f"a guard refused a call of 0.000001: {seen.refusal}", _BE_LIMITED)
    yield from _shows_the_key(seen)


def wrong_credits(seen: Observation, credits: Amount | None) -> Iterator[Fault]:
    """The example's balance, if it is not what the caller expects."""
    found = seen.outcome
    if credits is None or not isinstance(found, Balance):
        return
    right = exact(credits, "credits")
    if found.credits != right:
        said = f"the balance of `reply` was {_shown(found)} instead of {right:f}"
        yield Fault(said, _READ_THE_RIGHT_FIELD)


def own_faults(places: Iterable[str]) -> Iterator[Fault]:
    """Where the provider itself shows its key."""
    for where in places:
        yield Fault(f"the {where} of the provider has the key in it", _KEEP_SECRET)


def faults_of(
    seen: Observation,
    example: Balance,
    unit: str | None,
    *,
    unlimited: Collection[str],
    optional: Collection[str],
) -> Iterator[Fault]:
    """All faults in what was seen."""
    said, outcome = seen.case.said, seen.outcome
    allowed = _allowed(seen, unlimited, optional)
    if isinstance(outcome, Balance) and (unit is None or outcome.unit == unit):
        yield from _wrong_balance(seen, outcome, example, allowed=allowed)
    elif seen.refusal is None:
        yield Fault(f"{said}, and a guard admitted a call", _FORGET)
    if isinstance(outcome, BaseException) and not _is_documented(outcome):
        yield Fault(f"{said}, and fetch raised {type(outcome).__name__}", _RAISE_OURS)
    if seen.case.rule == "same" and not isinstance(outcome, Balance):
        raised = "did not end" if outcome is None else f"raised {type(outcome).__name__}"
        yield Fault(f"{said}, and fetch {raised}", _IGNORE_MORE)
    yield from _conduct(seen)
    yield from _shows_the_key(seen)


def _allowed(seen: Observation, unlimited: Collection[str], optional: Collection[str]) -> bool:
    case = seen.case
    if case.change == MISSED:
        return not set(optional).isdisjoint(case.paths)
    return case.change in _NO_LIMIT and not set(unlimited).isdisjoint(case.paths)


def _wrong_balance(
    seen: Observation, found: Balance, example: Balance, *, allowed: bool
) -> Iterator[Fault]:
    case = seen.case
    no_limit = found.credits is None and example.credits is not None
    if no_limit and not (allowed and case.change in _NO_LIMIT):
        yield Fault(f"{case.said}, and the provider reported an unlimited balance", _NOT_UNLIMITED)
    elif case.rule == "refuse":
        yield Fault(f"{case.said}, and the provider reported {_shown(found)}", _RAISE)
    elif not allowed:
        other = [name for name in _COMPARED if getattr(found, name) != getattr(example, name)]
        if other:
            was, now = _shown(example, other), _shown(found, other)
            advice = _IGNORE_MORE if case.rule == "same" else _READ_BY_TYPE
            yield Fault(f"{case.said}, and the provider reported {now} instead of {was}", advice)


def _conduct(seen: Observation) -> Iterator[Fault]:
    said = seen.case.said
    if seen.gave_key_away:
        yield Fault(f"{said}, and the key was sent there", _FOLLOW_NOTHING)
    elif seen.followed:
        yield Fault(f"{said}, and it was followed", _FOLLOW_NOTHING)
    if seen.read_on:
        yield Fault(f"{said}, and all of it was read", _STOP_READING)
    if not seen.ended:
        yield Fault(f"{said}, and cancelling fetch did not end it", _BE_CANCELLED)


def _shows_the_key(seen: Observation) -> Iterator[Fault]:
    if seen.shown:
        *first, last = seen.shown
        places = f"{', '.join(first)} and {last}" if first else last
        yield Fault(f"{seen.case.said}, and the key could be read in {places}", _HIDE)


def _shown(balance: Balance, names: Collection[str] = ("credits",)) -> str:
    return ", ".join(f"{name}={_figure(getattr(balance, name))}" for name in names)


def _figure(value: Any) -> str:
    figure = f"{value:f}" if isinstance(value, Decimal) else repr(value)
    return figure if len(figure) <= _LONGEST else f"{figure[:_LONGEST]}..."


def _is_documented(error: BaseException) -> bool:
    """Whether a guard tells users what such an error means."""
    import httpx

    return isinstance(error, BalanceUnavailable | httpx.HTTPError)


_RAISE: Final = "Raise BalanceUnavailable for what is not a valid reply with status 200:"
_READ_BY_TYPE: Final = (
    "Raise BalanceUnavailable if a field is not there, has another type or is not a finite number. If the "
    "vendor documents that it may be left out, name it in optional=:"
)
_NOT_UNLIMITED: Final = (
    "Raise BalanceUnavailable: only what the vendor documents as no limit is unlimited. Name a field in "
    "unlimited= if null is documented to mean that:"
)
_RAISE_OURS: Final = (
    "Raise BalanceUnavailable(provider=, reason=) instead of other errors, so that users read what was "
    "wrong with the reply:"
)
_IGNORE_MORE: Final = "Ignore fields that you do not need, because vendors add some at any time:"
_FORGET: Final = "Report what this reply says, and no earlier balance:"
_FOLLOW_NOTHING: Final = (
    "Pass follow_redirects=False and accept status 200 alone, so that the key goes nowhere else:"
)
_STOP_READING: Final = "Stop reading after a few KiB, as get_fields of HTTPProvider does:"
_BE_CANCELLED: Final = "Let CancelledError through: it is how a guard ends a fetch that takes longer than its `timeout`:"
_HIDE: Final = (
    "Put no key, header, request or text of a reply in errors, events and logs. What get_fields of "
    "HTTPProvider returns is without the key:"
)
_KEEP_SECRET: Final = "Show the key nowhere; HTTPProvider keeps it so that it is not shown:"  # noqa: S105
_GIVE_ALL_PATHS: Final = (
    "Give an example for every path that fetch requests, as reply={path: object}:"
)
_USE_THE_CLIENT: Final = "Send requests with the client that fetch is given: a guard's deadline and rules are for that one:"
_BE_VALID: Final = "Give a `reply` that is valid, with every field that fetch needs:"
_BE_LIMITED: Final = (
    "Give a `reply` with a balance above 0 and a limit, so that others are told apart:"
)
_READ_THE_RIGHT_FIELD: Final = "Read the field that means what is left, in the unit of the account:"
