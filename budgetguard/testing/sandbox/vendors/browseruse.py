"""Browser Use, as the OpenAPI documents of its APIs v2, v3 and v4 describe it (2026-08 to 2026-11)."""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.account import Amount, micro
from budgetguard.testing.sandbox.clock import after
from budgetguard.testing.sandbox.replies import Refusal, uuid
from budgetguard.testing.sandbox.vendor import Handler, Handlers, Vendor
from budgetguard.testing.sandbox.vendors.browseruse_work import Work, browser_micros

_MICRO = 1_000_000
_LONGEST = 240
_SESSION_BUDGET = 25
_MANY = 1_000
_RUNNING = {"v2": "started", "v3": "running", "v4": "running"}
_DONE = {"v2": "finished", "v3": "stopped", "v4": "completed"}
_FAILED = {"v2": "failed", "v3": "error", "v4": "failed"}
_STOPPED = {"v2": "stopped", "v3": "stopped", "v4": "cancelled"}
_ACCOUNTS = ("/api/v2/billing/account", "/api/v3/billing/account")


class BrowserUse(Vendor):
    """It sells agents' work and browsers for US dollars.

    A task of v2 or v3 and a run of v4 cost `task_cost`, in `steps` equal parts every `step_seconds`; they
    stop at their `maxCostUsd`, and where the account can pay no further step. A browser costs 0.02 an
    hour: all of its `timeout` at once, and what is left is given back when it is stopped. `slots` is the
    limit on concurrent sessions, 10 as for a new project (guide on concurrency, 2026-11).

    Documented are the paths, the fields, and the statuses and bodies of refusals. Invented are what tasks
    cost, that a budget is kept to the micro-dollar, in which state work ends that a budget or an empty
    account stops, and that a message in a session's queue becomes a run at once.
    """

    name = "browseruse"
    key = "bu_sandbox_not_a_real_key"
    other_key = "bu_sandbox_other_not_a_real_key"
    key_header = "x-browser-use-api-key"
    key_prefix = ""

    full = "not_credits_sessions"
    slots = 10
    task_cost: Amount = "0.5"
    steps = 5
    step_seconds = 10.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._work: dict[str, Work] = {}

    def free(self) -> Handlers:
        """The account, and all that tells of work or stops it."""
        browsers = {
            (method, f"/api/v{version}/browsers/{{id}}"): handler
            for version in (2, 3, 4)
            for method, handler in (
                ("GET", self._shows(Work.browser)),
                ("PATCH", self._stops(Work.browser)),
            )
        }
        return {
            **{("GET", path): self._account for path in _ACCOUNTS},
            ("GET", "/api/v2/tasks"): self._tasks,
            ("GET", "/api/v2/tasks/{id}"): self._shows(Work.task),
            ("GET", "/api/v2/tasks/{id}/status"): self._shows(Work.task_status),
            ("PATCH", "/api/v2/tasks/{id}"): self._stops(Work.task),
            ("GET", "/api/v2/sessions/{id}"): self._shows(Work.old_session),
            ("PATCH", "/api/v2/sessions/{id}"): self._stops(Work.old_session),
            ("GET", "/api/v3/sessions/{id}"): self._shows(Work.session_view),
            ("POST", "/api/v3/sessions/{id}/stop"): self._stops(Work.session_view),
            ("DELETE", "/api/v3/sessions/{id}"): self._delete,
            ("GET", "/api/v3/sessions/{id}/messages"): self._messages,
            ("GET", "/api/v4/runs"): self._runs,
            ("GET", "/api/v4/runs/{id}"): self._shows(Work.run),
            ("GET", "/api/v4/runs/{id}/status"): self._shows(lambda it: {"status": it.status}),
            ("POST", "/api/v4/runs/{id}/cancel"): self._stops(Work.run),
            **browsers,
        }

    def paid(self) -> Handlers:
        """What begins work."""
        return {
            ("POST", "/api/v2/tasks"): self._task,
            ("POST", "/api/v2/sessions"): self._old_session,
            ("POST", "/api/v3/sessions"): self._session,
            ("POST", "/api/v4/runs"): self._run,
            ("POST", "/api/v4/sessions/{id}/queue"): self._queue,
            **{("POST", f"/api/v{version}/browsers"): self._browser for version in (2, 3, 4)},
        }

    def refusals(self) -> Mapping[str, Refusal]:
        """The bodies are the schemas' own, except for the words and figures of the key's limit."""
        limit = {
            "code": "api_key_monthly_spend_limit_reached",
            "message": "API key monthly spend limit reached",
            "cap": 5,
            "spent": 5.1,
        }
        many = "Too many concurrent active sessions. Please wait for one to finish, kill one, or upgrade your plan."
        return {
            "exhausted": self.error(402, "Insufficient credits"),
            "key_limit": Refusal(402, {"detail": limit}),
            self.full: self.error(429, many),
            "not_credits_rate": Refusal(
                429,
                {"detail": "Rate limit exceeded", "retry_after_seconds": self.retry_after},
                {"retry-after": f"{self.retry_after:g}", "x-ratelimit-limit": "125"},
            ),
        }

    def error(self, status: int, message: str) -> Refusal:
        """FastAPI's shape, which all three APIs have."""
        return Refusal(status, {"detail": message})

    async def _account(self, _: Request) -> Response:
        with self.clock.settled():
            limit = _MANY if self.slots is None else self.slots
            return JSONResponse(
                {
                    "name": "Sandbox",
                    "totalCreditsBalanceUsd": self.left,
                    "monthlyCreditsBalanceUsd": 0,
                    "additionalCreditsBalanceUsd": self.left,
                    "rateLimit": limit,
                    "concurrentSessionLimit": limit,
                    "activeSessionCount": self.account.running,
                    "planInfo": None,
                    "isFreeTier": False,
                    "projectId": uuid("browseruse project", 0),
                    "apiKeyId": None,
                    "tracingDisabled": False,
                }
            )

    async def _task(self, request: Request) -> Response:
        given = self._worded(await self.body(request))
        steps = given.get("maxSteps", 100)
        if type(steps) is not int or not 1 <= steps <= 10_000:  # noqa: PLR2004
            raise self.error(422, "maxSteps is a whole number from 1 to 10000.")
        work = self._agent("v2", given, math.inf)
        return JSONResponse({"id": work.id, "sessionId": work.session}, 202)

    async def _old_session(self, request: Request) -> Response:
        with self.clock.settled() as now:
            work = self._begun("session", await self.body(request), now, "active")
            self.clock.at(after(now, 60 * _LONGEST), partial(self._end_old_session, work))
            return JSONResponse(work.old_session(), 201)

    async def _session(self, request: Request) -> Response:
        given = await self.body(request)
        with self.clock.settled() as now:
            id = given.get("sessionId")
            if id is None and given.get("task") is None:
                idle = Work(self._id(), [], "idle", now, given, "")
                self._work[idle.id] = idle
                return JSONResponse(idle.session_view())
            self._worded(given)
            budget = self._budget(given)
            if id is None:
                return JSONResponse(self._agent("v3", given, budget).session_view())
            work = self._found(id)
            if work.status != "idle":
                raise self.error(422, "The session is not idle.")
            # The limit that is given replaces the session's; without one, it is what was spent and the default.
            work.cap = budget if "maxCostUsd" in given else work.spent + budget
            work.operations.append(self.begin("v3"))
            work.asked = given
            self._start("v3", work, now)
            return JSONResponse(work.session_view())

    async def _run(self, request: Request) -> Response:
        given = self._worded(await self.body(request))
        with self.clock.settled():
            session = given.get("sessionId")
            earlier = [it for it in self._work.values() if session and it.session == session]
            if any(it.operation.state == "running" for it in earlier):
                raise self.error(409, "The session already has an active run.")
            spent = sum(it.spent for it in earlier)
            work = self._agent("v4", given, self._budget(given) - spent, session)
            return JSONResponse(work.run_created())

    async def _queue(self, request: Request) -> Response:
        given = await self.body(request)
        if not isinstance(given.get("text"), str):
            raise self.error(422, "text is the message.")
        work = self._agent("v4", {"task": given["text"]}, math.inf, request.path_params["id"])
        return JSONResponse(
            {
                "id": 1,
                "sessionId": work.session,
                "runId": work.id,
                "mode": "queue",
                "status": "consumed",
                "text": given["text"],
                "createdAt": work.run()["createdAt"],
            }
        )

    async def _browser(self, request: Request) -> Response:
        given = await self.body(request)
        minutes = given.get("timeout", 60)
        if type(minutes) is not int or minutes < 1:
            raise self.error(422, "timeout is a number of minutes.")
        if minutes > _LONGEST:
            raise self.error(403, "Maximum session timeout is 4 hours (240 minutes).")
        with self.clock.settled() as now:
            price = browser_micros(minutes)
            work = self._begun("browser", given, now, "active", Decimal(price) / _MICRO)
            self.account.charge(work.operation, price, now)
            self.clock.at(after(now, 60 * minutes), partial(self._end_browser, work))
            return JSONResponse(work.browser(), 201)

    async def _tasks(self, request: Request) -> Response:
        size = int(request.query_params.get("pageSize", "10"))
        with self.clock.settled():
            tasks = [it.task() for it in self._newest("v2")]
        return JSONResponse(
            {"items": tasks[:size], "totalItems": len(tasks), "pageNumber": 1, "pageSize": size}
        )

    async def _runs(self, request: Request) -> Response:
        size = int(request.query_params.get("limit", "50"))
        with self.clock.settled():
            runs = [it.run() for it in self._newest("v4")]
        more = {"nextCursor": None, "hasMore": len(runs) > size}
        return JSONResponse({"runs": runs[:size], **more})

    async def _messages(self, request: Request) -> Response:
        with self.clock.settled():
            self._found(request.path_params["id"])
        return JSONResponse({"messages": [], "hasMore": False})

    async def _delete(self, request: Request) -> Response:
        with self.clock.settled() as now:
            work = self._found(request.path_params["id"])
            self._stop(work, now)
            del self._work[work.id]
        return Response(status_code=204)

    def _shows(self, view: Callable[[Work], dict[str, Any]]) -> Handler:
        async def shows(request: Request) -> Response:
            with self.clock.settled():
                return JSONResponse(view(self._found(request.path_params["id"])))

        return shows

    def _stops(self, view: Callable[[Work], dict[str, Any]]) -> Handler:
        async def stops(request: Request) -> Response:
            with self.clock.settled() as now:
                work = self._found(request.path_params["id"])
                self._stop(work, now)
                return JSONResponse(view(work))

        return stops

    def _found(self, id: Any) -> Work:
        work = self._work.get(id) if isinstance(id, str) else None
        if work is None:
            raise self.error(404, "Not found")
        return work

    def _newest(self, api: str) -> list[Work]:
        return [
            it for it in reversed(self._work.values()) if it.operations and it.operation.kind == api
        ]

    def _worded(self, given: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(given.get("task"), str) or not given["task"]:
            raise self.error(422, "task is the text of a task.")
        return given

    def _budget(self, given: dict[str, Any]) -> int:
        """The budget of a session in micro-dollars, at most what the account has."""
        most = given.get("maxCostUsd")
        try:
            usd = Decimal(str(_SESSION_BUDGET if most is None else most))
            micros = micro(usd)
        except (InvalidOperation, ValueError):
            micros = 0
        if micros <= 0 or isinstance(most, bool):
            raise self.error(422, "maxCostUsd is a number of US dollars above 0.")
        return min(micros, self.account.reported_micros())

    def _agent(
        self, api: str, given: dict[str, Any], cap: float, session: str | None = None
    ) -> Work:
        with self.clock.settled() as now:
            work = self._begun(api, given, now, _RUNNING[api], session=session)
            work.cap = cap
            self._start(api, work, now)
            return work

    def _begun(
        self,
        kind: str,
        given: dict[str, Any],
        now: float,
        status: str,
        first: Amount = 0,
        session: str | None = None,
    ) -> Work:
        operation, id = self.begin(kind, first), self._id()
        work = Work(
            id,
            [operation],
            status,
            now,
            given,
            session or uuid("browseruse session", len(self._work)),
        )
        self._work[id] = work
        return work

    def _id(self) -> str:
        return uuid("browseruse", len(self._work) + 1)

    def _start(self, api: str, work: Work, now: float) -> None:
        work.status, work.ended = _RUNNING[api], None
        work.is_successful = work.output = work.error = None
        step = micro(self.task_cost) // self.steps
        self.clock.at(
            after(now, self.step_seconds), partial(self._step, api, work, work.operation, step, 1)
        )

    def _step(
        self, api: str, work: Work, operation: Any, step: int, count: int, when: float
    ) -> None:
        if operation.state != "running":
            return
        part = min(step, max(int(min(work.cap, 10**15)) - work.spent, 0))
        if not self.account.charge(operation, part, when):
            work.error = "Insufficient credits"
            self._finish(work, when, _FAILED[api], died=True)
            return
        work.steps += 1
        if part < step:
            work.error, work.is_successful = "The session's budget is used up.", False
            self._finish(work, when, "failed" if api == "v4" else _STOPPED[api])
        elif count >= self.steps:
            work.output, work.is_successful = "Forty-two.", True
            keeps = api == "v3" and work.asked.get("keepAlive") is True
            self._finish(work, when, "idle" if keeps else _DONE[api])
        else:
            again = partial(self._step, api, work, operation, step, count + 1)
            self.clock.at(after(when, self.step_seconds), again)

    def _stop(self, work: Work, now: float) -> None:
        if not work.operations or work.operation.state != "running":
            if work.status == "idle":
                work.status, work.ended = "stopped", now
            return
        kind = work.operation.kind
        if kind == "browser":
            self._end_browser(work, now)
        elif kind == "session":
            self._end_old_session(work, now)
        else:
            work.is_successful = False
            self._finish(work, now, _STOPPED.get(kind, "stopped"))

    def _end_browser(self, work: Work, when: float) -> None:
        if work.ended is None:
            used = browser_micros((when - work.created) / 60)
            self.account.refund(work.operation, max(work.spent - used, 0), when)
            self._finish(work, when, "stopped")

    def _end_old_session(self, work: Work, when: float) -> None:
        if work.ended is None:
            self.account.charge(work.operation, browser_micros((when - work.created) / 60), when)
            self._finish(work, when, "stopped")

    def _finish(self, work: Work, when: float, status: str, *, died: bool = False) -> None:
        work.status, work.ended = status, when
        self.account.end(work.operation, "died" if died else "finished")
