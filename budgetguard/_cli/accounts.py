"""The commands `balance` and `check`: one request for the balance, and what it says."""

import argparse
import os
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from budgetguard._cli.output import (
    ExitCode,
    failure,
    figures,
    number,
    print_answer,
    print_failure,
    print_json,
    sentence,
)
from budgetguard._core.amounts import CREDITS, spell
from budgetguard._core.balance import Balance
from budgetguard._core.errors import (
    BalanceUnavailable,
    ConfigurationError,
    InsufficientCredits,
    Paused,
    amount_of,
)
from budgetguard._core.leased_ledger import LeasedLedger
from budgetguard._core.other_spenders import Belief
from budgetguard._engine.binding import binding_of
from budgetguard.guard import Guard
from budgetguard.providers.base import Provider
from budgetguard.providers.registry import (
    VENDORS,
    accounts_in_environment,
    from_environment,
)
from budgetguard.stores import RedisStore, SQLiteStore

NamedStore: TypeAlias = SQLiteStore | RedisStore

UNKNOWN_BALANCE = (BalanceUnavailable, ConfigurationError)

_NO_ACCOUNT = (
    "No account yet? Run `budgetguard sandbox` in another terminal and paste here what it prints."
)


def balance(options: argparse.Namespace) -> int:
    """Print the balance of the account that is named, or of each account in the environment."""
    if options.provider is None and len(accounts_in_environment()) > 1:
        return _balances(options)
    provider = provider_of(options)
    guard = Guard(provider, store=store_of(options))
    found = guard.balance()
    if options.json:
        print_json(_figures(guard, found))
    else:
        print_answer(_sentence(guard, found))
    return ExitCode.ENOUGH


def check(options: argparse.Namespace) -> int:
    """Tell whether `min` credits are available."""
    provider = provider_of(options)
    guard = Guard(provider, store=store_of(options))
    found = guard.balance()
    reason = None
    try:
        guard.acquire(min=options.min, cost=0, name="This check").release()
        available = guard.available
    except InsufficientCredits as error:
        available, reason = error.available, str(error)
    except Paused as error:
        available, reason = guard.available, str(error)
    if options.json:
        answer = {
            "enough": reason is None,
            "min": number(options.min),
            "available": number(available),
            "reason": reason,
        }
        print_json(answer | _figures(guard, found))
    elif reason is None:
        print_answer(enough(options.min, available, provider.name, found.unit))
    else:
        print_answer(reason)
    return ExitCode.ENOUGH if reason is None else ExitCode.TOO_LITTLE


def explain(
    error: BalanceUnavailable | ConfigurationError,
) -> tuple[ExitCode, dict[str, Any]]:
    """The exit code and the failure of a command that could not find out a balance."""
    kind = type(error).__name__
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE, failure(kind, str(error))
    # Without the guard's next attempt: the command makes none.
    reason = f"The balance at {error.provider} is not known: {error.reason}."
    return ExitCode.UNKNOWN, failure(kind, reason, error.retry_after if error.retryable else None)


def enough(needed: Decimal, available: Decimal | None, provider: str, unit: str = CREDITS) -> str:
    """What `check` prints where the credits are enough."""
    begins = f"Enough for {amount_of(needed, unit)}"
    if available is None or not available.is_finite():
        return f"{begins}: {provider} sets no limit."
    return f"{begins}: {spell(available)} available at {provider}."


def _balances(options: argparse.Namespace) -> int:
    if options.base_url is not None:
        msg = f"--base-url is for one account. {_name_one()}"
        raise ConfigurationError(msg)
    answers: list[dict[str, Any]] = []
    code = ExitCode.ENOUGH
    for vendor in accounts_in_environment():
        try:
            guard = Guard(vendor.make(**_origin(options)), store=store_of(options))
            found = guard.balance()
        except UNKNOWN_BALANCE as error:
            its_code, failed = explain(error)
            code = max(code, its_code)
            answers.append({"provider": vendor.name, **failed})
            if not options.json:
                print_failure(failed, as_json=False)
        else:
            answers.append(_figures(guard, found))
            if not options.json:
                print_answer(_sentence(guard, found))
    if options.json:
        print_json({"accounts": answers})
    return code


