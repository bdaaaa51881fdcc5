"""What a request to OpenRouter may cost at most, by a price list that the user gives.

The library has none of its own: OpenRouter's prices change daily, and `GET /api/v1/models` gives them.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from budgetguard._core.amounts import LIMIT, exact
from budgetguard.providers._tokens import MILLION, ChatRequest, TokenCount, TokenPrice
from budgetguard.providers.billing import Unpriced

# The field that limits an answer's tokens, by path.
_LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/chat/completions": "max_tokens",
        "/completions": "max_tokens",
        "/responses": "max_output_tokens",
        "/messages": "max_tokens",
    }
)
PRICED: Final = tuple(_LIMITS)
"""The paths of requests whose price may follow from a list."""

# Fields that add to the tokens' price, or change it (API reference, 2026-08).
_DEARER = ("plugins", "web_search_options", "preset", "service_tier", "speed", "audio")
# The bytes of a field that limits an answer.
_FIELD = 40
# Stands for the size of a context and of an answer that a list of prices does not say.
_UNBOUNDED = 10**12

_INPUT = ("prompt",)
_WRITTEN = ("prompt", "input_cache_write", "input_cache_write_1h")
_OUTPUT = ("completion", "internal_reasoning")


class ModelPrice(NamedTuple):
    """The highest rates of a model: those of its tokens, and USD for each request."""

    tokens: TokenPrice
    request: Decimal

    def most(self, asked: ChatRequest) -> Decimal | None:
        """What a request can cost at most; None if there is no bound."""
        count = asked.most(self.tokens)
        if max(count.input, count.output) >= _UNBOUNDED:
            return None
        return min(self.tokens.dearest(count) + self.request, LIMIT)

    def limit(self, asked: ChatRequest, most: Decimal) -> int:
        """The most tokens of an answer with which a request costs `most`; below 1 if there are none."""
        added = self.tokens.dearest(TokenCount(_FIELD, 0))
        return asked.affordable(self.tokens, most - self.request - added)


class PriceList:
    """Prices by model; raises TypeError or ValueError for what is none."""

    def __init__(self, prices_per_model: Mapping[str, Mapping[str, Any] | TokenPrice]) -> None:
        if not isinstance(prices_per_model, Mapping):
            msg = (
                "prices_per_model takes a mapping of models to prices, such as "
                '{"openai/gpt-5": {"prompt": "0.00000125", "completion": "0.00001"}}, '
                f"not {type(prices_per_model).__name__}"
            )
            raise TypeError(msg)
        self._prices = {
            model: price
            for model, pricing in prices_per_model.items()
            if (price := _price(pricing, f"the price of {model}")) is not None
        }

    def most(self, content: bytes) -> Decimal | None:
        """The most that a request may cost, in USD; None if that does not follow from it."""
        asked = ChatRequest.of(content)
        try:
            found = [price.most(asked) for price in self._of(asked)]
        except Unpriced:
            return None
        bounds = [each for each in found if each is not None]
        return max(bounds) if bounds and len(bounds) == len(found) else None

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """The request with a limit on its answer's tokens, with which it costs `most` USD at most.

        A lower limit in the request remains. None if no limit achieves that.
        """
        field, asked = _LIMITS.get(path), ChatRequest.of(content)
        prices = self._of(asked)
        if field is None or not prices:
            return None
        try:
            limit = min(each.limit(asked, most) for each in prices)
        except Unpriced:
            return None
        if limit < 1:
            return None
        if asked.limit is not None and asked.limit <= limit:
            return content
        # Deferred, so that importing budgetguard does not import it.
        import json

        # Parsed again, because its numbers are Decimals here.
        fields = json.loads(content)
        given = [name for name in ChatRequest.LIMITS if fields.get(name) is not None]
        fields |= dict.fromkeys(given or [field], limit)
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def _of(self, asked: ChatRequest) -> list[ModelPrice]:
        """The prices of all models that may answer; empty if one is unknown, or if not only tokens are paid."""
        fields = asked.fields
        if any(fields.get(name) is not None for name in _DEARER):
            return []
        if fields.get("modalities") not in (None, ["text"]):
            return []
        fallbacks = fields.get("models")
        models = [asked.model, *(fallbacks if isinstance(fallbacks, list) else ())]
        found = [self._prices.get(each) for each in models if isinstance(each, str)]
        prices = [each for each in found if each is not None]
        return prices if len(prices) == len(found) else []


def model_of(request: Any) -> str | None:
    """The model that a request names; None if it names none."""
    return ChatRequest.of(request.content).model


def _price(pricing: object, what: str) -> ModelPrice | None:
    """A model's highest rates; None where they depend on another model, which OpenRouter writes as -1."""
    if isinstance(pricing, TokenPrice):
        return ModelPrice(pricing, Decimal(0))
    if not isinstance(pricing, Mapping):
        msg = (
            f'{what} takes a TokenPrice, or a mapping such as {{"prompt": "0.00000125", '
            f'"completion": "0.00001"}}, not {type(pricing).__name__}'
        )
        raise TypeError(msg)
    lacking = [name for name in ("prompt", "completion") if pricing.get(name) is None]
    if lacking:
        msg = f"{what} lacks {' and '.join(lacking)}"
        raise ValueError(msg)
    if any(exact(pricing[name], f"{name} in {what}") < 0 for name in ("prompt", "completion")):
        return None
    conditional = [each for each in pricing.get("overrides") or () if isinstance(each, Mapping)]

    def highest(*names: str) -> Decimal:
        """Of the base price and of all conditional ones: long prompts, peak hours."""
        given = [
            exact(each[name], f"{name} in {what}")
            for each in (pricing, *conditional)
            for name in names
            if each.get(name) is not None
        ]
        return max(given, default=Decimal(0))

    tokens = TokenPrice(
        input=highest(*_INPUT) * MILLION,
        output=highest(*_OUTPUT) * MILLION,
        written=highest(*_WRITTEN) * MILLION,
        context=_UNBOUNDED,
        longest=_UNBOUNDED,
    )
    return ModelPrice(tokens, highest("request"))
