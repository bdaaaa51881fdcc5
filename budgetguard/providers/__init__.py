"""The built-in providers, and the protocol for writing another one."""

from budgetguard._core.provider_refusal import (
    EXHAUSTED,
    KEY_LIMIT,
    NOT_CREDITS,
    ProviderRefusal,
    busy,
    key_limit,
)
from budgetguard.providers._fields import Fields
from budgetguard.providers.anchorbrowser.provider import AnchorBrowser
from budgetguard.providers.base import Provider
from budgetguard.providers.billing import Billing, BillingReply, WorkStatus
from budgetguard.providers.http_provider import HTTPProvider
from budgetguard.providers.predev.provider import PreDev

__all__ = [
    "EXHAUSTED",
    "KEY_LIMIT",
    "NOT_CREDITS",
    "AnchorBrowser",
    "Billing",
    "BillingReply",
    "Fields",
    "HTTPProvider",
    "PreDev",
    "Provider",
    "ProviderRefusal",
    "WorkStatus",
    "busy",
    "key_limit",
]
