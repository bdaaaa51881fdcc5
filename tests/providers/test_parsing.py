"""What becomes of the bytes of a reply."""

import asyncio
import json
import tracemalloc
from decimal import Decimal

import httpx
import pytest
from hostile import KEY
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable
from budgetguard._core.retry_after import longest_wait, retry_after
from budgetguard._io.credentials import Secret
from budgetguard._io.http import (
    MAX_BODY,
    BalanceReply,
    cleaner,
    judge,
    said,
)
from budgetguard.providers import AnchorBrowser, PreDev

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CLEAN = cleaner(Secret(KEY, "The key"))
WORST = {
    "integers": b"[" + b"1," * 8_000 + b"1]",
    "fractions": b"[" + b".1,".replace(b".", b"0.") * 4_000 + b"1]",
    "fields": b"{" + b",".join(b'"%d":%d' % (n, n) for n in range(1_500)) + b"}",
    "brackets": b"[" * MAX_BODY,
    "objects": b"[" + b"{}," * 5_000 + b"1]",
    "nested": b'{"a":' * 100 + b"1" + b"}" * 100,
    "text": b'{"a": "' + b"\\u20ac" * 2_700 + b'"}',
    "texts": b'{"a": [' + b'"a",' * 4_000 + b"1]}",
    "quotes": b'"' * MAX_BODY,
    "digits": b'{"a": ' + b"9" * 16_000 + b"}",
}


def object_in(body: bytes) -> dict[str, object]:
    """The object that `body` is read as."""
    value = judge(BalanceReply(200, body), "pre.dev", CLEAN)
    assert isinstance(value, dict)
    return value


@UNTIMED
@given(st.binary(max_size=2_000))
@example(b"[" * 16_000)
@example(b"1e9999999999999999999")
@example(b'{"a": 1e-9999999999999999999}')
def test_any_bytes_are_an_object_or_a_refusal(body: bytes) -> None:
    """Nothing else comes of them, whatever the status."""
    for status in (200, 400, 401, 500):
        assert isinstance(
            judge(BalanceReply(status, body), "pre.dev", CLEAN), dict | BalanceUnavailable
        )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("-1e13")
    | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["success", "creditsRemaining", "credits", "tier", "data", "cost_limit", "credits_used"]
NAMES += ["max_concurrent_browsers", "maxConcurrentBrowsers", "error", "message"]
FIELDS = st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from([True]))


@UNTIMED
@given(reply=FIELDS, inner=FIELDS, status=st.sampled_from([200, 200, 200, 400, 401, 500]))
def test_any_json_is_a_finite_balance_or_a_refusal(
    reply: dict[str, object], inner: dict[str, object], status: int
) -> None:
    """However the documented fields are filled."""
    body = json.dumps(reply | {"data": inner})
    providers: list[PreDev | AnchorBrowser] = [
        PreDev(KEY),
        AnchorBrowser(KEY, "p1"),
        AnchorBrowser(KEY),
    ]

    async def ask() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
        async with httpx.AsyncClient(transport=transport) as client:
            for provider in providers:
                try:
                    balance = await provider.fetch(client)
                except BalanceUnavailable:
                    continue
                assert isinstance(balance, Balance)
                assert balance.credits is not None
                assert balance.credits.is_finite()

    asyncio.run(ask())


@pytest.mark.anyio
async def test_a_mocked_transport_is_read() -> None:
    """Its response has been read before it is sent, so that it cannot be streamed."""
    reply = {"success": True, "creditsRemaining": 4.5}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=reply))
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await PreDev(KEY).fetch(client)).credits == Decimal("4.5")


def test_numbers_are_exact() -> None:
    """Neither binary fractions nor rounding come in between."""
    numbers = object_in(b'{"a": 0.1, "b": 42.500, "c": 1e3, "d": 450, "e": -0.000001}')
    assert numbers == {
        "a": Decimal("0.1"),
        "b": Decimal("42.5"),
        "c": Decimal(1000),
        "d": Decimal(450),
        "e": Decimal("-0.000001"),
    }
    assert all(type(number) is Decimal for number in numbers.values())


def test_texts_come_printable_short_and_without_the_key() -> None:
    """In values, in nested objects and lists; a field whose name is not so is left out."""
    echo = {
        KEY: "a\x1b[31mb\u202ec",
        "upper": KEY.upper(),
        "split": f"x {KEY[:9]}\u200b{KEY[9:]} y",
        "long": "z" * 199 + KEY,
        "inner": {"name": f"Bearer {KEY}"},
        "list": [KEY, [KEY], {KEY: KEY}, 5, True],
        "surrogate": "\ud800",
    }
    value = object_in(json.dumps(echo).encode())
    assert value == {
        "upper": "***",
        "split": "x *** y",
        "long": "z" * 199 + "*",
        "inner": {"name": "Bearer ***"},
        "list": ["***", ["***"], {}, 5, True],
        "surrogate": "",
    }


@pytest.mark.parametrize("name", ["\0success", "success ", "suc\u200bcess", "\nsuccess"])
def test_a_name_that_is_not_printable_is_not_taken_for_another(name: str) -> None:
    """The field that decides whether a reply counts is read only where it is there as documented."""
    assert object_in(json.dumps({name: True, "tier": "solo"}).encode()) == {"tier": "solo"}


