"""What calls of chat models cost by tokens: the most a request can use, and what a reply says was used.

It reads the chat completions and responses of OpenAI, and the messages of Anthropic, which vendors of other
models speak too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

from budgetguard._core.amounts import Amount, exact
from budgetguard.providers.billing import BillingReply, Unpriced, parse

MILLION = 10**6

# What vendors put around a prompt, in tokens: the instructions for using tools above all. None of them
# documents how much that is; the largest published template seen has some hundred (DeepSeek-V3.2, 2026-11).
_AROUND = 2048
# A token is at least one byte of text, so a request cannot have more of them than its content has bytes.
_TEXT = frozenset(
    {
        "text",
        "input_text",
        "output_text",
        "refusal",
        "message",
        "function_call",
        "function_call_output",
        "tool_use",
        "tool_result",
        "thinking",
        "reasoning",
    }
)
# Tools whose calls are answered by the caller, and not run by the vendor at a price of its own.
_CALLERS_TOOLS = frozenset({"function", "custom"})
# Fields that bring content of an unknown length into the prompt.
_STORED = ("previous_response_id", "conversation", "file_ids", "context_id")
_PARTS = ("messages", "input", "system", "instructions", "prompt", "suffix")
_DEEPEST = 8
_MOST_TOKENS = 10**12


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one call; `cached` are those of the input that the vendor had in its cache."""

    input: int
    output: int
    cached: int = 0


