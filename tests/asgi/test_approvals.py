"""Approvals of a web service's requests: a problem document of status 403 for a no."""

import json
from typing import Any

import jsonschema
import pytest

from budgetguard import ApprovalRequest, Guard
from budgetguard._core.problem_document import SCHEMA
from budgetguard.asgi import GuardMiddleware
from budgetguard.testing import FakeProvider, HandClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("approved", [True, False])
async def test_a_request_is_asked_about(
    clock: HandClock, call: Any, approved: bool, anyio_backend: str
) -> None:
    """The approver is given the scope, and may be async."""
    del clock, anyio_backend
    guard = Guard(FakeProvider(100))
    await guard.abalance()
    asked: list[ApprovalRequest] = []

    async def approve(request: ApprovalRequest) -> bool:
        asked.append(request)
        assert guard.available == 100
        return approved

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    rules: dict[Any, Any] = {("GET", "/paid"): {"min": 50, "approve": approve, "approve_above": 20}}
    done = await call(GuardMiddleware(app, guard, rules))
    [request] = asked
    assert (request.operation, request.args[0]["path"]) == ("GET /paid", "/paid")
    if approved:
        assert (done.body, guard.available) == (b"done", 50)
        return
    document = json.loads(done.body)
    jsonschema.validate(document, SCHEMA)
    assert done.sent[0]["status"] == 403
    assert document == {
        "type": "urn:budgetguard:approval-denied",
        "title": "Approval denied",
        "status": 403,
        "detail": "GET /paid needs 50 credits, and the approval was denied.",
        "operation": "GET /paid",
        "provider": "fake",
        "needed": 50,
        "unit": "credits",
        "retryable": False,
    }
    assert guard.available == 100
