"""The vendors that are built in: by which name, and with whose key in the environment."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from budgetguard._core.errors import ConfigurationError
from budgetguard.providers.anchorbrowser.provider import AnchorBrowser
from budgetguard.providers.base import Provider
from budgetguard.providers.predev.provider import PreDev


class Vendor(NamedTuple):
    """`make` builds its provider, which is called `name`, from the key in `variable`."""

    name: str
    variable: str
    make: Callable[..., Provider]


VENDORS: Mapping[str, Vendor] = {
    "predev": Vendor(PreDev.name, "PREDEV_API_KEY", PreDev),
    "anchorbrowser": Vendor(AnchorBrowser.name, "ANCHORBROWSER_API_KEY", AnchorBrowser),
}


def accounts_in_environment() -> list[Vendor]:
    """The vendor named by BUDGETGUARD_PROVIDER, or else those whose key the environment holds.

    Raises ConfigurationError where it names none of ours.
    """
    named = os.environ.get("BUDGETGUARD_PROVIDER", "").strip()
    if named:
        if named not in VENDORS:
            # Not the value itself: it may be a key.
            msg = f"BUDGETGUARD_PROVIDER must be {' or '.join(VENDORS)}."
            raise ConfigurationError(msg)
        return [VENDORS[named]]
    return [each for each in VENDORS.values() if os.environ.get(each.variable, "").strip()]


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
        variables = " nor ".join(each.variable for each in VENDORS.values())
        msg = f"Neither {variables} is set. {without}"
    raise ConfigurationError(msg)


def is_of_another(provider: object, kind: type) -> bool:
    """Whether a provider is one of those built in, and not of that kind."""
    makers = tuple(each.make for each in VENDORS.values() if isinstance(each.make, type))
    return isinstance(provider, makers) and not isinstance(provider, kind)
