"""The head as a script in a server against the head in Python: message by message, field by field."""

import json
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import redis_servers
from head_comparison import comparable, differences, whole_state
from head_streams import SCALES, Step, Stream

from budgetguard.stores._script import keys_of, script, script_sha
from budgetguard.stores._script_state import head_from
from budgetguard.stores._wire import message_text, reply_from

ENGINES: dict[str, Callable[[], int]] = {
    "redis": redis_servers.redis_server,
    "valkey": redis_servers.valkey_server,
}
# How many messages in all, for each engine.
MESSAGES = int(os.environ.get("BUDGETGUARD_HEAD_MESSAGES", "10000"))
STREAMS = 20
BATCH = 50


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of each engine."""
    redis_servers.driver()
    import redis

    with redis.Redis(port=ENGINES[request.param]()) as client:
        assert client.script_load(script()) == script_sha()
        yield client


def replies(server: Any, keys: tuple[str, ...], steps: list[Step]) -> list[dict[str, Any]]:
    """What the script answers to these messages, one after the other."""
    pipeline = server.pipeline(transaction=False)
    for step in steps:
        if step.lost:
            pipeline.delete(*keys)
        options = {
            "quiet": True,
            "regroup": 0,
            "clock": step.clock,
            "run": step.run,
            "epoch": step.epoch,
        }
        pipeline.evalsha(
            script_sha(), len(keys), *keys, message_text(step.message), "", json.dumps(options)
        )
    return [json.loads(each) for each in pipeline.execute() if not isinstance(each, int)]


def state(server: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """All that the server has of an account."""
    return whole_state(head_from(server.evalsha(script_sha(), len(keys), *keys, "dump").decode()))


def some_stream(seed: int) -> Stream:
    """One of many kinds of streams."""
    random = Random(seed)
    return Stream(
        seed,
        members=random.choice((1, 2, 3, 5, 8, 8, 40)),
        scale=SCALES[seed % len(SCALES)],
        budgets=random.choice((0, 1, 5, 30)),
        chaos=random.choice((0.0, 0.03, 0.03, 0.2)),
    )


@pytest.mark.parametrize("seed", range(STREAMS))
def test_both_heads_say_the_same(server: Any, seed: int) -> None:
    """Replies, who is woken, and the whole state are equal, however large the amounts are."""
    stream, keys = some_stream(seed), keys_of("test", f"stream {seed}")
    server.delete(*keys)
    for number in range(0, MESSAGES // STREAMS, BATCH):
        steps = list(stream.steps(BATCH))
        for place, (step, told) in enumerate(zip(steps, replies(server, keys, steps), strict=True)):
            woken = frozenset(told["woken"])
            found = differences(comparable(step.reply), comparable(reply_from(told)))
            assert not found, (seed, number + place, step.message, found)
            assert woken == step.woken, (seed, number + place, step.message)
        found = differences(whole_state(stream.head), state(server, keys))
        assert not found, (seed, number, found)
    server.delete(*keys)


def test_streams_reach_what_matters() -> None:
    """Grants, refusals, recalls, deaths, proofs of other spenders and amounts that no double holds."""
    seen: set[str] = set()
    for seed in range(STREAMS):
        stream = some_stream(seed)
        for step in stream.steps(MESSAGES // STREAMS):
            reply, view = step.reply, step.reply.view
            seen.add(reply.status)
            seen |= {
                name for name in ("granted", "refused", "over", "windows") if getattr(reply, name)
            }
            seen |= {
                name for name in ("missing", "kept", "debits", "queued") if getattr(view, name)
            }
            seen.add(f"refresh {reply.refresh}")
            if view.others.others:
                seen.add("others")
            if len(view.debits) == 32:
                seen.add("many debits")
            if view.leased > 2**53 and view.leased % 2:
                seen.add("large")
            if not view.granting:
                seen.add("regroups")
            if view.snapshot is not None and view.snapshot.overlap:
                seen.add("overlap")
            if any(len(each.settled.buckets()) == 64 for each in stream.head.members.values()):
                seen.add("full")
            if stream.head.numbers_at:
                seen.add("checkpoint")
    assert seen >= {
        *("done", "old", "expired", "reassert", "granted", "refused", "over", "windows"),
        *(
            "missing",
            "kept",
            "debits",
            "queued",
            "others",
            "many debits",
            "large",
            "regroups",
            "full",
        ),
        *("overlap", "checkpoint", "refresh yours", "refresh wait", "refresh newer"),
        "refresh blocked",
    }
