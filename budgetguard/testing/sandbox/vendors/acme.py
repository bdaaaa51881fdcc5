"""Acme, a vendor that does not exist: an example of a dialect that no other vendor speaks."""

import math
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from budgetguard.testing.sandbox.account import number
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor


class Acme(Vendor):
    """It sells answers for US dollars.

    - `GET /v1/balance` replies with `{"wallet": {"left": 99.5, "currency": "USD"}}`.
    - `POST /v1/answers` takes `{"question": "...", "cost": 0.5, "max_cost": 2}`, and costs `cost`, but
      at most `max_cost` if that is given. It replies with `{"answer": "...", "usage": {"cost": 0.5}}`.
    - An empty account gets 403 with the code `WALLET_EMPTY`, too many requests 429 with
      `Retry-After`, and a key that has reached a limit of its own 401 with `KEY_SPENT`.
    """

    name = "acme"
    key = "acme_sandbox_not_a_real_key"
    other_key = "acme_sandbox_other_not_a_real_key"

    def free(self) -> Handlers:
        """The balance."""
        return {("GET", "/v1/balance"): self._balance}

    def paid(self) -> Handlers:
        """The answers."""
        return {("POST", "/v1/answers"): self._answer}

    def refusals(self) -> Mapping[str, Refusal]:
        """Three, each with a status that other vendors use for something else."""
        wait = {"retry-after": f"{self.retry_after:g}"}
        return {
            "exhausted": _fault(403, "WALLET_EMPTY", "There is nothing left in the wallet."),
            "busy": _fault(429, "SLOW_DOWN", "Too many questions at once.", wait),
            "key_limit": _fault(401, "KEY_SPENT", "This key has spent what it may spend."),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error with a code that says its status."""
        return _fault(status, f"HTTP_{status}", message)

    async def _balance(self, _: Request) -> Response:
        return JSONResponse({"wallet": {"left": self.left, "currency": "USD"}})

    async def _answer(self, request: Request) -> Response:
        given = await self.body(request)
        prices = [given.get("cost", 1), given.get("max_cost", math.inf)]
        if any(type(price) not in (int, float) for price in prices):
            raise self.error(400, "cost and max_cost are numbers of US dollars.")
        try:
            operation = self.charge(min(prices), "answer")
        except ValueError as error:
            raise self.error(400, str(error)) from None
        cost = number(operation.micros)
        return JSONResponse({"answer": "Forty-two.", "usage": {"cost": cost}})


def _fault(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> Refusal:
    return Refusal(status, {"fault": {"code": code, "text": text}}, headers)
