"""What requests for chat completions cost, and what their replies say: the part that vendors share."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from budgetguard._core.amounts import LIMIT
from budgetguard._core.errors import (
    BalanceUnavailable,
    BudgetGuardError,
    InsufficientCredits,
    Paused,
)
from budgetguard.providers._tokens import ChatRequest, TokenCount, TokenPrice, tokens_used
from budgetguard.providers.billing import (
    Billing,
    BillingReply,
    Outcome,
    Prices,
    Unpriced,
    said_by,
    value_at,
)

_ANTHROPIC = "/anthropic/"


class ChatBilling(Billing):
    """Settles a call at its tokens, times the price of its model; a subclass is one vendor.

    `paths` are the vendor's paths for chat completions, each with the field of a request that limits its
    reply. `lacks` is the type of error that the vendor has for a lack of credits.
    """

    paths: ClassVar[Mapping[str, str]]
    lacks: ClassVar[str]

    def __init__(self, models: Mapping[str, TokenPrice]) -> None:
        self.models = dict(models)

    def all_prices(self) -> Prices:
        """The prices of all requests that cost something, those of this account's models included."""
        return {**self.prices, **{("POST", path): self.price for path in self.paths}}

    def price(self, request: Any) -> Decimal:
        """The most that a request can cost, at the model's dearest price; raises Unpriced if that is not known."""
        asked = ChatRequest.of(request.content)
        price = self.price_for(asked)
        return min(price.dearest(asked.most(price)), LIMIT)

    def price_for(self, asked: ChatRequest) -> TokenPrice:
        """The price of the model that a request asks for; raises Unpriced for one that is not known."""
        price = self.models.get(asked.model or "")
        if price is None:
            # The model's name is not shown: it may be a key in the wrong place.
            msg = (
                "the price of the request's model is not known: it is none of "
                f"{', '.join(self.models)}. Pass prices_per_model= to the provider, "
                "or prices= to the transport"
            )
            raise Unpriced(msg)
        return price

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at the tokens of a complete reply; one without its tokens, or with too many to believe, costs what is held."""
        outcome = super().cost_of(reply)
        if outcome != "cost" or reply.path not in self.paths:
            return outcome
        used, price = tokens_used(reply), self._price_in(reply)
        if used is None or price is None:
            return "cost"
        charged = self.charged(reply, used, price)
        return charged if charged < LIMIT else "cost"

    def charged(self, reply: BillingReply, used: TokenCount, price: TokenPrice) -> Decimal:
        """What was charged for so many tokens of a reply."""
        del reply
        return price.cost(used)

    def _price_in(self, reply: BillingReply) -> TokenPrice | None:
        """The price of the model that was asked for, or else of the one that replied."""
        if reply.request_body is not None:
            try:
                return self.price_for(ChatRequest.of(reply.request_body))
            except Unpriced:
                pass
        return self.price_by_reply(str(reply.last("model")))

    def price_by_reply(self, model: str) -> TokenPrice | None:
        """The price of a model whose request is not known; None if the model is not."""
        return self.models.get(model)

    def capped(self, path: str, content: bytes, most: Decimal) -> bytes | None:
        """The request with a limit of tokens that `most` pays for; None if it pays for no token, or is unpriced."""
        field, asked = self.paths.get(path), ChatRequest.of(content)
        if field is None:
            return None
        try:
            price = self.price_for(asked)
            count = asked.most(price)
        except Unpriced:
            return None
        limit = asked.affordable(price, most)
        if limit < 1:
            return None
        if count.output <= limit * asked.replies:
            return content
        fields = json.loads(content)
        given = [name for name in ChatRequest.LIMITS if fields.get(name) is not None]
        return json.dumps(fields | dict.fromkeys(given or [field], limit)).encode()

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """OpenAI's shape, which is also the vendor's; Anthropic's where that is spoken."""
        kind = "invalid_request_error"
        if isinstance(error, InsufficientCredits):
            kind = self.lacks
        elif isinstance(error, BalanceUnavailable):
            kind = "balance_unavailable"
        elif isinstance(error, Paused):
            kind = "paused"
        inner = {"message": str(error), "type": kind}
        if path.startswith(_ANTHROPIC):
            return {"type": "error", "error": inner, **said_by(error)}
        return {"error": {**inner, "param": None, "code": kind}, **said_by(error)}


def error_in(reply: BillingReply) -> tuple[str, str]:
    """The type and the message of a reply's error, in lower case; "" for each that is missing."""
    found = (value_at(reply.body, f"error.{name}") for name in ("type", "message"))
    kind, message = (each.lower() if isinstance(each, str) else "" for each in found)
    return kind, message


def known_models(
    documented: Mapping[str, TokenPrice], given: Mapping[str, TokenPrice] | None
) -> dict[str, TokenPrice]:
    """The documented prices by model, and those that are given in their place or besides; raises TypeError."""
    if given is None:
        return dict(documented)
    if not isinstance(given, Mapping) or not all(
        isinstance(model, str) and isinstance(price, TokenPrice) for model, price in given.items()
    ):
        msg = 'prices_per_model takes prices by model: {"name": TokenPrice(input, output)}'
        raise TypeError(msg)
    return {**documented, **given}


def unpriced(what: str) -> Any:
    """A price for requests whose largest cost is not known."""

    def price(_: Any) -> Decimal:
        msg = f"the largest cost of {what} is not known: set it with prices= of the transport"
        raise Unpriced(msg)

    return price
