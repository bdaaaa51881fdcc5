"""The `sandbox` command: the providers' APIs on loopback, with accounts of play money."""

import argparse
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from budgetguard._core.errors import ConfigurationError

N = TypeVar("N", int, float, Decimal)

_WHILE_IT_RUNS = """

while it runs, in another terminal:
  curl URL/_sandbox/state                             the accounts and all work, as JSON
  curl URL/_sandbox/top-up -d '{"credits": 50}'       add credits to all accounts
  curl URL/_sandbox/faults -d '{"pattern": "/credits-balance", "status": 500, "times": 3}'
  curl URL/_sandbox/refuse -d '{"provider": "acme", "with": "exhausted"}'
Further vendors are served below URL, as in URL/acme; the state has the key of each.
The project id of the Anchor Browser account is sandbox-project; none needs to be set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `budgetguard sandbox` to its parser."""
    parser.epilog = f"{parser.epilog or ''}{_WHILE_IT_RUNS}"

    def option(
        name: str,
        kind: Callable[[str], N],
        within: tuple[float, float],
        default: N | None,
        help: str,
        metavar: str = "N",
    ) -> None:
        least, most = within
        given = "none" if default is None else f"{default:g}"
        parser.add_argument(
            f"--{name}",
            type=_bounded(kind, least, most),
            default=default,
            metavar=metavar,
            help=f"{help}; {_range(least, most)}; default: {given}",
        )

    option("port", int, (0, 65535), 8402, "the port to listen on, 0 for any free one", "P")
    option("credits", Decimal, (0, 1e9), Decimal(1000), "credits in each account")
    option(
        "max-browsers",
        int,
        (-1, 1e6),
        5,
        "Anchor Browser sessions that may be open at once, -1 for any number",
    )
    option(
        "cost-limit",
        Decimal,
        (0, 1e9),
        None,
        "credits that the Anchor Browser project may use in all",
    )
    option(
        "speed",
        float,
        (1e-3, 1e9),
        60.0,
        "how fast the providers' clock runs: their seconds per real second",
        "X",
    )
    option(
        "lag",
        float,
        (0, 1e9),
        0.0,
        "seconds on the providers' clock until a charge shows in the reported balance",
        "S",
    )
    option("latency", float, (0, 3600), 0.0, "real seconds before every reply", "S")
    option(
        "fail",
        float,
        (0, 1),
        0.0,
        "share of the requests that are answered with 500 or 503 and not carried out",
        "RATE",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="a whole number that decides costs, durations and failures; default: 0",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; returns exit code 0. Raises ConfigurationError if it cannot start."""
    from budgetguard.testing.sandbox import serve

    try:
        serve(
            port=options.port,
            credits=options.credits,
            max_concurrent_browsers=options.max_browsers,
            cost_limit=options.cost_limit,
            speed=options.speed,
            lag=options.lag,
            latency=options.latency,
            fail=options.fail,
            seed=options.seed,
        )
    except OSError as error:
        msg = (
            f"port {options.port} cannot be used ({error.strerror}): "
            "choose another one with --port; --port 0 takes any free one."
        )
        raise ConfigurationError(msg) from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return 0


def _bounded(kind: Callable[[str], N], least: float, most: float) -> Callable[[str], N]:
    number = "whole number" if isinstance(kind("1"), int) else "number"

    def read(text: str) -> N:
        try:
            value = kind(text)
            # NaN compares false, or not at all.
            if least <= value <= most:
                return value
        except (ValueError, InvalidOperation):
            pass
        msg = f"expected a {number} {_range(least, most)}"
        raise argparse.ArgumentTypeError(msg)

    return read


def _range(least: float, most: float) -> str:
    return f"from {least:,.10g} to {most:,.10g}"
