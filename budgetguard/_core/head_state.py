"""The state of a shared account's head as JSON values, for a store to keep, and back again.

It comes in four parts, so that a store can write what changed and no more: `account`, `members` and
`debits`, the latter two with an entry for each member, and `budgets`, with one for each keyed budget. A
message changes the account, the entries of its sender, and those of others only if they died, if a
refresh ended, or if a balance cleared debits.

What is loaded behaves exactly as what was dumped. Amounts are ints, times are floats, and what comes in
an order is in a list: a store may sort the keys of objects. Where a time has never come, or an amount
has no bound, there is null. Not dumped is what other figures tell: sums of debits, and the view in a
stored reply.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from budgetguard._core.member_record import MemberRecord
from budgetguard._core.queued_needs import QueuedNeeds
from budgetguard._core.shared_budgets import SharedBudgets
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import (
    FORMAT,
    NEVER,
    BudgetNeed,
    Need,
    RefreshView,
    Reply,
)

_Value = TypeVar("_Value")


class NewerFormat(Exception):
    """The state was written by a later version of the library, in a format that this one does not know.

    `format` is that of the state.
    """

    def __init__(self, format: int) -> None:
        super().__init__(
            f"its format is {format}, and this version of budgetguard reads up to {FORMAT}: "
            "a newer version is needed here"
        )
        self.format = format


class DamagedState(Exception):
    """The state is not one that `dump` gave; the cause says what is wrong."""


def dump(head: SharedHead) -> dict[str, Any]:
    """The whole state, as values of JSON alone: no infinities, no tuples."""
    members = head.members
    return {
        "account": _account(head),
        "members": {name: _member(each) for name, each in members.items()},
        "debits": {
            name: {
                "settled": each.settled.dump(),
                "kept": each.kept.dump(),
                "lost": each.lost.dump(),
            }
            for name, each in members.items()
        },
        "budgets": head.budgets.dump(),
    }


def load(state: dict[str, Any]) -> SharedHead:
    """The head whose state it is; raises NewerFormat or DamagedState."""
    try:
        account, members, debits = state["account"], state["members"], state["debits"]
        if account["format"] > FORMAT:
            raise NewerFormat(account["format"])
        _expect_members(account["members"], members, debits)
        head = _head(account)
        for name in account["members"]:
            head.members[name] = _record(members[name], debits[name])
        # A store that writes a row for each entry of a part has no part without any.
        budgets = state.get("budgets", {})
        _expect_budgets(account["budgets"], budgets)
        checked, unchecked = account["budget_checked"], account["budgets_unchecked"]
        head.budgets = SharedBudgets.load(budgets, checked, unchecked)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedState(str(error)) from error
    return head


def _expect_members(names: list[str], members: dict[str, Any], debits: dict[str, Any]) -> None:
    """A row too few would be credits that nobody counts."""
    if not len(names) == len(members) == len(debits):
        msg = (
            f"it has {len(names)} members, {len(members)} rows of them and {len(debits)} of debits"
        )
        raise ValueError(msg)


def _expect_budgets(number: int, budgets: dict[str, Any]) -> None:
    """Likewise."""
    if number != len(budgets):
        msg = f"it has {number} budgets, and {len(budgets)} rows of them"
        raise ValueError(msg)


# The account.


def _account(head: SharedHead) -> dict[str, Any]:
    return {
        "format": head.format,
        "epoch": head.epoch,
        "now": head.clock.now,
        "server": head.clock.server,
        "behind": head.clock.behind,
        "dropped": head.clock.dropped,
        "members": list(head.members),
        "awaited": sorted(head.awaited),
        "regroup": head.regroup,
        "next_order": head.next_order,
        "turns": head.turns,
        "balances": head.balances,
        "changes": head.changes,
        "recall": head.recall,
        "calm_until": _if_ever(head.calm_until),
        "refresh": _refresh(head.refresh),
        "refreshing_member": head.refreshing_member,
        "numbers_at": [[epoch, dict(numbers)] for epoch, numbers in head.numbers_at.items()],
        "budgets": len(head.budgets),
        "budget_checked": head.budgets.checked,
        "budgets_unchecked": head.budgets.unchecked,
        "state": head.dump(),
    }


def _head(state: dict[str, Any]) -> SharedHead:
    """The head without its members."""
    head = SharedHead(state["epoch"])
    head.clock.now, head.clock.server = state["now"], state["server"]
    head.clock.behind = state["behind"]
    head.clock.dropped = state["dropped"]
    head.awaited = set(state["awaited"])
    head.regroup = state["regroup"]
    head.next_order = state["next_order"]
    head.turns = state["turns"]
    head.balances = state["balances"]
    head.changes = state["changes"]
    head.recall = state["recall"]
    head.calm_until = _or_never(state["calm_until"])
    head.refresh = _refresh_view(state["refresh"])
    head.refreshing_member = state["refreshing_member"]
    head.numbers_at = dict(state["numbers_at"])
    head.load(state["state"])
    return head


def _refresh(view: RefreshView) -> dict[str, Any]:
    return {
        "number": view.number,
        "last_began": _if_ever(view.last_began),
        "in_flight": view.in_flight,
        "expires": _if_ever(view.expires),
        "blocked_until": _if_ever(view.blocked_until),
        "failures": view.failures,
        "reason": view.reason,
        "denied": view.denied,
    }


def _refresh_view(state: dict[str, Any]) -> RefreshView:
    return RefreshView(
        number=state["number"],
        last_began=_or_never(state["last_began"]),
        in_flight=state["in_flight"],
        expires=_or_never(state["expires"]),
        blocked_until=_or_never(state["blocked_until"]),
        failures=state["failures"],
        reason=state["reason"],
        denied=state["denied"],
    )


# The members.


def _member(member: MemberRecord) -> dict[str, Any]:
    """A member without its debits."""
    return {
        "lease": member.lease,
        "used": member.used,
        "slots": member.slots,
        "running": member.running,
        "number": member.number,
        "reply": _maybe(_reply, member.reply),
        "heard": _if_ever(member.heard),
        "hold_for": member.hold_for,
        "patience": member.patience,
        "floor": member.floor,
        "extra": member.extra,
        "recall": member.recall,
        "turn": member.turn,
        "asked_at": _if_ever(member.asked_at),
        "woken_at": _if_ever(member.woken_at),
        "gone": member.gone,
        "waits_for_refresh": member.waits_for_refresh,
        "needs": [_queued(each) for each in member.needs],
        "sole_spender": member.sole_spender,
        "words": [list(each) for each in member.words],
        "format": member.format,
    }


def _record(state: dict[str, Any], debits: dict[str, Any]) -> MemberRecord:
    member = MemberRecord()
    member.lease, member.used = state["lease"], state["used"]
    member.slots, member.running = state["slots"], state["running"]
    member.number = state["number"]
    member.reply = _maybe(_answer, state["reply"])
    member.heard = _or_never(state["heard"])
    member.hold_for, member.patience = state["hold_for"], state["patience"]
    member.floor, member.extra = state["floor"], state["extra"]
    member.recall = state["recall"]
    member.turn = state["turn"]
    member.asked_at = _or_never(state["asked_at"])
    member.woken_at = _or_never(state["woken_at"])
    member.gone, member.waits_for_refresh = state["gone"], state["waits_for_refresh"]
    member.needs = [_needs(each) for each in state["needs"]]
    member.settled.load(debits["settled"])
    member.kept.load(debits["kept"])
    member.lost.load(debits["lost"])
    member.sole_spender = state["sole_spender"]
    member.words = tuple((word, text) for word, text in state["words"])
    member.format = state["format"]
    return member


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "status": reply.status,
        "epoch": reply.epoch,
        "number": reply.number,
        "lease": reply.lease,
        "slots": reply.slots,
        "granted": list(reply.granted),
        "refused": list(reply.refused),
        "over": [list(each) for each in reply.over],
        "refresh": reply.refresh,
        "refresh_number": reply.refresh_number,
        "windows": [[ticket, list(windows)] for ticket, windows in reply.windows],
    }


def _answer(state: dict[str, Any]) -> Reply:
    return Reply(
        status=state["status"],
        epoch=state["epoch"],
        number=state["number"],
        lease=state["lease"],
        slots=state["slots"],
        granted=tuple(state["granted"]),
        refused=tuple(state["refused"]),
        over=tuple((ticket, budget) for ticket, budget in state["over"]),
        refresh=state["refresh"],
        refresh_number=state["refresh_number"],
        windows=tuple((ticket, tuple(windows)) for ticket, windows in state["windows"]),
    )


def _queued(queued: QueuedNeeds) -> dict[str, Any]:
    need = queued.need
    return {
        "order": queued.order,
        "turn": queued.turn,
        "told": queued.told,
        "tickets": list(queued.tickets),
        "amount": need.amount,
        "cost": need.cost,
        "slots": need.slots,
        "floor": need.floor,
        "extra": need.extra,
        "counts": need.counts,
        "reserved": need.reserved,
        "budgets": [
            {
                "budget": each.budget,
                "limit": each.limit,
                "window": each.window,
                "until": each.until,
                "rolling": each.rolling,
                "admitted": each.admitted,
            }
            for each in need.budgets
        ],
    }


def _needs(state: dict[str, Any]) -> QueuedNeeds:
    need = Need(
        ticket=state["tickets"][0],
        amount=state["amount"],
        cost=state["cost"],
        slots=state["slots"],
        floor=state["floor"],
        extra=state["extra"],
        counts=state["counts"],
        reserved=state["reserved"],
        budgets=tuple(BudgetNeed(**each) for each in state["budgets"]),
    )
    queued = QueuedNeeds(need, state["order"], state["turn"], list(state["tickets"]))
    queued.told = state["told"]
    return queued


# Values.


def _maybe(convert: Callable[[Any], _Value], value: object) -> _Value | None:
    return None if value is None else convert(value)


def _if_ever(at: float) -> float | None:
    return None if at == NEVER else at


def _or_never(at: float | None) -> float:
    return NEVER if at is None else at
