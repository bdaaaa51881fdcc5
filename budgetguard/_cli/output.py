"""What the commands print: an answer, or one message for one failure."""

import json
import os
import sys
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, TextIO

from budgetguard._core.amounts import as_number, spell
from budgetguard._core.balance import Balance
from budgetguard._core.other_spenders import Belief


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    ENOUGH = 0
    TOO_LITTLE = 1
    USAGE = 2
    UNKNOWN = 3
    INTERRUPTED = 130


def print_answer(text: str) -> None:
    """Print an answer on standard output.

    A reader that has closed its end is no failure: the exit code still has the answer. Raises
    SystemExit with `UNKNOWN` if the answer cannot be written for another reason.
    """
    error = _write(sys.stdout, text)
    if error is not None and not isinstance(error, BrokenPipeError):
        print_note(f"budgetguard: the answer cannot be written: {error.strerror}")
        raise SystemExit(ExitCode.UNKNOWN)


def print_note(text: str) -> None:
    """Print on standard error; if that cannot be written, the exit code has to be enough."""
    _write(sys.stderr, text)


def print_json(figures: dict[str, Any]) -> None:
    """Print one JSON object."""
    print_answer(json.dumps(figures))


def print_failure(failed: dict[str, Any], *, as_json: bool) -> None:
    """Print why there is no answer: a sentence on standard error, or JSON on standard output."""
    if as_json:
        print_json(failed)
    else:
        print_note(f"budgetguard: {failed['reason']}")


def failure(error: str, reason: str, retry_after: float | None = None) -> dict[str, Any]:
    """The JSON object of a failure."""
    after = None if retry_after is None else round(retry_after, 3)
    return {"error": error, "reason": reason, "retry_after": after}


def figures(
    provider: str, balance: Balance, belief: Belief | None, paused: str | None = None
) -> dict[str, Any]:
    """The JSON object of a balance, whether others are believed to spend from it, and why it is paused."""
    since = None if belief is None else datetime.fromtimestamp(belief.since.wall, UTC)
    return {
        "provider": provider,
        "credits": number(balance.credits),
        "unit": balance.unit,
        "tier": balance.tier,
        "max_concurrency": balance.max_concurrency,
        "cost_limit": number(balance.cost_limit),
        "credits_used": number(balance.credits_used),
        "renews_at": None if balance.renews_at is None else balance.renews_at.isoformat(),
        "as_of": balance.as_of.isoformat(timespec="milliseconds"),
        "others_spend": None if belief is None else belief.others,
        "others_since": None if since is None else since.isoformat(timespec="milliseconds"),
        "paused": paused,
    }


def sentence(
    provider: str, balance: Balance, belief: Belief | None, paused: str | None = None
) -> str:
    """A balance in words; says if others are believed to spend from the account, and if it is paused."""
    amount = "no limit" if balance.credits is None else f"{spell(balance.credits)} {balance.unit}"
    more = [
        f"{label} {value}"
        for label, value in (
            ("tier", balance.tier),
            ("concurrent sessions", balance.max_concurrency),
            ("cost limit", None if balance.cost_limit is None else spell(balance.cost_limit)),
            ("used", None if balance.credits_used is None else spell(balance.credits_used)),
            ("renews at", None if balance.renews_at is None else _minute(balance.renews_at)),
        )
        if value is not None
    ]
    if belief is not None and belief.others:
        since = datetime.fromtimestamp(belief.since.wall, UTC).isoformat(timespec="seconds")
        more.append(f"others spend from it, by a proof of {since}")
    details = f" ({', '.join(more)})" if more else ""
    return f"{provider}: {amount}{details}" + ("" if paused is None else f"; paused: {paused}")


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def number(amount: Decimal | None) -> int | float | None:
    """An amount as JSON has it: null where there is none, or no limit."""
    return None if amount is None or not amount.is_finite() else as_number(amount)


def _write(stream: TextIO | None, text: str) -> OSError | None:
    if stream is None:  # it was closed before the program began
        return None
    encoding = stream.encoding or "utf-8"
    try:
        # A provider's words may have characters that this terminal has not.
        stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        # What remains in the buffer would be an error once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None
