"""What both providers' accounts are made of, checked at construction."""

import hashlib
import os
from decimal import Decimal

from budgetguard.credits import Amount, exact
from budgetguard.errors import ConfigurationError
from budgetguard.secret import Secret


def find_key(given: str | None, *, provider: str, variable: str) -> Secret | Exception:
    """The key as given, or else from the environment; or the error to raise.

    It is returned, not raised, so that the caller may first forget what was given: a traceback may
    be printed together with its locals.
    """
    value = os.environ.get(variable, "").strip() if given is None else given
    if given is None and not value:
        return ConfigurationError(
            f"There is no key for {provider}: set {variable} in the environment, or pass api_key=."
        )
    try:
        return Secret(value, f"The {provider} key" + f" in {variable}" * (given is None))
    except (ConfigurationError, TypeError) as error:
        return error.with_traceback(None)


def find_extra(extra_credits: Amount) -> Decimal:
    """`extra_credits` as an exact Decimal; raises TypeError or ValueError, also when negative."""
    extra = exact(extra_credits, "extra_credits")
    if extra < 0:
        msg = f"extra_credits must not be negative: {extra}"
        raise ValueError(msg)
    return extra


def check_flag(value: object, what: str) -> bool:
    """`value` if it is a bool; raises TypeError, since a text like "false" would count as true."""
    if not isinstance(value, bool):
        msg = f"{what} takes True or False, not {type(value).__name__}"
        raise TypeError(msg)
    return value


def fingerprint(*parts: str) -> str:
    """A digest of `parts` that no other division of the same characters has."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
