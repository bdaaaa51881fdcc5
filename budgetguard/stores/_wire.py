"""Messages and replies as text, for heads that run where there is no Python.

JSON, with what is at its default left out. A double cannot hold every amount, so amounts beyond what it
holds exactly are texts of digits in a message; in a reply they are numbers, which Python reads exactly. A
time that never came is null. A balance travels as a text that only members read, beside its figures in
micro-credits.
"""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant
from budgetguard._core.snapshot import (
    BalanceSnapshot,
    balance_from_json,
    balance_to_json,
)
from budgetguard._core.store_messages import (
    NEVER,
    BudgetNeed,
    BudgetUse,
    BudgetView,
    Busy,
    Exhausted,
    Join,
    KeyLimited,
    Landing,
    Message,
    Need,
    News,
    Offered,
    OthersView,
    Pausing,
    RefreshView,
    Reply,
    Report,
    View,
)

_LARGEST = 2**53

_AMOUNTS = frozenset(
    ("used", "keep", "want", "floor", "extra", "amount", "cost", "limit", "held", "spent")
)
_KEPT_APART = frozenset(("settled", "kept", "saved", "needs", "budgets"))


def message_text(message: Message) -> str:
    """A message as a head elsewhere reads it."""
    told: dict[str, Any] = {
        "member": message.member,
        "number": message.number,
        "epoch": message.epoch,
    }
    if message.seen != NEVER:
        told["seen"] = message.seen
    if message.elapsed:
        told["elapsed"] = message.elapsed
    if message.dropped:
        told["dropped"] = message.dropped
    told["report"] = _report(message.report)
    if message.join is not None:
        told["join"] = _join(message.join)
    if message.refresh_after is not None:
        after = message.refresh_after
        told["refresh_after"] = None if after == NEVER else after
        told["refresh_timeout"] = message.refresh_timeout
    if message.landing is not None:
        told["landing"] = _landing(message.landing)
    if message.news:
        told["news"] = [_news(each) for each in message.news]
    if message.leave:
        told["leave"] = True
    return json.dumps(told, separators=(",", ":"), allow_nan=False)


def reply_from(told: dict[str, Any]) -> Reply:
    """The reply that a head elsewhere wrote."""
    return Reply(
        status=told["status"],
        epoch=told["epoch"],
        number=told["number"],
        lease=told.get("lease", 0),
        slots=told.get("slots", 0),
        granted=tuple(told.get("granted", ())),
        windows=tuple(
            (ticket, tuple(map(float, windows))) for ticket, windows in told.get("windows", ())
        ),
        refused=tuple(told.get("refused", ())),
        over=tuple((ticket, budget) for ticket, budget in told.get("over", ())),
        refresh=told.get("refresh", ""),
        refresh_number=told.get("refresh_number", 0),
        view=_view(told["view"]),
    )


# Messages.


def _exact(amount: int) -> int | str:
    return amount if -_LARGEST <= amount <= _LARGEST else str(amount)


