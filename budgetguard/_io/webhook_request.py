"""One attempt to deliver a webhook: one hardened POST, and what its outcome means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import httpx

from budgetguard._core.retry_after import longest_wait
from budgetguard._io.base_url import Address
from budgetguard._io.unlogged import UNLOGGED

if TYPE_CHECKING:
    from budgetguard._io.loop import Runtime

LONGEST_WAIT = 300.0
"""Seconds: a longer Retry-After counts as this."""

_MAX_REPLY = 16 * 1024
_OTHERS_TO_REPEAT = {408, 425, 429}


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Why an attempt did not deliver; `again` is whether another one may. It quotes nothing of the reply."""

    reason: str
    again: bool
    retry_after: float | None = None


async def post_webhook(
    runtime: "Runtime",
    address: Address,
    headers: Mapping[str, str],
    body: bytes,
    timeout: float,  # noqa: ASYNC109  one deadline for the whole request
) -> Undelivered | None:
    """POST a body; None if a 2xx answered within `timeout` seconds. Follows no redirect."""
    # What the status said. A body that breaks off or never ends does not change it.
    answers: list[Undelivered | None] = []
    try:
        with anyio.fail_after(timeout):
            async with runtime.client(("webhook", address.origin), trust_env=False) as client:
                await _post(client, address, headers, body, runtime.clock.wall(), answers)
    except TimeoutError:
        missed = Undelivered(f"no answer within {timeout:g} s", again=True)
    except (httpx.TransportError, OSError) as error:
        missed = Undelivered(f"the request failed ({type(error).__name__})", again=True)
    except Exception as error:  # noqa: BLE001  its text may quote a header or the URL
        missed = Undelivered(f"the request could not be made ({type(error).__name__})", again=False)
    else:
        return answers[0]
    return answers[0] if answers else missed


async def _post(
    client: httpx.AsyncClient,
    address: Address,
    headers: Mapping[str, str],
    body: bytes,
    now_wall: float,
    answers: list[Undelivered | None],
) -> None:
    json = {"content-type": "application/json", **headers}
    request = client.build_request(
        "POST", address.origin, headers=json, content=body, extensions=UNLOGGED
    )
    # Set afterwards, because a request makes a plain URL of the one that it is given.
    request.url = _HiddenURL(_whole(address))
    response = await client.send(request, stream=True, follow_redirects=False)
    try:
        answers.append(_meaning(response, now_wall))
        read = 0
        # Read so that the connection can be used again; what it says is not used.
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > _MAX_REPLY:
                break
    finally:
        await response.aclose()


def _meaning(response: httpx.Response, now_wall: float) -> Undelivered | None:
    if response.is_success:
        return None
    status = response.status_code
    wait = longest_wait(response.headers.get_list("retry-after"), now_wall, most=LONGEST_WAIT)
    again = status >= 500 or status in _OTHERS_TO_REPEAT  # noqa: PLR2004  server errors
    return Undelivered(f"the receiver answered {status}", again, wait)


def _whole(address: Address) -> str:
    return f"{address}?{address.query}" if address.query else str(address)


class _HiddenURL(httpx.URL):
    """A URL that is sent but not shown: receivers put secrets into paths and queries."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc.decode('ascii')}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"
