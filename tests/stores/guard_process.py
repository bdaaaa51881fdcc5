"""A process with a guard that shares its account: it does what it is told, a word a line.

Its store is in the file at a path, or in the server at a URL, there under a prefix that is given after it.

`call N` makes a call of N credits, `hold N` begins one, `end` ends it, `quit` exits in good order. Each is
answered by a line.
"""

import logging
import sys

from budgetguard import BudgetGuardError, Guard, Hold, PreDev
from budgetguard.stores import RedisStore, SQLiteStore


def main(place: str, *prefix: str) -> None:
    """Do as told, until there is nothing more."""
    logging.getLogger("budgetguard").addHandler(logging.NullHandler())
    store = RedisStore(place, prefix=prefix[0]) if prefix else SQLiteStore(place)
    guard = Guard(PreDev(), store=store)
    holds: list[Hold] = []
    for line in sys.stdin:
        verb, _, amount = line.strip().partition(" ")
        answer = verb
        try:
            match verb:
                case "call":
                    guard.acquire(float(amount)).settle()
                case "hold":
                    holds.append(guard.acquire(float(amount)))
                case "end":
                    holds.pop().settle()
                case _:
                    return
        except BudgetGuardError as error:
            answer = str(error)
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