@dataclass(frozen=True)
class TokenPrice:
    """What a model charges for a million tokens, in the unit of the account.

    `input` and `output` are required; `cached` is the price of input that the vendor finds in its cache, and
    `written` that of input which it stores there, if either differs from `input`. `context` is the most
    tokens that a prompt and its reply can have together, and `longest` the most that a reply can have if its
    request does not say; both bound what a call can cost. `off_peak` is what the prices are multiplied by at
    times of a lower price, for a vendor that has such; at most 1. Raises TypeError or ValueError for a price
    that is no amount or is negative, and for a number of tokens that is not whole or not above zero.
    """

    input: Amount
    output: Amount
    cached: Amount | None = None
    written: Amount | None = None
    context: int = 1_048_576
    longest: int = 1_048_576
    off_peak: Amount = 1
    _rates: tuple[Decimal, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        taken, given = _price(self.input, "input"), _price(self.output, "output")
        stored = taken if self.written is None else max(taken, _price(self.written, "written"))
        found = taken if self.cached is None else _price(self.cached, "cached")
        for name in ("context", "longest"):
            _check_tokens(getattr(self, name), name)
        if (cheap := _price(self.off_peak, "off_peak")) > 1:
            msg = f"off_peak must be at most 1: {cheap}"
            raise ValueError(msg)
        object.__setattr__(self, "_rates", (stored, given, found, cheap))

    def cost(self, tokens: TokenCount, *, off_peak: bool = False) -> Decimal:
        """The cost of so many tokens; input that was not in the cache counts as written to it."""
        stored, given, found, cheap = self._rates
        new = tokens.input - tokens.cached
        full = (stored * new + found * tokens.cached + given * tokens.output) / MILLION
        return full * cheap if off_peak else full

    def dearest(self, tokens: TokenCount) -> Decimal:
        """The most that so many tokens can cost, wherever their input was, and at any time."""
        stored, given, found, _ = self._rates
        return (max(stored, found) * tokens.input + given * tokens.output) / MILLION


def _price(value: Amount, what: str) -> Decimal:
    price = exact(value, what)
    if price < 0:
        msg = f"{what} must not be negative: {price}"
        raise ValueError(msg)
    return price


def _check_tokens(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{what} takes a whole number of tokens, not {type(value).__name__}"
        raise TypeError(msg)
    if not 0 < value <= _MOST_TOKENS:
        msg = f"{what} must be between 1 and 10^12 tokens: {value}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request to a chat model, as far as its cost depends on it.

    LIMITS are the fields in which the vendors' dialects limit the tokens of a reply.
    """

    content: bytes
    fields: Mapping[str, Any]

    LIMITS: ClassVar = ("max_tokens", "max_completion_tokens", "max_output_tokens")

    @classmethod
    def of(cls, content: bytes) -> "ChatRequest":
        """The request with this content; one that is not a JSON object has no fields."""
        body = parse(content)
        return cls(content, body if isinstance(body, dict) else {})

    @property
    def model(self) -> str | None:
        """The model that it asks for."""
        model = self.fields.get("model")
        return model if isinstance(model, str) else None

    @property
    def limit(self) -> int | None:
        """The most tokens that it lets one reply have; None if it does not say, or not in whole numbers."""
        given = [
            _whole(self.fields[name]) for name in self.LIMITS if self.fields.get(name) is not None
        ]
        whole = [each for each in given if each is not None]
        # The largest of several: which one a vendor obeys is not known.
        return max(whole) if len(whole) == len(given) and whole else None

    def most(self, price: TokenPrice) -> TokenCount:
        """The most tokens that it can use; raises Unpriced if that depends on what the vendor does for it.

        A prompt of text has at most as many tokens as bytes. One with images, files or an earlier
        conversation may fill the model's context.
        """
        tools = self.fields.get("tools")
        if isinstance(tools, list) and any(map(_runs_at_the_vendor, tools)):
            msg = (
                "the largest cost of a request with tools that the vendor runs is not known: set it "
                "with prices= of the transport"
            )
            raise Unpriced(msg)
        prompt = (
            min(len(self.content) + _AROUND, price.context) if self._is_text() else price.context
        )
        reply = price.longest if self.limit is None else min(self.limit, price.context)
        return TokenCount(prompt, reply * self.replies)

    def affordable(self, price: TokenPrice, credits: Decimal) -> int:
        """The most tokens of each reply for which so many credits suffice, below 1 if for none.

        Raises Unpriced as `most` does.
        """
        prompt = TokenCount(self.most(price).input, 0)
        for_each = price.dearest(TokenCount(0, self.replies))
        if not for_each:
            return price.context if credits >= price.dearest(prompt) else 0
        return int(min((credits - price.dearest(prompt)) / for_each, Decimal(price.context)))

    def _is_text(self) -> bool:
        """Whether all of its prompt is text that it brings itself."""
        stored = any(self.fields.get(name) is not None for name in _STORED)
        # A stored template, which brings text of its own.
        stored = stored or isinstance(self.fields.get("prompt"), dict)
        return not stored and all(_is_text(self.fields.get(name)) for name in _PARTS)

    @property
    def replies(self) -> int:
        """How many replies it asks for; raises Unpriced if that is no number."""
        count, prompts = 1, self.fields.get("prompt")
        for name in ("n", "best_of"):
            given = self.fields.get(name)
            each = 1 if given is None else _whole(given)
            if each is None:
                msg = f"{name} of a request must be a whole number above zero"
                raise Unpriced(msg)
            count = max(count, each)
        return count * len(prompts) if isinstance(prompts, list) and prompts else count


def _whole(value: object) -> int | None:
    """A whole number above zero; None for anything else."""
    if not isinstance(value, Decimal) or not 0 < value <= _MOST_TOKENS:
        return None
    return int(value) if value == value.to_integral_value() else None


def _runs_at_the_vendor(tool: object) -> bool:
    # Anthropic's tools of the caller have no type.
    return not isinstance(tool, dict) or tool.get("type", "custom") not in _CALLERS_TOOLS


def _is_text(part: object, depth: int = _DEEPEST) -> bool:
    """Whether a part of a prompt has all its content in itself, and as text."""
    if part is None or isinstance(part, str | Decimal):
        return True
    if not depth:
        return False
    if isinstance(part, list):
        return all(_is_text(each, depth - 1) for each in part)
    if not isinstance(part, dict):
        return False
    kind = part.get("type", "text")
    return (
        isinstance(kind, str)
        and kind in _TEXT
        and all(_is_text(part.get(name), depth - 1) for name in ("content", "output"))
    )


def tokens_used(reply: BillingReply) -> TokenCount | None:
    """The tokens that a reply says were used, in its body or at the end of its stream; None if it does not say.

    A reply without a single token of input does not count: in a stream, some vendors send zeros until
    the last frame.
    """
    usage = usage_of(reply)
    read, output = _count(usage, "prompt_tokens", "input_tokens"), _output(usage)
    if read is None or output is None:
        return None
    if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
        # Anthropic does not include them in its input.
        cached = _count(usage, "cache_read_input_tokens") or 0
        read += cached + (_count(usage, "cache_creation_input_tokens") or 0)
    else:
        cached = min(_cached(usage), read)
    return TokenCount(read, output, cached) if read else None


def usage_of(reply: BillingReply) -> dict[str, Any]:
    """The `usage` of a reply; in a stream, later frames add to earlier ones, and nulls do not count."""
    found: dict[str, Any] = {}
    bodies = [reply.body] if reply.content is not None else map(_frame, reply.frames)
    for body in bodies:
        for usage in _usages(body):
            found |= {name: value for name, value in usage.items() if value is not None}
    return found


def _frame(frame: tuple[str, str]) -> Any:
    return parse(frame[1].encode()) if '"usage"' in frame[1] else None


def _usages(body: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(body, dict):
        return
    choices = body.get("choices")
    # Moonshot's streams give it in the last choice, Anthropic's in the message that begins, and the stream
    # of a response in the response that is complete.
    places = [*(choices if isinstance(choices, list) else ()), body.get("message")]
    for place in (*places, body.get("response"), body):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict):
            yield usage


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, Decimal) and value == 0:
            return 0
        if (count := _whole(value)) is not None:
            return count
    return None


def _output(usage: Mapping[str, Any]) -> int | None:
    """Tokens of output, those of the reasoning included."""
    return _count(usage, "completion_tokens", "output_tokens")


def _cached(usage: Mapping[str, Any]) -> int:
    """Tokens of input that were in the cache: OpenAI's name, DeepSeek's, or Moonshot's."""
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(name)
        if isinstance(details, dict) and (count := _count(details, "cached_tokens")) is not None:
            return count
    return _count(usage, "prompt_cache_hit_tokens", "cached_tokens") or 0
