"""What calls of chat models cost by tokens: bounds of requests, and figures of replies."""

import json
from decimal import Decimal
from typing import Any

import pytest

from budgetguard.providers._tokens import ChatRequest, TokenCount, TokenPrice, tokens_used, usage_of
from budgetguard.providers.billing import BillingReply, Unpriced, read

PRICE = TokenPrice("0.3", "1.2", cached="0.006", context=100_000, longest=8_000)
AROUND = 2048


def request(**fields: Any) -> ChatRequest:
    """A request with these fields beside one message."""
    hello = [{"role": "user", "content": "hello"}]
    return ChatRequest.of(json.dumps({"model": "a", "messages": hello} | fields).encode())


def replied(body: Any) -> BillingReply:
    """A whole reply with this body."""
    return BillingReply("/", 200, {}, json.dumps(body).encode())


def streamed(*bodies: Any, done: bool = True) -> BillingReply:
    """A reply in a stream of these frames."""
    frames = [json.dumps(body) for body in bodies] + ["[DONE]"] * done
    content = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    return read("/", 200, {"content-type": "text/event-stream"}, content)


def test_a_price_is_for_a_million_tokens() -> None:
    """Cached input costs its own price, and other input and output theirs, exactly."""
    assert PRICE.cost(TokenCount(1_000_000, 0)) == Decimal("0.3")
    assert PRICE.cost(TokenCount(0, 1_000_000)) == Decimal("1.2")
    assert PRICE.cost(TokenCount(10, 3, cached=4)) == Decimal("0.000005424")
    assert TokenPrice(1, 2).cost(TokenCount(10, 0, cached=10)) == Decimal("0.00001")


def test_input_that_is_stored_may_cost_more() -> None:
    """With a price for writing to the cache, input that was not in it counts as written."""
    price = TokenPrice(2, 10, cached="0.2", written=4)
    assert price.cost(TokenCount(1_000_000, 0, cached=500_000)) == Decimal("2.1")
    assert price.dearest(TokenCount(1_000_000, 0)) == 4
    assert TokenPrice(2, 10, written=1).dearest(TokenCount(1_000_000, 0)) == 2


def test_a_bound_holds_where_the_cache_is_dearer() -> None:
    """Whoever prices cached input above other input gets a bound by it."""
    assert TokenPrice(1, 1, cached=3).dearest(TokenCount(1_000_000, 0)) == 3


def test_a_lower_price_at_some_times_lowers_no_bound() -> None:
    """The factor counts where the time of the call is known, and not before."""
    price = TokenPrice(2, 4, cached=1, off_peak="0.5")
    used = TokenCount(1_000_000, 1_000_000, cached=500_000)
    assert (price.cost(used), price.cost(used, off_peak=True)) == (Decimal("5.5"), Decimal("2.75"))
    assert price.dearest(used) == 6


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"input": -1}, ValueError),
        ({"output": "NaN"}, ValueError),
        ({"cached": "much"}, ValueError),
        ({"written": True}, TypeError),
        ({"context": 0}, ValueError),
        ({"longest": 1.5}, TypeError),
        ({"longest": True}, TypeError),
        ({"context": 10**13}, ValueError),
        ({"off_peak": 2}, ValueError),
    ],
)
def test_a_price_is_checked(wrong: dict[str, Any], error: type[Exception]) -> None:
    """What is no price, or no number of tokens, is refused where it is given, by name."""
    with pytest.raises(error, match=next(iter(wrong))):
        TokenPrice(**{"input": 1, "output": 1} | wrong)


def test_a_prompt_of_text_has_at_most_as_many_tokens_as_bytes() -> None:
    """The bound is the request's length, with room for what the vendor puts around it."""
    asked = request(max_tokens=10)
    assert asked.most(PRICE) == TokenCount(len(asked.content) + AROUND, 10)