def test_too_short_a_key_is_not_masked() -> None:
    """Masking every "e" of a message would hide the message rather than the key."""
    assert cleaner(Secret("e", "The key"))("There is no key") == "There is no key"


def test_endless_recursion_in_the_parser_is_a_refusal() -> None:
    """RecursionError is no ValueError."""

    def clean(text: str) -> str:
        return clean(text)

    failure = judge(BalanceReply(200, b'{"a": 1}'), "pre.dev", clean)
    assert isinstance(failure, BalanceUnavailable)
    assert "nested too deeply" in failure.reason


@pytest.mark.parametrize("body", WORST.values(), ids=WORST.keys())
def test_the_worst_16_kib_cost_less_than_2_mb(body: bytes) -> None:
    """Whatever the parser builds before it refuses."""
    assert len(body) <= MAX_BODY
    judge(BalanceReply(200, body), "pre.dev", CLEAN)
    tracemalloc.start()
    judge(BalanceReply(200, body), "pre.dev", CLEAN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_exactly_16_kib_are_read() -> None:
    """The cap refuses what is beyond it, not what is up to it."""
    body = b'{"a": 1}'.ljust(MAX_BODY)
    assert object_in(body) == {"a": Decimal(1)}
    assert isinstance(judge(BalanceReply(200, body + b" "), "pre.dev", CLEAN), BalanceUnavailable)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"error": "Unauthorized", "message": "Invalid API key"}, "Unauthorized: Invalid API key"),
        ({"error": {"code": 404, "message": "Project not found."}}, "Project not found"),
        ({"error": "Project not found.", "code": 404}, "Project not found"),
        ({"error": "Same", "message": "Same"}, "Same"),
        ({"message": "Alone"}, "Alone"),
        ({"error": {"code": 404}}, ""),
        ({"error": 5, "message": None}, ""),
        ({}, ""),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": {"code": 5, "message": "Inner."}}, "Inner"),
        (
            {"title": "Out of credit", "detail": "You have 30.", "status": 402},
            "Out of credit: You have 30",
        ),
        ({"title": "Same", "detail": "Same"}, "Same"),
        ({"detail": [{"loc": ["body", Decimal(0), "cost"], "msg": "Wrong"}]}, "body.0.cost: Wrong"),
        ({"detail": [{"msg": str(number)} for number in range(9)]}, "0: 1: 2"),
        ({"error": "invalid_client", "error_description": "Bad."}, "invalid_client: Bad"),
        ({"errors": [{"title": "A", "detail": "B"}, "C"]}, "A: B: C"),
        ({"detail": [], "errors": [[]], "title": True}, ""),
        ({"error": "a" * 150, "message": "b" * 150}, "a" * 150 + ": " + "b" * 48),
    ],
)
def test_every_shape_of_error_is_read(fields: dict[str, object], words: str) -> None:
    """Whatever is no text is left out."""
    assert said(fields) == words


NOW = 1_793_620_800.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("60", 60.0),
        ("61", 60.0),
        ("9999999999", 60.0),
        ("9" * 5_000, 60.0),
        ("-5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("\u0667", None),
        ("soon", None),
        ("7, 7", 7.0),
        ("7,9 , 8.5", 9.0),
        ("7, soon", None),
        ("Mon, 02 Nov 2026 12:00:30 GMT, Mon, 02 Nov 2026 12:00:40 GMT", 40.0),
        ("5, Mon, 02 Nov 2026 12:00:30 GMT", 30.0),
        ("7," * 5_000, None),
        ("Mon, 02 Nov 2026 12:00:30 GMT", 30.0),
        ("Monday, 02-Nov-26 12:00:30 GMT", 30.0),
        ("Mon, 02 Nov 2026 13:00:30 +0100", 30.0),
        ("Mon, 02 Nov 2026 12:00:30 -0000", 30.0),
        ("Mon, 02 Nov 2026 12:00:30", 30.0),
        ("Mon, 02 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 02 Nov 2099 12:00:00 GMT", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 60.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
        ("Mon, 02 Nov 99999999999999999999 12:00:30 GMT", None),
        ("Mon, 02 Nov 2026 12:00:30 +99999999999999999999", None),
        ("Mon, 02 Nov 2026 12:00:30 GMT" + " " * 5_000 + "x", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    """Capped at a minute, and never an error of its own."""
    assert retry_after(value, NOW) == seconds


@UNTIMED
@given(st.text(max_size=80) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]\d+"))
def test_any_retry_after_is_none_or_up_to_a_minute(value: str) -> None:
    """Whatever a server writes there."""
    seconds = retry_after(value, NOW)
    assert seconds is None or 0.0 <= seconds <= 60.0


def test_of_several_retry_afters_the_longest_counts() -> None:
    """As when a proxy adds one of its own; what makes no sense is no objection."""
    assert longest_wait(["7", "soon", "9", "Mon, 02 Nov 2026 12:00:08 GMT"], NOW) == 9.0
    assert longest_wait(["soon"], NOW) is None
    assert longest_wait([], NOW) is None
