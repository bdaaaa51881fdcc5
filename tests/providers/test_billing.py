"""What replies say about credits: tables over the providers' documented bodies."""

import json
from decimal import Decimal
from typing import Any

import pytest

from budgetguard import AnchorBrowser, ApprovalDenied, BalanceUnavailable, Paused, PreDev
from budgetguard.providers import EXHAUSTED
from budgetguard.providers.billing import Billing, BillingReply, amount, read


def said(value: Any) -> str:
    """The JSON of a body or an event."""
    return json.dumps(value, default=float)


def reply(
    path: str, status: int = 200, body: Any = None, events: Any = (), **rest: Any
) -> BillingReply:
    """A reply whose body was read."""
    content = None if body is None else said(body).encode()
    frames = tuple((name, said(event)) for name, event in events)
    return BillingReply(path, status, rest.pop("headers", {}), content, frames, **rest)


@pytest.mark.parametrize(
    ("said", "credits"),
    [
        ("1.5", Decimal("1.5")),
        (Decimal(0), Decimal(0)),
        (Decimal(-1), None),
        ("-1", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e40", None),
        ("lots", None),
        ("1_000", None),
        ("\u0667", None),
        ("0x10", None),
        ("1,5", None),
        (" 2e1 ", Decimal(20)),
        ("", None),
        (True, None),
        (None, None),
        (3, None),
    ],
)
def test_an_amount_is_believed_if_it_can_be_one(said: object, credits: Decimal | None) -> None:
    """A header's text, or a number that was read as Decimal."""
    assert amount(said) == credits


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (200, "cost"),
        (204, "cost"),
        (302, "keep"),
        (400, "release"),
        (402, "release"),
        (408, "keep"),
        (409, "keep"),
        (425, "keep"),
        (429, "release"),
        (499, "keep"),
        (500, "keep"),
        (503, "keep"),
    ],
)
def test_a_provider_of_which_nothing_is_known(status: int, end: str) -> None:
    """A reply that came whole is settled at cost, a refusal costs nothing, a failure is unknown."""
    assert Billing().cost_of(reply("/x", status)) == end
    assert (Billing().classify(reply("/x", status)) == EXHAUSTED) is (status == 402)
    assert Billing().remaining(reply("/x", 200)) is None
    assert Billing().cost_of(reply("/x", 200, complete=False)) == "keep"


