"""Browser sessions that are paid for before they open, and that end on every way out of their block."""

from budgetguard.browser._journal import Journal
from budgetguard.browser._reaper import Reaped, areap, reap
from budgetguard.browser._session import BrowserSession, browser_session
from budgetguard.browser._steps import Patience

__all__ = ["BrowserSession", "Journal", "Patience", "Reaped", "areap", "browser_session", "reap"]
