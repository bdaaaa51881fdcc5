"""The fast path: how calls are admitted where there is nothing to decide.

Most calls find a fresh balance, an empty wait queue, and enough room. In that case a decision comes
down to three figures, which every change keeps up to date: until when the balance is fresh, by two
clocks (`Account.fresh_until_mono` and `Account.fresh_until_wall`), and how many micro-credits a call
must leave available (`Subscriber.reserve`). A call takes its credits with exactly these steps:

    if mono < fresh_until_mono and wall < fresh_until_wall and room - need >= reserve:
        room -= cost
        held += cost
        running += 1

None of them calls a function. CPython switches threads, and runs signal handlers, only at a call and
where a loop starts over. So with a GIL nothing runs in between, and no lock is needed;
tests/guard/test_atomic.py checks the bytecode for that. A change of the ledger that takes more steps
than these first marks the balance as not fresh, see `Account._change`.

`CallSpec.begin` takes these steps for blocks, `acquire`, tools and transports, which get a Hold. A
decorated function needs no Hold, and takes them in its own frame (`_decorators/wrappers.py`).

A guard's fast path is closed while its `reserve` is None: before its first call, once the guard is
closed, while guards are switched off, and after a guard with a new `alert_below` joined the account.
The next call that a decision admits opens it again. Without a GIL it is never opened: every call is
decided under the lock.
"""

import logging
from typing import TYPE_CHECKING

from budgetguard._core.activation import ACTIVATION
from budgetguard._core.events import logger
from budgetguard._core.reentrancy import ATOMIC

if TYPE_CHECKING:
    from budgetguard._engine.account import Account
    from budgetguard._engine.subscriber import Subscriber


def open_for(subscriber: "Subscriber", account: "Account") -> None:
    """Open a guard's fast path, unless each of its calls has to be checked."""
    if subscriber.reserve is not None or not ATOMIC or logger.isEnabledFor(logging.DEBUG):
        # At DEBUG, calls that are held twice are logged, see `nested_holds`.
        return
    terms, mark = subscriber.terms, account.mark
    subscriber.reserve = max(terms.floor - terms.extra, mark)
    # Checked last: code that changes one of these changes it first, and then closes the path.
    if subscriber.closed or ACTIVATION.passive or account.mark != mark:
        subscriber.close_fast_path()
