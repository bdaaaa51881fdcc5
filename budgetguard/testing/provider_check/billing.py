"""Gives a provider's billing replies that make no sense, which must never make it raise."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from budgetguard._core.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    ConcurrencyLimit,
    ConfigurationError,
    InsufficientCredits,
    Paused,
)
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard.providers.base import Profile
from budgetguard.providers.billing import Billing, BillingReply, LostCall, WorkStatus, amount, read
from budgetguard.testing.provider_check.faults import Fault
from budgetguard.testing.provider_check.hostile_json import (
    RepeatedField,
    changes,
    fields,
    replaced,
    spell,
)

_LONGEST: Final = 60
_STATUSES: Final = (200, 202, 204, 301, 400, 401, 402, 403, 404, 409, 422, 429, 432, 456, 500, 503)
_JSON: Final = {"content-type": "application/json"}
_STREAM: Final = {"content-type": "text/event-stream"}
_NO_NUMBERS: Final = ("", "-1", "NaN", "Infinity", "1e400", "many", "9" * 5_000, "\u0667", "\x00")
_WORDS: Final = ("cost", "release", "keep")
_KINDS: Final = ("exhausted", "busy", "key_limit", "not_credits")


class _Asked(NamedTuple):
    """A method of a billing, what its result has to be, and whether it is."""

    name: str
    ask: Callable[[Billing, BillingReply], Any]
    advice: str
    is_right: Callable[[Any], bool]


def billing_faults(
    profile: Profile, key: str, examples: Collection[BillingReply]
) -> Iterator[Fault]:
    """The faults of what a provider makes of replies to calls."""
    billing = profile.billing
    found: dict[tuple[str, str], list[BillingReply]] = {}
    places = _places(profile, examples)
    for reply in [*_nonsense(places, key), *examples, *_changed(examples)]:
        for asked in _METHODS:
            did, advice = _did(asked, billing, reply)
            if did:
                found.setdefault((f"{asked.name} {did}", advice), []).append(reply)
    for (said, advice), replies in found.items():
        more = f", and so for {len(replies) - 1} more" if len(replies) > 1 else ""
        yield Fault(f"{said} for {_told(replies[0], key)}{more}", advice)
    yield from _costs(billing, examples)
    yield from _bodies(billing, key)


def _did(asked: _Asked, billing: Billing, reply: BillingReply) -> tuple[str, str]:
    """What a method did wrong, "" if nothing, and what to do about it."""
    try:
        answer = asked.ask(billing, reply)
    except Exception as error:  # noqa: BLE001  that is what this is for
        return f"raised {type(error).__name__}", _NEVER_RAISE
    return "" if asked.is_right(answer) else f"returned {_kind(answer)}", asked.advice


def _places(profile: Profile, examples: Collection[BillingReply]) -> Collection[str]:
    """The paths that replies are about: of calls, and of the status of work that the examples began."""
    priced = [pattern.replace("*", "x") for _, pattern in profile.prices or {}] or ["/x"]
    begun = (_or_none(profile.billing.work, reply) for reply in examples)
    return dict.fromkeys([*priced, *(path for path in begun if isinstance(path, str))])


def _or_none(method: Callable[[BillingReply], Any], reply: BillingReply) -> Any:
    try:
        return method(reply)
    except Exception:  # noqa: BLE001  it is reported where all methods are asked
        return None


def _nonsense(paths: Collection[str], key: str) -> Iterator[BillingReply]:
    bodies = _contents(key)
    for path in paths:
        for status in _STATUSES:
            for content in bodies:
                is_event = content.startswith((b"event:", b"data:"))
                yield _reply(path, status, _STREAM if is_event else _JSON, content)
            for text in _NO_NUMBERS:
                yield _reply(path, status, _Everywhere(text), b"{}")
            yield _reply(path, status, {}, None)


class _Everywhere(dict[str, str]):
    """Headers in which each name has the same value."""

    def __init__(self, value: str) -> None:
        super().__init__()
        self._value = value

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ARG002  that of a mapping
        return self._value

    def __missing__(self, name: str) -> str:
        return self._value


def _reply(
    path: str, status: int, headers: Mapping[str, str], content: bytes | None
) -> BillingReply:
    return read(path, status, headers, content, complete=status not in {202, 503})


def _contents(key: str) -> list[bytes]:
    values: list[Any] = [None, True, 5, key, [], {}, [None], [[]], [{}]]
    names = ("error", "message", "detail", "errors", "code", "status", "usage", "data", "cost")
    named = [dict.fromkeys(names, value) for value in values]
    nested = [dict.fromkeys(names, each) for each in named]
    texts = [spell(each) for each in [*values, *named, *nested]]
    bodies = [each.encode() for each in texts]
    events = [f"event: error\ndata: {text}\n\n".encode() for text in texts]
    plain = [b"", b"\xff", b"<html>", b"NaN", b"[" * 50_000, b"data: {", b"data:\n\n"]
    return [*plain, *bodies, *events]


def _changed(examples: Collection[BillingReply]) -> Iterator[BillingReply]:
    for reply in examples:
        for changed, _ in _mutants(reply):
            yield changed
        yield replace(reply, headers=_Everywhere("many"))
        yield replace(reply, headers={})
        yield replace(reply, complete=False)


def _mutants(reply: BillingReply) -> Iterator[tuple[BillingReply, str]]:
    """The reply with one field changed, and what is said of it."""
    try:
        body = json.loads(reply.content or b"", parse_float=Decimal)
    except ValueError:
        return
    for each in fields(body):
        for change in changes(each):
            # JSON with a name twice is not refused in replies to calls: the last one counts.
            if not isinstance(change.value, RepeatedField):
                content = spell(replaced(body, each.steps, change.value)).encode()
                yield _with_content(reply, content), f"{each.path} was {change.said}"


def _with_content(reply: BillingReply, content: bytes) -> BillingReply:
    # Not `replace`, which would copy what was parsed from the old content.
    return BillingReply(
        reply.path,
        reply.status,
        reply.headers,
        content,
        complete=reply.complete,
        request_body=reply.request_body,
    )


def _costs(billing: Billing, examples: Collection[BillingReply]) -> Iterator[Fault]:
    for reply in examples:
        right = _or_none(billing.cost_of, reply)
        if not isinstance(right, Decimal):
            continue
        for changed, said in _mutants(reply):
            cost = _or_none(billing.cost_of, changed)
            if isinstance(cost, Decimal) and cost != right:
                where = f"{said} in a reply to {reply.path}"
                yield Fault(
                    f"{where}, and cost_of returned {cost:f} instead of {right:f}", _LEAVE_IT
                )


def _bodies(billing: Billing, key: str) -> Iterator[Fault]:
    for error in _errors():
        name = type(error).__name__
        try:
            body = billing.refusal_body(error, "/x")
            text = json.dumps(body)
        except Exception as raised:  # noqa: BLE001  that is what this is for
            yield Fault(f"refusal_body of {name} failed with {type(raised).__name__}", _BE_JSON)
            continue
        if not isinstance(body, dict):
            yield Fault(f"refusal_body of {name} returned {_kind(body)}", _BE_JSON)
        elif json.dumps(str(error)) not in text:
            yield Fault(f"refusal_body of {name} does not have the error's text", _SAY_WHY)
        if key in text:
            yield Fault(f"refusal_body of {name} has the key in it", _SAY_WHY)


def _errors() -> list[BudgetGuardError]:
    figures = ("answer", "3", "2", "5", "2", "1", "0", 1.0, "Acme")
    return [
        InsufficientCredits(*figures),
        ConcurrencyLimit("answer", 2, 2, "Acme"),
        BalanceUnavailable(provider="Acme", reason="the provider answered 500"),
        Paused("Acme", "the key may have leaked"),
        ConfigurationError("the price is not known"),
    ]


def _told(reply: BillingReply, key: str) -> str:
    content = reply.frames[0][1].encode() if reply.frames else reply.content or b""
    text = content.decode("utf-8", "replace").replace(key, "***")
    body = text[:_LONGEST] + "..." * (len(text) > _LONGEST)
    return f"status {reply.status} with {'the event' if reply.frames else 'the body'} {body!r}"


def _kind(answer: Any) -> str:
    # Not its value, which may come from a reply.
    return f"a {type(answer).__name__}"


def _is_outcome(answer: Any) -> bool:
    if isinstance(answer, Decimal):
        return amount(answer) is not None
    return answer is None or (isinstance(answer, str) and answer in _WORDS)


def _is_refusal(answer: Any) -> bool:
    if answer is None:
        return True
    if not isinstance(answer, ProviderRefusal) or answer.kind not in _KINDS:
        return False
    wait = answer.retry_after
    return wait is None or (isinstance(wait, int | float) and 0 <= wait < math.inf)


def _is_balance(answer: Any) -> bool:
    return answer is None or (isinstance(answer, Decimal) and answer.is_finite())


def _is_none_or(kind: type) -> Callable[[Any], bool]:
    return lambda answer: answer is None or isinstance(answer, kind)


_NEVER_RAISE: Final = (
    "Raise nothing: these methods are called for whatever a provider sends, and a call whose reply cannot be "
    "read holds its credits as if its cost were unknown:"
)
_LEAVE_IT: Final = (
    'Read a cost with `amount`, and where it is None return super().cost_of(reply) or "keep":'
)
_BE_JSON: Final = "Return a JSON object, and raise nothing:"
_SAY_WHY: Final = (
    "Put str(error) where the vendor's own errors have their message, and nothing of a request:"
)

_METHODS: Final = (
    _Asked(
        "cost_of",
        lambda billing, reply: billing.cost_of(reply),
        'Return a Decimal from 0 to 10^12, as `amount` makes them, or "cost", "release" or "keep":',
        _is_outcome,
    ),
    _Asked(
        "classify",
        lambda billing, reply: billing.classify(reply),
        "Return a ProviderRefusal, with a retry_after from reply.retry_after(), or None:",
        _is_refusal,
    ),
    _Asked(
        "remaining",
        lambda billing, reply: billing.remaining(reply),
        "Return a finite Decimal, as `balance` makes them, or None:",
        _is_balance,
    ),
    _Asked(
        "work",
        lambda billing, reply: billing.work(reply),
        "Return a path or None:",
        _is_none_or(str),
    ),
    _Asked(
        "status",
        lambda billing, reply: billing.status(reply),
        "Return a WorkStatus or None:",
        _is_none_or(WorkStatus),
    ),
    _Asked(
        "lost",
        lambda billing, reply: billing.lost(reply.path, reply.content),
        "Return a LostCall or None:",
        _is_none_or(LostCall),
    ),
    _Asked(
        "capped",
        lambda billing, reply: billing.capped(reply.path, reply.content or b"", Decimal(1)),
        "Return the request's content in bytes or None:",
        _is_none_or(bytes),
    ),
)
