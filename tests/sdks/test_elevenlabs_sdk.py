"""ElevenLabs' own SDK behind a guarded transport, against the sandbox: plain and awaiting."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from needed import need

from budgetguard import Event, Guard
from budgetguard.providers import ElevenLabs
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox, Vendor
from budgetguard.transport import AsyncGuardTransport, GuardTransport

need("elevenlabs")
from elevenlabs import AsyncElevenLabs  # noqa: E402
from elevenlabs import ElevenLabs as Client  # noqa: E402
from elevenlabs.core import ApiError  # noqa: E402

VOICE = "JBFqnCBsd6RMkjVDRZzb"
TEXT = "x" * 11


class Account:
    """The sandbox's account, its guard, and what becomes of the holds."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.vendor: Vendor = sandbox.vendor("elevenlabs")
        self.ends: list[tuple[str, Any]] = []
        provider = ElevenLabs(self.vendor.key, base_url=self.vendor.url)
        self.guard = Guard(provider, on_event=self._note)
        self.guard.balance()

    def _note(self, event: Event) -> None:
        if event.kind in {"settled", "released", "kept"}:
            self.ends.append((event.kind, event.credits))

    @property
    def options(self) -> dict[str, Any]:
        """What a client of the account is made with."""
        return {"api_key": self.vendor.key, "base_url": self.vendor.url}


@pytest.fixture
def account(open_sandbox: Callable[..., Sandbox], clock: HandClock) -> Account:
    """Give one with 100 credits."""
    del clock
    return Account(open_sandbox(100))


@pytest.fixture
def client(account: Account) -> Iterator[Client]:
    """Give the plain client."""
    with httpx.Client(transport=GuardTransport(account.guard)) as http:
        yield Client(httpx_client=http, **account.options)


@pytest.fixture
async def awaiting(account: Account, anyio_backend: str) -> AsyncIterator[AsyncElevenLabs]:
    """Give the awaiting client."""
    del anyio_backend
    async with httpx.AsyncClient(transport=AsyncGuardTransport(account.guard)) as http:
        yield AsyncElevenLabs(httpx_client=http, **account.options)


@pytest.mark.parametrize("how", ["convert", "stream"])
@pytest.mark.parametrize(
    ("model", "held", "cost"), [("eleven_v3", 11, 11), ("eleven_flash_v2_5", 6, 6)]
)
def test_a_stream_of_sound(
    account: Account, client: Client, how: str, model: str, held: int, cost: int
) -> None:
    """Held from the first part to the last, and settled at what the header says."""
    convert = getattr(client.text_to_speech, how)
    sound = convert(VOICE, text=TEXT, model_id=model, request_options={"chunk_size": 1})
    assert account.guard.available == 100
    parts = [next(sound)]
    assert account.guard.available == 100 - held
    assert account.ends == []
    assert b"".join([*parts, *sound]) == b"sound"
    assert account.ends == [("settled", cost)]
    assert account.guard.available == account.vendor.account.balance == 100 - cost


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["convert", "stream"])
async def test_a_stream_of_sound_that_is_awaited(
    account: Account, awaiting: AsyncElevenLabs, how: str
) -> None:
    """The same on both event loops."""
    sound = getattr(awaiting.text_to_speech, how)(VOICE, text=TEXT)
    assert b"".join([part async for part in sound]) == b"sound"
    assert account.ends == [("settled", 11)]


def test_a_stream_that_is_left(account: Account, client: Client) -> None:
    """The header came before the sound: the cost is known, whoever listens."""
    sound: Any = client.text_to_speech.stream(VOICE, text=TEXT, request_options={"chunk_size": 1})
    assert next(sound) == b"s"
    sound.close()
    assert account.ends == [("settled", 11)]


def test_other_calls(account: Account, client: Client) -> None:
    """A JSON reply, and a sound effect; the subscription costs nothing."""
    client.text_to_speech.convert_with_timestamps(VOICE, text=TEXT)
    b"".join(client.text_to_sound_effects.convert(text="x", duration_seconds=0.5))
    assert client.user.subscription.get().character_count == 31
    assert account.ends == [("settled", 11), ("settled", 20)]


def test_our_refusal(account: Account, client: Client) -> None:
    """An ApiError that shows our sentence, asked once; nothing reached the vendor."""
    for call in (client.text_to_speech.convert, client.text_to_speech.convert_with_timestamps):
        with pytest.raises(ApiError, match="needs 101 credits, and 100 are available") as caught:
            b"".join(call(VOICE, text="x" * 101))  # type: ignore[arg-type]
        assert caught.value.status_code == 402
        assert caught.value.body["detail"]["code"] == "insufficient_credits"
    assert account.vendor.requests.arrived == 0


def test_an_unknown_price(account: Account, client: Client) -> None:
    """An ApiError that says how to set it."""
    with pytest.raises(ApiError, match="Set it with prices=") as caught:
        b"".join(client.music.compose(prompt="x"))
    assert caught.value.status_code == 400
    with pytest.raises(ApiError, match="Set it with prices="):
        client.speech_to_text.convert(model_id="scribe_v2", file=b"sound")


@pytest.mark.parametrize(
    ("kind", "status", "sent"),
    [
        ("exhausted", 401, 1),
        ("exhausted_402", 402, 1),
        ("key_limit", 401, 1),
        ("not_credits_plan", 402, 3),
        ("not_credits_concurrency", 429, 3),
    ],
)
def test_the_vendors_own_refusals(
    account: Account, client: Client, kind: str, status: int, sent: int
) -> None:
    """Lack of credits stops the account; the SDK shows all of them as an ApiError."""
    account.vendor.refuse_with = kind
    for at in range(3):
        with pytest.raises(ApiError) as caught:
            b"".join(client.text_to_speech.convert(VOICE, text=TEXT))
        assert caught.value.status_code == (status if at < sent else 402)
    assert account.vendor.requests == (sent, 0, sent)
    assert account.ends == [("released", 11)] * sent
