"""Any vendor without code: the request, what is read from the reply, and the calls that are guarded."""

import json
import logging
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from dialects import KEY
from hostile import Server, http

from budgetguard import BalanceUnavailable, ConfigurationError, Guard, InvalidCredentials
from budgetguard.providers import HTTPBalance
from budgetguard.providers.base import Profile
from budgetguard.providers.billing import BillingReply
from budgetguard.testing import check_provider

Serve = Callable[..., Server]
URL = "https://api.acme.example/v1/credits"
BEARER = {"authorization": f"Bearer {KEY}"}


def read(serve: Serve, reply: Any, **options: Any) -> Any:
    """The balance that a guard reads from this reply."""
    options = {"left": "left", **options}
    return Guard(HTTPBalance(serve(http(200, json.dumps(reply))).url, **options)).balance()


def test_the_request_to_the_letter(serve: Serve) -> None:
    """The URL's own query, then the parameters, percent-encoded; the headers as they are named."""
    server = serve(http(200, '{"left": 5}'))
    provider = HTTPBalance(
        f"{server.url}/v1/left/?expand=a%20b&flag",
        left="left",
        headers={"X-API-Key": f" {KEY}\n", "authorization": "Basic YTpi"},
        params={"api_key": "a+b/c=d e&f", "project": "p"},
    )
    assert Guard(provider).balance().credits == 5
    line, *headers = server.requests[0].decode().split("\r\n")
    assert line == (
        "GET /v1/left/?expand=a%20b&flag&api_key=a%2Bb%2Fc%3Dd%20e%26f&project=p HTTP/1.1"
    )
    assert f"X-API-Key: {KEY}" in headers
    assert "authorization: Basic YTpi" in headers
    assert "accept-encoding: identity" in headers


def test_a_url_without_path_or_query(serve: Serve) -> None:
    """Is the root."""
    server = serve(http(200, '{"left": 5}'))
    assert Guard(HTTPBalance(server.url, left="left")).balance().credits == 5
    assert server.requests[0].startswith(b"GET / HTTP/1.1\r\n")


def test_what_a_guard_knows_of_it() -> None:
    """The defaults, which are those of any provider."""
    known = Profile.of(HTTPBalance(URL, left="left", headers=BEARER))
    assert (known.name, known.unit) == ("api.acme.example", "credits")
    assert (known.lag, known.linger, known.extra_credits) == (5, 0, 0)
    assert (known.base_url, known.prices) == ("https://api.acme.example", None)
    assert (known.top_up_url, known.topup_step, known.trust_env) == (None, None, False)
    given = Profile.of(
        HTTPBalance(
            URL,
            left="left",
            name="Acme",
            unit="USD",
            lag=30,
            linger=60,
            base_url="https://calls.acme.example/",
            prices={("POST", "/x"): 1},
            top_up_url="https://acme.example/pay",
            extra_credits=5,
            topup_step="10",
            trust_env=True,
        )
    )
    assert (given.name, given.unit, given.lag, given.linger) == ("Acme", "USD", 30, 60)
    assert (given.base_url, given.prices) == ("https://calls.acme.example", {("POST", "/x"): 1})
    assert (given.top_up_url, given.trust_env) == ("https://acme.example/pay", True)
    assert (given.extra_credits, given.topup_step) == (5, 10 * 10**6)


@pytest.mark.parametrize(
    ("figure", "scale", "credits"),
    [
        (1234, "0.01", "12.34"),
        (1234, 0.01, "12.34"),
        (1234, Decimal("1e-4"), "0.1234"),
        (3, 100, "300"),
        (100, "1/60", "1.666666"),
        (-100, "1/60", "-1.666667"),
        (90, "1 / 60", "1.5"),
        ("7.5", "2/3", "5"),
        (1, "1/3", "0.333333"),
        (10**14, "0.01", "1000000000000"),
    ],
)
def test_a_scale_is_exact_or_rounded_down(
    serve: Serve, figure: Any, scale: Any, credits: str
) -> None:
    """Also below zero, and where the figure itself is beyond 10^12."""
    assert read(serve, {"left": figure}, scale=scale).credits == Decimal(credits)


