"""How a message describes a wrong argument: by its type, never by its value.

A key that was passed in the wrong place is the likeliest mistake of all. So a message quotes nothing
but numbers, and names that are close to a valid one.
"""

from collections.abc import Collection
from decimal import Decimal

_TEENS = range(11, 14)


def shown(value: object) -> str:
    """A number as it is written; for anything else its type."""
    return repr(value) if type(value) in (int, float, Decimal) else f"a {type(value).__name__}"


def other(value: object, known: Collection[str] = ()) -> str:
    """How to name a value that is none of the few words that are allowed; quoted if it resembles one."""
    if not isinstance(value, str):
        return type(value).__name__
    meant = near(value, known)
    return f"{value!r}. Did you mean {' or '.join(meant)}?" if meant else "another string"


def near(name: str, known: Collection[str]) -> list[str]:
    """The known names that the unknown `name` may be a misspelling of."""
    # Imported here, so that `import budgetguard` does not pay for it.
    from difflib import get_close_matches

    return get_close_matches(name, known, n=3)


def unknown(name: str, known: Collection[str], what: str, names: Collection[object] = ()) -> str:
    """How to describe a `name` that no `what` has; `names` are all the names that were given.

    The name is quoted if it is close to a valid one. Otherwise its position is given.
    """
    meant = near(name, known)
    if meant:
        return f"{name!r}, but no {what} has that name. Did you mean {' or '.join(meant)}?"
    which = f"its {place(names, name)} name" if name in names else "a name"
    article = "an" if what[0] in "aeiou" else "a"
    there = f"There is: {', '.join(known)}." if known else f"There is no {what} at all."
    return f"{article} {what} that does not exist ({which}). {there}"


def place(things: Collection[object], thing: object) -> str:
    """The position of one thing among several: "1st", "2nd"."""
    number = list(things).index(thing) + 1
    last = number % 10
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(0 if number % 100 in _TEENS else last, "th")
    return f"{number}{suffix}"