def _given(value: Any, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What of a value is not at its default."""
    told = {}
    for field in fields(value):
        name = field.name
        given = getattr(value, name)
        if name not in but and given != field.default:
            told[name] = _exact(given) if name in _AMOUNTS else given
    return told


def _report(report: Report) -> dict[str, Any]:
    told = _given(report, _KEPT_APART)
    if report.settled:
        told["settled"] = [[_exact(each.amount), each.clears_in] for each in report.settled]
    if report.kept:
        told["kept"] = [
            [
                _exact(each.amount),
                each.clears_in,
                each.slots,
                _counts(each.calls),
                _counts(each.sessions),
            ]
            for each in report.kept
        ]
    if report.saved:
        told["saved"] = [[number, _exact(by)] for number, by in report.saved]
    if report.needs:
        told["needs"] = [_need(each) for each in report.needs]
    if report.budgets:
        told["budgets"] = [_use(each) for each in report.budgets]
    return told


def _counts(counts: tuple[tuple[str | None, int], ...]) -> list[list[str | int]]:
    """By the name of the cause; no exception has an empty name."""
    return [[cause or "", calls] for cause, calls in counts]


def _need(need: Need) -> dict[str, Any]:
    told = _given(need, _KEPT_APART)
    if need.budgets:
        told["budgets"] = [_budget_need(each) for each in need.budgets]
    return told


def _budget_need(need: BudgetNeed) -> dict[str, Any]:
    return {"window": need.window, "until": need.until, **_given(need)}


def _use(use: BudgetUse) -> dict[str, Any]:
    return {"until": use.until, **_given(use)}


def _join(join: Join) -> dict[str, Any]:
    told: dict[str, Any] = {"sole_spender": join.sole_spender, "format": join.format}
    # Nobody but members reads it.
    told["words"] = json.dumps(join.words, separators=(",", ":"))
    if join.hold_for is not None:
        told["hold_for"] = join.hold_for
    if join.topup_step is not None:
        told["topup_step"] = _exact(join.topup_step)
    if join.unit is not None:
        told["unit"] = join.unit
    if not join.whole:
        told["whole"] = False
    return told


def _landing(landing: Landing) -> dict[str, Any]:
    told: dict[str, Any] = {
        "epoch": landing.epoch,
        "number": landing.number,
        "wall": landing.wall,
        "reason": landing.reason,
        "denied": landing.denied,
        "failures": landing.failures,
        "delay": landing.delay,
    }
    if landing.balance is not None:
        told["balance"] = _balance(landing.balance)
    return told


def _news(news: News) -> list[Any]:
    match news:
        case Exhausted(lag, wall):
            return ["exhausted", lag, wall]
        case Busy(seconds):
            return ["busy", seconds]
        case KeyLimited(credential, seconds):
            return ["key_limited", credential, seconds]
        case Pausing(by, reason):
            return ["pausing", by] if reason is None else ["pausing", by, reason]
        case Offered(balance, epoch, began, wall):
            return ["offered", _balance(balance), epoch, began, wall]


def _balance(balance: Balance) -> dict[str, Any]:
    """Raises ValueError for an amount out of range, as `BalanceSnapshot.of` does."""
    snapshot = BalanceSnapshot.of(balance, Instant(0.0, 0.0))
    told: dict[str, Any] = {
        "text": json.dumps(balance_to_json(balance), separators=(",", ":")),
        "unit": balance.unit,
    }
    for name in ("credits", "ceiling", "cap"):
        amount = getattr(snapshot, name)
        if amount != UNLIMITED:
            told[name] = _exact(int(amount))
    if snapshot.slots != UNLIMITED:
        told["slots"] = snapshot.slots
    if balance.cost_limit is not None:
        told["limit"] = _in_one_form(balance.cost_limit)
    return told


def _in_one_form(amount: Decimal) -> str:
    """A text that is the same for equal amounts."""
    if not amount:
        return "0"
    sign, digits, exponent = amount.as_tuple()
    text = "".join(map(str, digits))
    short = text.rstrip("0")
    return f"{'-' * sign}{short.lstrip('0')}e{int(exponent) + len(text) - len(short)}"


# Replies.


def _time(value: float | None) -> float:
    return NEVER if value is None else float(value)


def _maybe(value: float | None) -> float | None:
    return None if value is None else float(value)


def _bounded(amount: int | None) -> float:
    return UNLIMITED if amount is None else amount


def _view(told: dict[str, Any]) -> View:
    get = told.get
    snapshot = get("snapshot")
    return View(
        now=float(told["now"]),
        snapshot=None if snapshot is None else snapshot_from(snapshot),
        balances=get("balances", 0),
        leased=get("leased", 0),
        used=get("used", 0),
        running=get("running", 0),
        members=get("members", 0),
        missing=get("missing", 0),
        missing_until=_time(get("missing_until")),
        settled=get("settled", 0),
        kept=get("kept", 0),
        kept_slots=get("kept_slots", 0),
        kept_calls=_causes(get("kept_calls", ())),
        kept_sessions=_causes(get("kept_sessions", ())),
        kept_next=_maybe(get("kept_next")),
        kept_last=_maybe(get("kept_last")),
        slots=get("slots", 0),
        debits=tuple((float(at), amount, slots) for at, amount, slots in get("debits", ())),
        busy_until=_time(get("busy_until")),
        limited=tuple((credential, float(at)) for credential, at in get("limited", ())),
        pauses=tuple((by, reason) for by, reason in get("pauses", ())),
        refresh=_refresh(told["refresh"]),
        others=_others(told["others"]),
        recall=get("recall", 0),
        exact=get("exact", False),
        dropped=float(get("dropped", 0.0)),
        behind=float(get("behind", 0.0)),
        granting=get("granting", True),
        granting_at=_maybe(get("granting_at")),
        budgets=tuple(_budget(*each) for each in get("budgets", ())),
        holders=get("holders", 0),
        slot_holders=get("slot_holders", 0),
        queued=get("queued", 0),
        queued_slots=get("queued_slots", 0),
    )


def _causes(told: Any) -> tuple[tuple[str | None, int], ...]:
    return tuple((cause or None, calls) for cause, calls in told)


def _budget(
    name: str, spent: int, held: int, window: float, until: float, back: float | None
) -> BudgetView:
    return BudgetView(name, spent, held, float(window), float(until), _maybe(back))


def _refresh(told: dict[str, Any]) -> RefreshView:
    times = ("last_began", "expires", "blocked_until")
    return RefreshView(**{**told, **{name: _time(told.get(name)) for name in times}})


def _others(told: dict[str, Any]) -> OthersView:
    times = ("since", "wall", "spell")
    return OthersView(**{**told, **{name: float(told.get(name, 0.0)) for name in times}})


def snapshot_from(told: list[Any]) -> BalanceSnapshot:
    """A snapshot as a head elsewhere writes it."""
    mono, wall, text, unit, born, emptied, credits, ceiling, cap, slots, refused_until = told[:11]
    if text is None:
        balance = Balance(credits=None, as_of=datetime.fromtimestamp(born, UTC))
    else:
        balance = balance_from_json(json.loads(text))
    if unit != balance.unit or emptied:
        left = Decimal(0) if emptied else balance.credits
        balance = replace(balance, unit=unit, credits=left)
    return BalanceSnapshot(
        sent=Instant(float(mono), float(wall)),
        balance=balance,
        credits=_bounded(credits),
        ceiling=_bounded(ceiling),
        cap=_bounded(cap),
        slots=_bounded(slots),
        refused_until=_maybe(refused_until),
        overlap=told[11],
        ceiling_overlap=told[12],
    )