USED, TOTAL = Decimal(7), Decimal("0.4")


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (reply("/fast-spec", 200, {"creditsUsed": USED, "status": "completed"}), USED),
        (reply("/fast-spec", 200, {"creditsUsed": USED}), USED),
        (reply("/fast-spec", 200, {"creditsUsed": USED, "status": "failed"}), USED),
        (reply("/fast-spec", 200, {"creditsUsed": USED}, complete=False), "keep"),
        (reply("/deep-spec", 200, {"specId": "s", "status": "pending"}), "keep"),
        (reply("/deep-spec", 200, {"creditsUsed": USED, "status": "processing"}), "keep"),
        (reply("/deep-spec", 200, {"specId": "s"}), "cost"),
        (reply("/deep-spec", 200, [1]), "cost"),
        (reply("/deep-spec", 402, {"error": "Insufficient credits"}), "keep"),
        (reply("/deep-spec", 403, {"error": "Subscription required"}), "release"),
        (reply("/browser-agent", 402, {"code": "INSUFFICIENT_CREDITS"}), "release"),
        (reply("/browser-agent", 200, {"totalCreditsUsed": TOTAL, "status": "completed"}), TOTAL),
        (reply("/browser-agent", 200, {"totalCreditsUsed": Decimal(0), "status": "processing"}),
         "keep"),
        (reply("/browser-agent", 200, events=(("done", {"totalCreditsUsed": TOTAL}),)), TOTAL),
        (reply("/browser-agent", 200, complete=False,
               events=(("done", {"totalCreditsUsed": TOTAL}),)), TOTAL),
        (reply("/browser-agent", 200, events=(("task_result", {"creditsUsed": TOTAL}),)), "keep"),
        (reply("/browser-agent", 200, headers={"content-type": "text/event-stream"}), "keep"),
        (reply("/v1/messages", 200, headers={"x-predev-credits-charged": "1.25"}),
         Decimal("1.25")),
        (reply("/v1/messages", 502, headers={"x-predev-credits-charged": "1.25"}),
         Decimal("1.25")),
        (reply("/v1/messages", 200, {"creditsUsed": USED}), "cost"),
        (reply("/v1/messages", 200, complete=False), "keep"),
        (reply("/v1/messages", 402, {"error": {"code": "insufficient_credits"}}), "release"),
        (reply("/v1/messages", 502), "keep"),
        (reply("/v1/videos", 200, {"status": "queued"}), "keep"),
        (reply("/v1/responses", 200, {"status": "in_progress"}), "keep"),
        (reply("/v1/videos", 200, {"status": "queued"},
               headers={"x-predev-credits-charged": "0"}), "keep"),
        (reply("/v1/videos", 200, {"status": "queued"},
               headers={"x-predev-credits-charged": "25"}), Decimal(25)),
        (reply("/v1/responses", 200, {"status": "completed"},
               headers={"x-predev-credits-charged": "0"}), Decimal(0)),
    ],
)  # fmt: skip
def test_what_became_of_a_call_to_predev(given: BillingReply, end: Any) -> None:
    """Specs, batches, their streams, and the gateway's headers."""
    assert PreDev.billing.cost_of(given) == end


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (reply("/v1/sessions", 200, {"data": {"id": "s"}}), "keep"),
        (reply("/v1/sessions/async", 200, {"data": {"request_id": "s"}}), "keep"),
        (reply("/v1/batch-sessions", 200, {}), "keep"),
        (reply("/v1/sessions", 402, {}), "release"),
        (reply("/v1/sessions", 500, {}), "keep"),
        (reply("/v1/tools/perform-web-task", 200, {"data": {"result": "x"}}), "cost"),
        (reply("/v1/tools/perform-web-task", 200, {"data": {"workflow_id": "x"}}), "keep"),
        (reply("/v1/tools/perform-web-task", 200, {"data": {}}), "keep"),
        (reply("/v1/tools/perform-web-task", 200, complete=False), "keep"),
        (reply("/v1/batch-sessions/b/retry", 200, {}), "keep"),
        (reply("/v1/batch-sessions/b/retry", 400, {}), "release"),
        (reply("/v1/tools/screenshot", 200), "cost"),
        (reply("/v1/tools/page-pdf", 200), "cost"),
        (reply("/v1/tools/page-pdf", 200, complete=False), "keep"),
        (reply("/v1/tools/fetch/webpage", 200), "cost"),
        (reply("/v2/tasks/t/run", 200, {}), "keep"),
        (reply("/v2/tasks/t/run", 200, {"run_id": "r", "status": "running"}), "keep"),
        (reply("/v2/tasks/t/run", 200, {"run_id": "r", "status": "success"}), "cost"),
        (reply("/v2/tasks/generate", 200, {"id": "g", "status": "ready"}), "keep"),
        (reply("/v1/task/run", 200, {"data": {"async": True}}), "keep"),
        (reply("/v1/task/run", 200, {"data": {"async": False}}), "cost"),
        (reply("/v1/task/run/name", 200, {}), "keep"),
        (reply("/v1/sessions/s/screenshot", 200), "cost"),
    ],
)
def test_what_became_of_a_call_to_anchor_browser(given: BillingReply, end: Any) -> None:
    """What goes on behind its reply is kept."""
    assert AnchorBrowser.billing.cost_of(given) == end


