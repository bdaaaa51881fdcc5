"""A web service that sells specs from pre.dev, and answers 402 if its credits are not enough.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev. It serves on loopback, requests a few specs from itself, and exits.
"""

import argparse
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI, Request
from predev_api import PredevAPI

from budgetguard import Guard, Hold, PreDev
from budgetguard.asgi import REFUSALS, GuardMiddleware, require
from budgetguard.testing.sandbox import Sandbox

PROMPTS = ["a chess club", "a seed library", "a tide table"]


def build(guard: Guard, api: PredevAPI) -> FastAPI:
    """Build the service: one path is guarded by a middleware rule, the other by a dependency."""
    app = FastAPI(responses=REFUSALS)
    deep = {"min": PreDev.DEEP_SPEC, "name": "deep_spec"}
    app.add_middleware(GuardMiddleware, guard=guard, rules={("POST", "/deep-spec"): deep})

    @app.post("/deep-spec")
    def deep_spec(request: Request, prompt: str) -> dict[str, float]:
        spec: Any = api.deep_spec(prompt)
        request.scope["budgetguard.hold"].settle(spec["creditsUsed"])
        return {"credits": spec["creditsUsed"]}

    fast = require(guard, min=PreDev.FAST_SPEC, name="fast_spec")

    @app.post("/fast-spec")
    def fast_spec(prompt: str, hold: Annotated[Hold, Depends(fast)]) -> dict[str, float]:
        spec: Any = api.fast_spec(prompt)
        hold.settle(spec["creditsUsed"])
        return {"credits": spec["creditsUsed"]}

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def ask(client: httpx.Client, kind: str, prompt: str) -> str:
    """Request a spec from the service, and describe its reply."""
    reply = client.post(f"/{kind}-spec", params={"prompt": prompt})
    body = reply.json()
    if reply.is_success:
        return f"{reply.status_code}: {prompt} finished for {body['credits']:g} credits."
    retry_after = reply.headers.get("retry-after", "none")
    return f"{reply.status_code}: {prompt} refused, Retry-After: {retry_after}. {body['detail']}"


def run(key: str, base_url: str) -> None:
    """Serve, request a fast spec, then three deep ones at once."""
    guard = Guard(PreDev(key, base_url=base_url))
    print(f"The account has {guard.balance().credits} credits.")
    with (
        serving(build(guard, PredevAPI(key, base_url))) as url,
        httpx.Client(base_url=url, timeout=600, trust_env=False) as client,
        ThreadPoolExecutor(len(PROMPTS)) as pool,
    ):
        print(ask(client, "fast", "a bird feeder"))
        for line in pool.map(lambda prompt: ask(client, "deep", prompt), PROMPTS):
            print(line)
    print(f"{guard.available} credits are available.")


def main() -> None:
    """Run against the sandbox, or against the real account with --live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="the API for --live")
    options = parser.parse_args()
    if options.live:
        key = os.environ.get("PREDEV_API_KEY") or parser.error("--live needs PREDEV_API_KEY")
        run(key, options.base_url)
    else:
        with Sandbox(credits=130, speed=150) as sandbox:
            run(sandbox.predev_key, sandbox.url)
            print(f"The sandbox charged {sandbox.predev.charged}, for specs that died: ", end="")
            print(f"{sandbox.predev.wasted}.")


if __name__ == "__main__":
    main()
