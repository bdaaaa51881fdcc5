"""ElevenLabs' API, as its reference and its errors page describe it (elevenlabs.io/docs, 2026-11).

The statuses, codes and shapes are documented, and so are the fields of the subscription and the header
`character-cost`. The texts of `exhausted`, `key_limit` and `exhausted_invoice` and their status 401 come from
field reports, and so does the text of `busy_at_once`. Invented are its status and its Retry-After, the sound,
and that it costs the same with every voice.
"""

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from budgetguard.testing.sandbox.account import Operation, number
from budgetguard.testing.sandbox.replies import Refusal
from budgetguard.testing.sandbox.vendor import Handlers, Vendor

RENEWS = 1_798_761_600
"""When the period's credits renew: 2027-01-01, in seconds since the epoch."""

SOUND_SECONDS = 5
"""How long a sound is whose request does not say."""

LONGEST_SOUND = 30

_FREE_VOICES = "Free users cannot use library voices via the API."


class ElevenLabs(Vendor):
    """It sells speech for credits.

    - `overage`: what the subscription reports as allowed beyond the period's credits. It is not part of the
      account, which has to have these credits, too.
    - `may_exceed`: whether the plan entitles to it.
    """

    name = "elevenlabs"
    key = "sk_sandbox_not_a_real_key"
    other_key = "sk_sandbox_other_not_a_real_key"
    key_header = "xi-api-key"
    key_prefix = ""
    overage: int | Literal["unlimited"] = 0
    may_exceed = False

    def free(self) -> Handlers:
        """The subscription."""
        return {("GET", "/v1/user/subscription"): self._subscription}

    def paid(self) -> Handlers:
        """Speech in three forms, and sound effects."""
        speech = "/v1/text-to-speech/{voice_id}"
        return {
            ("POST", speech): self._speech,
            ("POST", f"{speech}/stream"): self._speech,
            ("POST", f"{speech}/with-timestamps"): self._timed_speech,
            ("POST", "/v1/sound-generation"): self._sound,
        }

    def refusals(self) -> Mapping[str, Refusal]:
        """Lack of credits with three statuses, a cap on what is used at once, and what only resembles them."""
        limit, left = self.left + self.used, self.left
        more = (
            f"You have {left} credits remaining, while more credits are required for this request."
        )
        invoice = "Your subscription has a failed or incomplete payment."
        return {
            "exhausted": _error(
                401,
                "invalid_request",
                "quota_exceeded",
                f"This request exceeds your quota of {limit}. {more}",
            ),
            "not_credits_concurrency": _error(
                429,
                "rate_limit_error",
                "concurrent_limit_exceeded",
                "Too many concurrent requests.",
            ),
            "key_limit": _error(
                401,
                "invalid_request",
                "quota_exceeded",
                "This request exceeds your API key (sandbox) quota of 0. "
                "You have 0 credits remaining, while more credits are required for this request.",
            ),
            "exhausted_402": _error(
                402,
                "payment_required",
                "insufficient_credits",
                "Your account does not have enough credits for this operation.",
            ),
            "exhausted_invoice": _error(401, "payment_required", "payment_issue", invoice),
            "busy_at_once": _error(
                401,
                "invalid_request",
                "quota_exceeded",
                "This request exceeds your quota limit of 200000 characters within a 5-minute interval.",
                {"retry-after": f"{self.retry_after:g}"},
            ),
            "not_credits_plan": _error(402, "payment_required", "paid_plan_required", _FREE_VOICES),
            "not_credits_load": _error(
                429, "rate_limit_error", "system_busy", "The system is currently busy."
            ),
        }

    def error(self, status: int, message: str) -> Refusal:
        """An error with its code in `detail`."""
        kind = "internal_error" if status >= 500 else "invalid_request"  # noqa: PLR2004
        return _error(status, kind, "bad_request" if kind == "invalid_request" else kind, message)

    def unauthorized(self) -> Refusal:
        """In the words of the help page."""
        return _error(401, "authentication_error", "invalid_api_key", "Invalid API key")

    async def _subscription(self, _: Request) -> Response:
        return JSONResponse(
            {
                "tier": "creator",
                "character_count": self.used,
                "character_limit": self.left + self.used,
                "max_credit_limit_extension": self.overage,
                "can_extend_character_limit": self.may_exceed,
                "allowed_to_extend_character_limit": self.overage != 0,
                "next_character_count_reset_unix": RENEWS,
                "status": "active",
            }
        )

    async def _speech(self, request: Request) -> Response:
        operation = self._spoken(await self.body(request))
        return StreamingResponse(_sound_in_parts(), headers=self._headers(operation, "audio/mpeg"))

    async def _timed_speech(self, request: Request) -> Response:
        operation = self._spoken(await self.body(request))
        body = {"audio_base64": "c291bmQ=", "alignment": None, "normalized_alignment": None}
        return JSONResponse(body, headers=self._headers(operation, "application/json"))

    async def _sound(self, request: Request) -> Response:
        given = await self.body(request)
        seconds = given.get("duration_seconds")
        seconds = SOUND_SECONDS if seconds is None else seconds
        if not isinstance(seconds, int | float) or not 0.5 <= seconds <= LONGEST_SOUND:  # noqa: PLR2004
            raise self.error(400, f"duration_seconds is a number from 0.5 to {LONGEST_SOUND}.")
        operation = self.charge(math.ceil(seconds * 40), "sound")
        return StreamingResponse(_sound_in_parts(), headers=self._headers(operation, "audio/mpeg"))

    def _spoken(self, given: Mapping[str, Any]) -> Operation:
        text, model = given.get("text"), given.get("model_id") or "eleven_multilingual_v2"
        if not isinstance(text, str) or not isinstance(model, str):
            raise self.error(400, "text is a string.")
        halved = "flash" in model or "turbo" in model
        return self.charge(math.ceil(len(text) / (2 if halved else 1)), "speech")

    def _headers(self, operation: Operation, kind: str) -> dict[str, str]:
        return {
            "content-type": kind,
            "character-cost": str(number(operation.micros)),
            "current-concurrent-requests": "1",
            "maximum-concurrent-requests": "5",
            "request-id": operation.id,
        }


async def _sound_in_parts() -> AsyncIterator[bytes]:
    for part in (b"sou", b"nd"):
        yield part


def _error(
    status: int, kind: str, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Refusal:
    # `status` is the older name of `code`, and still sent.
    detail = {"type": kind, "code": code, "status": code, "message": message}
    return Refusal(status, {"detail": detail}, headers)
