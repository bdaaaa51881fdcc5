"""What a provider's own HTTP replies say about credits, for a transport that sees them pass.

Pure: a reply comes in as data, and what it means goes out as data. `Wire` reads the replies of a
provider of which nothing is known; `providers/` has one that knows more for each of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

from budgetguard.credits import Amount, exact
from budgetguard.errors import BudgetGuardError, ConfigurationError

Terms: TypeAlias = Amount | Mapping[str, Any]
"""A cost in credits, or the arguments of `require_credits` in a mapping."""

Price: TypeAlias = Terms | Callable[[Any], Terms | None]
"""What a request may cost, or a callable given the request; None from it is for nothing."""

Prices: TypeAlias = Mapping[tuple[str, str], Price]
"""Prices by method and path pattern, see `budgetguard.routes.Routes`; the first that fits counts."""

End: TypeAlias = Decimal | Literal["cost", "release", "keep"]
"""How a call's hold ends: settled at this many credits, or at its cost; nothing spent; unknown."""

OK = range(200, 300)
REFUSED = range(400, 500)
PAYMENT_REQUIRED = 402
DID_NOTHING = frozenset({307, 308})
"""Redirects whose request was not carried out, and is to be sent again as it is (RFC 9110, 15.4)."""

# The last frame of OpenAI's streams, after which its plain client hangs up (openai 3.54, 2026-11).
_DONE = "[DONE]"

# These may be of a request that was carried out all the same.
_MAYBE_DONE = frozenset({408, 409, 425, 499})


class Unpriced(ConfigurationError, ValueError):
    """Nobody can say what a request may cost at most: it is not sent until its price is named."""

    status_code = 400


@dataclass(frozen=True)
class Reply:
    """A reply, read as far as anybody will.

    `frames` are those of an event stream, each with its name and its text. `path` is below the base
    URL. Where it is not `complete`, nobody read on, and it did not say that it had ended. Its JSON is
    parsed where it is asked for: that of an answer with a million numbers takes a second. `asked` is
    the content of its request, where the price depended on that.
    """

    path: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    frames: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    complete: bool = True
    asked: bytes | None = field(default=None, repr=False)

    @cached_property
    def body(self) -> Any:
        """Its JSON, with numbers as Decimal; None where it is no JSON."""
        return None if self.content is None else parse(self.content)

    def field(self, name: str) -> Any:
        """A field of the body, where that is an object that has it; or None."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    def events(self, name: str) -> Iterator[Any]:
        """The JSON of each frame of that name, None for what is none."""
        return (parse(text.encode()) for each, text in self.frames if each == name)


class Wire:
    """Takes 402 for want of credits, 4xx, 307 and 308 for nothing spent, any other failure for unknown."""

    prices: ClassVar[Prices] = {}

    def end(self, reply: Reply) -> End:
        """What became of the call that this is the reply to."""
        if reply.status in OK:
            return "cost" if reply.complete else "keep"
        refused = reply.status in REFUSED and reply.status not in _MAYBE_DONE
        return "release" if refused or reply.status in DID_NOTHING else "keep"

    def exhausted(self, reply: Reply) -> bool:
        """Whether the provider refused the call for want of credits."""
        return reply.status == PAYMENT_REQUIRED

    def remaining(self, headers: Mapping[str, str]) -> Decimal | None:
        """The balance that came along with a reply, if one did."""
        del headers
        return None

    def refusal(self, path: str, error: BudgetGuardError) -> dict[str, Any]:
        """The body of an own refusal, in the shape that the provider gives its refusals."""
        del path
        return {"error": {"code": error.status_code, "message": str(error)}}


def amount(value: object) -> Decimal | None:
    """Credits that were charged, as a reply gives them; None for what are none."""
    found = balance(value)
    return None if found is None or found < 0 else found


def balance(value: object) -> Decimal | None:
    """Credits that are left, which may be below zero; None for what are none."""
    if isinstance(value, str):
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
    asked: bytes | None = None,
) -> Reply:
    """The reply that `content` is, decoded; a content that makes no sense is none."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content is None:
        return Reply(path, status, headers, complete=complete, asked=asked)
    if kind == "text/event-stream":
        frames = tuple(_frames(content))
        complete = complete or any(text == _DONE for _, text in frames)
        return Reply(path, status, headers, frames=frames, complete=complete, asked=asked)
    return Reply(path, status, headers, content, complete=complete, asked=asked)


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


def said(reply: Any, path: str) -> Any:
    """What a reply says at `path`, be it made of mappings or of objects; None where nothing."""
    for name in path.split("."):
        reply = reply.get(name) if isinstance(reply, Mapping) else getattr(reply, name, None)
    return reply


def parse(content: bytes) -> Any:
    """A JSON text, with its numbers as Decimal; None for what is none."""
    # Deferred: whoever only imports budgetguard does not pay for it.
    import json

    try:
        return json.loads(content, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError, InvalidOperation):
        return None