def test_what_is_scaled_beyond_all_bounds(serve: Serve) -> None:
    """Each figure must not be, and neither must the result."""
    for left, options in (
        ("left", {"scale": 100}),
        ("left - left", {"scale": 100}),
        ("left + left", {}),
    ):
        with pytest.raises(BalanceUnavailable, match="beyond 10"):
            read(serve, {"left": 6 * 10**11}, left=left, **options)


@pytest.mark.parametrize(
    ("reply", "slots", "expected"),
    [
        ({"max": 5}, "max", 5),
        ({"max": "5"}, "max", 5),
        ({"max": 5.0}, "max", 5),
        ({"max": 0}, "max", 0),
        ({"max": None}, "unlimited(max)", None),
        ({"max": 5, "plan": {"x": 3}}, "min(max, plan.x)", 3),
    ],
)
def test_slots(serve: Serve, reply: dict[str, Any], slots: str, expected: int | None) -> None:
    """A whole number of sessions, or no limit where that is declared."""
    assert read(serve, {"left": 5, **reply}, slots=slots).max_concurrency == expected


@pytest.mark.parametrize("limit", [-1, 2.5, "many", True, None, [5], 10**13])
def test_slots_that_are_none(serve: Serve, limit: Any) -> None:
    """A guard that counts sessions cannot go on without their limit."""
    with pytest.raises(BalanceUnavailable, match="max in the provider's reply is"):
        read(serve, {"left": 5, "max": limit}, slots="max")


def test_slots_are_not_scaled_and_have_no_unit(serve: Serve) -> None:
    """They count sessions, whatever the amounts are in."""
    reply = {"left": 500, "plan": {"max": 7, "currency": "EUR"}}
    balance = read(serve, reply, slots="plan.max", unit="USD", scale="0.01")
    assert (balance.credits, balance.max_concurrency) == (5, 7)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1798761600, "2027-01-01T00:00:00+00:00"),
        (1798761600.5, "2027-01-01T00:00:00.500000+00:00"),
        (1798761600000, "2027-01-01T00:00:00+00:00"),
        ("1798761600", "2027-01-01T00:00:00+00:00"),
        ("2027-01-01", "2027-01-01T00:00:00+00:00"),
        ("2027-01-01T02:00:00+02:00", "2027-01-01T00:00:00+00:00"),
        ("2027-01-01T00:00:00.000Z", "2027-01-01T00:00:00+00:00"),
        ("2027-01-01 00:00:00", "2027-01-01T00:00:00+00:00"),
        (None, None),
        ("", None),
        ("soon", None),
        ("01/02/2027", None),
        ("2027-13-45", None),
        ("2027-W01-1", None),
        ("2027-01-01T99:99:99Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("\u0662\u0660\u0662\u0667-01-01", None),
        ("2027-01-01" * 50, None),
        (0, None),
        (-5, None),
        (10**15, None),
        (1e300, None),
        (True, None),
        ({}, None),
        ([1798761600], None),
    ],
)
def test_renewals(serve: Serve, value: Any, expected: str | None) -> None:
    """Unix times and ISO 8601; the balance is known whatever else is there."""
    balance = read(serve, {"left": 5, "renews": value}, renews="renews")
    assert balance.credits == 5
    assert (balance.renews_at and balance.renews_at.isoformat()) == expected


