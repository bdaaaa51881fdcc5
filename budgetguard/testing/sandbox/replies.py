"""The error bodies of both providers, word for word where their pages give the words (2026-11)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

Body = dict[str, Any]


class Refusal(Exception):
    """A documented answer other than 200, raised from wherever it is found out."""

    def __init__(self, status: int, body: Body, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def predev(status: int, error: str, message: str) -> Refusal:
    """An error in pre.dev's shape for the account and for specs."""
    return Refusal(status, {"error": error, "message": message})


def predev_browser(status: int, error: str, code: str, action_url: str | None = None) -> Refusal:
    """An error in pre.dev's shape for browser agents: with a code, perhaps with a link."""
    link = {} if action_url is None else {"actionUrl": action_url}
    return Refusal(status, {"error": error, "code": code, **link})


def predev_out_of_credits() -> Refusal:
    """A spec that the account cannot pay, at its start or half-way."""
    message = "You have insufficient credits to generate a spec."
    body = {"error": "Insufficient credits", "message": message, "generationsAvailable": 0}
    return Refusal(HTTPStatus.PAYMENT_REQUIRED, body)


def anchor(status: int, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """An error in Anchor Browser's nested shape."""
    return Refusal(status, {"error": {"code": int(status), "message": message}}, headers)


def anchor_flat(status: int, message: str) -> Refusal:
    """An error in the flat shape that Anchor Browser has on its project credits page alone."""
    return Refusal(status, {"error": message, "code": int(status)})


def documented(path: str, status: int) -> Body:
    """What the provider's page shows for a status of this path; its plain shape where none is."""
    phrase = HTTPStatus(status).phrase if status in {*HTTPStatus} else "Error"
    if path.startswith("/v1/projects/"):
        flat = {404: "Project not found.", 500: "Failed to get project credits."}
        return anchor_flat(status, flat.get(status, phrase)).body
    if path.startswith("/v1/"):
        nested = {
            402: "Insufficient credits to allocate a new browser",
            403: "Project cost limit reached.",
            429: "Session creation rate limit exceeded.",
        }
        return anchor(status, nested.get(status, phrase)).body
    if path.startswith("/browser-agent"):
        codes = {402: "INSUFFICIENT_CREDITS", 429: "RATE_LIMITED"}
        return predev_browser(status, phrase, codes.get(status, "ERROR")).body
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return predev_out_of_credits().body
    said = {
        400: ("Missing context", "Unable to determine user or organization from API key"),
        401: ("Unauthorized", "Invalid or missing Authorization header"),
        500: ("Failed to retrieve credits balance", "Internal server error"),
    }
    account = said if path == "/credits-balance" else {401: said[401]}
    return predev(status, *account.get(status, (phrase, phrase))).body
