"""A web service that sells specs from pre.dev: what its credits will not pay for is a 402.

Runs against a sandbox on this machine (no account, no money), and with --live against pre.dev, with
the key in PREDEV_API_KEY. It serves on loopback, asks itself for a few specs, and ends.
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
    """The service, guarded in both ways: by a rule for a path, and by an endpoint's dependency."""
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
    """Ask the service for a spec, and tell what it answered."""
    answer = client.post(f"/{kind}-spec", params={"prompt": prompt})
    said = answer.json()
    if answer.is_success:
        return f"{answer.status_code}: {prompt} finished for {said['credits']:g} credits."
    again = answer.headers.get("retry-after", "no")
    return (
        f"{answer.status_code}: {prompt} refused, to be tried again in {again} s. {said['detail']}"
    )


def run(key: str, base_url: str) -> None:
    """Serve, ask for a fast spec, then for three deep ones at once."""
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
    """Run against the sandbox, or with --live against the real account."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", action="store_true", help="spend credits of PREDEV_API_KEY")
    parser.add_argument("--base-url", default=PreDev.base_url, help="where --live goes")
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
