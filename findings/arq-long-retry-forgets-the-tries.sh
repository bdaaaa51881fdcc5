#!/usr/bin/env bash
# arq 0.28.0 (PyPI), with fakeredis 2.41.0 in Redis's place; read and run November 2026.
#
# A job that raises `Retry(defer=...)` is put back for any later time, but nothing that arq keeps about it
# is given longer to live. Its arguments go a day after it was to start first (`_expires`): if it is put
# off beyond that, the retry is accepted, stays in the queue, and ends with "job expired" when it is due.
# With a longer `_expires` the arguments stay, but the number of its tries has a lifetime of its own, 88,400
# seconds (24 h 33 min), that no setting changes: after a longer wait the next try is number 1 again, and
# `max_tries` stops nothing. A job that waits for a monthly allowance is either lost or tried for ever.
#
# Output seen (a burst worker every two days, `max_tries` 3, `Retry(defer=2 days)`, 12 days):
#   by default: tries [1], then JobExecutionFailed: job expired
#   _expires 40 days: tries [1, 1, 1, 1, 1, 1], then still queued
#   _expires 40 days, put off 2 hours instead: tries [1, 2, 3], then JobExecutionFailed: max 3 retries exceeded
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet arq==0.28.0 fakeredis==2.41.0 redis==5.3.1 time-machine==3.6.0

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import logging
import sys
from datetime import UTC, datetime, timedelta

import arq.worker
import time_machine
from arq import ArqRedis, Retry, Worker, func
from arq.jobs import JobStatus
from fakeredis import FakeServer
from fakeredis.aioredis import FakeConnection
from redis.asyncio import ConnectionPool

logging.disable(logging.CRITICAL)


async def no_server_info(*_):
    """fakeredis has no INFO, which a worker logs when it starts."""


arq.worker.log_redis_info = no_server_info


async def after(wait, expires):
    """The numbers of the tries of one job, and what became of it."""
    tries = []

    async def parked(ctx):
        tries.append(ctx["job_try"])
        raise Retry(defer=wait)

    server = FakeServer()
    with time_machine.travel(datetime(2026, 11, 1, tzinfo=UTC), tick=False) as clock:
        redis = ArqRedis(ConnectionPool(connection_class=FakeConnection, server=server))
        job = await redis.enqueue_job("parked", _expires=expires)
        for _ in range(6):
            await worked(redis, func(parked, name="parked", max_tries=3))
            clock.shift(wait + timedelta(seconds=1))
        if await job.status() is not JobStatus.complete:
            return tries, "still queued"
        result = (await job.result_info()).result
        return tries, f"{type(result).__name__}: {result}"


async def worked(redis, function):
    """Run what is due, once."""
    worker = Worker(
        [function],
        redis_pool=redis,
        burst=True,
        max_burst_jobs=1,
        keep_result=timedelta(days=400),
        handle_signals=False,
        poll_delay=0,
    )
    await worker.main()


day = timedelta(days=1)
cases = {
    "by default": (2 * day, None),
    "_expires 40 days": (2 * day, 40 * day),
    "_expires 40 days, put off 2 hours instead": (timedelta(hours=2), 40 * day),
}
seen = []
for name, (wait, expires) in cases.items():
    tries, end = asyncio.run(after(wait, expires))
    print(f"{name}: tries {tries}, then {end}")
    seen.append((tries, end))
sys.exit(
    seen
    != [
        ([1], "JobExecutionFailed: job expired"),
        ([1, 1, 1, 1, 1, 1], "still queued"),
        ([1, 2, 3], "JobExecutionFailed: max 3 retries exceeded"),
    ]
)
PYTHON
