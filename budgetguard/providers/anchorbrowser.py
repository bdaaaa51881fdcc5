"""Anchor Browser."""

import os
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from budgetguard.balance import Balance
from budgetguard.credits import Amount
from budgetguard.discreet import discreet
from budgetguard.errors import ConfigurationError
from budgetguard.origin import check_base_url
from budgetguard.providers._account import check_flag, find_extra, find_key, fingerprint
from budgetguard.providers._fields import Fields
from budgetguard.providers.anchorbrowser_wire import (
    AI_STEP,
    BROWSER,
    BROWSER_HOUR,
    PROXY_GB,
    RETRY,
    AnchorBrowserWire,
    session_cost,
)
from budgetguard.secret import Credential
from budgetguard.wire import Prices

if TYPE_CHECKING:
    import httpx

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._~-]{0,127}")


class AnchorBrowser:
    """An account at Anchor Browser, or one project of it.

    The key is `api_key`, or else ANCHORBROWSER_API_KEY; the project is `project_id`, or else
    ANCHORBROWSER_PROJECT_ID, or else the one that the key belongs to. `extra_credits` is the
    overage that a paid plan allows. `trust_env` lets proxies and certificates be taken from the
    environment. Raises ConfigurationError for a key, project or base URL that cannot be right, and
    TypeError or ValueError for the others.

    The prices are credits (1 credit is 1 dollar), as third parties read the pricing page in July
    2026, not as an API documents them: BROWSER per browser created, BROWSER_HOUR per hour that one
    is open, billed to the minute, PROXY_GB per gigabyte through the provider's proxies, AI_STEP per
    step (one source only). `prices` says what requests a transport guards. `lag` (s) is the minute that billing goes by; `linger` (s) is a
    session's default longest life (docs.anchorbrowser.io, 2026-11).
    """

    BROWSER: Final = BROWSER
    BROWSER_HOUR: Final = BROWSER_HOUR
    PROXY_GB: Final = PROXY_GB
    AI_STEP: Final = AI_STEP

    session_cost = staticmethod(session_cost)
    wire = AnchorBrowserWire()
    prices: Prices = wire.prices

    name = "Anchor Browser"
    top_up_url = "https://app.anchorbrowser.io"
    lag = 60.0
    linger = 1200.0

    project_id: str | None = None
    base_url: str = "https://api.anchorbrowser.io"
    extra_credits: Decimal
    trust_env: bool
    fingerprint: str

    @discreet
    def __init__(
        self,
        api_key: str | None = None,
        project_id: str | None = None,
        *,
        base_url: str = base_url,
        extra_credits: Amount = 0,
        trust_env: bool = False,
    ) -> None:
        key = find_key(api_key, provider=self.name, variable="ANCHORBROWSER_API_KEY")
        del api_key
        if isinstance(key, Exception):
            raise key
        self._credential = Credential(key, "anchor-api-key")
        # Its own: it remembers what the account's batches cost.
        self.wire = AnchorBrowserWire()
        self.prices = {**self.wire.prices, RETRY: self.wire.retry}
        self.project_id = _find_project(project_id)
        self.base_url = check_base_url(base_url)
        self.extra_credits = find_extra(extra_credits)
        self.trust_env = check_flag(trust_env, "trust_env")
        self.fingerprint = fingerprint(
            self.name, self.base_url, key.fingerprint(), self.project_id or ""
        )

    def __repr__(self) -> str:
        # Not the project's id: it may be the key, given in the wrong place.
        project = None if self.project_id is None else "..."
        return f"AnchorBrowser(project_id={project}, base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Ask for the balance once; raises BalanceUnavailable. `as_of` is for the caller to set."""
        if self.project_id is None:
            return _billing(await self._get(client, "/v1/billing"))
        return _project(await self._get(client, f"/v1/projects/{self.project_id}/credits"))

    async def _get(self, client: "httpx.AsyncClient", path: str) -> Fields:
        # Deferred: whoever only imports budgetguard does not pay for an HTTP client.
        from budgetguard.fetching import get_json

        reply = await get_json(client, self.base_url + path, self._credential, provider=self.name)
        return Fields(reply, provider=self.name)


def _project(fields: Fields) -> Balance:
    return Balance(
        credits=fields.credits("credits"),
        tier=fields.text("tier"),
        max_concurrency=fields.sessions("maxConcurrentBrowsers"),
        cost_limit=fields.optional_credits("cost_limit", nullable=True),
    )


def _billing(fields: Fields) -> Balance:
    data = fields.inner("data")
    return Balance(
        credits=data.credits("credits"),
        tier=data.text("tier"),
        max_concurrency=data.sessions("max_concurrent_browsers"),
        cost_limit=data.optional_credits("cost_limit", nullable=True),
        credits_used=data.optional_credits("credits_used"),
    )


def _find_project(given: str | None) -> str | None:
    value = os.environ.get("ANCHORBROWSER_PROJECT_ID", "") if given is None else given
    if not isinstance(value, str):
        msg = f"project_id takes a str, not {type(value).__name__}"
        raise TypeError(msg)
    project = value.strip()
    if given is None and not project:
        return None
    if not _PROJECT_ID.fullmatch(project):
        # Not quoted in the message: it may be the key, given in the wrong place.
        msg = (
            "project_id (or ANCHORBROWSER_PROJECT_ID) may hold letters, digits and _-.~ only, at "
            "most 128, and not begin with a dot: copy it from the project's page."
        )
        raise ConfigurationError(msg)
    return project
