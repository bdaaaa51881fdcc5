"""The replies that a provider is given: a valid one, and those that are no balance."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from budgetguard.testing.provider_check.hostile_json import (
    MISSING,
    FieldChange,
    RawJSON,
    ReplyField,
    changes,
    fields,
    replaced,
    spell,
)

ANY: Final = ""
"""The path of a provider that asks once, or whose requests are all answered alike."""

ELSEWHERE: Final = "elsewhere.example"
"""The host that redirects lead to. It answers with a valid balance."""

MISSED: Final = "missing"
"""The change of a field that was left out."""

MOVED: Final = "/moved"
"""What the path begins with that redirects lead to, likewise."""

ExampleReplies: TypeAlias = Mapping[str, Mapping[str, Any]]
"""A valid reply for each path that a provider requests."""

CaseRule: TypeAlias = Literal["refuse", "same or refuse", "same"]
"""What a provider has to do: raise, report the balance of the example, or one of the two."""

Manner: TypeAlias = Literal["whole", "drip", "endless", "lost", "unreachable", "quoting"]
"""How a reply is sent: as a whole; as one byte each second, or without an end; not to its end; not at
all, with an error that quotes the request or not."""

_SERVER_ERRORS = (500, 502, 503, 504)
_STATUSES = (204, 304, 400, 401, 402, 403, 404, 409, 422, 429, *_SERVER_ERRORS)
_REDIRECTS = (301, 302, 303, 307, 308)
_DEEP = 100_000
_AS_JSON: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class CannedReply:
    """One HTTP reply, and the manner in which it is sent."""

    content: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = "whole"


@dataclass(frozen=True, slots=True)
class ReplyCase:
    """What every path answers, and what a provider has to do then.

    `said` begins a sentence about it. `paths` are those of the fields that were changed, `change` what they
    were changed to.
    """

    said: str
    replies: Mapping[str, CannedReply]
    rule: CaseRule
    paths: Collection[str] = ()
    change: str = ""


def valid(example: ExampleReplies) -> ReplyCase:
    """The example itself."""
    replies = {path: _json(reply) for path, reply in example.items()}
    return ReplyCase("the reply was the example", replies, "same")


def all_cases(example: ExampleReplies, key: str) -> Iterator[ReplyCase]:
    """All that is not the example."""
    yield _extended(example, key)
    yield from _changed(example)
    yield from _echoed(example, key)
    for said, reply in _hostile(example, key):
        yield _everywhere(said, example, reply)
    if len(example) > 1:
        for path in example:
            for said, reply in _hostile({path: example[path]}, key):
                replies = {**valid(example).replies, path: reply[path]}
                lacking = [each.path for each in fields(example[path])] if said in _LACKING else []
                yield ReplyCase(f"for {path}, {said}", replies, "same or refuse", lacking, MISSED)


def paths(example: ExampleReplies) -> Collection[str]:
    """The paths of all fields in an example."""
    return [each.path for reply in example.values() for each in fields(reply)]


def _everywhere(
    said: str, example: ExampleReplies, replies: Mapping[str, CannedReply]
) -> ReplyCase:
    return ReplyCase(said, {path: replies[path] for path in example}, "refuse")


def _json(value: Any) -> CannedReply:
    return CannedReply(spell(value).encode(), headers=_AS_JSON)


def _extended(example: ExampleReplies, key: str) -> ReplyCase:
    more = {"of_tomorrow": {"enabled": True, "amounts": [7, None]}, "message": f"Hello {key}"}
    replies = {path: _json({**reply, **more}) for path, reply in example.items()}
    return ReplyCase("the reply had two more fields, one with the key in it", replies, "same")


def _echoed(example: ExampleReplies, key: str) -> Iterator[ReplyCase]:
    for path, reply in example.items():
        for each in fields(reply):
            if isinstance(each.value, str):
                yield _change(example, path, each, FieldChange("the key", key))


def _changed(example: ExampleReplies) -> Iterator[ReplyCase]:
    for path, reply in example.items():
        for each in fields(reply):
            for change in changes(each):
                yield _change(example, path, each, change)
        deep = _json({**reply, "x": RawJSON("[" * _DEEP + "]" * _DEEP)})
        replies = {**valid(example).replies, path: deep}
        yield ReplyCase(f"a field was {_DEEP:,} lists deep", replies, "same or refuse")


def _change(example: ExampleReplies, path: str, each: ReplyField, change: FieldChange) -> ReplyCase:
    content = _json(replaced(example[path], each.steps, change.value))
    where = f" in the reply to {path}" if len(example) > 1 else ""
    return ReplyCase(
        f"{each.path}{where} was {change.said}",
        {**valid(example).replies, path: content},
        "same or refuse",
        (each.path,),
        MISSED if change.value is MISSING else change.said,
    )


def _redirect(status: int, location: str) -> CannedReply:
    return CannedReply(b"", status, headers={"location": location})


def _hostile(example: ExampleReplies, key: str) -> Iterator[tuple[str, dict[str, CannedReply]]]:
    """Replies that are no balance, whatever the provider reads, each for every path."""
    texts = {path: spell(reply) for path, reply in example.items()}
    echo = f"Key {key} is not known."
    words = {"error": {"code": key, "message": echo}, "message": echo, "detail": [{"msg": echo}]}

    def each(change: Callable[[str], bytes | str], **more: Any) -> dict[str, CannedReply]:
        bodies = {path: change(text) for path, text in texts.items()}
        given: dict[str, Any] = {"headers": _AS_JSON, **more}
        return {
            path: CannedReply(body.encode() if isinstance(body, str) else body, **given)
            for path, body in bodies.items()
        }

    for said, change in _BODIES.items():
        yield said, each(change)
    yield _ERROR, each(lambda _: spell(words))
    yield _KEY_AS_NAME, each(lambda _: spell({key: key}))
    yield "the body was the key", each(lambda _: key)
    page = {"content-type": "text/html"}
    yield "the body was a web page", each(lambda _: "<!doctype html><h1>Hello</h1>", headers=page)
    for status in _STATUSES:
        yield f"the status was {status}, with a valid body", each(str, status=status)
        yield (
            f"the status was {status}, with an error that has the key in it",
            each(lambda _: spell(words), status=status, headers={**_AS_JSON, "retry-after": key}),
        )
    for status in _REDIRECTS:
        for where, host in (("another host", f"https://{ELSEWHERE}"), ("another path", "")):
            said = f"the reply was a redirect ({status}) to {where}"
            yield said, {path: _redirect(status, f"{host}{MOVED}{path}") for path in example}
    for manner, said in _MANNERS.items():
        yield said, each(str, manner=manner)


_EMPTY: Final = "the body was an empty object"
_ERROR: Final = "the body was an error with status 200, with the key in it"
_KEY_AS_NAME: Final = "the body had the key as the name of its only field"
_LACKING: Final = (_EMPTY, _ERROR, _KEY_AS_NAME)
"""Bodies that are JSON objects without any field of the example."""

_BODIES: Final[Mapping[str, Callable[[str], bytes | str]]] = {
    "the body was empty": lambda _: "",
    "the body was white space": lambda _: " \r\n\t ",
    "the body was the text OK": lambda _: "OK",
    "the body was cut off": lambda text: text[:-1],
    "the body had a bracket too many": lambda text: text + "}",
    "the body was there twice": lambda text: text + text,
    "the body began with a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "the body was UTF-16": lambda text: text.encode("utf-16"),
    "the body was not UTF-8": lambda text: text.encode()[:-1] + b', "x": "\xff"}',
    "the body had single quotes": lambda text: text.replace('"', "'"),
    "the body was NaN": lambda _: "NaN",
    "the body was null": lambda _: "null",
    "the body was true": lambda _: "true",
    "the body was a number": lambda _: "1000",
    "the body was a text": lambda _: '"1000"',
    "the body was an empty list": lambda _: "[]",
    "the body was the example in a list": lambda text: f"[{text}]",
    _EMPTY: lambda _: "{}",
    "the body was 100,000 lists deep": lambda _: "[" * _DEEP + "]" * _DEEP,
    "the body was nothing but opened brackets": lambda _: "[" * _DEEP,
}

_MANNERS: Final[Mapping[Manner, str]] = {
    "drip": "the body came byte by byte and did not end",
    "endless": "the body was valid at first and did not end",
    "lost": "the connection was lost within the body",
    "unreachable": "nothing answered",
    "quoting": "the request failed with an error that quotes its headers",
}
