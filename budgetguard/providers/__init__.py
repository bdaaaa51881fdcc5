"""The providers whose balances can be asked for."""

from budgetguard.providers.anchorbrowser import AnchorBrowser
from budgetguard.providers.predev import PreDev

__all__ = ["AnchorBrowser", "PreDev"]
