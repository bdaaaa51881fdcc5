"""Signatures of webhooks, by version 1.0.0 of the Standard Webhooks specification.

Source: spec/standard-webhooks.md in github.com/standard-webhooks/standard-webhooks, read on 2026-11-30.
The headers are `webhook-id`, `webhook-timestamp` (whole seconds since the epoch) and
`webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. There may be
several signatures, separated by spaces, while a secret is being changed. A secret is 24 to 64 random
bytes, as base64 after `whsec_`.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from budgetguard._core.errors import ConfigurationError

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
_MAX_SIGNATURES = 16
_WHOLE_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


def key_of(secret: str, what: str) -> bytes:
    """The key of a secret, with or without its prefix; raises ConfigurationError, which calls it `what`."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    del secret
    if not _SHORTEST <= len(key) <= _LONGEST:
        msg = (
            f"{what} takes base64 of {_SHORTEST} to {_LONGEST} random bytes, with or without "
            f'"{_PREFIX}" before it, such as "{_PREFIX}" + base64.b64encode(os.urandom(32)).decode()'
        )
        raise ConfigurationError(msg)
    return key


def sign(key: bytes, identity: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt to deliver a body."""
    return {
        ID: identity,
        TIMESTAMP: str(timestamp),
        SIGNATURE: _signature(key, identity, str(timestamp), body),
    }


def verify(
    key: bytes, headers: Mapping[str, str], body: bytes, tolerance: float, now: float
) -> None:
    """Raise ValueError unless a body was signed with the key at most `tolerance` seconds ago, or ahead."""
    found = {name.lower(): value for name, value in headers.items()}
    identity, timestamp = found.get(ID, ""), found.get(TIMESTAMP, "")
    if not identity or not _WHOLE_SECONDS.fullmatch(timestamp):
        msg = f"the headers {ID} and {TIMESTAMP} are missing or malformed"
        raise ValueError(msg)
    if abs(now - int(timestamp)) > tolerance:
        msg = f"{TIMESTAMP} is more than {tolerance:g} s from this machine's time"
        raise ValueError(msg)
    right = _signature(key, identity, timestamp, body).encode()
    given = found.get(SIGNATURE, "").split(" ")[:_MAX_SIGNATURES]
    # A list, so that the time taken does not depend on which of them matches.
    if not any([hmac.compare_digest(right, each.encode()) for each in given]):  # noqa: C419
        msg = f"no signature in {SIGNATURE} is right"
        raise ValueError(msg)


def _signature(key: bytes, identity: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((identity.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
