"""What a provider's HTTP replies say about credits, for a transport that sees them.

All of it is pure: a reply comes in as data, and its meaning goes out as data. `Billing` reads the replies
of an unknown provider; the packages in `providers/` have a more specific one for each built-in provider.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

from budgetguard._core.amounts import Amount, exact
from budgetguard._core.errors import BudgetGuardError, ConfigurationError
from budgetguard._core.learned_cost import LearnedCost
from budgetguard._core.provider_refusal import (
    EXHAUSTED,
    LONGEST_RETRY,
    NOT_CREDITS,
    ProviderRefusal,
)
from budgetguard._core.retry_after import moment, retry_after

CallCost: TypeAlias = Amount | LearnedCost | Mapping[str, Any]
"""A cost in credits, `learned(...)`, or the arguments of `require_credits` in a mapping."""

Price: TypeAlias = CallCost | Callable[[Any], CallCost | None]
"""What a request may cost, or a callable that is given the request; None from it costs nothing."""

Prices: TypeAlias = Mapping[tuple[str, str], Price]
"""Prices by method and path pattern, see `budgetguard.routes.Routes`; the first match counts."""

Outcome: TypeAlias = Decimal | Literal["cost", "release", "keep"]
"""What becomes of a call's hold: settled at so many credits or at its cost, released, or kept as unknown."""

OK = range(200, 300)
REFUSED = range(400, 500)
PAYMENT_REQUIRED = 402
DID_NOTHING = frozenset({307, 308})
"""Redirects whose request was not carried out, and must be repeated unchanged (RFC 9110, 15.4)."""

# The last frame of OpenAI's streams, after which its sync client hangs up (openai 3.54, 2026-11).
_DONE = "[DONE]"

_NUMERAL = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE | re.ASCII
)
# Failed dependency (RFC 4918, 11.4): what the guard depends on, the balance, is not available.
_ASKED_ONCE = {503: 424}

# Errors of requests that may have been carried out nevertheless.
_MAYBE_DONE = frozenset({408, 409, 425, 499})


class Unpriced(ConfigurationError, ValueError):
    """The most that a request can cost is not known: it is not sent until you set its price."""

    status_code = 400


@dataclass(frozen=True)
class BillingReply:
    """A reply, as far as it was read.

    `frames` are those of an event stream, each with its name and its text. `path` is below the base URL. If
    the reply is not `complete`, reading stopped before its end. Its JSON is parsed only on demand: that of an
    answer with a million numbers takes a second. `request_body` is the content of its request, if the price
    depended on that.
    """

    path: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    frames: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    complete: bool = True
    request_body: bytes | None = field(default=None, repr=False)

    def _date(self) -> float | None:
        return moment(self.headers.get("date"))

    @cached_property
    def body(self) -> Any:
        """Its JSON, with numbers as Decimal; None if it is not JSON."""
        return None if self.content is None else parse(self.content)

    def field(self, name: str) -> Any:
        """A field of the body; None if the body is not an object that has it."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    def events(self, name: str) -> Iterator[Any]:
        """The JSON of each frame of that name; None for a frame that is not JSON."""
        return (parse(text.encode()) for each, text in self.frames if each == name)

    def last(self, name: str) -> Any:
        """A field of the body, or of the last frame of a stream in which it is not null; None if there is none.

        Streams report what they cost in one of their last frames.
        """
        found = self.field(name)
        if found is not None:
            return found
        for _, text in reversed(self.frames):
            # Parsing each of them would take long, and most have no such field.
            if name in text:
                frame = parse(text.encode())
                found = frame.get(name) if isinstance(frame, dict) else None
                if found is not None:
                    return found
        return None

    def retry_after(self, now: float | None = None) -> float | None:
        """The seconds that the Retry-After header requests, at most an hour; None if there is no valid one.

        `now` (s since the epoch) is what a date in it is compared with, by default the Date header.
        """
        value = self.headers.get("retry-after")
        return retry_after(value, self._date() if now is None else now, most=LONGEST_RETRY)


@dataclass(frozen=True, slots=True)
class WorkStatus:
    """What is known about submitted work: the credits charged so far, and what became of it once it has ended."""

    charged: Decimal | None = None
    end: Outcome | None = None


@dataclass(frozen=True, slots=True)
class LostCall:
    """What identifies the work of a request whose reply was lost.

    `search` is the path of a list in which it appears. Calls of an equal `key` cannot be told apart.
    """

    search: str
    key: tuple[str, ...] = field(repr=False)


class Billing:
    """What a provider's requests cost and what its replies say. All of it is pure, and raises nothing.

    This one takes 402 as lack of credits, 4xx, 307 and 308 as nothing spent, any other failure as unknown.
    """

    prices: ClassVar[Prices] = {}

    def cost_of(self, reply: BillingReply) -> Outcome:
        """What became of the call that this reply answers."""
        if reply.status in OK:
            return "cost" if reply.complete else "keep"
        refused = reply.status in REFUSED and reply.status not in _MAYBE_DONE
        return "release" if refused or reply.status in DID_NOTHING else "keep"

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """How this reply refuses the call; None if it is no refusal."""
        if reply.status == PAYMENT_REQUIRED:
            return EXHAUSTED
        return NOT_CREDITS if reply.status in REFUSED else None

    def remaining(self, reply: BillingReply) -> Decimal | None:
        """The balance that a reply's headers give, if they give one; its body has not been read yet."""
        del reply
        return None

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """The request's content with `most` credits as the provider's own cap on what it may cost.

        A lower cap in the request remains. None if the request takes no cap.
        """
        del path, content, most
        return None

    def work(self, reply: BillingReply) -> str | None:
        """Where the status of the work is found that this reply is about, finished or not.

        A path below the base URL, for a GET; it also identifies the work. None if the reply names none.
        """
        del reply
        return None

    def status(self, reply: BillingReply) -> WorkStatus | None:
        """What a reply to such a GET says about the work; None if it says nothing."""
        del reply
        return None

    def lost(self, path: str, content: bytes | None) -> LostCall | None:
        """How to find the work of a request whose reply was lost; None if it cannot be found."""
        del path, content
        return None

    def candidates(
        self, lost: LostCall, reply: BillingReply, since: float, until: float
    ) -> list[str] | None:
        """All work in a list that may be that of a lost call, each as `work` identifies it.

        The call's work began between these two times (s since the epoch). None if the list may lack some of
        it: it has more pages, or an entry without what would tell.
        """
        del lost, reply, since, until
        return None

    def refusal_status(self, error: BudgetGuardError) -> int:
        """The status of a transport's reply for a refusal by the guard.

        `error.status_code`, but 424 instead of 503: the SDKs that send a request again after a 503, some of
        them for an hour, do not after a 424 (docs/integrations/sdk-retries.md, 2026-11). A vendor needs
        another one if its own SDK shows no text with these.
        """
        return _ASKED_ONCE.get(error.status_code, error.status_code)

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """The body of a refusal by the guard, in the shape of the provider's own refusals.

        SDKs show a text from it: most of them from `error`, some from `message`, `detail` or `title`.
        """
        del path
        code = self.refusal_status(error)
        return {"error": {"code": code, "message": str(error)}, **said_by(error)}


