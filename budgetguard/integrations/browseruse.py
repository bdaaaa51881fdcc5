"""Browser Use's SDK, with a guard before every request that costs credits."""

import re
from typing import TYPE_CHECKING, Any, TypeVar

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard._io.base_url import check_base_url, find_base_url
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.providers.billing import Prices
from budgetguard.providers.browseruse.provider import BrowserUse
from budgetguard.transport import AsyncGuardTransport, GuardTransport

if TYPE_CHECKING:
    from budgetguard.guard import Guard

with extra("browseruse"):
    import httpx
    from browser_use_sdk import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        v2,
        v3,
        v4,
    )

ClientT = TypeVar("ClientT")

_CLIENTS = tuple(
    kind for version in (v2, v3, v4) for kind in (version.BrowserUse, version.AsyncBrowserUse)
)
_VERSION = re.compile(r"/api/v\d+$")


@clean_traceback
def guarded(
    client: ClientT,
    guard: "Guard",
    *,
    prices: Prices | None = None,
    follow: bool = True,
    send_cap: bool = False,
    slots: bool = False,
) -> ClientT:
    """The same client, which now refuses requests that its credits do not cover.

    The SDK has no argument for an HTTP client. So this puts a transport into the client that it made: all of
    its methods are guarded, also those that make several requests, such as `run` and `stream`. It takes the
    plain and the awaiting clients of `browser_use_sdk`, `browser_use_sdk.v3` and `browser_use_sdk.v4`
    (browser-use-sdk 3.12.1, 2026-11), and changes the client itself.

    What a call is held at, `BrowserUse` says: `max_cost_usd` if the call has one. `prices` replaces some of
    its prices, or adds to them, by method and path pattern as a transport's do. With `send_cap`, a call that
    starts a new session is sent what is held as its `maxCostUsd`, unless it has a lower one: what it holds is
    then its upper end. Such work is stopped when it has cost that much.

    With `slots`, each call that starts a session or a browser also takes one of the sessions that the project
    may have at once, until its work has ended; without a free one it raises ConcurrencyLimit. Sessions that
    others started are not counted, nor browsers that outlive their work: Browser Use may still answer 429,
    which costs nothing.

    A task, a run or a browser is held until a reply says that it has ended; `follow` and all else are as in
    `budgetguard.transport.GuardTransport`. The status is requested with the guard's key. A refusal is raised,
    and nothing is sent.

    A client that was given no `base_url` of its own is pointed at BROWSER_USE_BASE_URL where that is set, as
    its guard is.

    Raises TypeError if `client` is none of these, is already guarded, or pays by x402 (from a wallet, and not
    from the account), or if the guard is of another provider; ConfigurationError if the client's address is
    not that of the guard's account.
    """
    http = _http_client(client)
    check_guard(guard, BrowserUse)
    kind: Any = AsyncGuardTransport if isinstance(http, httpx.AsyncClient) else GuardTransport
    # httpx sends through a mount what a proxy of the environment is for. It has no other way in.
    ways = {None: http._transport, **http._mounts}  # noqa: SLF001
    if any(isinstance(way, GuardTransport | AsyncGuardTransport) for way in ways.values()):
        msg = f"this {type(client).__name__} is already guarded"
        raise TypeError(msg)
    account: Any = guard.provider if isinstance(guard.provider, BrowserUse) else BrowserUse
    base, version = _address(http)
    if account is not BrowserUse and base != account.base_url:
        msg = f"this client sends to {base}, but the account of the guard is at {account.base_url}"
        raise ConfigurationError(msg)
    ours = account.prices_with_slots if slots else account.prices
    options = {
        "prices": _all_prices(prices or {}, ours),
        "base_url": base,
        "on_refusal": "raise",
        "follow": follow,
        "send_cap": send_cap,
    }
    guards: dict[Any, Any] = {
        pattern: None if way is None else kind(guard, transport=way, **options)
        for pattern, way in ways.items()
    }
    http._transport = guards.pop(None)  # noqa: SLF001
    http._mounts = guards  # noqa: SLF001
    http.base_url = base + version
    return client


def _http_client(client: Any) -> Any:
    """The httpx client inside."""
    if not isinstance(client, _CLIENTS):
        msg = f"guarded() takes a client of browser_use_sdk, not {type(client).__name__}"
        raise TypeError(msg)
    http = client._http._client  # noqa: SLF001  the SDK has no argument for it
    if type(http) not in {httpx.Client, httpx.AsyncClient}:
        msg = "this client pays by x402, from a wallet, and not from the account of the guard"
        raise TypeError(msg)
    return http


def _address(http: Any) -> tuple[str, str]:
    """Where the client's requests are to go, and the version that is in their paths.

    A client with the default address goes to where the environment says.
    """
    url = str(http.base_url).rstrip("/")
    base = _VERSION.sub("", url)
    version = url.removeprefix(base)
    if base == BrowserUse.base_url:
        base = _VERSION.sub("", find_base_url(None, BrowserUse.url_variable, base))
    return check_base_url(base), version


def _all_prices(theirs: Prices, ours: Any) -> Prices:
    """The user's prices, and those of ours that they do not replace: after them, as the first match counts."""
    return {**theirs, **{route: price for route, price in ours.items() if route not in theirs}}