def test_a_missing_renewal_is_logged_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The path may be wrong, and no decision depends on it."""
    caplog.set_level(logging.WARNING, "budgetguard")
    server = serve(http(200, '{"left": 5, "plan": {"ends": null}}'))
    guard = Guard(HTTPBalance(server.url, left="left", renews="plan.renews", name="Acme"))
    for _ in range(3):
        assert guard.balance(max_age=0).renews_at is None
    assert [record.message for record in caplog.records] == [
        (
            "It is not known when Acme renews (check renews=): plan.renews is missing from the provider's reply: "
            "plan has ends"
        )
    ]


def test_nulls_are_unknown_unless_it_is_said_what_they_mean(serve: Serve) -> None:
    """For all fields, or for one of them."""
    reply = {"key": {"limit": None, "used": 3}, "plan": 20}
    for left in ("key.limit", "key.limit - key.used", "min(key.limit, plan)"):
        with pytest.raises(BalanceUnavailable, match=r"key\.limit in .* is null, which is unknown"):
            read(serve, reply, left=left)
    assert read(serve, reply, left="key.limit", null="unlimited").credits is None
    assert read(serve, reply, left="min(key.limit, plan)", null="unlimited").credits == 20
    assert read(serve, reply, left="min(unlimited(key.limit) - key.used, plan)").credits == 20
    with pytest.raises(BalanceUnavailable, match="is null, and is subtracted"):
        read(serve, reply, left="plan - key.limit", null="unlimited")


def test_a_refused_key_is_the_balances_own(serve: Serve) -> None:
    """401 and 403 say that the key is wrong; the message masks it, and the header's other words are shown."""
    said = {"error": {"message": f"Bearer token {KEY} is wrong"}}
    for status in (401, 403):
        server = serve(http(status, json.dumps(said)))
        with pytest.raises(InvalidCredentials, match=r"Bearer token \*\*\* is wrong"):
            Guard(HTTPBalance(server.url, left="left", headers=BEARER)).balance()


def test_a_parameter_does_not_hide_a_field(serve: Serve) -> None:
    """Not each value is a key: what was sent may be a word of the reply."""
    reply = {"credits": {"balance": 5}, "list": [{"kind": "credits", "left": 7}]}
    options = {"params": {"expand": "credits"}}
    assert read(serve, reply, left="credits.balance", **options).credits == 5
    assert read(serve, reply, left="list[kind=credits].left", **options).credits == 7


