"""The command line: a balance, a check for scripts, the sandbox and the demo."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from budgetguard._cli import accounts, members, pause, sandbox
from budgetguard._cli.arguments import Parser, amount, worker_count
from budgetguard._cli.output import ExitCode, failure, print_failure
from budgetguard._core.activation import set_active
from budgetguard._core.errors import ConfigurationError
from budgetguard._core.events import logger
from budgetguard._core.pause import NO_REASON
from budgetguard._version import __version__
from budgetguard.providers.registry import VENDORS, one_of
from budgetguard.stores import SQLiteStore
from budgetguard.stores.base import StoreUnavailable

# The vendor in the examples.
_NAME, _VENDOR = next(iter(VENDORS.items()))
_PLACE = "the path of its file, or the URL of its server"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).read()
    # BUDGETGUARD=off lets guarded code pass; a check still has to tell what is available.
    set_active(True)
    # Without a handler Python prints warnings: each command reports itself what went wrong.
    logger.addHandler(logging.NullHandler())
    code: int
    try:
        code = options.run(options)
    except accounts.UNKNOWN_BALANCE as error:
        code, failed = accounts.explain(error)
    except StoreUnavailable as error:
        reason = f"{error.reason[0].upper()}{error.reason[1:]}."
        code, failed = ExitCode.UNKNOWN, failure(type(error).__name__, reason)
    except ImportError as error:
        missing = (error.name or "budgetguard").partition(".")[0]
        if missing == "budgetguard":
            raise
        extra = "demo" if options.command == "demo" else "sandbox"
        reason = (
            f"budgetguard {options.command} needs {missing}, which is not installed: run "
            f'`python -m pip install ".[{extra}]"` in the top folder of the checkout.'
        )
        code, failed = ExitCode.USAGE, failure(type(error).__name__, reason)
    except KeyboardInterrupt:
        reason = f"{options.command} was stopped by Ctrl-C. Goodbye."
        code, failed = ExitCode.INTERRUPTED, failure("KeyboardInterrupt", reason)
    else:
        return code
    print_failure(failed, as_json=getattr(options, "json", False))
    return code


def _demo(options: argparse.Namespace) -> int:
    from budgetguard._cli.demo import run

    store = accounts.store_of(options)
    if store is not None and options.workers == 1:
        msg = "--store is for the demo of several workers: give their number with --workers."
        raise ConfigurationError(msg)
    if isinstance(store, SQLiteStore):
        msg = "--store takes the URL of a server here: a file has no simulated time."
        raise ConfigurationError(msg)
    return run(seed=options.seed, workers=options.workers, as_json=options.json, server=store)


def _parser(given: Sequence[str]) -> Parser:
    parsers: dict[str, Parser] = {}
    parser = Parser(
        prog="budgetguard",
        description="A pre-flight budget guard for APIs that are paid by credits.",
        epilog="No account yet? `budgetguard demo` needs none, and `budgetguard sandbox` gives you one.",
        given=given,
        commands=parsers,
    )
    parser.add_argument("--version", action="version", version=f"budgetguard {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, title="commands", metavar="COMMAND"
    )

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
    ) -> Parser:
        added = parsers[name] = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            given=given,
            commands=parsers,
        )
        added.set_defaults(run=run)
        return added

    balance = command(
        "balance",
        accounts.balance,
        "Print the balance of your account, or of both if two keys are set. "
        "Exits with 0, 2 for wrong usage, or 3 if a balance is not known.",
        f"{_VENDOR.variable}=... budgetguard balance --json",
    )
    check = command(
        "check",
        accounts.check,
        "Exit with 0 if enough credits are available, 1 if too few are, 2 for wrong usage, "
        "3 if the balance is not known.",
        f"budgetguard check --provider {_NAME} --min 50 && ./generate-spec",
    )
    check.add_argument("--min", type=amount, required=True, metavar="N", help="credits needed")
    listing = command(
        "members",
        members.members,
        "Print the processes that spend from the accounts in a shared store, and what each of them holds. "
        "Sends nothing, and disturbs none of them.",
        "budgetguard members --store /var/lib/my-service/credits.db",
    )
    pausing = command(
        "pause",
        pause.pause,
        "Have every program of this user on this machine stop making calls paid from your account. "
        "Running calls go on. Programs hear of it within a second.",
        f'budgetguard pause --provider {_NAME} --reason "the key may have leaked"',
    )
    pausing.add_argument(
        "--reason",
        type=pause.reason,
        default=NO_REASON,
        metavar="TEXT",
        help="shown wherever a call is refused; at most 200 characters",
    )
    resuming = command(
        "resume",
        pause.resume,
        "End the pause by `budgetguard pause`. One by guard.pause() in a program goes on.",
        f"budgetguard resume --provider {_NAME}",
    )
    sandbox.add_arguments(
        command(
            "sandbox",
            sandbox.run,
            "Serve both providers' APIs on loopback, with accounts of play money, until Ctrl-C.",
            "budgetguard sandbox --port 8402 --credits 100",
        )
    )

    demo = command(
        "demo",
        _demo,
        "Run the same calls against a sandbox, unguarded and guarded, and compare.",
        "budgetguard demo --workers 4",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another set of calls; default: 0"
    )
    demo.add_argument(
        "--workers",
        type=worker_count,
        default=1,
        metavar="N",
        help="with 2 to 64: a third run, in which that many workers share a store",
    )
    for asking in (balance, check, listing, pausing, resuming):
        asking.add_argument(
            "--account",
            type=pause.account,
            metavar="NAME",
            help="the account= that the programs give to the provider, if they do",
        )
    for asking, store in (
        (balance, f"also what is available to all processes that share that store: {_PLACE}"),
        (check, f"decide by what is available to all processes that share that store: {_PLACE}"),
        (listing, f"the store that the processes share: {_PLACE}"),
        (pausing, "pause all processes that share that store, of whichever user"),
        (resuming, "end the pause of a store"),
        (
            demo,
            "the server in which the workers of the third run share a store; default: in memory",
        ),
    ):
        asking.add_argument(
            "--store",
            required=asking is listing,
            metavar="URL" if asking is demo else "PLACE",
            help=store,
        )
        asking.add_argument(
            "--prefix",
            metavar="NAME",
            help="of the store's keys in the server, if the programs give one to RedisStore",
        )
    for asking in (balance, check, listing, pausing, resuming):
        asking.add_argument(
            "--provider",
            choices=sorted(VENDORS),
            metavar="NAME",
            help=f"the account's provider: {one_of(sorted(VENDORS))}; default: "
            "BUDGETGUARD_PROVIDER, or the one whose key is set "
            f"({one_of([name for name, vendor in VENDORS.items() if vendor.unasked])})",
        )
        asking.add_argument(
            "--base-url", metavar="URL", help="where the provider's API is, for example a sandbox"
        )

    for printing, more in (
        (balance, "; of two accounts, a list under `accounts`"),
        (check, ""),
        (listing, ""),
        (pausing, ""),
        (resuming, ""),
        (demo, ""),
    ):
        words = f"print one JSON object{more}; on failure one with error, reason and retry_after"
        printing.add_argument("--json", action="store_true", help=words)
    return parser
