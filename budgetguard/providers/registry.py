"""The vendors that are built in: by which name, and with which key in the environment."""

import importlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.errors import ConfigurationError
from budgetguard.providers.base import Provider
from budgetguard.providers.http_provider import HTTPProvider


class Vendor(NamedTuple):
    """A built-in vendor: its `name`, the `variable` with its key, and the class of its provider.

    The class is `kind` of the module `providers.<module>.provider`. Only where `unasked` is True does a key
    in the environment alone select the vendor.
    """

    name: str
    variable: str
    module: str
    kind: str
    unasked: bool = False

    @clean_traceback
    def make(self, *args: Any, **options: Any) -> Provider:
        """Its provider; raises what the class raises. The module is imported only now."""
        module = importlib.import_module(f"budgetguard.providers.{self.module}.provider")
        return getattr(module, self.kind)(*args, **options)  # type: ignore[no-any-return]


VENDORS: Mapping[str, Vendor] = {
    "predev": Vendor("pre.dev", "PREDEV_API_KEY", "predev", "PreDev", unasked=True),
    "anchorbrowser": Vendor(
        "Anchor Browser", "ANCHORBROWSER_API_KEY", "anchorbrowser", "AnchorBrowser", unasked=True
    ),
    "openrouter": Vendor("OpenRouter", "OPENROUTER_API_KEY", "openrouter", "OpenRouter"),
    "firecrawl": Vendor("Firecrawl", "FIRECRAWL_API_KEY", "firecrawl", "Firecrawl"),
    "tavily": Vendor("Tavily", "TAVILY_API_KEY", "tavily", "Tavily"),
    "elevenlabs": Vendor("ElevenLabs", "ELEVENLABS_API_KEY", "elevenlabs", "ElevenLabs"),
    "browseruse": Vendor("Browser Use", "BROWSER_USE_API_KEY", "browseruse", "BrowserUse"),
    "deepseek": Vendor("DeepSeek", "DEEPSEEK_API_KEY", "chat.deepseek", "DeepSeek"),
    "moonshot": Vendor("Moonshot", "MOONSHOT_API_KEY", "chat.moonshot", "Moonshot"),
}


def accounts_in_environment() -> list[Vendor]:
    """The vendor named by BUDGETGUARD_PROVIDER, or else those that a key in the environment selects.

    Raises ConfigurationError where it names none of ours.
    """
    named = os.environ.get("BUDGETGUARD_PROVIDER", "").strip()
    if named:
        if named not in VENDORS:
            # Not the value itself: it may be a key.
            msg = f"BUDGETGUARD_PROVIDER must be {one_of(list(VENDORS))}."
            raise ConfigurationError(msg)
        return [VENDORS[named]]
    return [each for each in _unasked() if os.environ.get(each.variable, "").strip()]


def one_of(names: list[str]) -> str:
    """The names as alternatives in a sentence."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _unasked() -> list[Vendor]:
    return [each for each in VENDORS.values() if each.unasked]


def from_environment(without: str, with_several: str, **options: Any) -> Provider:
    """The one provider that the environment names, or whose key it holds, made with `options`.

    Raises ConfigurationError where there is none, or more than one; it ends in the advice given.
    """
    found = accounts_in_environment()
    if len(found) == 1:
        return found[0].make(**options)
    if found:
        variables = " and ".join(each.variable for each in found)
        msg = f"{variables} are both set, so it is not clear which account is meant. {with_several}"
    else:
        variables = " nor ".join(each.variable for each in _unasked())
        msg = f"Neither {variables} is set. {without}"
    raise ConfigurationError(msg)


def is_of_another(provider: object, kind: type) -> bool:
    """Whether a provider is one of those built in, and not of that kind."""
    return isinstance(provider, HTTPProvider) and not isinstance(provider, kind)
