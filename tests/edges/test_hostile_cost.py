"""Hostile replies through a whole guard: nobody is let in by one, and none takes much memory."""

import json
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import count
from typing import Any

import pytest
from hostile import CASES, KEY, Case, Server, http, predev
from hostile_cost import MOST, cost_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from interpreter import LONG

from budgetguard import Balance, BalanceUnavailable, Guard, PreDev
from budgetguard._core.clock import SYSTEM
from budgetguard._engine.account_registry import runtime_of
from budgetguard._io.loop import Runtime

PATIENT = settings(
    deadline=None,
    max_examples=10_000 if LONG else 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
BODY = b'{"success": true, "creditsRemaining": 450, "tier": "solo"}'
NUMBERS = count()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Runtime]:
    """A private loop that hardly pauses between two attempts, with its client made."""
    runtime = Runtime(SYSTEM)
    runtime.jitter = lambda low, _: low
    with runtime_of(runtime):
        with Server(predev("5")) as server:
            Guard(PreDev(KEY, base_url=server.url)).balance()
        yield runtime
    runtime.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_hostile_reply_costs(case: Case, impatient: Runtime) -> None:
    """BalanceUnavailable, and less than 2 MB at any time."""
    with Server(case.wire) as server:
        cost = cost_of(server.url, timeout=30, traced=True)
    assert not cost.let_in
    assert not cost.foreign
    assert cost.peak < MOST


def test_what_an_endless_reply_costs(impatient: Runtime) -> None:
    """Of 64 MB that say nothing of their length, no more is read than it takes to refuse them."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    with Server([head, *[b" " * 262_144] * 256]) as server:
        cost = cost_of(server.url, timeout=30, traced=True)
    assert cost.error == "BalanceUnavailable"
    assert cost.peak < MOST


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose next reply is set by hand."""
    with Server(b"") as server:
        yield server


def ask(server: Server, wire: bytes) -> Balance | BalanceUnavailable:
    """What a guard that was never used makes of a reply after which the connection is closed."""
    server._replies = ([wire],)
    guard = Guard(PreDev(f"{KEY}-{next(NUMBERS)}", base_url=server.url), timeout=60)
    try:
        return guard.balance()
    except BalanceUnavailable as error:
        return error


def sound(body: bytes) -> Decimal | None:
    """The credits that another reading of `body` finds in it; None where it makes no sense."""

    def nonsense(_: str) -> Any:
        raise ValueError

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        fields = json.loads(
            body.decode(),
            parse_int=Decimal,
            parse_float=Decimal,
            parse_constant=nonsense,
            object_pairs_hook=once,
        )
    except (ValueError, RecursionError, InvalidOperation):
        return None
    if not isinstance(fields, dict) or fields.get("success") is not True:
        return None
    credits = fields.get("creditsRemaining")
    return credits if isinstance(credits, Decimal) and abs(credits) <= 10**12 else None


def check(answer: Balance | BalanceUnavailable, body: bytes) -> None:
    """A balance is what the body says, rounded down; what makes no sense is none."""
    if isinstance(answer, Balance):
        said = sound(body)
        assert said is not None
        assert answer.credits is not None
        assert 0 <= said - answer.credits < Decimal("0.000001")


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A sound reply with up to four of its parts cut out, doubled, swapped or overwritten."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        other = draw(st.binary(max_size=6) | st.sampled_from(PIECES))
        data = data[:at] + draw(st.sampled_from([b"", data[at:to] * 2, other])) + data[to:]
    return data


PIECES = [b"0", b"9" * 70, b"-", b".", b"e9", b"E-9", b"NaN", b"Infinity", b"null", b"true", b'"']
PIECES += [b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\xff", b'"creditsRemaining": 7,']
PIECES += [b"\r\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"content-length: 9\r\n", b"chunked"]


@PATIENT
@given(body=mutated(BODY))
@example(body=BODY)
@example(body=b'{"success": true, "creditsRemaining": 0, "creditsRemaining": 450}')
@example(body=b'{"success": false, "creditsRemaining": 450}')
@example(body=b'{"success": true, "creditsRemaining": "450"}')
@example(body=BODY.replace(b"450", b"0.0000009"))
@example(body=BODY.replace(b"success", b"\\u0000success"))
def test_a_body_with_faults(body: bytes, server: Server, impatient: Runtime) -> None:
    """Over a real connection: the balance that it says, or BalanceUnavailable."""
    check(ask(server, http(200, body)), body)


@PATIENT
@given(body=st.binary(max_size=400))
def test_a_body_of_any_bytes(body: bytes, server: Server, impatient: Runtime) -> None:
    """Likewise."""
    check(ask(server, http(200, body)), body)


@PATIENT
@given(wire=mutated(http(200, BODY)) | st.binary(max_size=400))
@example(wire=http(200, BODY))
def test_a_reply_with_faults(wire: bytes, server: Server, impatient: Runtime) -> None:
    """Also where it is not the body alone: a balance is one that some part of the reply says."""
    answer = ask(server, wire)
    if isinstance(answer, Balance):
        bodies = [wire[at:to] for at in brackets(wire, b"{") for to in ends(wire, at)]
        assert any(sound(body) == answer.credits for body in bodies)


def brackets(wire: bytes, bracket: bytes) -> list[int]:
    """Where it stands."""
    return [at for at in range(len(wire)) if wire[at : at + 1] == bracket]


def ends(wire: bytes, at: int) -> list[int]:
    """Where an object that begins at `at` could end."""
    return [to + 1 for to in brackets(wire, b"}") if to > at]