def test_a_wrong_path_is_named_with_what_was_there(serve: Serve) -> None:
    """Masked names of fields, and no value of the reply."""
    reply = {"data": {"remaining": 5, KEY: "secret value", "x" * 90: 1, "\u202eodd": 2}}
    with pytest.raises(BalanceUnavailable) as caught:
        read(serve, reply, left="data.left", headers=BEARER)
    assert caught.value.reason == (
        f'data.left is missing from the provider\'s reply: data has remaining, "***", "{"x" * 40}...", odd'
    )


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"url": "http://api.acme.example/left"}, ConfigurationError, "url would send the key unencrypted"),
        ({"url": "https://u:p@acme.example"}, ConfigurationError, "url must be written https://host"),
        ({"url": "https://acme.example/#a"}, ConfigurationError, "url must be written https://host"),
        ({"url": "https://acme.example/?a b"}, ConfigurationError, "url must be written https://host"),
        ({"url": "acme.example"}, ConfigurationError, "url must be written https://host"),
        ({"url": None}, ConfigurationError, "url must be written https://host"),
        ({"left": "data."}, ConfigurationError, "left, at character 6"),
        ({"slots": "data."}, ConfigurationError, "slots, at character 6"),
        ({"renews": "a - b"}, ConfigurationError, "renews, at character 3"),
        ({"cost": "5"}, ConfigurationError, "cost, at character 1: it has no field"),
        ({"left": None}, TypeError, "left takes a str, not NoneType"),
        ({"headers": KEY}, TypeError, "headers takes a mapping of str to str, not str"),
        ({"headers": {5: "x"}}, TypeError, "one of its names is no str"),
        ({"headers": {"x": None}}, TypeError, "value of the 1st header takes a str, not NoneType"),
        ({"headers": {"x": 5}}, TypeError, "value of the 1st header takes a str, not int"),
        ({"headers": {"x": ""}}, ConfigurationError, "value of the 1st header is empty"),
        ({"headers": {"x": "a\nb"}}, ConfigurationError, "1st header contains characters that no key has"),
        ({"headers": {"x": "\u00e9"}}, ConfigurationError, "1st header contains characters that no key has"),
        ({"headers": {"x": "Bearer None"}}, ConfigurationError, 'ends in the text "None"'),
        ({"headers": {"Authorization": "Bearer "}}, ConfigurationError, "has no key after the word"),
        ({"headers": {"a": "1", "x y": "2"}}, ConfigurationError, "name of the 2nd header contains characters"),
        ({"headers": {"a": "1", "A": "2"}}, ConfigurationError, "2nd header is that of an earlier one"),
        ({"headers": {"Accept-Encoding": "br"}}, ConfigurationError, "accept-encoding cannot be set"),
        ({"headers": {"Host": "x"}}, ConfigurationError, "host cannot be set"),
        ({"params": {"key": None}}, TypeError, "value of the 1st parameter takes a str"),
        ({"params": {"": "x"}}, ConfigurationError, "name of the 1st parameter is not one"),
        ({"params": [("key", "x")]}, TypeError, "params takes a mapping of str to str, not list"),
        ({"scale": 0}, ValueError, "scale must be above zero"),
        ({"scale": "-1/60"}, ValueError, "scale must be above zero"),
        ({"scale": "1/0"}, ValueError, "scale must be above zero"),
        ({"scale": "1/60/60"}, ValueError, "scale is not a number"),
        ({"scale": "many"}, ValueError, "scale is not a number"),
        ({"scale": True}, TypeError, "scale takes an int, float, Decimal or str"),
        ({"scale": "1e-13"}, ValueError, "scale must be at least 10\\^-12"),
        ({"scale": "0." + "1" * 40}, ValueError, "with at most 30 digits"),
        ({"null": "none"}, ValueError, "null takes 'unknown' or 'unlimited', not another string"),
        ({"unit": ""}, ValueError, "unit must be a printable text"),
        ({"unit": 5}, TypeError, "unit takes a str, not int"),
        ({"name": "a\nb"}, ValueError, "name must be a printable text"),
        ({"top_up_url": " "}, ValueError, "top_up_url must be a printable text"),
        ({"lag": -1}, ValueError, "lag must be at least 0"),
        ({"linger": "5"}, TypeError, "linger takes a number of seconds"),
        ({"account": ""}, ValueError, "account is empty"),
        ({"base_url": "http://x.example"}, ConfigurationError, "base_url would send the key"),
        ({"trust_env": "no"}, TypeError, "trust_env takes True or False"),
        ({"extra_credits": -1}, ValueError, "extra_credits must not be negative"),
        ({"exhausted": 402}, TypeError, "exhausted takes a mapping of a status"),
        ({"exhausted": {"402": True}}, TypeError, "exhausted takes HTTP statuses such as 402"),
        ({"exhausted": {True: True}}, TypeError, "exhausted takes HTTP statuses such as 402"),
        ({"busy": {42: True}}, ValueError, "busy takes HTTP statuses from 200 to 599, not 42"),
        ({"busy": {200: True}}, ValueError, r"busy\[200\] needs a condition"),
        ({"key_limit": {403: "code"}}, ConfigurationError, r"key_limit\[403\], at character 5"),
        ({"key_limit": {403: []}}, TypeError, r"key_limit\[403\] takes True, a condition"),
        ({"key_limit": {403: False}}, TypeError, r"key_limit\[403\] takes True, a condition"),
    ],
)  # fmt: skip
def test_wrong_arguments(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    """Each is refused at construction, by name or place, and never quoted."""
    arguments = {"url": URL, "left": "left", "headers": BEARER, **given}
    with pytest.raises(kind, match=words) as caught:
        HTTPBalance(**arguments)
    assert KEY not in str(caught.value)


def test_accounts_are_told_apart_by_all_that_they_are_read_by() -> None:
    """Two guards of one account share its credits, and of two accounts they do not."""

    def fingerprint(**options: Any) -> str:
        arguments = {"url": URL, "left": "a - b", "headers": BEARER, **options}
        return HTTPBalance(**arguments).fingerprint

    same = fingerprint()
    alike: list[dict[str, Any]] = [
        {"left": "a-b"},
        {"headers": {"Authorization": f"Bearer {KEY} "}},
        {"url": URL.replace("api", "API")},
        {"name": "Acme", "lag": 60, "prices": {("POST", "/x"): 1}},
        {"scale": "1.0"},
    ]
    assert {fingerprint(**options) for options in alike} == {same}
    others: list[dict[str, Any]] = [
        {"left": "a"},
        {"url": f"{URL}/"},
        {"url": f"{URL}?project=1"},
        {"params": {"project": "2"}},
        {"headers": {}},
        {"headers": {"authorization": f"Bearer {KEY}2"}},
        {"headers": {"x-api-key": f"Bearer {KEY}"}},
        {"scale": "0.01"},
        {"unit": "USD"},
        {"null": "unlimited"},
        {"slots": "c"},
        {"renews": "d"},
        {"account": "ours"},
    ]
    found = [fingerprint(**options) for options in others]
    assert len({same, *found}) == len(others) + 1
    assert not any(KEY in each for each in found)


def test_an_account_has_a_name_where_keys_rotate() -> None:
    """It is the same with another key; each key's own limit is told apart all the same."""
    one, other = (
        HTTPBalance(URL, left="left", account="ours", headers={"x-api-key": key})
        for key in (f"{KEY}1", f"{KEY}2")
    )
    assert one.fingerprint == other.fingerprint
    assert one.credential != other.credential
    unnamed = HTTPBalance(URL, left="left", headers={"x-api-key": f"{KEY}1"})
    assert unnamed.fingerprint != one.fingerprint
    assert unnamed.credential == one.credential


def test_its_repr_has_the_path_and_the_expression() -> None:
    """Neither the query nor a header."""
    provider = HTTPBalance(f"{URL}?key={KEY}", left="a-b", headers=BEARER, unit="USD")
    assert repr(provider) == f"HTTPBalance({URL!r}, left='a - b', unit='USD')"
    with pytest.raises(TypeError, match="is a secret"):
        pickle.dumps(provider)


def reply_of(status: int, body: Any, **headers: str) -> BillingReply:
    """A reply to a call."""
    return BillingReply("/x", status, headers, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"status": "ok"}, None),
        (200, {"status": "no money"}, "exhausted"),
        (402, {}, "not_credits"),
        (402, {"code": "monthly"}, "key_limit"),
        (402, {"code": "in_flight"}, "busy"),
        (429, {"error": {"code": "QUOTA"}}, "exhausted"),
        (429, {"error": {"message": "Your account has run OUT of searches."}}, "exhausted"),
        (429, {"error": {"code": "SLOW"}}, "not_credits"),
        (432, None, "exhausted"),
        (404, {}, "not_credits"),
        (500, {}, None),
        (302, {}, None),
    ],
)
def test_refusals_are_read_as_they_are_described(status: int, body: Any, kind: str | None) -> None:
    """By status and by conditions; what is not described changes nothing."""
    provider = HTTPBalance(
        URL,
        left="left",
        exhausted={
            200: "status = 'no money'",
            429: ["error.code = QUOTA", "error.message ~ 'out of searches'"],
            432: True,
        },
        busy={402: "code = in_flight"},
        key_limit={402: ("code = monthly",)},
    )
    refusal = provider.classify(reply_of(status, body, **{"retry-after": "7"}))
    assert (refusal and refusal.kind) == kind
    if kind in {"busy", "key_limit"}:
        assert refusal is not None
        assert refusal.retry_after == 7
    if status == 200:
        assert provider.cost_of(reply_of(200, body)) == ("release" if kind else "cost")


