"""The built-in providers, and the protocol for writing another one.

Those that a program does not use are not imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from budgetguard.providers._tokens import TokenPrice
    from budgetguard.providers.browseruse.provider import BrowserUse
    from budgetguard.providers.chat.deepseek.provider import DeepSeek
    from budgetguard.providers.chat.moonshot.provider import Moonshot
    from budgetguard.providers.elevenlabs.provider import ElevenLabs
    from budgetguard.providers.firecrawl.provider import Firecrawl
    from budgetguard.providers.http_balance import HTTPBalance
    from budgetguard.providers.openrouter.provider import OpenRouter
    from budgetguard.providers.tavily.provider import Tavily

__all__ = [
    "EXHAUSTED",
    "KEY_LIMIT",
    "NOT_CREDITS",
    "AnchorBrowser",
    "Billing",
    "BillingReply",
    "BrowserUse",
    "DeepSeek",
    "ElevenLabs",
    "Fields",
    "Firecrawl",
    "HTTPBalance",
    "HTTPProvider",
    "Moonshot",
    "OpenRouter",
    "PreDev",
    "Provider",
    "ProviderRefusal",
    "Tavily",
    "TokenPrice",
    "WorkStatus",
    "busy",
    "key_limit",
]

# By the name of the class, the module that it is in.
_LATE: dict[str, str] = {
    "BrowserUse": "browseruse.provider",
    "DeepSeek": "chat.deepseek.provider",
    "HTTPBalance": "http_balance",
    "Moonshot": "chat.moonshot.provider",
    "Firecrawl": "firecrawl.provider",
    "ElevenLabs": "elevenlabs.provider",
    "OpenRouter": "openrouter.provider",
    "Tavily": "tavily.provider",
    "TokenPrice": "_tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
