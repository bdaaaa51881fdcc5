"""The vendors that the sandbox serves below a prefix, one module and one line each."""

from budgetguard.testing.sandbox.vendor import Vendor
from budgetguard.testing.sandbox.vendors.acme import Acme
from budgetguard.testing.sandbox.vendors.browseruse import BrowserUse
from budgetguard.testing.sandbox.vendors.deepseek import DeepSeek
from budgetguard.testing.sandbox.vendors.elevenlabs import ElevenLabs
from budgetguard.testing.sandbox.vendors.firecrawl import Firecrawl
from budgetguard.testing.sandbox.vendors.moonshot import Moonshot
from budgetguard.testing.sandbox.vendors.openrouter import OpenRouter
from budgetguard.testing.sandbox.vendors.tavily import Tavily

VENDORS: tuple[type[Vendor], ...] = (
    Acme,
    BrowserUse,
    DeepSeek,
    Moonshot,
    Firecrawl,
    ElevenLabs,
    OpenRouter,
    Tavily,
)