def said_by(error: BudgetGuardError) -> dict[str, Any]:
    """The fields beside `error` in which SDKs expect a text (browser-use, replicate and fal, 2026-11)."""
    words = str(error)
    return {"message": words, "detail": words, "title": words}


def amount(value: object) -> Decimal | None:
    """The charged credits that a reply gives; None if the value is invalid."""
    found = balance(value)
    return None if found is None or found < 0 else found


def balance(value: object) -> Decimal | None:
    """The remaining credits, which may be negative; None if the value is invalid."""
    if isinstance(value, str):
        # Decimal alone also reads "1_000", digits of other scripts, and "NaN".
        if not _NUMERAL.fullmatch(value.strip()):
            return None
        try:
            value = Decimal(value)
        except InvalidOperation:
            return None
    if not isinstance(value, Decimal):
        return None
    try:
        return exact(value, "credits")
    except ValueError:
        return None


def read(
    path: str,
    status: int,
    headers: Mapping[str, str],
    content: bytes | None,
    *,
    complete: bool = True,
    request_body: bytes | None = None,
) -> BillingReply:
    """The reply with this content, decoded; invalid content counts as none."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content is None:
        return BillingReply(path, status, headers, complete=complete, request_body=request_body)
    if kind == "text/event-stream":
        frames = tuple(_frames(content))
        complete = complete or any(text == _DONE for _, text in frames)
        return BillingReply(
            path, status, headers, frames=frames, complete=complete, request_body=request_body
        )
    return BillingReply(
        path, status, headers, content, complete=complete, request_body=request_body
    )


def _frames(content: bytes) -> list[tuple[str, str]]:
    found = []
    for frame in content.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n"):
        name, data = "message", []
        for line in frame.split("\n"):
            before, _, value = line.partition(":")
            if before == "event":
                name = value.removeprefix(" ")
            elif before == "data":
                data.append(value.removeprefix(" "))
        if data:
            found.append((name, "\n".join(data)))
    return found


def value_at(reply: Any, path: str) -> Any:
    """The value at `path` in a reply made of mappings or of objects; None if there is none."""
    for name in path.split("."):
        reply = reply.get(name) if isinstance(reply, Mapping) else getattr(reply, name, None)
    return reply


def parse(content: bytes) -> Any:
    """A JSON text, with its numbers as Decimal; None if it is not JSON."""
    # Deferred, so that importing budgetguard does not import it.
    import json

    try:
        return json.loads(content, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError, InvalidOperation):
        return None
