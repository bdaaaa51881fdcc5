"""The command line: a balance, a check for scripts, the sandbox and the demo."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from budgetguard._version import __version__
from budgetguard.balance import Balance
from budgetguard.credits import cost, spell, to_credits
from budgetguard.defaults import provider_from_environment
from budgetguard.errors import (
    BalanceUnavailable,
    ConfigurationError,
    InsufficientCredits,
    InvalidCredentials,
)
from budgetguard.guard import Guard
from budgetguard.providers import AnchorBrowser, PreDev
from budgetguard.switch import set_active

ENOUGH = 0
TOO_LITTLE = 1
USAGE = 2
UNKNOWN = 3

_PROVIDERS: dict[str, Callable[..., Any]] = {"predev": PreDev, "anchorbrowser": AnchorBrowser}
_WORDS = frozenset({"balance", "check", "sandbox", "demo", *_PROVIDERS})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).parse_args(given)
    # BUDGETGUARD=off lets guarded code pass; a check still has to tell what is there.
    set_active(True)
    try:
        code: int = options.run(options)
    except ConfigurationError as error:
        sys.stderr.write(f"budgetguard: {error}\n")
        return USAGE
    except InvalidCredentials as error:
        sys.stderr.write(f"budgetguard: {error}\n")
        return UNKNOWN
    except BalanceUnavailable as error:
        # Its own words tell of the next look, and here comes none.
        reason = f"The balance at {error.provider} is not known: {error.reason}."
        sys.stderr.write(f"budgetguard: {reason}\n")
        return UNKNOWN
    except ImportError as error:
        if error.name is None or error.name.startswith("budgetguard"):
            raise
        extra = "demo" if options.command == "demo" else "sandbox"
        wanted = f'pip install "budgetguard-preflight[{extra}]"'
        sys.stderr.write(f"budgetguard: {options.command} needs {error.name}: {wanted}\n")
        return USAGE
    except KeyboardInterrupt:
        return 130
    return code


def _balance(options: argparse.Namespace) -> int:
    balance = _guard(options).balance()
    if options.json:
        _print_json(_figures(options.provider_name, balance))
    else:
        _print(_sentence(options.provider_name, balance))
    return ENOUGH


def _check(options: argparse.Namespace) -> int:
    guard = _guard(options)
    balance = guard.balance()
    try:
        guard.acquire(min=options.min, cost=0, name="This check")
    except InsufficientCredits as error:
        enough, sentence = False, str(error)
    else:
        enough = True
        sentence = f"Enough: {spell(options.min)} credits are there. "
        sentence += _sentence(options.provider_name, balance)
    if options.json:
        figures = _figures(options.provider_name, balance)
        _print_json({"enough": enough, "min": _number(options.min), **figures})
    else:
        _print(sentence)
    return ENOUGH if enough else TOO_LITTLE


def _sandbox(options: argparse.Namespace) -> int:
    from budgetguard.testing.sandbox import serve

    try:
        serve(port=options.port, credits=options.credits, speed=options.speed, seed=options.seed)
    except OSError as error:
        sys.stderr.write(f"budgetguard: port {options.port} cannot be had: {error.strerror}\n")
        return USAGE
    except ValueError as error:
        sys.stderr.write(f"budgetguard: {error}\n")
        return USAGE
    return ENOUGH


def _demo(options: argparse.Namespace) -> int:
    from budgetguard.demo import run

    return run(seed=options.seed, as_json=options.json)


def _guard(options: argparse.Namespace) -> Guard:
    provider: PreDev | AnchorBrowser
    named = options.provider
    if named is None:
        provider = provider_from_environment(
            "Set one of them.", "Unset one, or say which with --provider."
        )
        if options.base_url is not None:
            provider = type(provider)(base_url=options.base_url)
    else:
        origin = {} if options.base_url is None else {"base_url": options.base_url}
        provider = _PROVIDERS[named](**origin)
    options.provider_name = provider.name
    return Guard(provider)


def _figures(provider: str, balance: Balance) -> dict[str, Any]:
    return {
        "provider": provider,
        "credits": _number(balance.credits),
        "tier": balance.tier,
        "max_concurrency": balance.max_concurrency,
        "cost_limit": _number(balance.cost_limit),
        "credits_used": _number(balance.credits_used),
        "as_of": balance.as_of.isoformat(timespec="milliseconds"),
    }


def _sentence(provider: str, balance: Balance) -> str:
    amount = "no limit" if balance.credits is None else f"{spell(balance.credits)} credits"
    more = [
        f"{label} {value}"
        for label, value in (
            ("tier", balance.tier),
            ("concurrent sessions", balance.max_concurrency),
            ("cost limit", None if balance.cost_limit is None else spell(balance.cost_limit)),
            ("used", None if balance.credits_used is None else spell(balance.credits_used)),
        )
        if value is not None
    ]
    details = f" ({', '.join(more)})" if more else ""
    return f"{provider}: {amount}{details}"


def _number(amount: Decimal | None) -> int | float | None:
    if amount is None:
        return None
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def _print_json(figures: dict[str, Any]) -> None:
    _print(json.dumps(figures))


def _print(text: str) -> None:
    """Print a line. Who reads no further hears the answer from the exit code all the same.

    Raises SystemExit with `UNKNOWN` where it cannot be written.
    """
    try:
        print(text, flush=True)  # noqa: T201  unlike `write`, it takes a closed standard output
    except OSError as error:
        # What is left in the buffer would be an error once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"budgetguard: the answer cannot be written: {error.strerror}\n")
            raise SystemExit(UNKNOWN) from None


def _amount(text: str) -> Decimal:
    try:
        return to_credits(cost(text, "it"))
    except (ValueError, InvalidOperation) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        raise ValueError(text)
    return port


_port.__name__ = "port number"


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed < float("inf"):
        raise ValueError(text)
    return speed


_speed.__name__ = "number of seconds per second"


# No option of ours is as long, or has a figure or an underscore in it.
_MAYBE_A_KEY = re.compile(r"[0-9_]|.{20}")


def _without(given: Sequence[str], message: str) -> str:
    """A message about arguments, without the values that were given: one may be a key."""
    for each in given:
        name, _, value = each.partition("=") if each.startswith("-") else ("", "", each)
        if _MAYBE_A_KEY.search(name):
            message = message.replace(name, "...")
        if value and value not in _WORDS and not re.fullmatch(r"[-+0-9.e]+", value):
            message = re.sub(rf"(?<!\w)'?{re.escape(value)}'?(?!\w)", "...", message)
    return message


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        """One whose errors show no values."""

        def error(self, message: str) -> NoReturn:
            super().error(_without(given, message))

    parser = Parser(
        prog="budgetguard",
        description="A pre-flight budget guard for APIs that are paid by credits.",
    )
    parser.add_argument("--version", action="version", version=f"budgetguard {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    balance = command(
        "balance",
        _balance,
        "Ask for the balance and print it. Exits 3 if it cannot be had.",
        "PREDEV_API_KEY=... budgetguard balance --json",
    )
    check = command(
        "check",
        _check,
        "Exit 0 if enough credits are there, 1 if not, 2 for wrong usage, 3 if nobody knows.",
        "budgetguard check --provider predev --min 50 && ./generate-spec",
    )
    check.add_argument("--min", type=_amount, required=True, metavar="N", help="credits needed")
    for asking in (balance, check):
        asking.add_argument(
            "--provider",
            choices=sorted(_PROVIDERS),
            help="whom to ask; default: whose key is in the environment",
        )
        asking.add_argument("--base-url", metavar="URL", help="ask there, a sandbox for example")

    sandbox = command(
        "sandbox",
        _sandbox,
        "Serve both providers' APIs on loopback, with accounts of play money, until Ctrl-C.",
        "budgetguard sandbox --port 8402 --credits 100",
    )
    sandbox.add_argument("--port", type=_port, default=8402, help="default: 8402; 0 takes any")
    sandbox.add_argument(
        "--credits", type=_amount, default=Decimal(100), metavar="N", help="default: 100"
    )
    sandbox.add_argument(
        "--speed",
        type=_speed,
        default=60.0,
        metavar="X",
        help="provider seconds per real second; default: 60",
    )

    demo = command(
        "demo",
        _demo,
        "Run one crowd of calls twice against the sandbox, unguarded and guarded, and compare.",
        "budgetguard demo --seed 7 --json",
    )
    for seeded in (sandbox, demo):
        seeded.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    for printing in (balance, check, demo):
        printing.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
