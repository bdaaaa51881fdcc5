"""What is logged of calls: those that were refused, and those whose cost nobody knows.

These run outside the account's lock, as the effects of a change, and cost nothing where nobody
listens.
"""

import logging

from budgetguard.credits import spell, to_credits
from budgetguard.errors import NEVER_REACHED, BudgetGuardError, in_seconds
from budgetguard.events import logger


def log_refused(error: BudgetGuardError, *, observed: bool) -> None:
    """A caller was refused, or would have been, if it were not only observed."""
    if logger.isEnabledFor(logging.INFO):
        # The text alone: who keeps log records would keep the error, and all that its frames hold.
        logger.info("%s%s", "Observed, and let in: " if observed else "Refused: ", str(error))


def log_kept(
    operation: str, micro: int, slots: int, for_seconds: float, cause: str | None, *, first: bool
) -> None:
    """A hold was kept: a warning where it is the operation's first."""
    level = logging.WARNING if first else logging.INFO
    if not logger.isEnabledFor(level):
        return
    amount = to_credits(micro)
    held = f"{spell(amount)} credit{'s' * (amount != 1)}"
    if slots:
        held += f" and {slots} slot{'s' * (slots != 1)}"
    logger.log(
        level,
        "What %s cost is not known%s. Counting %s for it until %s. %s",
        operation,
        f", because it raised {cause}" if cause else "",
        held,
        f"a refresh can tell, {in_seconds(for_seconds)} from now"
        if for_seconds
        else "the next refresh",
        NEVER_REACHED,
    )
