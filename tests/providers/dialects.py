"""What is left, as vendors say it: replies by documented shapes, and nonsense made from each of them.

The shapes are those that vendors' pages and SDKs showed in November 2026; the figures are made up. Names of
fields that only third parties report are marked in docs/how-to/any-vendor.md.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from budgetguard.providers._expression_parser import parse_expression
from budgetguard.providers._field_expressions import FieldPath, FigureTerm, PickedItem, Term

KEY: Final = "canary_51f0a9c7_not_a_real_key"


@dataclass(frozen=True)
class Dialect:
    """One reply, how it is read, and what is left by it; None is no limit."""

    name: str
    reply: str
    left: str
    credits: str | None
    options: dict[str, Any] = field(default_factory=dict)
    slots: int | None = None
    renews: str | None = None


def _usd(**options: Any) -> dict[str, Any]:
    return {"unit": "USD", **options}


DEEPSEEK = """{"is_available": true, "balance_infos": [
    {"currency": "CNY", "total_balance": "7.00", "granted_balance": "0.00", "topped_up_balance": "7.00"},
    {"currency": "USD", "total_balance": "110.00", "granted_balance": "10.00", "topped_up_balance": "100.00"}]}"""
DEEPGRAM = """{"balances": [
    {"balance_id": "a", "amount": 120.5, "units": "usd", "purchase_order_id": "x"},
    {"balance_id": "b", "amount": 30, "units": "hour", "purchase_order_id": "y"},
    {"balance_id": "c", "amount": 4.25, "units": "usd", "purchase_order_id": "z"}]}"""
OPENROUTER = """{"data": {"label": "k", "limit": 20, "limit_remaining": 12.5, "usage": 7.5,
    "budgets": [{"scope": "workspace", "limit_usd": 50, "spend_usd": 41, "remaining_usd": 9},
                {"scope": "guardrail", "limit_usd": 5, "spend_usd": 1, "remaining_usd": 4}]}}"""
TAVILY = """{"key": {"usage": 150, "limit": LIMIT},
    "account": {"current_plan": "Bootstrap", "plan_usage": 500, "plan_limit": 15000,
                "paygo_usage": 25, "paygo_limit": 100}}"""
TAVILY_LEFT = (
    "min(unlimited(key.limit) - key.usage,"
    " account.plan_limit - account.plan_usage + account.paygo_limit - account.paygo_usage)"
)
ELEVENLABS = """{"tier": "creator", "character_count": 17231, "character_limit": 100000,
    "next_character_count_reset_unix": 1798761600, "max_credit_limit_extension": "unlimited"}"""
APIFY = """{"data": {"monthlyUsageCycle": {"startAt": "2026-11-02T00:00:00.000Z",
        "endAt": "2026-12-01T23:59:59.999Z"},
    "limits": {"maxMonthlyUsageUsd": 300, "maxConcurrentActorJobs": 256},
    "current": {"monthlyUsageUsd": 43.1847, "activeActorJobCount": 2}}}"""
SERPAPI = f"""{{"account_id": "5", "api_key": "{KEY}", "account_email": "a@example.com",
    "plan_renewal_date": "2026-12-24", "searches_per_month": 250, "plan_searches_left": 92,
    "extra_credits": 8, "total_searches_left": 100, "this_hour_searches": 0}}"""

DIALECTS: Final = [
    Dialect(
        "OpenRouter, a key with a limit",
        OPENROUTER,
        "unlimited(data.limit_remaining)",
        "12.5",
        _usd(),
    ),
    Dialect(
        "OpenRouter, a key without a limit",
        OPENROUTER.replace("12.5", "null"),
        "unlimited(data.limit_remaining)",
        None,
        _usd(),
    ),
    Dialect(
        "OpenRouter, all nulls declared",
        OPENROUTER.replace("12.5", "null"),
        "data.limit_remaining",
        None,
        _usd(null="unlimited"),
    ),
    Dialect(
        "OpenRouter, a budget of the workspace",
        OPENROUTER,
        "min(unlimited(data.limit_remaining), data.budgets[scope=workspace].remaining_usd)",
        "9",
        _usd(),
    ),
    Dialect(
        "OpenRouter, the account",
        '{"data": {"total_credits": 100.5, "total_usage": 25.75}}',
        "data.total_credits - data.total_usage",
        "74.75",
        _usd(),
    ),
    Dialect(
        "OpenRouter, an account below zero",
        '{"data": {"total_credits": 10, "total_usage": 10.25}}',
        "data.total_credits - data.total_usage",
        "-0.25",
        _usd(),
    ),
    Dialect(
        "DeepSeek, dollars",
        DEEPSEEK,
        "balance_infos[currency=USD].total_balance",
        "110",
        _usd(),
    ),
    Dialect(
        "DeepSeek, yuan",
        DEEPSEEK,
        "balance_infos[currency=CNY].total_balance",
        "7",
        {"unit": "CNY"},
    ),
    Dialect(
        "DeepSeek, its parts",
        DEEPSEEK,
        "balance_infos[currency=USD].granted_balance + balance_infos[currency=USD].topped_up_balance",
        "110",
        _usd(),
    ),
    Dialect(
        "Moonshot",
        '{"code": 0, "data": {"available_balance": 49.58, "voucher_balance": 46.58, "cash_balance": 3}}',
        "data.available_balance",
        "49.58",
        _usd(),
    ),
    Dialect(
        "Moonshot, cash below zero",
        '{"code": 0, "data": {"available_balance": -3.5, "voucher_balance": 0, "cash_balance": -3.5}}',
        "data.available_balance",
        "-3.5",
        _usd(),
    ),
    Dialect(
        "SiliconFlow",
        '{"code": 20000, "data": {"balance": "0.88", "chargeBalance": "88.00", "totalBalance": "88.88"}}',
        "data.totalBalance",
        "88.88",
        {"unit": "CNY"},
    ),
    Dialect(
        "Vercel AI Gateway",
        '{"balance": "95.50", "total_used": "4.50"}',
        "balance",
        "95.5",
        _usd(),
    ),
    Dialect(
        "Novita, ten-thousandths",
        '{"availableBalance": "123456", "creditLimit": "0", "pendingCharges": "0"}',
        "availableBalance",
        "12.3456",
        _usd(scale="0.0001"),
    ),
    Dialect(
        "Venice, dollars",
        '{"canConsume": true, "consumptionCurrency": "USD", "balances": {"usd": 10.5, "diem": null}}',
        "balances.usd",
        "10.5",
        _usd(),
    ),
    Dialect(
        "Venice, DIEM",
        '{"canConsume": true, "balances": {"usd": null, "diem": 90.5}}',
        "balances.diem",
        "90.5",
        {"unit": "DIEM"},
    ),
    Dialect(
        "Firecrawl",
        '{"success": true, "data": {"remainingCredits": 1000, "planCredits": 500,'
        ' "billingPeriodStart": "2026-11-01T00:00:00Z", "billingPeriodEnd": "2026-12-01T00:00:00Z"}}',
        "data.remainingCredits",
        "1000",
        {"renews": "data.billingPeriodEnd"},
        renews="2026-12-01T00:00:00+00:00",
    ),
    Dialect(
        "Firecrawl, without a billing period",
        '{"data": {"remainingCredits": 1000, "billingPeriodEnd": null}}',
        "data.remainingCredits",
        "1000",
        {"renews": "data.billingPeriodEnd"},
    ),
    Dialect(
        "ElevenLabs",
        ELEVENLABS,
        "character_limit - character_count",
        "82769",
        {"unit": "characters", "renews": "next_character_count_reset_unix"},
        renews="2027-01-01T00:00:00+00:00",
    ),
    Dialect("Tavily", TAVILY.replace("LIMIT", "1000"), TAVILY_LEFT, "850"),
    Dialect("Tavily, a key without a limit", TAVILY.replace("LIMIT", "null"), TAVILY_LEFT, "14575"),
    Dialect("Linkup", '{"balance": 123.456}', "balance", "123.456", _usd()),
    Dialect("Linkup, below zero", '{"balance": -0.01}', "balance", "-0.01", _usd()),
    Dialect(
        "SerpApi, whose reply repeats the key",
        SERPAPI,
        "total_searches_left",
        "100",
        {"unit": "searches", "params": {"api_key": KEY}, "renews": "plan_renewal_date"},
        renews="2026-12-24T00:00:00+00:00",
    ),
    Dialect(
        "Scrapfly",
        '{"subscription": {"max_concurrency": 5, "usage": {"scrape": {"current": 12, "limit": 1000,'
        ' "remaining": 988}}}}',
        "subscription.usage.scrape.remaining",
        "988",
        {"params": {"key": KEY}, "slots": "subscription.max_concurrency"},
        slots=5,
    ),
    Dialect(
        "ScrapingBee",
        '{"max_api_credit": 8000000, "used_api_credit": 1000023, "max_concurrency": 200}',
        "max_api_credit - used_api_credit",
        "6999977",
        {"params": {"api_key": KEY}, "slots": "max_concurrency"},
        slots=200,
    ),
    Dialect(
        "ScrapeGraphAI, version 2",
        '{"remaining": 95, "used": 5, "jobs": {"crawl": {"used": 0, "limit": 1}}}',
        "remaining",
        "95",
    ),
    Dialect(
        "ScrapeGraphAI, version 1",
        '{"remaining_credits": 95, "total_credits_used": 5}',
        "remaining_credits",
        "95",
    ),
    Dialect(
        "Runway",
        '{"creditBalance": 1200, "tier": {"models": {"gen4_turbo": {"maxConcurrentGenerations": 2,'
        ' "maxDailyGenerations": null}}}}',
        "creditBalance",
        "1200",
        {"slots": "tier.models.gen4_turbo.maxConcurrentGenerations"},
        slots=2,
    ),
    Dialect(
        "Runway, a model whose name needs quotes",
        '{"creditBalance": 0, "tier": {"models": {"gen4.5": {"maxConcurrentGenerations": 3}}}}',
        "creditBalance",
        "0",
        {"slots": 'tier.models."gen4.5".maxConcurrentGenerations'},
        slots=3,
    ),
    Dialect(
        "Luma, cents", '{"credit_balance": 1234.5}', "credit_balance", "12.345", _usd(scale="0.01")
    ),
    Dialect(
        "fal",
        '{"username": "u", "credits": {"current_balance": 24.5, "currency": "USD"}}',
        "credits.current_balance",
        "24.5",
        _usd(params={"expand": "credits"}),
    ),
    Dialect(
        "HeyGen, seconds",
        '{"error": null, "data": {"remaining_quota": 100, "details": {}}}',
        "data.remaining_quota",
        "1.666666",
        {"scale": "1/60"},
    ),
    Dialect("Stability", '{"credits": 0.7384}', "credits", "0.7384"),
    Dialect("Deepgram, dollars", DEEPGRAM, "sum(balances[units=usd].amount)", "124.75", _usd()),
    Dialect(
        "Deepgram, hours", DEEPGRAM, "sum(balances[units=hour].amount)", "30", {"unit": "hours"}
    ),
    Dialect(
        "Deepgram, one project's",
        DEEPGRAM,
        "balances[balance_id=c].amount",
        "4.25",
        _usd(),
    ),
    Dialect("Hyperbrowser", '{"usage": 5, "limit": 100, "remaining": 95}', "remaining", "95"),
    Dialect("Hyperbrowser, a fraction", '{"usage": 0.5, "limit": 100}', "limit - usage", "99.5"),
    Dialect(
        "Browser Use",
        '{"totalCreditsBalanceUsd": 12.34, "monthlyCreditsBalanceUsd": 2.34,'
        ' "additionalCreditsBalanceUsd": 10, "concurrentSessionLimit": 25, "activeSessionCount": 3}',
        "totalCreditsBalanceUsd",
        "12.34",
        _usd(slots="concurrentSessionLimit"),
        slots=25,
    ),
    Dialect(
        "Apify",
        APIFY,
        "data.limits.maxMonthlyUsageUsd - data.current.monthlyUsageUsd",
        "256.8153",
        _usd(slots="data.limits.maxConcurrentActorJobs", renews="data.monthlyUsageCycle.endAt"),
        slots=256,
        renews="2026-12-01T23:59:59.999000+00:00",
    ),
    Dialect("Notte", '{"balance_amount": 5.25}', "balance_amount", "5.25", _usd()),
    Dialect(
        "Notte, its parts",
        '{"balance_amount": 5.25, "subscription_balance_amount": 5, "topup_balance_amount": 0.25,'
        ' "is_usage_limit_exceeded": false}',
        "subscription_balance_amount + topup_balance_amount",
        "5.25",
        _usd(),
    ),
    Dialect(
        "DataForSEO",
        '{"status_code": 20000, "tasks": [{"result": [{"money": {"total": 100, "balance": 92.4567}}]}]}',
        "tasks[0].result[0].money.balance",
        "92.4567",
        _usd(),
    ),
    Dialect(
        "DeepL",
        '{"character_count": 180118, "character_limit": 1250000}',
        "character_limit - character_count",
        "1069882",
        {"unit": "characters"},
    ),
    Dialect(
        "Hunter",
        '{"data": {"requests": {"credits": {"used": 12.5, "available": 500, "remaining": 37.5}}}}',
        "data.requests.credits.remaining",
        "37.5",
    ),
    Dialect("Crustdata", '{"credits": 3999.5}', "credits", "3999.5"),
    Dialect("Meshy", '{"balance": 1000}', "balance", "1000"),
    Dialect(
        "WaveSpeedAI",
        '{"code": 200, "message": "success", "data": {"balance": 156.78, "currency": "USD"}}',
        "data.balance",
        "156.78",
        _usd(),
    ),
    Dialect(
        "Scrape.do",
        '{"IsActive": true, "ConcurrentRequest": 40, "MaxMonthlyRequest": 3500000,'
        ' "RemainingConcurrentRequest": 15, "RemainingMonthlyRequest": 2565023}',
        "RemainingMonthlyRequest",
        "2565023",
        {"params": {"token": KEY}, "slots": "ConcurrentRequest"},
        slots=40,
    ),
    Dialect(
        "ScrapeOps",
        '{"plan_api_credits": 1000000, "used_api_credits": 455332, "plan_max_concurrency": 100,'
        ' "active_concurrency": 15, "plan_renewal_date": "2026-12-24T10:41:04.000Z"}',
        "plan_api_credits - used_api_credits",
        "544668",
        {
            "params": {"api_key": KEY},
            "slots": "plan_max_concurrency",
            "renews": "plan_renewal_date",
        },
        slots=100,
        renews="2026-12-24T10:41:04+00:00",
    ),
    Dialect(
        "Evomi, whose reply has a key of its own",
        f'{{"success": true, "has_access": true, "credits": 847.5, "concurrency": 5, "api_key": "{KEY}"}}',
        "credits",
        "847.5",
        {"slots": "concurrency"},
        slots=5,
    ),
    Dialect("pre.dev", '{"success": true, "creditsRemaining": 450.5}', "creditsRemaining", "450.5"),
    Dialect(
        "Anchor Browser, a project",
        '{"credits": 20, "tier": "starter", "maxConcurrentBrowsers": 25, "cost_limit": null}',
        "min(credits, unlimited(cost_limit))",
        "20",
        {"slots": "maxConcurrentBrowsers"},
        slots=25,
    ),
    Dialect(
        "a figure with float noise", '{"left": 1.4999999999999998}', "left", "1.4999999999999998"
    ),
    Dialect("a figure with an exponent", '{"left": 1.5e3}', "left", "1500"),
    Dialect("millionths in text", '{"micros": "1500000"}', "micros", "1.5", {"scale": 0.000001}),
    Dialect("a reserve that is left alone", '{"wallet": {"left": 130}}', "wallet.left - 100", "30"),
    Dialect(
        "a debt and a limit",
        '{"account": {"owed": 12.5, "may_owe": 50}}',
        "-account.owed + account.may_owe",
        "37.5",
        _usd(),
    ),
    Dialect(
        "packs of credits",
        '{"packs": [{"left": 5, "ends": "2026-12-01"}, {"left": "2.5", "ends": null}, {"left": 0}]}',
        "sum(packs[*].left)",
        "7.5",
        {"renews": "packs[0].ends"},
        renews="2026-12-01T00:00:00+00:00",
    ),
    Dialect(
        "names with other characters",
        '{"x-quota": {"daily limit": 10, "daily \\"used\\"": 4}, "ends": 1798761600000}',
        '"x-quota"."daily limit" - "x-quota".\'daily "used"\'',
        "6",
        {"renews": "ends"},
        renews="2027-01-01T00:00:00+00:00",
    ),
    Dialect(
        "the least of three, one of them a difference of sums",
        '{"a": 10, "b": {"c": 9, "d": "4.5"}, "e": [{"f": 3}, {"f": 4}]}',
        "min(a, b.c - (b.d - 1), sum(e[*].f) + 0.5)",
        "5.5",
    ),
]

# Written as they stand: what JSON's own writer would not write.
_RAW: Final = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus infinity": "-Infinity",
    "beyond all floats": "1e400",
    "below all floats": "-1e400",
    "an endless exponent": "1e999999999",
    "a vanishing number": "1e-400",
    "beyond 10^12": "1" + "0" * 29,
    "100 digits": "9" * 100,
    "a leading zero": "012",
    "a plus sign": "+5",
    "nothing": "",
}
_VALUES: Final[dict[str, Any]] = {
    "true": True,
    "false": False,
    "text": "many",
    "empty text": "",
    "a space": " 5",
    "text NaN": "NaN",
    "text nan": "nan",
    "text sNaN": "sNaN",
    "text Infinity": "Infinity",
    "text inf": "-inf",
    "text unlimited": "unlimited",
    "text null": "null",
    "an underscore": "1_000",
    "a comma": "1,000",
    "a decimal comma": "9,5",
    "a currency sign": "$5",
    "a currency": "5 USD",
    "hexadecimal": "0x10",
    "a fraction": "1/2",
    "text 1e400": "1e400",
    "text of 65 digits": "9" * 65,
    "other digits": "\u0665\u0660",
    "full-width digits": "\uff15",
    "an object": {"amount": 5},
    "an empty object": {},
    "a list": [5],
    "an empty list": [],
    "a nested list": [[{"amount": 5}]],
}
_GONE: Final = object()


def figures(term: Term) -> Iterator[FigureTerm]:
    """Give the figures of an expression, each with what is said of it."""
    if isinstance(term, FigureTerm):
        yield term
    for inner in getattr(term, "terms", ()):
        yield from figures(inner[1] if isinstance(inner, tuple) else inner)


def nonsense(dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Give replies that have no balance, each made from the sound one by one change, with its name."""
    whole = json.loads(dialect.reply, parse_float=str)
    for figure in figures(parse_expression(dialect.left, "left").root):
        path = figure.path
        for name, value in _VALUES.items():
            yield f"{path} is {name}", json.dumps(changed(whole, path, value))
        for name, raw in _RAW.items():
            text = json.dumps(changed(whole, path, "@raw@")).replace('"@raw@"', raw)
            yield f"{path} is {name}", text
        yield f"{path} is missing", json.dumps(changed(whole, path, _GONE))
        if not figure.unlimited and dialect.options.get("null") != "unlimited":
            yield f"{path} is null", json.dumps(changed(whole, path, None))
        for length in range(1, len(path.steps)):
            above = FieldPath(path.steps[:length])
            for name, value in {"null": None, "text": "x", "a list": [], "a number": 5}.items():
                yield f"{above} is {name}", json.dumps(changed(whole, above, value))
            step = path.steps[length]
            if isinstance(step, PickedItem):
                yield from _other_items(whole, FieldPath(path.steps[:length]), step, figure)
    yield "the reply is a list", f"[{dialect.reply}]"
    yield "the reply is empty", "{}"
    yield "a field is given twice", dialect.reply.replace("{", '{"zz": 1, "zz": 2, ', 1)


