"""Browser sessions that end: opened only if they can be paid, ended on every way out, none forgotten."""

from budgetguard.browser.course import Patience
from budgetguard.browser.journal import Journal
from budgetguard.browser.reaping import Reaped, areap, reap
from budgetguard.browser.session import BrowserSession, browser_session

__all__ = ["BrowserSession", "Journal", "Patience", "Reaped", "areap", "browser_session", "reap"]
