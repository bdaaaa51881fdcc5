"""Signatures of webhooks: by the specification's own example, and what a receiver must not accept."""

import base64
import json
import time
from typing import Any

import pytest

from budgetguard import ConfigurationError
from budgetguard._core.webhook_signature import key_of, sign, verify
from budgetguard.listeners import verify_webhook

# The example that the specification's reference libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
IDENTITY = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SIGNED_AT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {
    "webhook-id": IDENTITY,
    "webhook-timestamp": str(SIGNED_AT),
    "webhook-signature": SIGNATURE,
}
OTHER = "v1," + base64.b64encode(bytes(32)).decode()


def test_the_example() -> None:
    """The same headers come of it, with and without the secret's prefix."""
    for secret in (SECRET, SECRET.removeprefix("whsec_"), f" {SECRET}\n"):
        assert sign(key_of(secret, "secret"), IDENTITY, SIGNED_AT, BODY) == HEADERS


@pytest.mark.parametrize("off", [-300, 0, 300])
def test_what_is_right(off: int) -> None:
    """Within the tolerance, with any case of the headers, and beside another signature."""
    key = key_of(SECRET, "secret")
    verify(key, HEADERS, BODY, 300, SIGNED_AT + off)
    titled = {name.title(): value for name, value in HEADERS.items()}
    verify(key, titled, BODY, 300, SIGNED_AT + off)
    both = {**HEADERS, "webhook-signature": f"v1a,abc {OTHER} {SIGNATURE}"}
    verify(key, both, BODY, 300, SIGNED_AT + off)


WRONG: dict[str, tuple[dict[str, str], bytes, float, str]] = {
    "another body": ({}, BODY + b" ", 0, "no signature"),
    "another id": ({"webhook-id": "msg_2"}, BODY, 0, "no signature"),
    "another time": ({"webhook-timestamp": str(SIGNED_AT + 1)}, BODY, 0, "no signature"),
    "another signature": ({"webhook-signature": OTHER}, BODY, 0, "no signature"),
    "another version": ({"webhook-signature": SIGNATURE.replace("v1", "v2")}, BODY, 0, "no sign"),
    "text that is not ASCII": ({"webhook-signature": "v1,\u00e9"}, BODY, 0, "no signature"),
    "no signature": ({"webhook-signature": ""}, BODY, 0, "no signature"),
    "no id": ({"webhook-id": ""}, BODY, 0, "missing or malformed"),
    "no time": ({"webhook-timestamp": ""}, BODY, 0, "missing or malformed"),
    "a time that is none": ({"webhook-timestamp": "1e9"}, BODY, 0, "missing or malformed"),
    "too old": ({}, BODY, 301, "more than 300 s"),
    "from the future": ({}, BODY, -301, "more than 300 s"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong(case: str) -> None:
    """A ValueError that says what."""
    headers, body, off, message = WRONG[case]
    key = key_of(SECRET, "secret")
    with pytest.raises(ValueError, match=message):
        verify(key, {**HEADERS, **headers}, body, 300, SIGNED_AT + off)


def test_another_secret() -> None:
    """It signs otherwise."""
    other = key_of(base64.b64encode(bytes(24)).decode(), "secret")
    with pytest.raises(ValueError, match="no signature"):
        verify(other, HEADERS, BODY, 300, SIGNED_AT)


@pytest.mark.parametrize(
    "secret",
    ["whsec_", "a passphrase", base64.b64encode(bytes(23)).decode(), "A" * 200, "whsec_!!!!"],
)
def test_what_is_no_secret(secret: str) -> None:
    """The error says how to make one, and shows nothing of what was given."""
    with pytest.raises(ConfigurationError, match=r"takes base64 of 24 to 64 random bytes") as error:
        key_of(secret, "secret")
    assert secret.removeprefix("whsec_") == "" or secret not in str(error.value)


class TestReceivers:
    """What a receiver's program calls."""

    def signed(self, body: bytes) -> dict[str, str]:
        """The headers of a webhook that was signed just now."""
        return sign(key_of(SECRET, "secret"), "msg_1", int(time.time()), body)

    def test_a_webhook(self) -> None:
        """Its object."""
        body = json.dumps({"type": "budgetguard.low"}).encode()
        assert verify_webhook(SECRET, self.signed(body), body) == {"type": "budgetguard.low"}

    def test_an_old_one(self) -> None:
        """Is refused."""
        with pytest.raises(ValueError, match="more than 300 s"):
            verify_webhook(SECRET, HEADERS, BODY)

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
    def test_one_that_is_no_object(self, body: bytes) -> None:
        """A ValueError, although it was signed."""
        with pytest.raises(ValueError, match="not a JSON object"):
            verify_webhook(SECRET, self.signed(body), body)

    @pytest.mark.parametrize(
        ("secret", "error"), [(3, TypeError), ("", ConfigurationError), ("x", ConfigurationError)]
    )
    def test_a_wrong_secret(self, secret: Any, error: type[Exception]) -> None:
        """It is the program that is wrong, not the request."""
        with pytest.raises(error):
            verify_webhook(secret, HEADERS, BODY)
