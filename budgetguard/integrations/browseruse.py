"""Browser Use's SDK, with a guard before every request that costs credits."""

import re
from typing import TYPE_CHECKING, Any, TypeVar

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._io.base_url import find_base_url
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

    A task, a run or a browser is held until a reply says that it has ended; `follow` and all else are as in
    `budgetguard.transport.GuardTransport`. The status is requested with the guard's key. A refusal is raised,
    and nothing is sent.

    A client that was given no `base_url` of its own is pointed at BROWSER_USE_BASE_URL where that is set, as
    its guard is.

    Raises TypeError if `client` is none of these, is already guarded, or pays by x402 (from a wallet, and not
    from the account), or if the guard is of another provider.
    """
    http = _http_client(client)
    check_guard(guard, BrowserUse)
    kind: Any = AsyncGuardTransport if isinstance(http, httpx.AsyncClient) else GuardTransport
    # httpx sends through a mount what a proxy of the environment is for. It has no other way in.
    ways = {None: http._transport, **http._mounts}  # noqa: SLF001
    if any(isinstance(way, GuardTransport | AsyncGuardTransport) for way in ways.values()):
        msg = f"this {type(client).__name__} is already guarded"
        raise TypeError(msg)
    _point(http)
    options = {
        "prices": BrowserUse.prices if prices is None else {**prices, **_others(prices)},
        "base_url": _VERSION.sub("", str(http.base_url).rstrip("/")),
        "on_refusal": "raise",
        "follow": follow,
        **({"send_cap": True} if send_cap else {}),
    }
    guards: dict[Any, Any] = {
        pattern: None if way is None else kind(guard, transport=way, **options)
        for pattern, way in ways.items()
    }
    http._transport = guards.pop(None)  # noqa: SLF001
    http._mounts = guards  # noqa: SLF001
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


def _point(http: Any) -> None:
    """Send a client with the default base URL to where the environment says."""
    url = str(http.base_url).rstrip("/")
    version = url.removeprefix(BrowserUse.base_url)
    if _VERSION.fullmatch(version):
        found = find_base_url(None, BrowserUse.url_variable, BrowserUse.base_url)
        http.base_url = _VERSION.sub("", found) + version


def _others(prices: Prices) -> Prices:
    """The provider's prices that are not replaced; they come after, because the first match counts."""
    return {
        route: price for route, price in (BrowserUse.prices or {}).items() if route not in prices
    }
