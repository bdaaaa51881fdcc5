"""Detects task and command objects, whose function can run in another way than by a call.

A queue's worker, or a command line, bypasses whatever is wrapped around such an object. The class's
code decides, not its name: which attributes `__call__` reaches, and which other members reach the
same attributes or send the function away to be run elsewhere.
"""

import contextlib
import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any

_NOTHING = object()
# An attribute of the nodes of a Dask graph: calling one only adds to the graph.
GRAPH = "__dask_graph__"
# Run the function elsewhere, or later.
_AWAY = ("delay", "apply_async", "kiq", "remote", GRAPH)
# The function itself.
_RAW = ("run", "fn", "func")
# Ambiguous names: they count only if `__call__` runs a function that the object was given.
_MAYBE = ("send", "submit", "map", "options", "with_options")
# These run whatever is passed to them, elsewhere or later.
_RUNNERS = frozenset(
    {"Thread", "Timer", "Process", "submit", "start_soon", "call_soon", "call_later", "call_at"}
    | {"call_soon_threadsafe", "run_in_executor", "run_sync", "to_thread", "apply_async", "spawn"}
    | {"add_job", "enqueue", "partial"}
)
# Instructions after loading an object that use its attributes, or store or format it.
_OTHERWISE = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "BUILD_", "FORMAT_")
# An object that has this attribute answers for every name.
_NO_NAME = "no_such_name_of_a_task"


def second_way(thing: Any) -> str | None:
    """The name of a public member that runs the same function without `__call__`, if there is one.

    Objects whose `__call__` is written in C, such as a partial or a cached function, have none.
    """
    # Not type(): the `__class__` of a proxy is that of the object it stands for.
    kind = thing.__class__
    if kind is FunctionType:
        ways = (*_AWAY, *_RAW, *_MAYBE, "callback")
        return next((name for name in ways if callable(vars(thing).get(name))), None)
    if not isinstance(_static(kind, "__call__"), FunctionType):
        return None
    runs, held = _reach(kind, "__call__"), _held(thing, kind)
    return next(_ways(kind, held, runs), None) or next(_handed_on(thing, kind), None)


def _handed_on(thing: Any, kind: type) -> Iterator[str]:
    """Members that `__getattr__` takes from an inner object."""
    if _static(kind, "__getattr__") is _NOTHING or _answer(thing, _NO_NAME) is not _NOTHING:
        return
    yield from (name for name in _AWAY if callable(_answer(thing, name)))


def _answer(thing: Any, name: str) -> Any:
    with contextlib.suppress(Exception):  # its __getattr__ may raise anything
        return getattr(thing, name)
    return _NOTHING


def _ways(kind: type, held: dict[str, Any], runs: set[str]) -> Iterator[str]:
    yield from (name for name in _AWAY if _can_be_called(kind, held, name))
    for name in _RAW:
        if name in held or (name in runs and _can_be_called(kind, held, name)):
            yield name
    inner = runs & held.keys()
    if inner:
        if "callback" in inner:
            yield "callback"
        yield from (name for name in _MAYBE if _can_be_called(kind, held, name))
        yield from (name for name in _verbs(kind) if inner & _reach(kind, name))
        yield from (name for name in _public(kind) if _returns(kind, name) in inner)
    yield from (name for name in _public(kind) if _gives_itself(kind, name))


def holds_a_function(thing: Any) -> bool:
    """Whether an object that is not callable contains a function."""
    return bool(_held(thing, thing.__class__))


def _held(thing: Any, kind: type) -> dict[str, Any]:
    """The functions that an object was given, by the attribute's name."""
    own = getattr(thing, "__dict__", None)
    # An object that answers for every name may return something else here.
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


def _public(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        yield from (name for name in vars(each) if not name.startswith("_"))


def _verbs(kind: type) -> Iterator[str]:
    """Public methods that accept a call's arguments."""
    for name in _public(kind):
        code = getattr(_static(kind, name), "__code__", None)
        if code is not None:
            more = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
            if more or code.co_argcount > 1:
                yield name


def _gives_itself(kind: type, name: str) -> bool:
    """Whether a method calls its own object, or passes it to something that will."""
    code = getattr(_static(kind, name), "__code__", None)
    if code is None or not code.co_argcount:
        return False
    own, steps = code.co_varnames[0], list(dis.get_instructions(code))
    for number, step in enumerate(steps):
        # Since CPython 3.13 one instruction may load two variables.
        loaded = step.argval if isinstance(step.argval, tuple) else (step.argval,)
        if own in loaded and step.opname.startswith("LOAD_FAST"):
            before = steps[number - 1].opname
            after = steps[number + 1].opname if loaded[-1] == own else ""
            if after.startswith(_OTHERWISE):
                continue
            # As one of the first two arguments; before CPython 3.13, PUSH_NULL comes first.
            called = {each.argval for each in steps[max(number - 3, 0) : number]}
            if "PUSH_NULL" in (before, after) or not _RUNNERS.isdisjoint(map(str, called)):
                return True
    return False


def _returns(kind: type, name: str) -> str | None:
    """The attribute that a property returns, if it does nothing else."""
    getter = _member(kind, name)
    function = getattr(getter, "fget", None) or getattr(getter, "func", None)
    code = getattr(function, "__code__", None)
    if code is None or isinstance(getter, functools.partialmethod):
        return None
    last = [step for step in dis.get_instructions(code) if step.opname != "RESUME"]
    found = [step.argval for step in last if step.opname == "LOAD_ATTR"]
    return found[0] if len(last) == 3 and found else None  # noqa: PLR2004  self, its attribute, return


def _static(kind: type, name: str) -> Any:
    """A class's member; for a method or property, its function."""
    return next(_all(kind, name), _NOTHING)


def _all(kind: type, name: str) -> Iterator[Any]:
    """The same, with the members that it overrides, because `super()` may reach them."""
    return (_plain(vars(each)[name]) for each in kind.__mro__ if name in vars(each))


def _member(kind: type, name: str) -> Any:
    return next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None)


def _plain(member: Any) -> Any:
    if isinstance(member, functools.partialmethod):
        member = member.func
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    if isinstance(member, property):
        member = member.fget
    return inspect.unwrap(member) if isinstance(member, FunctionType) else member


def _reach(kind: type, name: str) -> set[str]:
    """All names used in a method's code, and in the code of the methods that it uses."""
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