def test_an_error_in_a_stream_may_be_want_of_credits() -> None:
    """The stream of a batch has begun with 200 when the credits run out."""
    lacking = (("error", {"error": "Need more", "code": "INSUFFICIENT_CREDITS"}),)
    other = (("error", {"error": "Busy", "code": "QUEUE_FULL"}),)
    assert PreDev.billing.classify(reply("/browser-agent", 200, events=lacking)) == EXHAUSTED
    assert PreDev.billing.classify(reply("/browser-agent", 200, events=other)) != EXHAUSTED
    no_code = (("error", {"error": "The browser crashed"}),)
    assert PreDev.billing.classify(reply("/browser-agent", 200, events=no_code)) != EXHAUSTED
    busy = (("error", {"type": "error", "error": {"type": "overloaded_error"}}),)
    assert PreDev.billing.classify(reply("/v1/messages", 200, events=busy)) != EXHAUSTED
    assert (
        PreDev.billing.classify(reply("/browser-agent", 200, events=(("error", None),)))
        != EXHAUSTED
    )
    assert PreDev.billing.classify(reply("/browser-agent", 200)) != EXHAUSTED


def test_refusals_have_the_providers_shapes() -> None:
    """A balance that is not known is no lack of credits, there either."""
    unknown = BalanceUnavailable(provider="pre.dev", reason="no answer", retry_after=2)
    refusal = PreDev.billing.refusal_body
    assert refusal(unknown, "/v1/messages")["error"]["code"] == "balance_unavailable"
    assert refusal(unknown, "/browser-agent")["code"] == "BALANCE_UNAVAILABLE"
    assert refusal(unknown, "/fast-spec")["error"] == "Balance unavailable"
    paused = Paused("pre.dev", "by hand")
    assert refusal(paused, "/v1/messages")["error"]["code"] == "paused"
    assert refusal(paused, "/browser-agent")["code"] == "PAUSED"
    assert refusal(paused, "/fast-spec")["error"] == "Paused"
    denied = ApprovalDenied("spec", "50", "pre.dev")
    assert refusal(denied, "/v1/messages")["error"]["code"] == "approval_denied"
    assert refusal(denied, "/browser-agent")["code"] == "APPROVAL_DENIED"
    assert refusal(denied, "/fast-spec")["error"] == "Approval denied"
    words = str(unknown)
    beside = {"message": words, "detail": words, "title": words}
    assert Billing().refusal_body(unknown, "/x") == {
        "error": {"code": 424, "message": words},
        **beside,
    }


def test_an_event_stream_is_read_frame_by_frame() -> None:
    """Comments are none, data of several lines is one, and what is no JSON is None."""
    content = b':ok\n\nevent: a\ndata: {"x":\ndata: 1.5}\n\ndata: nonsense\r\n\r\n:keepalive\n\n'
    found = read("/s", 200, {"content-type": "text/event-stream; charset=utf-8"}, content)
    assert found.frames == (("a", '{"x":\n1.5}'), ("message", "nonsense"))
    assert list(found.events("a")) == [{"x": Decimal("1.5")}]
    assert list(found.events("message")) == [None]


def test_what_a_header_settles_is_not_parsed() -> None:
    """An answer with a million numbers would take a second of the caller's loop."""
    found = reply("/v1/embeddings", 200, [0.5], headers={"x-predev-credits-charged": "2"})
    assert PreDev.billing.cost_of(found) == 2
    assert PreDev.billing.classify(found) != EXHAUSTED
    assert "body" not in vars(found)


def test_a_stream_may_say_itself_that_it_has_ended() -> None:
    """OpenAI's mark comes before the end of the body, and nobody need read on after it."""
    kind = {"content-type": "text/event-stream"}
    chunk = b'data: {"choices": []}\n\n'
    assert not read("/s", 200, kind, chunk, complete=False).complete
    assert read("/s", 200, kind, chunk + b"data: [DONE]\n\n", complete=False).complete
    assert read("/s", 200, kind, chunk).complete


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[" * 100_000, b"nul"])
def test_a_body_that_cannot_be_read_says_nothing(content: bytes | None) -> None:
    """Whatever it is."""
    assert read("/x", 200, {}, content).body is None
