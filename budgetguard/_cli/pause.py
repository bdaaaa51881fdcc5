"""The commands `pause` and `resume`: a file for this user's programs, or a message to a store's members."""

import argparse

from budgetguard._cli.accounts import provider_of, store_of
from budgetguard._cli.output import ExitCode, print_answer, print_json
from budgetguard._cli.store_pause import pause_members
from budgetguard._core.pause import checked_reason
from budgetguard._io import pause_file
from budgetguard.providers.base import Provider


def pause(options: argparse.Namespace) -> int:
    """Have all guards of the account stop admitting calls, in every process of this user or of a store."""
    provider = provider_of(options)
    store = store_of(options)
    if store is not None:
        pause_members(store, provider, options.reason)
        words = (
            f"{_which(options, provider)} is paused: {options.reason}. No process that shares "
            f"{store.name} admits calls that are paid from this account, until "
            "`budgetguard resume --store`."
        )
        return _answer(options, provider, options.reason, words)
    pause_file.write(str(provider.fingerprint), options.reason)
    words = (
        f"{_which(options, provider)} is paused: {options.reason}. Within a second, no program of this user on "
        "this machine admits calls that are paid from this account, until `budgetguard resume`."
    )
    return _answer(options, provider, options.reason, words)


def resume(options: argparse.Namespace) -> int:
    """End such a pause."""
    provider = provider_of(options)
    store = store_of(options)
    if store is not None:
        was_paused = pause_members(store, provider, None) is not None
        which = _which(options, provider)
        words = f"{which} was not paused by `budgetguard pause --store`."
        if was_paused:
            words = f"{which} is resumed: processes that share {store.name} admit its calls again."
        return _answer(options, provider, None, words)
    ended = pause_file.remove(str(provider.fingerprint))
    which = _which(options, provider)
    words = f"{which} was not paused by `budgetguard pause`."
    if ended:
        words = f"{which} is resumed: within a second, programs admit its calls again."
    return _answer(options, provider, None, words)


def _which(options: argparse.Namespace, provider: Provider) -> str:
    """The account that is meant, by all that distinguishes it from others but its key."""
    name = f"The account {options.account} at " if options.account else "The account at "
    return f"{name}{provider.name} ({provider.base_url})"


def reason(text: str) -> str:
    """The reason for a pause, for argparse."""
    try:
        return checked_reason(text)
    except ValueError as error:
        msg = "expected a text of 1 to 200 characters"
        raise argparse.ArgumentTypeError(msg) from error


def account(name: str) -> str:
    """The name of an account, for argparse."""
    if not name.strip():
        msg = "expected a name"
        raise argparse.ArgumentTypeError(msg)
    return name


def _answer(
    options: argparse.Namespace, provider: Provider, paused: str | None, words: str
) -> ExitCode:
    if options.json:
        account, url = options.account, provider.base_url
        print_json(
            {"provider": provider.name, "base_url": url, "account": account, "paused": paused}
        )
    else:
        print_answer(words)
    return ExitCode.ENOUGH
