"""What ElevenLabs' requests cost and what its replies say (elevenlabs.io/docs and help pages, 2026-11)."""

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, ClassVar, Final, NoReturn

from budgetguard._core.amounts import exact
from budgetguard._core.errors import BudgetGuardError, InsufficientCredits
from budgetguard._core.provider_refusal import (
    EXHAUSTED,
    KEY_LIMIT,
    NOT_CREDITS,
    ProviderRefusal,
    busy,
)
from budgetguard.providers.billing import (
    OK,
    Billing,
    BillingReply,
    Outcome,
    Prices,
    Unpriced,
    amount,
    parse,
)

CHARACTER: Final = Decimal(1)
CHARACTER_BY_MODEL: Final[Mapping[str, Decimal]] = {
    "eleven_v3": Decimal(1),
    "eleven_multilingual_v2": Decimal(1),
    "eleven_multilingual_v1": Decimal(1),
    "eleven_monolingual_v1": Decimal(1),
    "eleven_flash_v2_5": Decimal("0.5"),
    "eleven_flash_v2": Decimal("0.5"),
    "eleven_turbo_v2_5": Decimal("0.5"),
    "eleven_turbo_v2": Decimal("0.5"),
}
SOUND_SECOND: Final = 40

_LONGEST_SOUND = 30

_LACK = frozenset({"quota_exceeded", "insufficient_credits", "payment_issue"})
# Of a request that another plan would allow, whatever the balance.
_PLAN = frozenset({"paid_plan_required", "subscription_required", "feature_not_available"})
_PLAN_WORDS = re.compile(
    r"\bfree users\b|\bpaid plan\b|\bupgrade your (subscription|plan)\b", re.IGNORECASE
)
_QUOTA_WORDS = re.compile(r"\bexceeds your (api key\b.{0,200}?)?quota\b", re.IGNORECASE | re.DOTALL)
# "exceeds your quota limit of 200000 characters within a 5-minute interval": a cap on what is used at once.
_BURST_WORDS = re.compile(r"\bwithin an? [\w -]{0,40}\binterval\b", re.IGNORECASE)
_BURST: Final = 300.0
_KEY_WORDS = re.compile(r"\bapi key\b.{0,200}?\bquota\b", re.IGNORECASE | re.DOTALL)


def speech_cost(characters: int, model: object = None) -> Decimal:
    """Credits for so many characters of text, rounded up; an unknown model counts as the dearest."""
    rate = CHARACTER_BY_MODEL.get(model, CHARACTER) if isinstance(model, str) else CHARACTER
    return (characters * rate).to_integral_value(ROUND_CEILING)


def _speech(request: Any) -> Decimal:
    body = _fields(request)
    return speech_cost(_length([body.get("text")]), body.get("model_id"))


def _dialogue(request: Any) -> Decimal:
    body = _fields(request)
    inputs = body.get("inputs")
    if not isinstance(inputs, list):
        _unpriced("the inputs of a dialogue are not a list of texts")
    texts = (each.get("text") if isinstance(each, dict) else None for each in inputs)
    return speech_cost(_length(texts), body.get("model_id"))


def _sound(request: Any) -> Decimal:
    seconds = _fields(request).get("duration_seconds")
    if seconds is None:
        seconds = Decimal(_LONGEST_SOUND)
    try:
        length = exact(seconds, "duration_seconds")
    except (TypeError, ValueError):
        length = Decimal(0)
    if length <= 0:
        _unpriced("duration_seconds is not a number above zero")
    return (length * SOUND_SECOND).to_integral_value(ROUND_CEILING)


def _unknown(request: Any) -> NoReturn:
    del request
    _unpriced("it depends on the length of audio, or on your plan")


def _free(request: Any) -> None:
    """Cost nothing: "Usage of this endpoint does not cost any credits" (elevenlabs 2.78, 2026-11)."""
    del request


