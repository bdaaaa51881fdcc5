"""The listeners that are ready made: lines in the log, and webhooks to a real server on loopback."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from staging import until

from budgetguard import ConfigurationError, Event, Guard
from budgetguard._core.event_fields import event_fields
from budgetguard._core.labels import Labels
from budgetguard._core.ledger import Ledger
from budgetguard._core.policy import GuardTerms
from budgetguard._engine.outbox import body_of
from budgetguard._engine.subscriber import Subscriber
from budgetguard.listeners import LogListener, WebhookListener, verify_webhook
from budgetguard.testing import FakeProvider, HandClock

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TERMS = GuardTerms(
    fresh_for=300, stale_for=600, recheck_after=5, timeout=10, floor=0, extra=0, allow_unknown=False
)


def event_of(operation: str = "spec", labels: dict[str, str] | None = None) -> Event:
    """An event of a call with these labels."""
    return Subscriber(TERMS, "fake").event(
        Ledger(),
        "refused",
        0,
        0,
        operation,
        5_000_000,
        (None, None, 0.0),
        labels=Labels(labels),
        budget="run-42",
        cause="budget",
    )


class Receiver:
    """A server that notes what it is sent, and answers what it is told to; the last answer goes on."""

    def __init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.answers: list[tuple[int, dict[str, str]]] = [(204, {})]
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.go = threading.Event()
        self.go.set()
        self.whole = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/hook?token=in-the-query"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Note a request, and answer it."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.got.append((handler.path, headers, body))
        assert self.go.wait(20)
        status, more = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        handler.send_response(status)
        for name, value in more.items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("content-length", "2")
        handler.end_headers()
        if status != 204:
            handler.wfile.write(b"{}" if self.whole else b"{")
            handler.close_connection = not self.whole

    def close(self) -> None:
        """End the server."""
        self.go.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def ids(self) -> list[str]:
        """The ids of the webhooks, repeats included."""
        return [headers["webhook-id"] for _, headers, _ in self.got]

    @property
    def operations(self) -> list[str]:
        """The operations of the webhooks, repeats included."""
        return [json.loads(body)["data"]["operation"] for _, _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server for the test."""
    receiver = Receiver()
    yield receiver
    receiver.close()


def listener_to(receiver: Receiver, **more: Any) -> WebhookListener:
    """A listener that sends refusals. No attempt times out while a test moves the clock on."""
    more = {"kinds": ["refused"], "timeout": 1_000_000, **more}
    return WebhookListener(receiver.url, secret=SECRET, **more)