def test_a_prompt_fits_the_context() -> None:
    """However long a request is, the model reads no more than its context."""
    assert request(system="a" * 200_000).most(PRICE).input == PRICE.context


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 8_000),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": 20_000}, 20_000),
        ({"max_tokens": 10**9}, 100_000),
        ({"max_tokens": "5"}, 8_000),
        ({"max_tokens": 0}, 8_000),
        ({"max_tokens": -1}, 8_000),
        ({"max_tokens": 1.5}, 8_000),
        ({"max_tokens": True}, 8_000),
        ({"max_tokens": 5, "max_completion_tokens": "7"}, 8_000),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"max_tokens": 5, "n": 3, "best_of": 4}, 20),
        ({"max_tokens": 5, "prompt": ["a", "b"]}, 10),
    ],
)
def test_a_reply_has_at_most_what_its_request_allows(fields: dict[str, Any], most: int) -> None:
    """A limit that is missing or no number counts as the model's own; each reply asked for counts."""
    assert request(**fields).most(PRICE).output == most


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, []])
def test_a_number_of_replies_that_is_none_has_no_price(n: object) -> None:
    """A vendor may read it in a way of its own."""
    with pytest.raises(Unpriced, match="n of a request"):
        request(n=n).most(PRICE)


IMAGE = {"type": "image_url", "image_url": {"url": "https://pictures.example/1"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]},
        {"messages": [{"role": "tool", "content": [{"type": "tool_result", "content": [IMAGE]}]}]},
        {"input": [{"type": "item_reference", "id": "1"}]},
        {"input": [{"type": ["text"]}]},
        {"input": [[[[[[[[["a"]]]]]]]]]},
        {"input": [True]},
        {"previous_response_id": "1"},
        {"prompt": {"id": "1"}},
    ],
)
def test_a_prompt_that_is_not_all_text_may_fill_the_context(fields: dict[str, Any]) -> None:
    """Images, files, earlier conversations and stored prompts are short in the request alone."""
    assert request(**fields).most(PRICE).input == PRICE.context


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": [{"role": "assistant", "content": None, "reasoning_content": "b"}]},
        {"input": [{"type": "function_call_output", "output": "a"}, {"role": "user"}]},
        {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {"prompt": [1, 2, 3]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"type": "image"}}]}]},
    ],
)
def test_a_prompt_of_text_is_known_by_its_parts(fields: dict[str, Any]) -> None:
    """Lists of text count as text, and so do the caller's own data in a tool's call."""
    asked = request(**fields)
    assert asked.most(PRICE).input == len(asked.content) + AROUND


@pytest.mark.parametrize("kind", ["web_search", "builtin_function", "web_search_20250305", None, 1])
def test_tools_that_the_vendor_runs_have_no_bound(kind: object) -> None:
    """Each may be called many times, at a price of its own, and fills the prompt again."""
    with pytest.raises(Unpriced, match="tools that the vendor runs"):
        request(tools=[{"type": kind}]).most(PRICE)


@pytest.mark.parametrize("tool", [{"type": "function"}, {"name": "a"}, {"type": "custom"}])
def test_tools_that_the_caller_runs_are_part_of_the_prompt(tool: dict[str, Any]) -> None:
    """Their description is in the request."""
    asked = request(tools=[tool])
    assert asked.most(PRICE).input == len(asked.content) + AROUND


@pytest.mark.parametrize("content", [b"", b"[]", b"no JSON", b'{"model": 1}', b'{"model": null}'])
def test_a_request_without_a_model_has_none(content: bytes) -> None:
    """What is not a JSON object that names a model has no model, and no error either."""
    assert ChatRequest.of(content).model is None


@pytest.mark.parametrize(
    ("credits", "tokens"),
    [("0", 0), ("1", 0), ("3", 0), ("3.999998", 0), ("4", 1), ("6.5", 3), ("1000000", 100)],
)
def test_credits_pay_for_so_many_tokens(credits: str, tokens: int) -> None:
    """What the prompt may cost comes first; the rest is for each of the replies."""
    price = TokenPrice(1, 500_000, context=100)
    asked = ChatRequest.of(json.dumps({"n": 2, "prompt": "a" * 3_000}).encode())
    assert asked.most(price).input == 100
    dear = TokenPrice(30_000, 500_000, context=100)
    assert max(0, asked.affordable(dear, Decimal(credits))) == tokens


