"""A provider without a mistake, and others that differ from it in one place each."""

import asyncio
import json
import logging
import re
from decimal import Decimal
from typing import Any, NoReturn

import httpx

from budgetguard import Balance, BalanceUnavailable
from budgetguard._io.http import get_json
from budgetguard.providers import HTTPProvider

REPLY = {
    "wallet": {"limit": 100, "used": 3.5, "currency": "USD", "slots": 4},
    "is_open": True,
    "note": None,
    "plan": "solo",
}
GIVEN: dict[str, Any] = {"reply": REPLY, "credits": 96.5}


class Right(HTTPProvider):
    """A provider without a mistake. The others differ from it in one place."""

    name = "Right"
    variable = "RIGHT_API_KEY"
    url_variable = "RIGHT_BASE_URL"
    base_url = "https://api.right.example"
    unit = "USD"

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        reply = await get_json(
            client, f"{self.base_url}/wallet", self._credential, provider=self.name
        )
        return self.read(reply)

    def read(self, reply: dict[str, Any]) -> Balance:
        wallet = self.typed(reply, "wallet", dict)
        return Balance(
            credits=self.left(wallet),
            unit=self.currency(wallet),
            max_concurrency=self.slots(wallet),
        )

    def left(self, wallet: dict[str, Any]) -> Decimal | None:
        left: Decimal = self.number(wallet, "limit") - self.number(wallet, "used")
        return left

    def slots(self, wallet: dict[str, Any]) -> int | None:
        return int(self.number(wallet, "slots"))

    def currency(self, wallet: dict[str, Any]) -> str:
        if wallet.get("currency") != "USD":
            self.refuse("another currency")
        return "USD"

    def number(self, fields: dict[str, Any], name: str) -> Decimal:
        number: Decimal = self.typed(fields, name, Decimal)
        if abs(number) > 10**12:
            self.refuse(f"{name} is too large")
        return number

    def typed(self, fields: dict[str, Any], name: str, kind: type) -> Any:
        value = fields.get(name)
        if not isinstance(value, kind):
            self.refuse(f"{name} is of another type")
        return value

    def refuse(self, reason: str) -> NoReturn:
        raise BalanceUnavailable(provider=self.name, reason=reason)

    @property
    def key(self) -> str:
        return self._credential.key.reveal()

    @property
    def headers(self) -> dict[str, str]:
        return self._credential.headers()

    async def get(self, client: httpx.AsyncClient, **options: Any) -> httpx.Response:
        options = {"headers": self.headers, **options}
        return await client.get(f"{self.base_url}/wallet", **options)


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


class TakesTrueForANumber(Right):
    """In Python, true is 1."""

    def number(self, fields: dict[str, Any], name: str) -> Decimal:
        return (
            Decimal(int(fields[name])) if fields.get(name) is True else super().number(fields, name)
        )


class TakesAnyText(Right):
    """It reads whatever Python reads."""

    def number(self, fields: dict[str, Any], name: str) -> Decimal:
        try:
            return Decimal(float(fields[name]))
        except (KeyError, TypeError):
            self.refuse("no number")


class TakesNothingForZero(Right):
    """A missing figure is 0 for it."""

    def number(self, fields: dict[str, Any], name: str) -> Decimal:
        return super().number({name: Decimal(0), **fields}, name)


class TakesNullForUnlimited(Right):
    """Null is no limit for it."""

    def left(self, wallet: dict[str, Any]) -> Decimal | None:
        return None if wallet.get("limit", 0) is None else super().left(wallet)


class TakesAWordForUnlimited(Right):
    """So is a word that the vendor does not document."""

    def left(self, wallet: dict[str, Any]) -> Decimal | None:
        return None if wallet.get("limit") == "unlimited" else super().left(wallet)


class TakesInfinityForUnlimited(Right):
    """So is what JSON does not have."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        text = (await self.get(client)).text
        if '"limit": Infinity' in text:
            return Balance(credits=None, unit="USD", max_concurrency=4)
        return await super().fetch(client)


class IgnoresSlotsThatMakeNoSense(Right):
    """It lifts a limit that it cannot read."""

    def slots(self, wallet: dict[str, Any]) -> int | None:
        try:
            return super().slots(wallet)
        except BalanceUnavailable:
            return None


class TakesAnotherUnit(Right):
    """It reports another unit if it cannot read one."""

    unit = None  # type: ignore[assignment]

    def currency(self, wallet: dict[str, Any]) -> str:
        return "USD" if wallet.get("currency") == "USD" else "CNY"


class SwallowsErrors(Right):
    """Each failure is an empty account for it."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        try:
            return await super().fetch(client)
        except BalanceUnavailable:
            return Balance(credits=Decimal(0), unit="USD")


class RemembersTheLastBalance(Right):
    """Each failure is an old balance for it."""

    last: Balance | None = None

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        try:
            self.last = await super().fetch(client)
        except BalanceUnavailable:
            if self.last is None:
                raise
        return self.last


class GivesInAtTheSecondAttempt(Right):
    """Each other failure is an old balance for it."""

    failures = 0

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        try:
            return await super().fetch(client)
        except BalanceUnavailable:
            self.failures += 1
            if self.failures % 2:
                raise
        return Balance(credits=Decimal("96.5"), unit="USD", max_concurrency=4)