def test_a_402_is_exhausted_unless_something_else_is_described() -> None:
    """As with any provider."""
    for options, kind in (
        ({}, "exhausted"),
        ({"busy": {429: True}}, "exhausted"),
        ({"busy": {402: "code = in_flight"}}, "exhausted"),
        ({"exhausted": {403: True}}, "not_credits"),
        ({"exhausted": {}}, "not_credits"),
    ):
        refusal = HTTPBalance(URL, left="left", **options).classify(reply_of(402, {}))  # type: ignore[arg-type]
        assert refusal is not None
        assert refusal.kind == kind


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"usage": {"cost": 0.25, "extra": "0.5"}}, Decimal("0.75")),
        ({"usage": {"cost": 0, "extra": 0}}, Decimal(0)),
        ({"usage": {"cost": 1, "extra": -2}}, "cost"),
        ({"usage": {"cost": None, "extra": 1}}, "cost"),
        ({"usage": {"cost": True, "extra": 1}}, "cost"),
        ({"usage": {"cost": 1e13, "extra": 1}}, "cost"),
        ({"usage": {"cost": 1, "extra": 1, "currency": "EUR"}}, "cost"),
        ({"usage": {"cost": 1}}, "cost"),
        ({}, "cost"),
        ([], "cost"),
        (None, "cost"),
    ],
)
def test_a_reply_says_what_a_call_cost(body: Any, expected: Any) -> None:
    """Where it does not, the call costs what was held."""
    provider = HTTPBalance(
        URL, left="left", cost="usage.cost + usage.extra", unit="USD", scale="0.01"
    )
    assert provider.cost_of(reply_of(200, body)) == expected