def test_free_tokens_are_paid_by_nothing() -> None:
    """Where a reply costs nothing, only the prompt has to be paid."""
    price = TokenPrice(1_000_000, 0, context=10)
    assert request().affordable(price, Decimal(10)) == 10
    assert request().affordable(price, Decimal(9)) < 1


CHAT = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        (CHAT, TokenCount(20, 5)),
        (CHAT | {"prompt_tokens_details": {"cached_tokens": 8}}, TokenCount(20, 5, 8)),
        (CHAT | {"prompt_tokens_details": None, "cached_tokens": 8}, TokenCount(20, 5, 8)),
        (
            CHAT | {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 12},
            TokenCount(20, 5, 8),
        ),
        (CHAT | {"cached_tokens": 99}, TokenCount(20, 5, 20)),
        (CHAT | {"cached_tokens": -1}, TokenCount(20, 5)),
        (CHAT | {"cached_tokens": "8"}, TokenCount(20, 5)),
        (CHAT | {"completion_tokens_details": {"reasoning_tokens": 4}}, TokenCount(20, 5)),
        (
            {"input_tokens": 20, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 8}},
            TokenCount(20, 5, 8),
        ),
        (
            {"input_tokens": 20, "output_tokens": 5, "cache_read_input_tokens": 8},
            TokenCount(28, 5, 8),
        ),
        (
            {
                "input_tokens": 0,
                "output_tokens": 5,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 2,
            },
            TokenCount(10, 5, 8),
        ),
        (CHAT | {"prompt_tokens": 0}, None),
        (CHAT | {"prompt_tokens": -1}, None),
        (CHAT | {"prompt_tokens": 1.5}, None),
        (CHAT | {"prompt_tokens": True}, None),
        (CHAT | {"completion_tokens": "5"}, None),
        ({"prompt_tokens": 20}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_in_every_dialect(usage: object, count: TokenCount | None) -> None:
    """OpenAI's, DeepSeek's, Moonshot's and Anthropic's names; what is no number of tokens is not believed."""
    assert tokens_used(replied({"usage": usage})) == count


@pytest.mark.parametrize("body", [None, [], "text", {"choices": 1}, {"choices": [1], "message": 2}])
def test_a_reply_without_usage_gives_none(body: object) -> None:
    """And no error, whatever it is."""
    assert tokens_used(replied(body)) is None


def test_the_last_frame_of_a_stream_counts() -> None:
    """Zeros and nulls before it do not, and neither does a frame with no usage after it."""
    zeros = dict.fromkeys(CHAT, 0)
    stream = streamed({"usage": None}, {"usage": zeros}, {"usage": CHAT}, {"usage": None}, {})
    assert tokens_used(stream) == TokenCount(20, 5)
    assert tokens_used(streamed({"usage": zeros})) is None


def test_the_usage_of_a_choice_counts() -> None:
    """Moonshot gives it in the last choice if the request does not ask for it."""
    stream = streamed({"choices": [{"index": 0}]}, {"choices": [{"usage": CHAT}]})
    assert tokens_used(stream) == TokenCount(20, 5)


def test_the_usage_of_anthropics_stream_is_in_two_frames() -> None:
    """The first has the input, and the last the output."""
    began = {"message": {"usage": {"input_tokens": 20, "output_tokens": 1}}}
    ended = {"type": "message_delta", "usage": {"output_tokens": 5}}
    assert tokens_used(streamed(began, ended, done=False)) == TokenCount(20, 5)


def test_the_usage_of_a_response_is_in_its_last_event() -> None:
    """The stream of a response ends with the response itself."""
    ended = {"response": {"usage": {"input_tokens": 20, "output_tokens": 5}}}
    assert usage_of(streamed(ended))["output_tokens"] == 5
