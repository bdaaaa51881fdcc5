"""Anchor Browser."""

import os
import re
from typing import TYPE_CHECKING, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard.providers._fields import Fields
from budgetguard.providers.anchorbrowser.billing import (
    AI_STEP,
    BROWSER,
    BROWSER_HOUR,
    PROXY_GB,
    RETRY,
    AnchorBrowserBilling,
    session_cost,
)
from budgetguard.providers.billing import Prices
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    import httpx

_PROJECT_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._~-]{0,127}")


class AnchorBrowser(HTTPProvider):
    """An account at Anchor Browser, or one project of it.

    The key is `api_key`, or else ANCHORBROWSER_API_KEY from the environment; the project is
    `project_id`, or else ANCHORBROWSER_PROJECT_ID, or else the one that the key belongs to. Requests
    go to `base_url`, or else to ANCHORBROWSER_BASE_URL, or else to https://api.anchorbrowser.io.
    `extra_credits` is the overage that a paid plan allows. The other arguments and the errors are those
    of `HTTPProvider`; a project that cannot be right is a ConfigurationError, too.

    The prices are in credits (1 credit is 1 dollar). They come from third parties that quoted the
    pricing page in July 2026, not from the API's documentation: BROWSER per browser created,
    BROWSER_HOUR per hour that a browser is open, billed by the minute, PROXY_GB per gigabyte through
    the provider's proxies, AI_STEP per step (one source only). `prices` lists the requests that a
    transport guards. `lag` (s) is the minute by which it bills; `linger` (s) is a session's default
    longest life (docs.anchorbrowser.io, 2026-11).
    """

    BROWSER: Final = BROWSER
    BROWSER_HOUR: Final = BROWSER_HOUR
    PROXY_GB: Final = PROXY_GB
    AI_STEP: Final = AI_STEP

    session_cost = staticmethod(session_cost)
    billing = AnchorBrowserBilling()
    prices: Prices | None = billing.prices

    name = "Anchor Browser"
    variable = "ANCHORBROWSER_API_KEY"
    url_variable = "ANCHORBROWSER_BASE_URL"
    key_header = "anchor-api-key"
    key_prefix = ""
    top_up_url = "https://app.anchorbrowser.io"
    lag = 60.0
    linger = 1200.0

    base_url = "https://api.anchorbrowser.io"
    project_id: str | None = None

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        project_id: str | None = None,
        *,
        base_url: str | None = None,
        account: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        self.project_id = _find_project(project_id)
        super().__init__(
            api_key,
            base_url=base_url,
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )
        # One per account, because it remembers what the account's batches cost.
        self.billing = billing = AnchorBrowserBilling()
        self.prices = {**billing.prices, RETRY: billing.retry}

    def _identity(self, *parts: str) -> str:
        return super()._identity(*parts, self.project_id or "")

    def __repr__(self) -> str:
        # Not the project's id: it may be the key, passed in the wrong place.
        project = None if self.project_id is None else "..."
        return f"AnchorBrowser(project_id={project}, base_url={self.base_url!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        if self.project_id is None:
            return _billing(await self.get_fields(client, "/v1/billing"))
        return _project(await self.get_fields(client, f"/v1/projects/{self.project_id}/credits"))


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
        # Not quoted in the message: it may be the key, passed in the wrong place.
        msg = (
            "project_id (or ANCHORBROWSER_PROJECT_ID) may have at most 128 characters: letters, "
            "digits and _-.~, and no dot at the start. Copy it from the project's page."
        )
        raise ConfigurationError(msg)
    return project