class IgnoresTheStatus(Right):
    """It reads the balance of a refusal."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        async with client.stream("GET", self.base_url, headers=self.headers) as response:
            status, response.status_code = response.status_code, 200
            if status in range(300, 400) or response.headers.get("content-type", "").startswith(
                "text"
            ):
                self.refuse("another status")
            return await reread(self, response)


async def reread(provider: Right, response: httpx.Response) -> Balance:
    """What the provider without a mistake reads in a response."""
    body = b""
    if response.is_stream_consumed:
        body = response.content
    else:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > 16_384:
                provider.refuse("too long")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    async with httpx.AsyncClient(transport=transport) as client:
        return await Right.fetch(provider, client)


class FollowsRedirects(Right):
    """It goes wherever it is sent; httpx itself keeps the key from another host."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        client.follow_redirects = True
        async with client.stream(
            "GET", f"{self.base_url}/wallet", headers=self.headers, follow_redirects=True
        ) as response:
            response.raise_for_status()
            return await reread(self, response)


class CarriesTheKeyAlong(Right):
    """Its key is in a header that httpx does not know."""

    key_header = "x-api-key"
    key_prefix = ""
    fetch = FollowsRedirects.fetch


class ReadsWithoutEnd(Right):
    """It reads a body whatever its length."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response = await self.get(client)
        response.raise_for_status()
        return await reread(self, response)


class CannotBeCancelled(Right):
    """It begins again when it is cancelled."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        while True:
            try:
                return await super().fetch(client)
            except asyncio.CancelledError:
                continue


class EndsWithABalanceWhenCancelled(Right):
    """It makes up a balance when it is cancelled."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        try:
            return await super().fetch(client)
        except asyncio.CancelledError:
            return Balance(credits=Decimal("96.5"), unit="USD", max_concurrency=4)


class LetsErrorsThrough(Right):
    """It raises what Python raises."""

    def typed(self, fields: dict[str, Any], name: str, kind: type) -> Any:
        fields[name]
        return super().typed(fields, name, kind)


class WantsNoMoreFields(Right):
    """It knows all fields that there can be."""

    def read(self, reply: dict[str, Any]) -> Balance:
        if reply.keys() > REPLY.keys():
            self.refuse("another field")
        return super().read(reply)


class TakesTheLastOfTwo(Right):
    """It reads a name that is there twice."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        text = (await self.get(client)).text
        if text.count('"limit"') == 2:
            return self.read(exact(text))
        return await super().fetch(client)


class TakesTheFirstInAList(Right):
    """It reads a list with the reply in it."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response = await self.get(client)
        if response.status_code == 200 and response.text.startswith("[{"):
            return self.read(exact(response.text)[0])
        return await super().fetch(client)


class ReadsWhatIsThere(Right):
    """It reads half a reply."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response = await self.get(client)
        if response.status_code == 200:
            found = re.search(r'"limit": (\d+), "used": ([\d.]+)', response.text)
            if found and response.text.startswith("{"):
                try:
                    json.loads(response.text)
                except ValueError:
                    left = Decimal(found[1]) - Decimal(found[2])
                    return Balance(credits=left, unit="USD", max_concurrency=4)
        return await super().fetch(client)


class QuotesTheReply(Right):
    """Its errors have the text of replies and of other errors."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response, words = None, ""
        try:
            response = await self.get(client)
        except httpx.HTTPError as error:
            words = str(error)
        if response is None:
            self.refuse(f"no answer: {words}")
        if response.status_code != 200:
            self.refuse(response.text)
        return await super().fetch(client)


class ChainsAnErrorThatHasTheBody(Right):
    """Its error is chained to one that has the body in it."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response = await self.get(client)
        try:
            json.loads(response.text)
        except ValueError as error:
            reason = "not JSON"
            raise BalanceUnavailable(provider=self.name, reason=reason) from error
        return await super().fetch(client)


class KeepsTheKeyInALocalVariable(Right):
    """Its errors come from a frame that has the key."""

    def read(self, reply: dict[str, Any]) -> Balance:
        sent = dict(self.headers)
        if "wallet" not in reply:
            raise ValueError(len(sent))
        return super().read(reply)


class PutsTheKeyInTheURL(Right):
    """httpx logs URLs."""

    async def get(self, client: httpx.AsyncClient, **options: Any) -> httpx.Response:
        return await super().get(client, params={"key": self.key}, headers={})

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        await self.get(client)
        return await super().fetch(client)


class LogsWhatItGets(Right):
    """It logs replies."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        response = await self.get(client)
        logging.getLogger("right").debug("got %s", response.text)
        return await super().fetch(client)


class NamesThePlanAfterTheKey(Right):
    """Its balance has the key in it."""

    def read(self, reply: dict[str, Any]) -> Balance:
        right = super().read(reply)
        return Balance(right.credits, self.key, right.max_concurrency, unit=right.unit)


class NamesThePlanAsItIs(Right):
    """Its balance has a text of the reply in it, with whatever that repeats."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        right = await super().fetch(client)
        plan = exact((await self.get(client)).text).get("plan")
        return Balance(right.credits, plan, right.max_concurrency, unit=right.unit)


class ShowsItsKey(Right):
    """Its repr has the key in it."""

    def __repr__(self) -> str:
        return f"ShowsItsKey({self.key})"


class CanBePickled(Right):
    """Its pickle has the key in it."""

    def __reduce__(self) -> Any:
        return CanBePickled, (self.key,)


class AsksByItself(Right):
    """It has a client of its own."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=REPLY))
        async with httpx.AsyncClient(transport=transport) as own:
            return await super().fetch(own)


class CountsInCents(Right):
    """It reports a hundredth."""

    def left(self, wallet: dict[str, Any]) -> Decimal | None:
        return (super().left(wallet) or 0) / Decimal(100)
