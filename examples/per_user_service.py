"""A web service that sells specs from pre.dev, with a budget for each user and day.

Runs against a sandbox on this machine: no account, no money. With --live it spends the credits of
PREDEV_API_KEY at pre.dev. It serves on loopback, requests specs from itself for two users, and exits.
"""

import argparse
import os
import socket
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from predev_api import PredevAPI

from budgetguard import Budget, Event, Guard, PreDev
from budgetguard.asgi import REFUSALS, GuardMiddleware
from budgetguard.testing.sandbox import Sandbox

PER_DAY = 25
# Who sends which token; a real service asks its own database.
USERS = {"token-of-ada": "ada", "token-of-bob": "bob"}


def user_of(scope: MutableMapping[str, Any]) -> str:
    """Return whose request it is; everybody without a token shares one budget."""
    header = dict(scope["headers"]).get(b"authorization", b"").decode()
    return USERS.get(header.removeprefix("Bearer "), "anonymous")


def build(guard: Guard, api: PredevAPI) -> FastAPI:
    """Build the service: a rule prices the requests, and each is in the budget of its user."""

    def budget_of(scope: MutableMapping[str, Any]) -> Budget:
        return guard.budget(PER_DAY, name="daily", key=user_of(scope), per="day")

    app = FastAPI(responses=REFUSALS)
    app.add_middleware(
        GuardMiddleware,
        guard=guard,
        rules={("POST", "/specs"): {"min": PreDev.FAST_SPEC, "name": "fast_spec"}},
        budget=budget_of,
        labels=lambda scope: {"user": user_of(scope)},
    )

    @app.post("/specs")
    def fast_spec(request: Request, prompt: str) -> dict[str, float]:
        spec: Any = api.fast_spec(prompt)
        request.scope["budgetguard.hold"].settle(spec["creditsUsed"])
        return {"credits": spec["creditsUsed"]}

    @app.get("/budget")
    def budget(request: Request) -> dict[str, float]:
        its = budget_of(request.scope)
        return {"spent": float(its.spent), "left": float(its.left)}

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


def ask(client: httpx.Client, token: str, prompt: str) -> str:
    """Request a spec for a user, and describe the reply."""
    headers = {"authorization": f"Bearer {token}"}
    reply = client.post("/specs", params={"prompt": prompt}, headers=headers)
    who, body = USERS[token], reply.json()
    if reply.is_success:
        return f"{reply.status_code}: {who} got {prompt} for {body['credits']:g} credits."
    return f"{reply.status_code}: {who} was refused {prompt}. {body['detail']}"


def report(event: Event) -> None:
    """Print who was refused, as a service's metrics would count it."""
    if event.kind == "refused":
        print(f"refused: {event.operation} of {event.labels['user']}")


def run(key: str, base_url: str) -> None:
    """Serve; request four specs at once for Ada, and one for Bob."""
    guard = Guard(PreDev(key, base_url=base_url), on_event=report)
    print(f"The account has {guard.balance().credits} credits.")
    asked = [("token-of-ada", f"chapter {number}") for number in range(1, 5)]
    asked.append(("token-of-bob", "a tide table"))
    with (
        serving(build(guard, PredevAPI(key, base_url))) as url,
        httpx.Client(base_url=url, timeout=600, trust_env=False) as client,
        ThreadPoolExecutor(len(asked)) as pool,
    ):
        print(*pool.map(lambda each: ask(client, *each), asked), sep="\n")
        for token, user in USERS.items():
            headers = {"authorization": f"Bearer {token}"}
            its = client.get("/budget", headers=headers).json()
            print(f"{user} spent {its['spent']:g} of {PER_DAY} today; {its['left']:g} are left.")
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
        with Sandbox(credits=1000, speed=150) as sandbox:
            run(sandbox.predev_key, sandbox.url)
            print(f"The sandbox charged {sandbox.predev.charged}, for specs that died: ", end="")
            print(f"{sandbox.predev.wasted}.")


if __name__ == "__main__":
    main()
