"""Matches requests to patterns by method and path, in a way that cannot be bypassed.

A path is read in two ways:

* exactly: as it was received, with its percent-encoding decoded once by the server, and with an
  empty segment for each doubled or trailing slash;
* loosely, as a lenient router might read it: decoded until nothing is left to decode, without an
  authority in front, without empty segments, with `.` and `..` resolved, and ignoring case.

The exact reading decides if it finds a value, otherwise the loose one. So `/deep%2Dspec` and
`//deep-spec` find what `/deep-spec` finds, and a pattern whose value is None exempts a request only
if neither reading finds a value.
"""

import re
from collections.abc import Mapping
from http import HTTPMethod
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import unquote

from budgetguard._core.argument_types import near, place
from budgetguard._core.clean_tracebacks import clean_traceback

V = TypeVar("V")
_Rule: TypeAlias = tuple[frozenset[str], tuple[str, ...], V]

_METHODS = (*HTTPMethod, "QUERY", "WEBSOCKET", "*")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")


class Routes(Generic[V]):
    """Values by `(method, path pattern)`. The first key that matches a request decides.

    A method is an HTTP method in upper or lower case, `"WEBSOCKET"`, or `"*"` for every method. A
    key for GET also matches HEAD, unless another key has the same pattern for HEAD. A pattern is a
    decoded path that starts with a slash. In it, `*` stands for one segment that is not empty, and
    `**` at the end for any number of further segments, including none.

    Raises TypeError for keys that are not pairs of str. Raises ValueError for unknown methods, for
    two keys that mean the same, and for patterns that would not match what they appear to: relative
    paths, `{name}`, `**` before the end, `*` as part of a segment, `.` or `..`, a doubled slash,
    percent-encoding, a query.
    """

    @clean_traceback
    def __init__(self, values: Mapping[tuple[str, str], V]) -> None:
        if not isinstance(values, Mapping):
            msg = (
                "expected a mapping of (method, path pattern) to values, such as "
                f'{{("POST", "/deep-spec"): 50}}, not {type(values).__name__}'
            )
            raise TypeError(msg)
        exact: dict[tuple[str, tuple[str, ...]], V] = {}
        for key, value in values.items():
            method, path = _pair(key)
            try:
                rule = _checked_method(method), _checked_path(path)
            except ValueError as error:
                error.add_note(f"in the {place(values, key)} key")
                raise
            if rule in exact:
                msg = f"{method} {path} is given twice"
                raise ValueError(msg)
            exact[rule] = value
        self._exact = [
            (_methods(method, alone=("HEAD", pattern) in exact), pattern, value)
            for (method, pattern), value in exact.items()
        ]
        self._loose = [(methods, _plain(pattern), value) for methods, pattern, value in self._exact]

    def find(self, method: str | tuple[str, ...], *paths: str) -> V | None:
        """The value for a request; None if no key matches, or if the matching key's value is None.

        `method` is the request's method, or several that may apply: a websocket also starts as a
        GET. `paths` are the paths that the request may mean, one or several, all without the query;
        a key matches if it matches one of them. Decoded paths are matched exactly, percent-encoded
        ones loosely.
        """
        given = (method,) if isinstance(method, str) else method
        methods = frozenset({"*", *(each.upper() for each in given)})
        # A router's `$` also matches before a newline at the end (Starlette 1.10).
        exact = [_segments(path.removesuffix("\n")) for path in paths]
        found = _first(self._exact, methods, exact)
        if found is not None:
            return found
        return _first(self._loose, methods, [_plain(_segments(_decoded(path))) for path in paths])


def _methods(method: str, *, alone: bool) -> frozenset[str]:
    """The methods that a key for `method` matches."""
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
    """Decode percent-encoding until there is none; each round makes the path shorter."""
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
            what = "another tuple" if isinstance(key, tuple) else type(key).__name__
            msg = f'a key must be a method and a path, such as ("POST", "/deep-spec"), not {what}'
            raise TypeError(msg)


def _checked_method(method: str) -> str:
    if method.upper() not in _METHODS:
        what = repr(method) if near(method.upper(), _METHODS) else "the first item of a key"
        msg = f"{what} is not an HTTP method. Write one of {', '.join(_METHODS[:-1])}, or * for all"
        raise ValueError(msg)
    return method.upper()


def _checked_path(path: str) -> tuple[str, ...]:
    *before, last = _segments(path)
    inside = [*before, "" if last in {"*", "**"} else last]
    wrong = (
        (not path.startswith("/"), "it must start with a slash"),
        ("{" in path or "}" in path, "write * for a parameter"),
        ("**" in before, "** is allowed only at the end"),
        (any("*" in part and part != "*" for part in inside), "* stands for a whole segment"),
        ("" in before or {".", ".."} & {*before, last}, "leave out empty, . and .. segments"),
        (_ENCODED.search(path) is not None, "write it without percent-encoding"),
        ("?" in path or "#" in path, "leave out the query and the fragment"),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            msg = f"a path pattern is not valid: {why}"
            raise ValueError(msg)
    return (*before, last)
