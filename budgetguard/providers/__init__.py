"""The built-in providers, and the protocol for writing another one."""

from budgetguard.providers.anchorbrowser.provider import AnchorBrowser
from budgetguard.providers.base import Provider
from budgetguard.providers.predev.provider import PreDev

__all__ = ["AnchorBrowser", "PreDev", "Provider"]
