"""Requests by method and path: which of some patterns is meant, with no way around one.

A path is read twice. Exactly: as it came, percent-encoding undone by whoever received it, with an
empty segment for each doubled or trailing slash. Then loosely, as a lenient router might take it:
decoded until nothing is left to decode, an authority in front of it dropped, empty segments
dropped, `.` and `..` resolved, and upper case like lower case. The exact reading decides where it
has a value, else the loose one. So `/deep%2Dspec` and `//deep-spec` find what `/deep-spec` finds;
and a pattern whose value is None lets a request pass only where no reading of it finds a value.
"""

import re
from collections.abc import Mapping
from http import HTTPMethod
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import unquote

from budgetguard.discreet import discreet
from budgetguard.wrong import near, place

V = TypeVar("V")
_Rule: TypeAlias = tuple[frozenset[str], tuple[str, ...], V]

_METHODS = (*HTTPMethod, "QUERY", "WEBSOCKET", "*")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")


class Routes(Generic[V]):
    """Values by `(method, path pattern)`; the first key that a request matches decides.

    A method is one of HTTP, in any case, `"WEBSOCKET"`, or `"*"` for all of these and any other.
    One for GET holds for HEAD, too, unless a key of the same pattern is for HEAD. A pattern is a
    decoded path that starts with a slash. `*` stands in it for one segment that is not empty, and a
    last `**` for any rest, also for none.

    Raises TypeError for keys that are no pairs of str. Raises ValueError for unknown methods, for
    two keys that mean the same, and for patterns that could not match as they seem to: relative
    ones, `{name}` or `**` inside, a `*` that is a part of a segment, `.` or `..`, a doubled slash,
    percent-encoding, a query.
    """

    @discreet
    def __init__(self, values: Mapping[tuple[str, str], V]) -> None:
        exact: dict[tuple[str, tuple[str, ...]], V] = {}
        for key, value in values.items():
            method, path = _pair(key)
            try:
                rule = _checked_method(method), _checked_path(path)
            except ValueError as error:
                error.add_note(f"in the {place(values, key)} key")
                raise
            if rule in exact:
                msg = f"{method} {path} is there twice"
                raise ValueError(msg)
            exact[rule] = value
        self._exact = [
            (_methods(method, alone=("HEAD", pattern) in exact), pattern, value)
            for (method, pattern), value in exact.items()
        ]
        self._loose = [(methods, _plain(pattern), value) for methods, pattern, value in self._exact]

    def find(self, method: str | tuple[str, ...], *paths: str) -> V | None:
        """The value for a request; None where no key matches, or one whose value is None.

        `method` is its method, or what may stand for it: a websocket begins with a GET, too.
        `paths` are what its path may mean, one or several, all without the query: a key matches if
        it matches one of them. Decoded ones are matched exactly, percent-encoded ones loosely.
        """
        given = (method,) if isinstance(method, str) else method
        methods = frozenset({"*", *(each.upper() for each in given)})
        # A router's `$` overlooks a newline at the end (Starlette 1.10).
        exact = [_segments(path.removesuffix("\n")) for path in paths]
        found = _first(self._exact, methods, exact)
        if found is not None:
            return found
        return _first(self._loose, methods, [_plain(_segments(_decoded(path))) for path in paths])


def _methods(method: str, *, alone: bool) -> frozenset[str]:
    """The methods that a key for one holds for."""
    return frozenset({"GET", "HEAD"} if method == "GET" and not alone else {method})


def _first(
    rules: list[_Rule[V]], methods: frozenset[str], paths: list[tuple[str, ...]]
) -> V | None:
    for theirs, pattern, value in rules:
        if not theirs.isdisjoint(methods) and any(_matches(pattern, path) for path in paths):
            return value
    return None


def _matches(pattern: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    if pattern[-1:] == ("**",):
        pattern = pattern[:-1]
        segments = segments[: len(pattern)]
    return len(pattern) == len(segments) and all(
        segment if part == "*" else part == segment
        for part, segment in zip(pattern, segments, strict=True)
    )


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix("/").split("/"))


def _decoded(path: str) -> str:
    """Undo percent-encoding until there is none; each round is shorter than the one before."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return path if path.startswith("/") else _AUTHORITY.sub("", path, count=1)


def _plain(segments: tuple[str, ...]) -> tuple[str, ...]:
    plain: list[str] = []
    for segment in segments:
        if segment == "..":
            del plain[-1:]
        elif segment not in {"", "."}:
            plain.append(segment.casefold())
    return tuple(plain)


def _pair(key: object) -> tuple[str, str]:
    match key:
        case (str() as method, str() as path):
            return method, path
        case _:
            what = "a pair of others" if isinstance(key, tuple) else type(key).__name__
            msg = f'a key is a pair of method and path, ("POST", "/deep-spec"), not {what}'
            raise TypeError(msg)


def _checked_method(method: str) -> str:
    if method.upper() not in _METHODS:
        what = repr(method) if near(method.upper(), _METHODS) else "what it begins with"
        msg = f"{what} is no method: write * for any, or one of {', '.join(_METHODS[:-1])}"
        raise ValueError(msg)
    return method.upper()


def _checked_path(path: str) -> tuple[str, ...]:
    *before, last = _segments(path)
    inside = [*before, "" if last in {"*", "**"} else last]
    wrong = (
        (not path.startswith("/"), "a pattern starts with a slash"),
        ("{" in path or "}" in path, "write * for a parameter"),
        ("**" in before, "** is for the end of a path"),
        (any("*" in part and part != "*" for part in inside), "* stands for a whole segment"),
        ("" in before or {".", ".."} & {*before, last}, "it has a segment that means nothing"),
        (_ENCODED.search(path) is not None, "write it without percent-encoding"),
        ("?" in path or "#" in path, "a pattern ends before the query"),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            msg = f"a pattern can match no path as it seems to: {why}"
            raise ValueError(msg)
    return (*before, last)