class TestWebhooks:
    """Events that are sent."""

    def test_an_event_is_sent_and_signed(self, receiver: Receiver) -> None:
        """A receiver that verifies it reads what happened."""
        with WebhookListener(receiver.url, secret=SECRET) as listener:
            guard = Guard(FakeProvider(100), alert_below=50, on_event=[listener])
            guard.acquire(60).release()
        ((path, headers, body),) = receiver.got
        assert path == "/hook?token=in-the-query"
        assert headers["content-type"] == "application/json"
        sent = verify_webhook(SECRET, headers, body)
        data = sent["data"]
        assert sent["type"] == "budgetguard.low"
        assert sent["timestamp"].endswith("Z")
        assert data.pop("age") >= 0
        assert data == {
            "kind": "low",
            "provider": "fake",
            "credits": "100",
            "available": "40",
            "reason": "less than 50 credits are available",
        }
        assert (listener.delivered, listener.failed, listener.dropped) == (1, 0, 0)

    def test_the_call_waits_for_nothing(self, clock: HandClock, receiver: Receiver) -> None:
        """The receiver answers only when the call has returned."""
        receiver.go.clear()
        listener = listener_to(receiver)
        for number in range(3):
            listener(event_of(f"call {number}"))
        until(lambda: len(receiver.got) == 1)
        assert listener.delivered == 0
        assert not listener.flush(0)
        receiver.go.set()
        assert listener.flush(20)
        assert receiver.operations == ["call 0", "call 1", "call 2"]
        assert len(set(receiver.ids)) == 3

    def test_the_constructor_starts_nothing(self) -> None:
        """No thread, until there is something to send."""
        before = threading.active_count()
        WebhookListener("https://example.com/hook", secret=SECRET)
        assert threading.active_count() == before

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
    def test_a_failure_that_may_pass_is_repeated_with_the_same_id(
        self, clock: HandClock, receiver: Receiver, status: int
    ) -> None:
        """The content is the same too, and the signature is of the time of each attempt."""
        receiver.answers = [(status, {}), (status, {}), (204, {})]
        listener = listener_to(receiver)
        listener(event_of())
        until(lambda: len(receiver.got) == 1)
        clock.advance(0)
        for attempts, wait in ((2, 2), (3, 8)):
            until(lambda: self.tried_after(clock, receiver, attempts, wait))  # noqa: B023
        assert listener.flush(20)
        assert len(set(receiver.ids)) == 1
        assert len({body for _, _, body in receiver.got}) == 1
        times = [int(headers["webhook-timestamp"]) for _, headers, _ in receiver.got]
        assert times == sorted(times)
        assert len(set(times)) > 1
        assert (listener.delivered, listener.failed) == (1, 0)

    def tried_after(self, clock: HandClock, receiver: Receiver, attempts: int, wait: float) -> bool:
        """Let time pass, and say whether there were so many attempts."""
        clock.advance(wait)
        return len(receiver.got) >= attempts

    def test_retry_after_is_waited_for(self, clock: HandClock, receiver: Receiver) -> None:
        """Not a second less."""
        receiver.answers = [(429, {"retry-after": "120"}), (204, {})]
        listener = listener_to(receiver)
        listener(event_of())
        until(lambda: len(receiver.got) == 1)
        until(lambda: self.tried_after(clock, receiver, 2, 1))
        assert listener.flush(20)
        first, second = (int(headers["webhook-timestamp"]) for _, headers, _ in receiver.got)
        assert second - first >= 120

    def test_it_is_given_up_after_so_many_attempts(
        self, clock: HandClock, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And logged once until one is delivered; the next event is sent."""
        receiver.answers = [(503, {})]
        listener = listener_to(receiver, attempts=2)
        listener(event_of("first"))
        listener(event_of("second"))
        until(lambda: (clock.advance(100), listener.failed == 2)[1])
        assert len(receiver.got) == 4
        receiver.answers = [(200, {})]
        listener(event_of("third"))
        assert listener.flush(20)
        assert receiver.operations == ["first"] * 2 + ["second"] * 2 + ["third"]
        (record,) = caplog.records
        assert record.getMessage() == (
            f"A webhook to {receiver.origin} was given up: the receiver answered 503. Further ones "
            "are not logged until one is delivered"
        )
        assert (listener.delivered, listener.failed) == (1, 2)

    @pytest.mark.parametrize("status", [400, 401, 404, 410, 413])
    def test_what_is_refused_is_not_repeated(
        self, clock: HandClock, receiver: Receiver, status: int
    ) -> None:
        """The receiver would say the same again."""
        receiver.answers = [(status, {})]
        listener = listener_to(receiver)
        listener(event_of())
        assert listener.flush(20)
        clock.advance(1000)
        assert len(receiver.got) == listener.failed == 1

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_no_redirect_is_followed(
        self, clock: HandClock, receiver: Receiver, status: int
    ) -> None:
        """It could lead anywhere."""
        elsewhere = Receiver()
        receiver.answers = [(status, {"location": elsewhere.url})]
        listener = listener_to(receiver)
        listener(event_of())
        assert listener.flush(20)
        elsewhere.close()
        assert elsewhere.got == []
        assert (len(receiver.got), listener.failed) == (1, 1)

    def test_a_receiver_that_does_not_answer(self, clock: HandClock, receiver: Receiver) -> None:
        """The attempt ends at its deadline, and is repeated."""
        receiver.go.clear()
        listener = listener_to(receiver, timeout=10_000)
        listener(event_of())
        until(lambda: len(receiver.got) == 1)
        clock.advance(10_000)
        receiver.go.set()
        until(lambda: self.tried_after(clock, receiver, 2, 2))
        assert listener.flush(20)
        assert len(set(receiver.ids)) == 1

    @pytest.mark.parametrize(("status", "expected"), [(200, (1, 0)), (400, (0, 1))])
    def test_an_answer_counts_although_its_body_breaks_off(
        self, receiver: Receiver, status: int, expected: tuple[int, int]
    ) -> None:
        """What was accepted, or refused, is not sent again."""
        receiver.whole, receiver.answers = False, [(status, {})]
        listener = listener_to(receiver, attempts=2)
        listener(event_of())
        assert listener.flush(20)
        assert (listener.delivered, listener.failed, len(receiver.got)) == (*expected, 1)

    def test_nobody_there(self, clock: HandClock, receiver: Receiver) -> None:
        """As a failure that may pass."""
        listener = listener_to(receiver, attempts=3)
        receiver.close()
        listener(event_of())
        until(lambda: (clock.advance(100), listener.failed == 1)[1])

    def test_a_full_queue_drops_new_events(
        self, clock: HandClock, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The first ones say how it began; what is dropped is counted, and logged once."""
        receiver.go.clear()
        listener = listener_to(receiver, max_queue=2)
        for number in range(5):
            listener(event_of(f"call {number}"))
        assert listener.dropped == 3
        receiver.go.set()
        assert listener.flush(20)
        assert receiver.operations == ["call 0", "call 1"]
        assert [record.getMessage() for record in caplog.records] == [
            f"The queue of webhooks to {receiver.origin} is full (2 events): new ones are dropped"
        ]
        listener(event_of("later"))
        assert listener.flush(20)
        assert receiver.operations[2:] == ["later"]

    def test_only_the_kinds_that_are_wanted(self, receiver: Receiver) -> None:
        """By default the account's alarms."""
        with WebhookListener(receiver.url, secret=SECRET) as listener:
            guard = Guard(FakeProvider(100), on_event=listener)
            guard.acquire(60).release()
            guard.mark_exhausted()
        assert [json.loads(body)["type"] for _, _, body in receiver.got] == [
            "budgetguard.exhausted"
        ]

    @pytest.mark.anyio
    async def test_closing_takes_no_more(self, receiver: Receiver) -> None:
        """What was queued before is sent."""
        listener = listener_to(receiver)
        listener(event_of("before"))
        assert await listener.aclose()
        listener(event_of("after"))
        assert await listener.aflush()
        assert receiver.operations == ["before"]

    def test_neither_secret_nor_path_is_shown(
        self, clock: HandClock, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In no repr and in no log, not even that of the HTTP client."""
        caplog.set_level(logging.DEBUG)
        receiver.answers = [(400, {"x-echo": "in-the-query"})]
        listener = listener_to(receiver)
        listener(event_of())
        assert listener.flush(20)
        shown = caplog.text + repr(listener) + str(vars(listener))
        for hidden in ("in-the-query", "/hook", SECRET, SECRET.removeprefix("whsec_")):
            assert hidden not in shown.replace("path='/hook'", "")
        assert f"POST {receiver.origin} " in caplog.text

    def test_a_body_is_never_too_large(self) -> None:
        """Long texts are cut, and too many labels are left out."""
        short = json.loads(body_of(event_of("x" * 10_000, {"user": "y" * 10_000})))["data"]
        assert (len(short["operation"]), len(short["labels"]["user"])) == (500, 500)
        many = body_of(event_of("spec", {f"label {n}": "\u00e9" * 100 for n in range(1000)}))
        assert len(many) <= 16 * 1024
        assert "labels" not in json.loads(many)["data"]

    def test_a_body_of_wide_characters_is_not_too_large(self) -> None:
        """Although every text is as long as can be; half a character is sent as it is."""
        wide, half = "\U0001f4b8" * 1000, "\ud83d"
        event = Subscriber(TERMS, wide).event(
            Ledger(),
            "refused",
            0,
            0,
            wide,
            0,
            (None, None, 0.0),
            True,
            wide,
            budget=wide,
            cause=half,
        )
        body = body_of(event)
        assert len(body) <= 16 * 1024
        data = json.loads(body)["data"]
        assert (data["reason"], data["budget"], data["cause"]) == (wide[:500], wide[:500], half)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "http": ({"url": "http://example.com/x"}, ConfigurationError, "write https://"),
    "no URL": ({"url": "example.com"}, ConfigurationError, "url must be written https://"),
    "a password": ({"url": "https://a:b@example.com"}, ConfigurationError, "url must be"),
    "no secret": ({"secret": ""}, ConfigurationError, "secret"),
    "a passphrase": ({"secret": "hunter2"}, ConfigurationError, "secret takes base64"),
    "bytes": ({"secret": b"x"}, TypeError, "secret"),
    "one kind": ({"kinds": "low"}, TypeError, "kinds takes a list of kinds of events, not str"),
    "no kinds": ({"kinds": 3}, TypeError, "kinds takes a list of kinds of events, not int"),
    "a kind of another type": ({"kinds": [3]}, TypeError, "kinds takes the names"),
    "an unknown kind": ({"kinds": ["lower"]}, ValueError, "kinds contains 1 that there are not"),
    "no timeout": ({"timeout": 0}, ValueError, "timeout must be above 0"),
    "no attempts": ({"attempts": 0}, ValueError, "attempts takes 1 to 20, not 0"),
    "half an attempt": ({"attempts": 1.5}, TypeError, "attempts takes an int, not float"),
    "no queue": ({"max_queue": 0}, ValueError, "max_queue takes 1 to 1000000, not 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_of_a_webhook(case: str) -> None:
    """Each is found when the listener is made, and the message shows no secret."""
    arguments, error, message = WRONG[case]
    with pytest.raises(error, match=message) as raised:
        WebhookListener(**{"url": "https://example.com", "secret": SECRET, **arguments})
    assert "hunter2" not in str(raised.value)


class TestLog:
    """Lines in the log."""

    def test_one_line_for_each_event(self, caplog: pytest.LogCaptureFixture) -> None:
        """With the same fields for a handler that writes them in another form."""
        caplog.set_level(logging.INFO, "budgetguard.events")
        guard = Guard(FakeProvider(100), alert_below=50, on_event=LogListener())
        hold = guard.acquire(60, name="deep spec")
        hold.settle(50)
        lines = [record for record in caplog.records if record.name == "budgetguard.events"]
        assert [line.getMessage().split()[0] for line in lines] == [
            "kind=refreshed",
            "kind=low",
            "kind=admitted",
            "kind=settled",
        ]
        assert ' operation="deep spec" ' in lines[2].getMessage()
        assert " credits=60 " in lines[2].getMessage()
        fields: Any = lines[3].budgetguard  # type: ignore[attr-defined]
        assert fields["hold_id"] == hold.id
        assert (fields["credits"], fields["held"], fields["available"]) == ("50", "60", "50")

    def test_kinds_level_and_logger(self, caplog: pytest.LogCaptureFixture) -> None:
        """As they are given."""
        caplog.set_level(logging.DEBUG)
        logger = logging.getLogger("mine")
        listener = LogListener(logger, level=logging.WARNING, kinds=["low"])
        Guard(FakeProvider(10), alert_below=50, on_event=listener).balance()
        (line,) = [record for record in caplog.records if record.name == "mine"]
        assert line.levelno == logging.WARNING
        assert 'reason="less than 50 credits are available"' in line.getMessage()

    def test_a_name_makes_no_line_of_its_own(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nor another field."""
        caplog.set_level(logging.INFO, "budgetguard.events")
        LogListener()(event_of("a\nkind=low", {"user": 'x" y=z\u2028', "run id": "7"}))
        (line,) = caplog.records
        text = line.getMessage()
        assert text.isprintable()
        assert ' operation="a\\nkind=low" ' in text
        assert text.endswith(r'labels.user="x\" y=z\u2028" "labels.run id"=7')

    def test_a_level_that_is_off_costs_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """No line is made."""
        caplog.set_level(logging.WARNING, "budgetguard.events")
        LogListener()(event_of())
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"logger": 3}, "logger takes a logger or its name, not int"),
            ({"level": "INFO"}, "level takes an int, not str"),
            ({"kinds": "low"}, "kinds takes a list of kinds of events, not str"),
        ],
        ids=str,
    )
    def test_wrong_arguments(self, arguments: dict[str, Any], message: str) -> None:
        """A TypeError when the listener is made."""
        with pytest.raises(TypeError, match=message):
            LogListener(**arguments)


def test_the_fields_of_an_event_are_json(clock: HandClock) -> None:
    """Without what is not known; unlimited is a word."""
    events: list[Event] = []
    guard = Guard(FakeProvider(None), mode="observe", on_event=events.append)
    clock.advance(0)
    guard.balance()
    assert event_fields(events[0]) == {
        "kind": "refreshed",
        "provider": "fake",
        "available": "unlimited",
        "age": 0,
    }
    assert event_fields(event_of("spec", {"user": "ada"})) == {
        "kind": "refused",
        "provider": "fake",
        "operation": "spec",
        "budget": "run-42",
        "cause": "budget",
        "credits": "5",
        "labels": {"user": "ada"},
    }
