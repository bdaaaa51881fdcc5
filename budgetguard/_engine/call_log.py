"""Log records about calls: refusals, and calls whose cost is not known.

These functions run outside the account's lock, as effects of a change, and return at once if the
record would be dropped.
"""

import logging

from budgetguard._core.amounts import to_credits
from budgetguard._core.errors import (
    NEVER_REACHED,
    BudgetGuardError,
    amount_of,
    in_seconds,
    may_never_have_begun,
)
from budgetguard._core.events import logger


def log_refused(error: BudgetGuardError, *, observed: bool) -> None:
    """A call was refused, or would have been if the guard did not only observe."""
    if logger.isEnabledFor(logging.INFO):
        # Only the text: a kept log record would keep the error alive, and with it all its frames.
        logger.info("%s%s", "Observed and admitted: " if observed else "Refused: ", str(error))


def log_kept(
    operation: str,
    micro: int,
    slots: int,
    for_seconds: float,
    cause: str | None,
    unit: str,
    *,
    first: bool,
) -> None:
    """A hold was kept: a warning if it is the operation's first."""
    level = logging.WARNING if first else logging.INFO
    if not logger.isEnabledFor(level):
        return
    held = amount_of(to_credits(micro), unit)
    if slots:
        held += f" and {slots} slot{'s' * (slots != 1)}"
    logger.log(
        level,
        "The cost of %s is not known%s. The guard counts %s for it until %s.%s",
        operation,
        f", because it raised {cause}" if cause else "",
        held,
        f"a refresh in {in_seconds(for_seconds)} shows the charge"
        if for_seconds
        else "the next refresh",
        # Without an exception the advice does not apply: a transport's work may still be running.
        f" {NEVER_REACHED}" if cause and may_never_have_begun([cause]) else "",
    )