_SPEECHES = ("", "/stream", "/with-timestamps", "/stream/with-timestamps")
_UNKNOWN = (
    "/v1/speech-to-text",
    "/v1/speech-to-speech/**",
    "/v1/voice-changer/**",
    "/v1/audio-isolation/**",
    "/v1/forced-alignment",
    "/v1/music/**",
    "/v1/text-to-voice/create-previews",
    "/v1/text-to-voice/design",
    "/v1/text-to-voice/*/remix",
    "/v1/dubbing",
    "/v1/dubbing/project",
    "/v1/dubbing/project/*/language",
    "/v1/dubbing/project/*/language/*/transcript/regenerate",
    "/v1/dubbing/resource/*/dub",
    "/v1/dubbing/resource/*/transcribe",
    "/v1/dubbing/resource/*/translate",
    "/v1/dubbing/resource/*/render/*",
    "/v1/studio/podcasts",
    "/v1/studio/projects/*/convert",
    "/v1/studio/projects/*/chapters/*/convert",
    "/v1/flows/image",
    "/v1/flows/video",
    "/v1/flows/text-to-speech",
    "/v1/flows/templates/*/runs",
    "/v1/convai/*/outbound-call",
    "/v1/convai/batch-calling/submit",
    "/v1/convai/agents/*/run-tests",
    "/v1/convai/agents/*/simulate-conversation/**",
)


class ElevenLabsBilling(Billing):
    """Text costs by the character, and a header of the reply says how many credits it was."""

    prices: ClassVar[Prices] = {
        **{("POST", f"/v1/text-to-speech/*{how}"): _speech for how in _SPEECHES},
        **{("POST", f"/v1/text-to-dialogue{how}"): _dialogue for how in _SPEECHES},
        ("POST", "/v1/sound-generation"): _sound,
        ("POST", "/v1/music/plan"): _free,
        **{("POST", path): _unknown for path in _UNKNOWN},
    }

    def cost_of(self, reply: BillingReply) -> Outcome:
        """Settle at what the header says, also if the sound was not read to its end."""
        told = amount(reply.headers.get("character-cost")) if reply.status in OK else None
        return super().cost_of(reply) if told is None else told

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """By the code and not by the status: lack of credits is a 401 in the field, and a 402 by the docs."""
        refusal = super().classify(reply)
        if refusal is None:
            return None
        codes, words = _said(reply)
        if _BURST_WORDS.search(words):
            return busy(reply.retry_after() or _BURST)
        if not _LACK.isdisjoint(codes) or _QUOTA_WORDS.search(words):
            return KEY_LIMIT if _KEY_WORDS.search(words) else EXHAUSTED
        of_plan = not _PLAN.isdisjoint(codes) or _PLAN_WORDS.search(words)
        return NOT_CREDITS if of_plan else refusal

    def refusal_body(self, error: BudgetGuardError, path: str) -> dict[str, Any]:
        """As ElevenLabs writes it: its SDK shows all of the body."""
        lacks = isinstance(error, InsufficientCredits)
        code = "insufficient_credits" if lacks else "service_unavailable"
        kind = "payment_required" if lacks else "service_unavailable"
        status = "quota_exceeded" if lacks else code
        detail = {"type": kind, "code": code, "status": status, "message": str(error)}
        return {**super().refusal_body(error, path), "detail": detail}


def _fields(request: Any) -> Mapping[str, Any]:
    body = parse(request.content)
    return body if isinstance(body, dict) else {}


def _length(texts: Iterable[Any]) -> int:
    length = 0
    for text in texts:
        if not isinstance(text, str):
            _unpriced("its text is not a string")
        length += len(text)
    return length


def _unpriced(why: str) -> NoReturn:
    msg = (
        f"the largest cost of this request is not known: {why}. Set it with prices= of a transport"
    )
    raise Unpriced(msg)


def _said(reply: BillingReply) -> tuple[set[str], str]:
    """The codes and the message of an error; `status` is the older name of `code` (errors page, 2026-11)."""
    detail = reply.field("detail")
    if isinstance(detail, str):
        return set(), detail
    if not isinstance(detail, dict):
        return set(), ""
    codes = {each for name in ("code", "status") if isinstance(each := detail.get(name), str)}
    words = detail.get("message")
    return codes, words if isinstance(words, str) else ""
