"""Task and command objects, whose function runs by another way than a call.

A queue's worker, or a command line, goes past whatever is wrapped around such an object. What a
class says of itself decides, not its name: which of its attributes `__call__` comes to, and which
other members come to the same or send it away to be run elsewhere.
"""

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any

_NOTHING = object()
# What a Dask graph's nodes have: a call of one only adds to the graph.
GRAPH = "__dask_graph__"
# To have the function run elsewhere, or later.
_AWAY = ("delay", "apply_async", "kiq", "remote", GRAPH)
# The function itself.
_RAW = ("run", "fn", "func")
# These could be anything: they tell where `__call__` runs a function that the object was given.
_MAYBE = ("send", "submit", "map", "options", "with_options")


def second_way(thing: Any) -> str | None:
    """The name of a public member that leads past `__call__` to what it runs, if there is one.

    What rests on a `__call__` written in C, a partial or a cached function, has none.
    """
    # Not type(): a proxy's class is that of what it stands for.
    kind = thing.__class__
    if kind is FunctionType:
        ways = (*_AWAY, *_RAW, *_MAYBE, "callback")
        return next((name for name in ways if callable(vars(thing).get(name))), None)
    if not isinstance(_static(kind, "__call__"), FunctionType):
        return None
    runs, held = _reach(kind, "__call__"), _held(thing, kind)
    return next(_ways(kind, held, runs), None)


def _ways(kind: type, held: dict[str, Any], runs: set[str]) -> Iterator[str]:
    yield from (name for name in _AWAY if _can_be_called(kind, held, name))
    for name in _RAW:
        if name in held or (name in runs and _can_be_called(kind, held, name)):
            yield name
    inner = runs & held.keys()
    if not inner:
        return
    if "callback" in inner:
        yield "callback"
    yield from (name for name in _MAYBE if _can_be_called(kind, held, name))
    yield from (name for name in _verbs(kind) if inner & _reach(kind, name))


def holds_a_function(thing: Any) -> bool:
    """Whether something that cannot be called was made of a function all the same."""
    return bool(_held(thing, thing.__class__))


def _held(thing: Any, kind: type) -> dict[str, Any]:
    """What an object was given to call, by the attribute's name."""
    own = getattr(thing, "__dict__", None)
    # Where anything is answered for any name, this is something else.
    values = dict(own) if isinstance(own, dict) else {}
    for each in kind.__mro__:
        for name, member in vars(each).items():
            if isinstance(member, MemberDescriptorType):
                values[name] = getattr(thing, name, None)
    return {
        name: value
        for name, value in values.items()
        if callable(value) and not isinstance(value, type)
    }


def _can_be_called(kind: type, held: dict[str, Any], name: str) -> bool:
    return name in held or isinstance(_static(kind, name), FunctionType)


def _verbs(kind: type) -> Iterator[str]:
    """Public methods that can be given a call's arguments."""
    for each in kind.__mro__:
        for name, member in vars(each).items():
            code = getattr(member, "__code__", None)
            if code is not None and not name.startswith("_"):
                more = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
                if more or code.co_argcount > 1:
                    yield name


def _static(kind: type, name: str) -> Any:
    """A class's member, and of a method or property its function."""
    return next(_all(kind, name), _NOTHING)


def _all(kind: type, name: str) -> Iterator[Any]:
    """The same, with those that it overrides: `super()` leads to them."""
    return (_plain(vars(each)[name]) for each in kind.__mro__ if name in vars(each))


def _plain(member: Any) -> Any:
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    if isinstance(member, property):
        member = member.fget
    return inspect.unwrap(member) if isinstance(member, FunctionType) else member


def _reach(kind: type, name: str) -> set[str]:
    """All names that a method's code mentions, and that of the methods that it mentions."""
    reached: set[str] = set()
    ahead = {name}
    while ahead:
        for function in _all(kind, ahead.pop()):
            if isinstance(function, FunctionType):
                new = set(_names(function.__code__)) - reached
                reached |= new
                ahead |= new
    return reached


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
