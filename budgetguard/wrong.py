"""What a message says of an argument that is wrong: its type, and never its value.

A key given in the wrong place is the likeliest mistake of all. So nothing is quoted but numbers, and
names that are nearly a right one.
"""

from collections.abc import Collection
from decimal import Decimal

_TEENS = range(11, 14)


def shown(value: object) -> str:
    """A number as it is written; of all else its type."""
    return repr(value) if type(value) in (int, float, Decimal) else f"a {type(value).__name__}"


def other(value: object) -> str:
    """What stands where one of a few words is wanted."""
    return "another text" if isinstance(value, str) else type(value).__name__


def near(name: str, known: Collection[str]) -> list[str]:
    """Of names that are known those that `name`, which is not, may have been meant to be."""
    # Deferred: whoever only imports budgetguard does not pay for it.
    from difflib import get_close_matches

    return get_close_matches(name, known, n=3)


def unknown(name: str, known: Collection[str], what: str, names: Collection[object] = ()) -> str:
    """What to say of a `name` that no `what` has; `names` are all that were given.

    It is shown where it is nearly the right one. Else it is told by its place.
    """
    meant = near(name, known)
    if meant:
        return f"{name!r}, but no {what} is called that. Did you mean {' or '.join(meant)}?"
    which = f"its {place(names, name)} name" if name in names else "a name"
    article = "an" if what[0] in "aeiou" else "a"
    there = f"There is: {', '.join(known)}." if known else f"There is no {what} at all."
    return f"{article} {what} that is not there ({which}). {there}"


def place(things: Collection[object], thing: object) -> str:
    """Which of several things one is: "1st", "2nd"."""
    number = list(things).index(thing) + 1
    last = number % 10
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(0 if number % 100 in _TEENS else last, "th")
    return f"{number}{suffix}"
