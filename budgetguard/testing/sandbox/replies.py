"""The error bodies of pre.dev and Anchor Browser, in the words that their pages give (2026-11)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import NAMESPACE_OID, uuid5

Body = dict[str, Any]

_GATEWAY = ("/v1/chat/", "/v1/messages", "/v1/models", "/v1/generation", "/v1/usage")


class Refusal(Exception):
    """A documented reply with a status other than 200, raised by any code below a route."""

    def __init__(self, status: int, body: Body, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def predev(status: int, error: str, message: str) -> Refusal:
    """An error in the shape that pre.dev uses for the account and for specs."""
    return Refusal(status, {"error": error, "message": message})


def predev_browser(status: int, error: str, code: str, action_url: str | None = None) -> Refusal:
    """An error in the shape that pre.dev uses for browser agents."""
    link = {} if action_url is None else {"actionUrl": action_url}
    return Refusal(status, {"error": error, "code": code, **link})


def predev_out_of_credits() -> Refusal:
    """The error for a spec that the account cannot pay, or cannot continue to pay."""
    message = "You have insufficient credits to generate a spec."
    body = {"error": "Insufficient credits", "message": message, "generationsAvailable": 0}
    return Refusal(HTTPStatus.PAYMENT_REQUIRED, body)


def anchor(status: int, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """An error in Anchor Browser's nested shape."""
    return Refusal(status, {"error": {"code": int(status), "message": message}}, headers)


def anchor_flat(status: int, message: str) -> Refusal:
    """An error in the flat shape that Anchor Browser uses only for the project's credits."""
    return Refusal(status, {"error": message, "code": int(status)})


def gateway(status: int, code: str, message: str, **predev: Any) -> Refusal:
    """An error of pre.dev's AI gateway, in OpenAI's shape, with pre.dev's own figures."""
    error = {"message": message, "type": code, "code": code, "param": None}
    return Refusal(status, {"error": error | ({"predev": predev} if predev else {})})


def is_gateway(path: str) -> bool:
    """Whether a path below `/v1/` belongs to pre.dev's AI gateway, not to Anchor Browser."""
    return path.startswith(_GATEWAY)


def uuid(kind: str, number: int) -> str:
    """The UUID of the piece of work with that number; it is the same in every sandbox."""
    return str(uuid5(NAMESPACE_OID, f"{kind} {number}"))


def phrase(status: int) -> str:
    """The usual words for a status."""
    return HTTPStatus(status).phrase if status in {*HTTPStatus} else "Error"


def documented(path: str, status: int) -> Body:
    """The body that the provider documents for this path and status, or one in its usual shape."""
    usual = phrase(status)
    if path.startswith("/v1/projects/"):
        flat = {404: "Project not found.", 500: "Failed to get project credits."}
        return anchor_flat(status, flat.get(status, usual)).body
    if is_gateway(path):
        codes = {402: "insufficient_credits", 429: "rate_limit_exceeded"}
        codes |= {503: "balance_unavailable"}
        code = codes.get(status, usual.lower().replace(" ", "_"))
        return gateway(status, code, usual).body
    if path.startswith("/v1/"):
        nested = {
            402: "Insufficient credits to allocate a new browser",
            403: "Project cost limit reached.",
            429: "Session creation rate limit exceeded.",
        }
        return anchor(status, nested.get(status, usual)).body
    if path.startswith("/browser-agent"):
        codes = {402: "INSUFFICIENT_CREDITS", 429: "RATE_LIMITED"}
        return predev_browser(status, usual, codes.get(status, "ERROR")).body
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return predev_out_of_credits().body
    said = {
        400: ("Missing context", "Unable to determine user or organization from API key"),
        401: ("Unauthorized", "Invalid or missing Authorization header"),
        500: ("Failed to retrieve credits balance", "Internal server error"),
    }
    account = said if path == "/credits-balance" else {401: said[401]}
    return predev(status, *account.get(status, (usual, usual))).body
