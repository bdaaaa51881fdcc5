"""check_provider names each mistake that a provider makes, and finds none where there is none."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
import wrong_providers as wrong

from budgetguard import Balance, Guard, set_active
from budgetguard._core.activation import ACTIVATION
from budgetguard._core.errors import BudgetGuardError
from budgetguard.providers import (
    EXHAUSTED,
    NOT_CREDITS,
    Billing,
    BillingReply,
    ProviderRefusal,
    busy,
)
from budgetguard.providers.billing import Outcome, Prices, amount
from budgetguard.testing import check_provider

MISTAKES: list[tuple[type[wrong.Right], str]] = [
    (wrong.TakesTrueForANumber, "wallet.used was true, and the provider reported credits=99"),
    (
        wrong.TakesAnyText,
        'wallet.limit was the text "1_000", and the provider reported credits=996.5',
    ),
    (
        wrong.TakesNothingForZero,
        "wallet.used was missing, and the provider reported credits=100 instead",
    ),
    (
        wrong.TakesNullForUnlimited,
        "wallet.limit was null, and the provider reported an unlimited balance",
    ),
    (
        wrong.TakesAWordForUnlimited,
        'limit was the text "unlimited", and the provider reported an unlim',
    ),
    (
        wrong.TakesInfinityForUnlimited,
        "wallet.limit was Infinity, and the provider reported an unlimited",
    ),
    (
        wrong.IgnoresSlotsThatMakeNoSense,
        "wallet.slots was null, and the provider reported max_conc",
    ),
    (
        wrong.TakesAnotherUnit,
        "wallet.currency was null, and the provider reported unit='CNY' instead of",
    ),
    (
        wrong.SwallowsErrors,
        "the status was 500, with a valid body, and the provider reported credits=0",
    ),
    (wrong.RemembersTheLastBalance, "the body was empty, and the provider reported credits=96.5\n"),
    (wrong.GivesInAtTheSecondAttempt, "wallet was missing, and a guard admitted a call\n"),
    (wrong.IgnoresTheStatus, "the status was 402, with a valid body, and the provider reported"),
    (wrong.FollowsRedirects, "redirect (302) to another host, and it was followed\n"),
    (wrong.FollowsRedirects, "redirect (307) to another path, and the key was sent there"),
    (wrong.CarriesTheKeyAlong, "redirect (301) to another host, and the key was sent there"),
    (wrong.ReadsWithoutEnd, "the body was valid at first and did not end, and all of it was read"),
    (wrong.CannotBeCancelled, "byte by byte and did not end, and cancelling fetch did not end it"),
    (wrong.EndsWithABalanceWhenCancelled, "did not end, and the provider reported credits=96.5\n"),
    (wrong.LetsErrorsThrough, "wallet.limit was missing, and fetch raised KeyError\n"),
    (
        wrong.WantsNoMoreFields,
        "two more fields, one with the key in it, and fetch raised BalanceUnavail",
    ),
    (
        wrong.TakesTheLastOfTwo,
        "wallet.limit was there twice, with different values, and the provider",
    ),
    (
        wrong.TakesTheFirstInAList,
        "the body was the example in a list, and the provider reported credits",
    ),
    (wrong.ReadsWhatIsThere, "the body was cut off, and the provider reported credits=96.5\n"),
    (
        wrong.QuotesTheReply,
        "the status was 401, with an error that has the key in it, and the key could",
    ),
    (
        wrong.QuotesTheReply,
        "quotes its headers, and the key could be read in the text of BalanceUnavail",
    ),
    (wrong.ChainsAnErrorThatHasTheBody, "could be read in an attribute of JSONDecodeError"),
    (
        wrong.KeepsTheKeyInALocalVariable,
        "the local variable sent of read() in the traceback of ValueError",
    ),
    (wrong.PutsTheKeyInTheURL, "the key could be read in a log record of httpx"),
    (wrong.LogsWhatItGets, "the key could be read in a log record of right"),
    (
        wrong.NamesThePlanAfterTheKey,
        "the reply was the example, and the key could be read in the balance",
    ),
    (wrong.NamesThePlanAsItIs, "plan was the key, and the key could be read in the balance\n"),
    (wrong.ShowsItsKey, "the repr of the provider has the key in it"),
    (wrong.CanBePickled, "the pickle of the provider has the key in it"),
    (wrong.AsksByItself, "fetch sent no request\n"),
    (wrong.CountsInCents, "the balance of `reply` was credits=0.965 instead of 96.5"),
]


def faults(make: Any, **given: Any) -> str:
    """What check_provider says of a provider."""
    with pytest.raises(AssertionError) as caught:
        check_provider(make, **{**wrong.GIVEN, **given})
    return str(caught.value)


def test_the_provider_without_a_mistake_passes() -> None:
    """So each of the others fails for the one mistake that it has."""
    check_provider(wrong.Right, **wrong.GIVEN)


@pytest.mark.parametrize(("kind", "words"), MISTAKES)
def test_each_mistake_is_named(kind: type[wrong.Right], words: str) -> None:
    """With what was answered, and what the provider made of it."""
    said = f"{faults(kind)}\n"
    assert words in said
    assert "not_a_real_key" not in said


COST = BillingReply("/answers", 200, {}, b'{"answer": "x", "usage": {"cost": 0.5, "free": false}}')
EMPTY = BillingReply("/answers", 403, {}, b'{"error": {"code": "empty"}}')


class RightBilling(Billing):
    """A billing without a mistake."""

    prices: Prices = {("POST", "/answers"): 1}  # type: ignore[misc]  # noqa: RUF012

    def cost_of(self, reply: BillingReply) -> Outcome:
        usage = reply.last("usage")
        cost = amount(usage.get("cost")) if isinstance(usage, dict) else None
        return super().cost_of(reply) if cost is None else cost

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        error = reply.field("error")
        code = error.get("code") if isinstance(error, dict) else None
        if reply.status == 403:
            return EXHAUSTED if code == "empty" else NOT_CREDITS
        return busy(reply.retry_after()) if reply.status == 429 else super().classify(reply)

    def remaining(self, reply: BillingReply) -> Decimal | None:
        return amount(reply.headers.get("x-left"))


def read_by_index(_: Billing, reply: BillingReply) -> Any:
    return reply.body["usage"]["cost"]


def with_float(_: Billing, reply: BillingReply) -> Any:
    return float(amount(reply.field("cost")) or 1)


def negative(_: Billing, reply: BillingReply) -> Any:
    return Decimal(-1)


def null_for_nothing(billing: Billing, reply: BillingReply) -> Any:
    usage = reply.last("usage")
    if isinstance(usage, dict) and usage.get("cost", 0) is None:
        return Decimal(0)
    return RightBilling.cost_of(billing, reply)  # type: ignore[arg-type]


def code_in_a_set(_: Billing, reply: BillingReply) -> Any:
    return EXHAUSTED if reply.field("code") in {"empty", "over"} else None


def word(_: Billing, reply: BillingReply) -> Any:
    return "exhausted" if reply.status == 402 else None


def seconds_by_int(_: Billing, reply: BillingReply) -> Any:
    return busy(int(reply.headers.get("retry-after") or 1))


def seconds_by_float(_: Billing, reply: BillingReply) -> Any:
    try:
        return busy(float(reply.headers.get("retry-after") or 1))
    except ValueError:
        return None


def header_by_index(_: Billing, reply: BillingReply) -> Any:
    return amount(reply.headers["x-left"])


def not_a_number(_: Billing, reply: BillingReply) -> Any:
    try:
        return Decimal(reply.headers.get("x-left") or 0)
    except ArithmeticError:
        return None


def a_list(_: Billing, error: BudgetGuardError, path: str) -> Any:
    return [str(error)]


def without_words(_: Billing, error: BudgetGuardError, path: str) -> Any:
    return {"error": {"code": error.status_code}}


def with_decimals(_: Billing, error: BudgetGuardError, path: str) -> Any:
    return {"error": str(error), "needed": getattr(error, "needed", Decimal(1))}


BILLINGS: list[tuple[str, Callable[..., Any], str]] = [
    ("cost_of", read_by_index, "cost_of raised TypeError for status 200 with the body"),
    ("cost_of", with_float, "cost_of returned a float for"),
    ("cost_of", negative, "cost_of returned a Decimal for"),
    (
        "cost_of",
        null_for_nothing,
        "usage.cost was null in a reply to /answers, and cost_of returned 0",
    ),
    ("classify", code_in_a_set, "classify raised TypeError for"),
    ("classify", word, "classify returned a str for status 402"),
    ("classify", seconds_by_int, "classify raised ValueError for"),
    ("classify", seconds_by_float, "classify returned a ProviderRefusal for"),
    ("remaining", header_by_index, "remaining raised KeyError for"),
    ("remaining", not_a_number, "remaining returned a Decimal for"),
    ("work", lambda _, reply: reply.body, "work returned a dict for"),
    ("status", lambda _, reply: reply.body, "status returned a dict for"),
    ("capped", lambda _, path, content, most: json.loads(content), "capped raised JSONDecodeError"),
    ("refusal_body", a_list, "refusal_body of InsufficientCredits returned a list"),
    ("refusal_body", without_words, "refusal_body of ConcurrencyLimit does not have the error's"),
    ("refusal_body", with_decimals, "refusal_body of BalanceUnavailable failed with TypeError"),
]


def test_the_billing_without_a_mistake_passes() -> None:
    """With examples of its replies, and without."""
    kind = type("Billed", (wrong.Right,), {"billing": RightBilling()})
    check_provider(kind, **wrong.GIVEN)
    check_provider(kind, **wrong.GIVEN, replies=[COST, EMPTY])


@pytest.mark.parametrize(("name", "method", "words"), BILLINGS)
def test_each_mistake_of_a_billing_is_named(
    name: str, method: Callable[..., Any], words: str
) -> None:
    """Whether the provider has a billing, or methods of its own."""
    billing = type("WrongBilling", (RightBilling,), {name: method})()
    said = faults(type("Billed", (wrong.Right,), {"billing": billing}), replies=[COST, EMPTY])
    assert words in said
    assert "not_a_real_key" not in said


def test_the_status_of_followed_work_is_checked() -> None:
    """At the path that `work` gives for an example, which is no price's."""

    class Followed(RightBilling):
        """It reads the status of a job by index."""

        def work(self, reply: BillingReply) -> str | None:
            return "/jobs/j1" if reply.path == "/answers" else None

        def status(self, reply: BillingReply) -> Any:
            return reply.body["state"] if reply.path == "/jobs/j1" else None

    billed = type("Billed", (wrong.Right,), {"billing": Followed()})
    check_provider(billed, **wrong.GIVEN)
    assert "status raised TypeError for" in faults(billed, replies=[COST])


