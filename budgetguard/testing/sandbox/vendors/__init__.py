"""The vendors that the sandbox serves below a prefix, one module and one line each."""

from budgetguard.testing.sandbox.vendor import Vendor
from budgetguard.testing.sandbox.vendors.acme import Acme
from budgetguard.testing.sandbox.vendors.elevenlabs import ElevenLabs
from budgetguard.testing.sandbox.vendors.openrouter import OpenRouter
from budgetguard.testing.sandbox.vendors.tavily import Tavily

VENDORS: tuple[type[Vendor], ...] = (
    Acme,
    ElevenLabs,
    OpenRouter,
    Tavily,
)
