"""The most that a request to OpenRouter can cost, by a price list like that of its models."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from budgetguard._core.learned_cost import LearnedCost
from budgetguard.providers import OpenRouter
from budgetguard.providers._tokens import TokenPrice
from budgetguard.providers.openrouter.prices import PriceList

KEY = "openrouter_not_a_real_key"
PROMPT, COMPLETION = Decimal("0.000003"), Decimal("0.000015")
PLAIN = {"prompt": "0.000003", "completion": "0.000015"}
LIST: dict[str, Any] = {
    "a/plain": PLAIN,
    "a/free": {"prompt": "0", "completion": "0"},
    "a/cached": PLAIN | {"input_cache_write": "0.00000375", "input_cache_write_1h": "0.000006"},
    "a/long": PLAIN
    | {"overrides": [{"min_prompt_tokens": 200000, "prompt": "0.000006", "completion": "0.00003"}]},
    "a/request": PLAIN | {"request": "0.01", "internal_reasoning": "0.00002"},
    "a/tokens": TokenPrice("3", "15", context=1000, longest=100),
    "openrouter/auto": {"prompt": "-1", "completion": "-1"},
}
ASK = {"model": "a/plain", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
# What is allowed for the vendor's own words around a prompt.
AROUND = 2048


def asked(body: Any, path: str = "/chat/completions") -> httpx.Request:
    """A request with that JSON."""
    return httpx.Request("POST", f"https://openrouter.ai/api/v1{path}", json=body)


def price(body: Any, path: str = "/chat/completions") -> Any:
    """What a transport would hold for it: an amount, or what is learned."""
    prices = OpenRouter(KEY, prices_per_model=LIST).prices
    assert prices is not None
    found: Any = prices["POST", path]
    return found(asked(body)) if callable(found) else found


@pytest.mark.parametrize(
    ("change", "prompt", "completion", "more"),
    [
        ({}, PROMPT, COMPLETION, 0),
        ({"model": "a/cached"}, Decimal("0.000006"), COMPLETION, 0),
        ({"model": "a/long"}, PROMPT * 2, COMPLETION * 2, 0),
        ({"model": "a/request"}, PROMPT, Decimal("0.00002"), Decimal("0.01")),
        ({"models": ["a/free"]}, PROMPT, COMPLETION, 0),
        ({"models": ["a/long", "a/free"]}, PROMPT * 2, COMPLETION * 2, 0),
        ({"modalities": ["text"], "plugins": None}, PROMPT, COMPLETION, 0),
        ({"tools": [{"type": "function", "function": {}}]}, PROMPT, COMPLETION, 0),
    ],
)
def test_a_request_with_a_limit_has_an_upper_bound(
    change: dict[str, Any], prompt: Decimal, completion: Decimal, more: Decimal
) -> None:
    """A token has at least one byte; of several rates and models, the highest counts."""
    body = ASK | change
    size = len(asked(body).content)
    assert price(body) == (size + AROUND) * prompt + 100 * completion + more


def test_the_other_names_of_the_limit() -> None:
    """Each endpoint has its own, and of two the larger counts."""
    plain = {name: value for name, value in ASK.items() if name != "max_tokens"}
    for path, field in (
        ("/chat/completions", "max_completion_tokens"),
        ("/completions", "max_tokens"),
        ("/responses", "max_output_tokens"),
        ("/messages", "max_tokens"),
    ):
        body = plain | {field: 100}
        size = len(asked(body).content)
        assert price(body, path) == (size + AROUND) * PROMPT + 100 * COMPLETION
    body = ASK | {"max_completion_tokens": 300}
    size = len(asked(body).content)
    assert price(body) == (size + AROUND) * PROMPT + 300 * COMPLETION


def test_prices_with_a_context() -> None:
    """A `TokenPrice` bounds a request without a limit, too."""
    body = {"model": "a/tokens", "messages": []}
    assert price(body) == 1000 * PROMPT + 100 * COMPLETION


def test_free_models_are_free() -> None:
    """They hold nothing, but are still refused where nothing is left."""
    assert price(ASK | {"model": "a/free"}) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": None},
        {"max_tokens": "100"},
        {"max_tokens": 1.5},
        {"max_tokens": -1},
        {"max_tokens": 10**400},
        {"model": "a/plain:online"},
        {"model": "b/unknown"},
        {"model": "openrouter/auto"},
        {"model": None},
        {"model": ["a/plain"]},
        {"models": ["b/unknown"]},
        # The second has a bound without a limit, the first has none.
        {"max_tokens": None, "models": ["a/tokens"]},
        {"plugins": [{"id": "web"}]},
        {"web_search_options": {}},
        {"preset": "mine"},
        {"service_tier": "priority"},
        {"modalities": ["text", "image"]},
        {"modalities": 7},
        {"tools": [{"type": "openrouter:web_search"}]},
        {"n": "many"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    ],
)
def test_a_request_without_a_bound_is_learned(change: dict[str, Any]) -> None:
    """No limit, no price, or more to pay than tokens: it is held like a request without a list."""
    found = price(ASK | change)
    assert isinstance(found, LearnedCost)
    assert (found.start, found.quantile) == (100_000, 0.95)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff", b"--x\r\n\r\n"])
def test_other_content_is_learned(content: bytes) -> None:
    """Such as the parts of a form with an audio file."""
    request = httpx.Request("POST", "https://openrouter.ai/api/v1/x", content=content)
    prices: Any = OpenRouter(KEY, prices_per_model=LIST).prices
    assert isinstance(prices["POST", "/chat/completions"](request), LearnedCost)
    assert prices["POST", "/batches"](request) == OpenRouter.CALL
    learned = prices["POST", "/audio/transcriptions"]
    assert isinstance(learned, LearnedCost)
    assert learned.key((request,), {}) is None


def test_without_a_list_everything_is_learned_by_model() -> None:
    """Each model's calls learn apart; a batch holds a call for each of its requests."""
    prices: Any = OpenRouter(KEY).prices
    assert {method for method, _ in prices} == {"POST"}
    for path in ("/chat/completions", "/completions", "/responses", "/messages", "/embeddings"):
        found = prices["POST", path]
        assert isinstance(found, LearnedCost)
        assert found.key((asked(ASK),), {}) == "a/plain"
    assert prices["POST", "/batches"](asked({"requests": [{}, {}, {}]})) == 3 * OpenRouter.CALL
    assert OpenRouter(KEY).prices == OpenRouter.prices


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ([], TypeError, "prices_per_model takes a mapping"),
        ({"a/b": "0.1"}, TypeError, "the price of a/b takes a TokenPrice, or a mapping"),
        ({"a/b": {"prompt": "1"}}, ValueError, "the price of a/b lacks completion"),
        ({"a/b": {}}, ValueError, "the price of a/b lacks prompt and completion"),
        ({"a/b": {"prompt": "x", "completion": "1"}}, ValueError, "prompt in the price of a/b"),
        ({"a/b": {"prompt": "NaN", "completion": "1"}}, ValueError, "must be finite"),
        ({"a/b": {"prompt": True, "completion": "1"}}, TypeError, "not bool"),
        ({"a/b": PLAIN | {"request": "x"}}, ValueError, "request in the price of a/b"),
        ({"a/b": PLAIN | {"overrides": [{"prompt": []}]}}, TypeError, "not list"),
    ],
)
def test_an_invalid_list_is_an_error(given: Any, kind: type[Exception], words: str) -> None:
    """It names the model and the rate."""
    with pytest.raises(kind, match=words):
        OpenRouter(KEY, prices_per_model=given)