def test_a_streams_last_events_say_what_it_cost() -> None:
    """Of several events with the field, the last."""
    frames = (
        ("message", '{"usage": {"cost": 1}}'),
        ("message", '{"usage": {"cost": 3}}'),
        ("message", '{"usage": null}'),
        ("message", "[DONE]"),
    )
    reply = BillingReply("/x", 200, {}, frames=frames)
    assert HTTPBalance(URL, left="left", cost="usage.cost").cost_of(reply) == 3
    broken = BillingReply("/x", 200, {}, frames=frames, complete=False)
    assert HTTPBalance(URL, left="left", cost="usage.cost").cost_of(broken) == "keep"


def test_a_subclass_can_decide_what_no_path_can() -> None:
    """As costs in headers do."""

    class Acme(HTTPBalance):
        def cost_of(self, reply: BillingReply) -> Any:
            cost = reply.headers.get("x-cost")
            return super().cost_of(reply) if cost is None else Decimal(cost)

    billing = Profile.of(Acme(URL, left="left")).billing
    assert billing.cost_of(reply_of(200, {}, **{"x-cost": "2.5"})) == Decimal("2.5")
    assert billing.cost_of(reply_of(200, {})) == "cost"


@pytest.mark.anyio
async def test_it_is_a_provider_for_any_client(serve: Serve) -> None:
    """The query is in the URL that a transport gets, and in no text of it."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"left": 5}'))

    provider = HTTPBalance(URL, left="left", params={"api_key": KEY})
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert (await provider.fetch(client)).credits == 5
    [request] = seen
    assert request.url.params["api_key"] == KEY
    assert request.url.raw_path == f"/v1/credits?api_key={KEY}".encode()
    assert str(request.url) == URL
    assert KEY not in repr(request.url) + repr(request)


CALLS = [
    BillingReply("/x", 200, {}, b'{"usage": {"cost": 0.5}}'),
    BillingReply("/x", 403, {}, b'{"fault": {"code": "EMPTY"}}'),
]
LISTED = {"list": [{"currency": "USD", "left": "42.5"}, {"currency": "CNY", "left": "7.00"}]}


@pytest.mark.parametrize(
    ("options", "reply", "unlimited"),
    [
        ({"left": "limit - used", "slots": "max"}, {"limit": 50, "used": "7.5", "max": 3}, []),
        ({"left": "list[currency=USD].left", "unit": "USD"}, LISTED, []),
        (
            {"left": "min(unlimited(key.limit) - key.used, plan)"},
            {"key": {"limit": 46.5, "used": 4}, "plan": 900},
            ["key.limit"],
        ),
        (
            {"left": "min(limit, plan)", "null": "unlimited"},
            {"limit": 42.5, "plan": 900},
            ["limit", "plan"],
        ),
    ],
)
@pytest.mark.parametrize("where", ["header", "word", "parameter", "URL"])
def test_it_passes_the_check_that_users_have(
    options: dict[str, Any], reply: dict[str, Any], unlimited: list[str], where: str
) -> None:
    """As any provider should, wherever its key is."""

    def make(key: str) -> HTTPBalance:
        key_in: dict[str, Any] = {
            "header": {"headers": {"x-api-key": key}},
            "word": {"headers": {"authorization": f"Bearer {key}"}},
            "parameter": {"params": {"api_key": key}},
            "URL": {},
        }[where]
        url = f"{URL}?api_key={key}" if where == "URL" else URL
        exhausted = {403: "fault.code = EMPTY"}
        return HTTPBalance(url, cost="usage.cost", exhausted=exhausted, **key_in, **options)

    check_provider(make, reply=reply, credits="42.5", unlimited=unlimited, replies=CALLS)