def test_methods_of_the_provider_itself_are_checked() -> None:
    """As those of its billing are."""
    own = type("Own", (wrong.Right,), {"classify": lambda _, reply: reply.headers["x-kind"]})
    assert "classify raised KeyError for" in faults(own)


class Several(wrong.Right):
    """It asks twice: for the balance, and for the number of slots."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        wallet = await self.get_fields(client, "/v1/wallet")
        slots = await self.get_fields(client, "/v1/slots?all=1")
        return Balance(
            wallet.credits("left"), unit="USD", max_concurrency=slots.sessions("at_most")
        )


class SeveralWithoutLimit(wrong.Right):
    """It lifts the limit if it cannot ask for it."""

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        wallet = await self.get_fields(client, "/v1/wallet")
        left = wallet.credits("left")
        try:
            slots = await self.get_fields(client, "/v1/slots")
        except Exception:
            return Balance(left, unit="USD")
        return Balance(left, unit="USD", max_concurrency=slots.sessions("at_most"))


SEVERAL = {"/wallet": {"left": 96.5}, "/slots": {"at_most": 4}}


def test_a_provider_that_asks_several_times() -> None:
    """Each of its replies is changed, alone and with the others."""
    given: dict[str, Any] = {"reply": SEVERAL, "credits": 96.5}
    assert "at_most in the reply to /slots was missing" in faults(Several, **given)
    check_provider(Several, **given, optional=["at_most"])
    said = faults(SeveralWithoutLimit, **given)
    assert (
        "for /slots, the status was 500, with a valid body, and the provider reported max" in said
    )
    assert "fetch requested /v1/wallet" in faults(Several, reply={"/elsewhere": {"left": 1}})


def test_a_null_that_is_documented() -> None:
    """It may be unlimited where the vendor says so, and nowhere else."""
    check_provider(wrong.TakesNullForUnlimited, **wrong.GIVEN, unlimited=["wallet.limit"])
    check_provider(wrong.TakesAWordForUnlimited, **wrong.GIVEN, unlimited=["wallet.limit"])
    assert "wallet.limit was null" in faults(
        wrong.TakesNullForUnlimited, unlimited=["wallet.used"], optional=["wallet.limit"]
    )
    assert "limit was Infinity" in faults(
        wrong.TakesInfinityForUnlimited, unlimited=["wallet.limit"]
    )


def test_a_field_that_may_be_left_out() -> None:
    """Its absence may lead to another balance, and nothing else may."""
    said = faults(wrong.TakesNothingForZero, optional=["wallet.used"])
    assert "wallet.used" not in said
    assert "wallet.limit was missing" in said


@pytest.mark.parametrize("used", [0, 1])
def test_figures_that_nonsense_could_be_mistaken_for(used: int) -> None:
    """A field that is 0 or 1 in the example hides no mistake."""
    reply = {**wrong.REPLY, "wallet": {**wrong.REPLY["wallet"], "used": used}}  # type: ignore[dict-item]
    given: dict[str, Any] = {"reply": reply, "credits": 100 - used}
    assert "wallet.used was missing" in faults(wrong.TakesNothingForZero, **given)
    assert "wallet.used was true" in faults(wrong.TakesTrueForANumber, **given)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            {"wallet": {"limit": 5}},
            "fetch did not accept `reply`: it raised BalanceUnavailable: The",
        ),
        (
            {**wrong.REPLY, "wallet": {**wrong.REPLY["wallet"], "limit": 0}},
            "a guard refused a call",
        ),  # type: ignore[dict-item]
    ],
)
def test_an_example_that_is_none(reply: dict[str, Any], words: str) -> None:
    """Nothing can be told from it, so that alone is said."""
    said = faults(wrong.Right, reply=reply, credits=None)
    assert words in said
    assert "found 1 fault in" in said


def test_an_example_without_a_limit() -> None:
    """All else would be the same balance."""
    unlimited = type("Unlimited", (wrong.Right,), {"left": lambda *_: None})
    assert "the balance of `reply` is unlimited" in faults(unlimited, credits=None)


def test_a_provider_that_was_made() -> None:
    """It is checked with the key that it was made with; without that, nothing could be searched for."""
    key = "another_not_a_real_key"
    check_provider(wrong.Right(key), key=key, **wrong.GIVEN)
    assert "the repr of the provider" in faults(wrong.ShowsItsKey(key), key=key)
    with pytest.raises(TypeError, match="key="):
        check_provider(wrong.Right(key), **wrong.GIVEN)


@pytest.mark.parametrize(
    ("wrong_one", "error", "words"),
    [
        ({"reply": {}}, TypeError, "at least one field"),
        ({"reply": [1]}, TypeError, "at least one field"),
        ({"unlimited": ["wallet.limits"]}, ValueError, "wallet.limits is no field of the reply"),
        ({"optional": ["limit"]}, ValueError, "limit is no field of the reply"),
        ({"credits": "many"}, ValueError, "credits is not a number"),
    ],
)
def test_wrong_arguments(wrong_one: dict[str, Any], error: type[Exception], words: str) -> None:
    """They are named, and nothing is checked."""
    with pytest.raises(error, match=words):
        check_provider(wrong.Right, **{**wrong.GIVEN, **wrong_one})
    with pytest.raises(TypeError, match="provider takes a provider"):
        check_provider(5, **wrong.GIVEN)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_it_runs_where_a_loop_runs() -> None:
    """Under asyncio and trio alike, and leaves no thread behind."""
    before = set(threading.enumerate())
    check_provider(wrong.Right, **wrong.GIVEN)
    assert set(threading.enumerate()) <= before


def test_it_leaves_the_process_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """Guards that are switched off, the levels of loggers, and what other handlers get."""
    set_active(False)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    try:
        check_provider(wrong.Right, **wrong.GIVEN)
        assert ACTIVATION.passive
        assert logging.getLogger("httpx").level == logging.ERROR
        assert logging.getLogger().level != logging.DEBUG
        assert caplog.records == []
    finally:
        set_active(True)
        logging.getLogger("httpx").setLevel(logging.NOTSET)
    assert Guard(lambda: 3).balance().credits == 3


def test_a_simple_provider_by_the_protocol() -> None:
    """One that has nothing but a name and `fetch`, and leaves errors of httpx to the guard."""

    class Simple:
        name = "Simple"

        def __init__(self, key: str) -> None:
            self.headers = {"authorization": key}

        async def fetch(self, client: httpx.AsyncClient) -> Balance:
            async with asyncio.timeout(5):
                response = await client.get("https://simple.example", headers=self.headers)
            response.raise_for_status()
            return Balance(credits=response.json()["left"])

    said = faults(Simple, reply={"left": 96.5})
    assert "left was missing, and fetch raised KeyError" in said
    assert "the body was valid at first and did not end, and all of it was read" in said
    assert "the status was 500" not in said
    assert "quotes its headers" not in said


class TwoKeys(wrong.Right):
    """It asks with another key than the one for calls, and quotes refusals."""

    quotes = True

    def __init__(self, key: str) -> None:
        super().__init__(f"management_{key}_2")

    async def fetch(self, client: httpx.AsyncClient) -> Balance:
        if self.quotes:
            response = await self.get(client)
            if response.status_code == 401:
                self.refuse(response.text)
        return await super().fetch(client)


def test_a_provider_with_several_keys() -> None:
    """A reply repeats the key that its request had, and whatever contains the key is searched for."""
    quiet = type("QuietTwoKeys", (TwoKeys,), {"quotes": False})
    check_provider(quiet, **wrong.GIVEN)
    said = faults(TwoKeys)
    assert "the status was 401, with an error that has the key in it, and the key could" in said
    assert "not_a_real_key" not in said
