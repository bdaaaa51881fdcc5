"""pre.dev's balance page (docs.pre.dev, credits-balance, read 2026-11), to the letter."""

import json
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest
from hostile import KEY, Server, http, predev

from budgetguard._core.balance import Balance
from budgetguard._core.errors import BalanceUnavailable, ConfigurationError, InvalidCredentials
from budgetguard._core.refresh_failure import Transient
from budgetguard.providers import PreDev

Serve = Callable[..., Server]
SUCCESS = """{
  "success": true,
  "creditsRemaining": 450
}"""


@pytest.mark.anyio
async def test_the_example_of_the_page(serve: Serve, client: httpx.AsyncClient) -> None:
    """One bearer GET, and all else that a balance may have is unknown."""
    server = serve(http(200, SUCCESS, "content-type: application/json; charset=utf-8"))
    balance = await PreDev(KEY, base_url=server.url).fetch(client)
    assert balance == Balance(credits=Decimal(450), as_of=balance.as_of)
    assert server.requests[0].startswith(b"GET /credits-balance HTTP/1.1\r\n")
    assert f"authorization: Bearer {KEY}\r\n".encode() in server.requests[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "amount"),
    [
        ("0", "0"),
        ("42.5", "42.5"),
        ("0.1", "0.1"),
        ("450.0", "450"),
        ("4.5e2", "450"),
        ("-3.25", "-3.25"),
        ("1000000000000", "1000000000000"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("1e-300", "1e-300"),
    ],
)
async def test_any_number_in_range_is_taken_exactly(
    number: str, amount: str, serve: Serve, client: httpx.AsyncClient
) -> None:
    """Balances arrive fractional, though the OpenAPI says integer; rounding is the ledger's."""
    balance = await PreDev(KEY, base_url=serve(predev(number)).url).fetch(client)
    assert balance.credits == Decimal(amount)


@pytest.mark.anyio
async def test_fields_that_are_not_documented_are_passed_over(
    serve: Serve, client: httpx.AsyncClient
) -> None:
    """Newer replies may say more, even numbers that would be beyond any balance."""
    body = '{"x": [1, {"y": 1e99}], "creditsRemaining": 4, "success": true, "at": 1793620800000}'
    balance = await PreDev(KEY, base_url=serve(http(200, body)).url).fetch(client)
    assert balance.credits == 4


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "error", "message", "kind", "reason"),
    [
        (
            400,
            "Missing context",
            "Unable to determine user or organization from API key",
            BalanceUnavailable,
            (
                "the provider answered 400: Missing context: "
                "Unable to determine user or organization from API key"
            ),
        ),
        (
            401,
            "Unauthorized",
            "Invalid API key",
            InvalidCredentials,
            "the provider answered 401: Unauthorized: Invalid API key; check the key",
        ),
        (
            401,
            "Unauthorized",
            "Invalid or missing Authorization header",
            InvalidCredentials,
            (
                "the provider answered 401: Unauthorized: Invalid or missing Authorization header; "
                "check the key"
            ),
        ),
        (
            500,
            "Failed to retrieve credits balance",
            "Internal server error details",
            Transient,
            (
                "the provider answered 500: Failed to retrieve credits balance: "
                "Internal server error details"
            ),
        ),
    ],
)
async def test_every_documented_error(
    status: int,
    error: str,
    message: str,
    kind: type[BalanceUnavailable],
    reason: str,
    serve: Serve,
    client: httpx.AsyncClient,
) -> None:
    """The provider's own words come along."""
    server = serve(http(status, json.dumps({"error": error, "message": message})))
    with pytest.raises(BalanceUnavailable) as caught:
        await PreDev(KEY, base_url=server.url).fetch(client)
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert caught.value.retryable is (kind is not InvalidCredentials)


def test_what_a_guard_reads_off_it() -> None:
    """The documented defaults."""
    provider = PreDev(KEY)
    assert provider.name == "pre.dev"
    assert provider.base_url == "https://api.pre.dev"
    assert provider.top_up_url == "https://pre.dev/projects/key?upgrade=credits"
    assert (provider.lag, provider.linger) == (5.0, 300.0)
    assert (provider.FAST_SPEC, provider.DEEP_SPEC) == (10, 50)
    assert provider.extra_credits == 0
    assert provider.trust_env is False
    assert repr(provider) == "PreDev(base_url='https://api.pre.dev')"


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is given, and read when the provider is made."""
    monkeypatch.setenv("PREDEV_API_KEY", f" {KEY}\n")
    assert PreDev().fingerprint == PreDev(KEY).fingerprint
    assert PreDev("other").fingerprint != PreDev().fingerprint


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_missing_key_names_both_ways_to_give_it(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable is as good as none."""
    if value is not None:
        monkeypatch.setenv("PREDEV_API_KEY", value)
    with pytest.raises(ConfigurationError, match=r"PREDEV_API_KEY.*api_key="):
        PreDev()


def test_a_bad_key_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is where it has to be mended."""
    monkeypatch.setenv("PREDEV_API_KEY", f"Bearer {KEY}")
    with pytest.raises(ConfigurationError, match=r"key in PREDEV_API_KEY contains white space"):
        PreDev()
    with pytest.raises(ConfigurationError, match=r"The pre.dev key is empty"):
        PreDev("")


def test_the_fingerprint_is_the_account() -> None:
    """The same key at the same place, however written, and nothing else."""
    same = [PreDev(KEY), PreDev(f"{KEY} "), PreDev(KEY, base_url="HTTPS://api.pre.dev:443/")]
    same.append(PreDev(KEY, extra_credits=5))
    other = [PreDev(KEY + "2"), PreDev(KEY, base_url="https://eu.pre.dev")]
    assert len({provider.fingerprint for provider in same}) == 1
    assert len({provider.fingerprint for provider in [same[0], *other]}) == 3
    assert KEY not in same[0].fingerprint


@pytest.mark.parametrize(
    ("extra", "amount"), [(0, "0"), ("2.50", "2.5"), (0.1, "0.1"), (Decimal(7), "7")]
)
def test_extra_credits_are_exact(extra: float, amount: str) -> None:
    """They are kept for the guard; the balance is given as reported."""
    assert PreDev(KEY, extra_credits=extra).extra_credits == Decimal(amount)


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (-1, ValueError),
        ("nan", ValueError),
        ("many", ValueError),
        (float("inf"), ValueError),
        (10**13, ValueError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_extra_credits_that_are_none_are_refused(extra: float, kind: type[Exception]) -> None:
    """Like any amount, and they cannot be negative."""
    with pytest.raises(kind, match="extra_credits"):
        PreDev(KEY, extra_credits=extra)


def test_trust_env_is_no_text() -> None:
    """A setting read as "false" would let a proxy have the key."""
    with pytest.raises(TypeError, match="trust_env takes True or False, not str"):
        PreDev(KEY, trust_env="false")  # type: ignore[arg-type]
