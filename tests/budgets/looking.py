"""What these tests look at: a budget's figures, and what an account still holds."""

from decimal import Decimal

from budgetguard import Guard
from budgetguard._engine.binding import binding_of
from budgetguard.budget import Budget


def figures(budget: Budget) -> tuple[Decimal, Decimal, Decimal]:
    """What is spent, held and left of a budget."""
    return budget.spent, budget.held, budget.left


def open_in(guard: Guard) -> tuple[int, int, int]:
    """What the account holds, in micro-credits, for how many calls, with how many slots."""
    account = binding_of(guard).account
    account.flush()
    ledger = account.ledger
    return ledger.held, ledger.running, ledger.slots_held


NOTHING = (0, 0, 0)
