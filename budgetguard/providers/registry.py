"""The vendors that are built in: by which name, and with which key in the environment."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from budgetguard._core.errors import ConfigurationError
from budgetguard.providers.anchorbrowser.provider import AnchorBrowser
from budgetguard.providers.base import Provider
from budgetguard.providers.predev.provider import PreDev


class Vendor(NamedTuple):
    """`make` builds its provider, which is called `name`, from the key in `variable`.

    Only where `unasked` is True does a key in the environment alone select it.
    """

    name: str
    variable: str
    make: Callable[..., Provider]
    unasked: bool = False


def _vendor(kind: Any, *, unasked: bool = False) -> Vendor:
    return Vendor(kind.name, kind.variable, kind, unasked)


VENDORS: Mapping[str, Vendor] = {
    "predev": _vendor(PreDev, unasked=True),
    "anchorbrowser": _vendor(AnchorBrowser, unasked=True),
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
    makers = tuple(each.make for each in VENDORS.values() if isinstance(each.make, type))
    return isinstance(provider, makers) and not isinstance(provider, kind)