def provider_of(options: argparse.Namespace) -> Provider:
    """The provider that is named, or the one in the environment; raises ConfigurationError."""
    named = options.provider
    vendors = [VENDORS[named]] if named else accounts_in_environment()
    origin = _origin(options)
    if len(vendors) != 1:
        # Says which variables are set, or that none is.
        return from_environment(f"Set one of them. {_NO_ACCOUNT}", _name_one(), **origin)
    vendor = vendors[0]
    if not os.environ.get(vendor.variable, "").strip():
        msg = f"{vendor.variable} is not set. {_NO_ACCOUNT}"
        raise ConfigurationError(msg)
    return vendor.make(**origin)


def providers_of(options: argparse.Namespace) -> list[Provider]:
    """The provider that is named, or those in the environment: one, several or none."""
    if options.provider is not None:
        return [provider_of(options)]
    return [vendor.make(**_origin(options)) for vendor in accounts_in_environment()]


def _origin(options: argparse.Namespace) -> dict[str, str]:
    """What distinguishes the account but its key, as programs give it to the provider."""
    given = {"base_url": options.base_url, "account": options.account}
    return {name: value for name, value in given.items() if value is not None}


def required_store(options: argparse.Namespace) -> NamedStore:
    """The store that is named: a file that is there, or a server; raises ConfigurationError."""
    place: str = options.store
    if not place:
        msg = (
            "--store is empty: give it the path that the programs give to SQLiteStore, or the URL that they "
            "give to RedisStore."
        )
        raise ConfigurationError(msg)
    if "://" in place:
        return RedisStore(place, **({} if options.prefix is None else {"prefix": options.prefix}))
    if options.prefix is not None:
        msg = "--prefix is for a store in a server, and --store names a file."
        raise ConfigurationError(msg)
    if Path(place).is_dir():
        msg = f"{Path(place).absolute()} is a directory: give --store the path of the file in it."
        raise ConfigurationError(msg)
    # One that is not there would be made.
    if not Path(place).exists():
        msg = (
            f"There is no store at {Path(place).absolute()}. Give --store the path that the programs give to "
            "SQLiteStore; the first of them that uses it makes it."
        )
        raise ConfigurationError(msg)
    return SQLiteStore(place)


def store_of(options: argparse.Namespace) -> NamedStore | None:
    """The store that is named, if one is."""
    if options.store is not None:
        return required_store(options)
    if options.prefix is not None:
        msg = "--prefix is for a store in a server: name that with --store."
        raise ConfigurationError(msg)
    return None


def _figures(guard: Guard, found: Balance) -> dict[str, Any]:
    known = figures(guard.provider.name, found, _belief(guard), _paused(guard))
    ledger = binding_of(guard).account.ledger
    if isinstance(ledger, LeasedLedger):
        # This command is a member itself.
        known["processes"] = ledger.view.members - 1
        known["available"] = number(guard.available)
    return known


def _sentence(guard: Guard, found: Balance) -> str:
    known = sentence(guard.provider.name, found, _belief(guard), _paused(guard))
    ledger = binding_of(guard).account.ledger
    if isinstance(ledger, LeasedLedger):
        others = ledger.view.members - 1
        processes = f"{others or 'no'} other process{'es' * (others != 1)}"
        available = guard.available
        left = "no limit" if available is None else spell(max(available, Decimal(0)))
        known += f"; {left} available, {processes} in the store"
    return known


def _belief(guard: Guard) -> Belief | None:
    return binding_of(guard).account.ledger.belief


def _paused(guard: Guard) -> str | None:
    return binding_of(guard).account.ledger.paused


def _name_one() -> str:
    names = (name for name, vendor in VENDORS.items() if vendor.unasked)
    return f"Name it with --provider {' or --provider '.join(names)}."