def _other_items(
    whole: Any, path: FieldPath, pick: PickedItem, figure: FigureTerm
) -> Iterator[tuple[str, str]]:
    """Give replies in whose list no item is the one that is meant, or more than one is."""
    items = _at(whole, path)
    rest = [item for item in items if not pick.matches(item)]
    yield f"{path} is without it", json.dumps(changed(whole, path, rest))
    renamed = [
        {**item, pick.name: "EUR"} if pick.matches(item) else item for item in copy.deepcopy(items)
    ]
    yield f"{path} has another {pick.name}", json.dumps(changed(whole, path, renamed))
    if not figure.every:
        yield f"{path} has it twice", json.dumps(changed(whole, path, [*items, *items]))


def changed(whole: Any, path: FieldPath, value: Any) -> Any:
    """Give a copy of a reply in which something else is at a path, or nothing."""
    copied = copy.deepcopy(whole)
    last = path.steps[-1]
    above = _at(copied, FieldPath(path.steps[:-1]))
    place = last if isinstance(last, str) else above.index(_chosen(above, last))
    if value is _GONE:
        del above[place]
    else:
        above[place] = value
    return copied


def _at(whole: Any, path: FieldPath) -> Any:
    found = whole
    for step in path.steps:
        found = found[step] if isinstance(step, str) else _chosen(found, step)
    return found


def _chosen(items: list[Any], step: Any) -> Any:
    """Give the first item that a step leads to."""
    if isinstance(step, int):
        return items[step]
    return next(item for item in items if not isinstance(step, PickedItem) or step.matches(item))
