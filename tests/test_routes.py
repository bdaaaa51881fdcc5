"""Requests by method and path: what a pattern matches, and that there is no way around one."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budgetguard.routes import Routes

ROUTES = Routes(
    {
        ("POST", "/deep-spec"): 50,
        ("GET", "/specs/status"): 1,
        ("get", "/specs/*"): 2,
        ("*", "/specs/*/pages/**"): 3,
        ("WEBSOCKET", "/live"): 4,
        ("*", "/live"): 5,
        ("PUT", "/"): 6,
        ("PUT", "/folder/"): 7,
    }
)


@pytest.mark.parametrize(
    ("method", "path", "value"),
    [
        ("POST", "/deep-spec", 50),
        ("GET", "/deep-spec", None),
        ("POST", "/deep-spec/more", None),
        ("POST", "/", None),
        ("GET", "/specs/status", 1),
        ("GET", "/specs/7", 2),
        ("GET", "/specs/7/8", None),
        ("GET", "/specs/", None),
        ("DELETE", "/specs/7/pages", 3),
        ("DELETE", "/specs/7/pages/", 3),
        ("DELETE", "/specs/7/pages/8/9", 3),
        ("DELETE", "/specs//pages", None),
        ("WEBSOCKET", "/live", 4),
        ("GET", "/live", 5),
        ("PUT", "/", 6),
        ("PUT", "", 6),
        ("PUT", "/folder/", 7),
        ("PUT", "/folder", 7),
    ],
)
def test_the_first_match_decides(method: str, path: str, value: int | None) -> None:
    """Of the keys that a request matches, the first one's value is found."""
    assert ROUTES.find(method, path) == value


@pytest.mark.parametrize(
    "path",
    [
        "/deep%2Dspec",
        "/deep%252dspec",
        "/%64eep-spec",
        "//deep-spec",
        "/deep-spec/",
        "/./deep-spec",
        "/x/../deep-spec",
        "/x/%2e%2E/deep-spec",
        "/..//deep-spec",
        "/Deep-SPEC",
        "deep-spec",
        "http://app/deep-spec",
        "http%3a//app//deep-spec",
    ],
)
@pytest.mark.parametrize("method", ["POST", "post", "Post"])
def test_no_spelling_gets_around(method: str, path: str) -> None:
    """What a lenient router takes for a path is found as that path."""
    assert ROUTES.find(method, path) == 50


def test_head_counts_as_get() -> None:
    """A router answers HEAD by the endpoint for GET; a key for HEAD goes first."""
    assert ROUTES.find("HEAD", "/specs/7") == 2
    assert Routes({("GET", "/a"): 1, ("HEAD", "/a"): 2}).find("head", "/a") == 2
    assert Routes({("GET", "/a"): 1, ("HEAD", "/a"): None}).find("head", "/a") is None
    assert Routes({("HEAD", "/a"): 2}).find("GET", "/a") is None


def test_head_costs_what_get_costs_where_a_later_key_is_cheaper() -> None:
    """A key for all that comes after does not make HEAD the cheap way to an endpoint."""
    routes = Routes({("GET", "/deep-spec"): 50, ("GET", "/health"): None, ("*", "/**"): 1})
    assert routes.find("HEAD", "/deep-spec") == 50
    assert routes.find("HEAD", "/health") is None
    assert routes.find("HEAD", "/other") == 1


def test_a_newline_at_the_end() -> None:
    """A router by regular expressions takes it for the path without, so it costs that at least."""
    routes = Routes({("POST", "/deep-spec"): 50, ("GET", "/health"): None, ("*", "/**"): 1})
    assert routes.find("POST", "/deep-spec\n") == 50
    assert routes.find("POST", "/deep-spec\n\n") == 1
    assert routes.find("GET", "/health\n") == 1


def test_several_readings_of_one_path() -> None:
    """The first key that any of them matches decides, be it an exception."""
    routes = Routes({("GET", "/health"): None, ("POST", "/api/spec"): 50, ("*", "/**"): 1})
    assert routes.find("GET", "/health", "/api/health") is None
    assert routes.find("POST", "/spec", "/api/spec") == 50
    assert routes.find("POST", "/brief", "/api/brief") == 1
    assert routes.find("POST", "/brief", "/api//Spec") == 1


def test_an_exception_holds_only_where_no_reading_has_a_value() -> None:
    """A None before a wider pattern lets one path pass, and no path that merely resembles it."""
    routes = Routes({("GET", "/specs/status"): None, ("*", "/specs/**"): 50})
    assert routes.find("GET", "/specs/status") is None
    for path in ("/specs//status", "/specs/status/", "/specs/%73tatus", "/specs/./status"):
        assert routes.find("GET", path) == 50
    assert routes.find("POST", "/specs/status") == 50


@pytest.mark.parametrize(
    "key", ["POST /a", ("POST",), ("POST", 1), (None, "/a"), 7, ("a", "b", "c")]
)
def test_keys_that_are_none(key: Any) -> None:
    """A key is a pair of str."""
    with pytest.raises(TypeError, match="must be a method and a path"):
        Routes({key: 1})


@pytest.mark.parametrize(
    ("method", "path", "why"),
    [
        ("", "/a", "is not an HTTP method"),
        ("/a", "POST", "is not an HTTP method"),
        ("PO ST", "/a", "is not an HTTP method"),
        ("PSOT", "/a", "'PSOT' is not an HTTP method. Write one of .*POST.*, or .* for all"),
        ("POST", "", "must start with a slash"),
        ("POST", "a", "must start with a slash"),
        ("POST", "**", "must start with a slash"),
        ("POST", "/specs/{id}", r"write \* for a parameter"),
        ("POST", "/**/a", r"\*\* is allowed only at the end"),
        ("POST", "/a*", "a whole segment"),
        ("POST", "/a/***", "a whole segment"),
        ("POST", "/*a/b", "a whole segment"),
        ("POST", "//a", "leave out empty"),
        ("POST", "/a/../b", "leave out empty"),
        ("POST", "/a/.", "leave out empty"),
        ("POST", "/deep%2dspec", "without percent-encoding"),
        ("POST", "/a?b=1", "leave out the query"),
        ("POST", "/a#b", "leave out the query"),
    ],
)
def test_patterns_that_cannot_be(method: str, path: str, why: str) -> None:
    """What would silently match nothing, or something else, is refused at construction."""
    with pytest.raises(ValueError, match=why):
        Routes({(method, path): 1})


def test_one_meaning_twice() -> None:
    """Two keys that mean the same would hide one value behind the other."""
    with pytest.raises(ValueError, match="POST /a is given twice"):
        Routes({("post", "/a"): 1, ("POST", "/a"): 2})


@given(st.text(alphabet="/.%2fFeE5*ab-:", max_size=12), st.sampled_from(["GET", "head", "x"]))
@example("%%32%35", "GET")
def test_any_path_is_read(path: str, method: str) -> None:
    """No path is an error, and none gets around a pattern for all."""
    assert Routes({("*", "/**"): 1}).find(method, path) == 1
    assert Routes({("*", "/ab"): 1}).find(method, "/%61b") == 1
