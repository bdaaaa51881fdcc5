"""What a provider's account is made of, checked at construction."""

import hashlib
import os
from decimal import Decimal

from budgetguard._core.amounts import Amount, exact
from budgetguard._core.errors import ConfigurationError
from budgetguard._io.credentials import Secret


def find_key(given: str | None, *, provider: str, variable: str) -> Secret | Exception:
    """The given key, or else the one from the environment; or the error to raise.

    The error is returned, not raised, so that the caller can first delete its own variable: a traceback may
    be printed together with its local variables.
    """
    value = os.environ.get(variable, "").strip() if given is None else given
    if given is None and not value:
        return ConfigurationError(
            f"No key for {provider} was given: set {variable} in the environment, or pass api_key=."
        )
    try:
        return Secret(value, f"The {provider} key" + f" in {variable}" * (given is None))
    except (ConfigurationError, TypeError) as error:
        return error.with_traceback(None)


def find_extra(extra_credits: Amount) -> Decimal:
    """`extra_credits` as an exact Decimal; raises TypeError or ValueError, also if it is negative."""
    extra = exact(extra_credits, "extra_credits")
    if extra < 0:
        msg = f"extra_credits must not be negative: {extra}"
        raise ValueError(msg)
    return extra


def find_step(topup_step: Amount | None) -> Decimal | None:
    """`topup_step` as an exact Decimal, or None; raises TypeError or ValueError unless it is above zero."""
    if topup_step is None:
        return None
    step = exact(topup_step, "topup_step")
    if step <= 0:
        msg = f"topup_step must be above zero: {step}"
        raise ValueError(msg)
    return step


def check_account(account: str | None) -> str | None:
    """`account` without surrounding white space; raises TypeError or ValueError unless it is a name or None."""
    if account is None:
        return None
    if not isinstance(account, str):
        msg = f"account takes a str or None, not {type(account).__name__}"
        raise TypeError(msg)
    if not account.strip():
        msg = "account is empty: give the account a name, or leave account= out"
        raise ValueError(msg)
    return account.strip()


def check_flag(value: object, what: str) -> bool:
    """`value` if it is a bool; raises TypeError otherwise, because a text like "false" would count as true."""
    if not isinstance(value, bool):
        msg = f"{what} takes True or False, not {type(value).__name__}"
        raise TypeError(msg)
    return value


def fingerprint(*parts: str) -> str:
    """A digest of `parts`; the same characters divided differently give another digest."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