def test_entries_of_other_kinds() -> None:
    """Numbers are exact however they are written, and an empty list prices nothing."""
    for prompt in (0.000003, "3E-6", Decimal("0.000003")):
        listed = PriceList({"m": {"prompt": prompt, "completion": 0}})
        content = json.dumps({"model": "m", "max_tokens": 1}).encode()
        assert listed.most(content) == (len(content) + AROUND) * PROMPT
    assert PriceList({}).most(asked(ASK).content) is None


def capped(body: Any, most: str, path: str = "/chat/completions") -> Any:
    """The request with a cap, as JSON; None without one."""
    billing = OpenRouter(KEY, prices_per_model=LIST).billing
    assert billing is not None
    content = billing.capped(path, asked(body).content, Decimal(most))
    return None if content is None else json.loads(content)


def test_the_hold_as_a_limit_of_tokens() -> None:
    """With the limit that is sent, the request costs at most what is held."""
    plain = {name: value for name, value in ASK.items() if name != "max_tokens"} | {"top_p": 0.7}
    for body, path, field in (
        (plain, "/chat/completions", "max_tokens"),
        (ASK | {"max_tokens": 10**6}, "/chat/completions", "max_tokens"),
        (plain | {"max_completion_tokens": 10**6}, "/chat/completions", "max_completion_tokens"),
        (plain, "/responses", "max_output_tokens"),
        (plain | {"models": ["a/long"]}, "/chat/completions", "max_tokens"),
        (plain | {"model": "a/request"}, "/messages", "max_tokens"),
    ):
        found = capped(body, "0.1", path)
        assert found == body | {field: found[field]}
        assert 0 < found[field] < 10**6
        assert (
            price(found, path) <= Decimal("0.1") < price(found | {field: found[field] + 40}, path)
        )


@pytest.mark.parametrize(
    ("body", "most", "path"),
    [
        (ASK, "0.001", "/chat/completions"),
        (ASK | {"model": "b/unknown"}, "1", "/chat/completions"),
        (ASK | {"plugins": [{"id": "web"}]}, "1", "/chat/completions"),
        (ASK | {"tools": [{"type": "openrouter:web_search"}]}, "1", "/chat/completions"),
        (ASK, "1", "/embeddings"),
        (ASK | {"messages": [{"content": [{"type": "image_url"}]}]}, "1", "/chat/completions"),
        ([], "1", "/chat/completions"),
    ],
)
def test_a_request_that_no_limit_makes_cheap_enough(body: Any, most: str, path: str) -> None:
    """It is sent as it is."""
    assert capped(body, most, path) is None


def test_a_lower_limit_remains() -> None:
    """To the byte; and without a list there is no cap."""
    content = asked(ASK).content
    with_list, without = OpenRouter(KEY, prices_per_model=LIST), OpenRouter(KEY)
    assert with_list.billing is not None
    assert without.billing is not None
    assert with_list.billing.capped("/chat/completions", content, Decimal(1)) is content
    assert without.billing.capped("/chat/completions", content, Decimal(1)) is None
