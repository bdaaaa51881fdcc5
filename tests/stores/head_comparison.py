"""What two heads of one account have to have in common: all of their state, but for the order of what has none."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from budgetguard._core.debits import Debits
from budgetguard._core.head_state import dump
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import Reply


def whole_state(head: SharedHead) -> dict[str, Any]:
    """The state of a head, as values that can be compared."""
    for budget in head.budgets._budgets.values():
        # A head in a server clears a budget when it is used again.
        budget.clear(head.now)
    state = dump(head)
    state["account"]["members"] = set(state["account"]["members"])
    state["account"]["numbers_at"] = dict(state["account"]["numbers_at"])
    for name, member in head.members.items():
        state["debits"][name] = {
            kind: _debits(getattr(member, kind)) for kind in ("settled", "kept", "lost")
        }
    for budget in state["budgets"].values():
        budget["windows"] = {
            stamp: (held, spent, sorted(shares), sorted(dead))
            for stamp, held, spent, shares, dead in budget["windows"]
        }
    return _plain(state)  # type: ignore[no-any-return]


def _debits(debits: Debits) -> tuple[Any, ...]:
    return debits.total, [
        (each.clears_at, each.amount, each.slots, dict(each.calls or {}), dict(each.sessions or {}))
        for each in debits.buckets()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def comparable(reply: Reply) -> Reply:
    """A reply whose counts by cause are in one order."""

    def ordered(counts: tuple[tuple[str | None, int], ...]) -> tuple[tuple[str | None, int], ...]:
        return tuple(sorted(counts, key=str))

    view = reply.view
    return replace(
        reply,
        view=replace(
            view,
            kept_calls=ordered(view.kept_calls),
            kept_sessions=ordered(view.kept_sessions),
        ),
    )


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two replies or states differ."""
    if one == other:
        return []
    if is_dataclass(one) and type(one) is type(other):
        names = [each.name for each in fields(one)]  # type: ignore[arg-type]
        pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    elif isinstance(one, dict) and isinstance(other, dict):
        pairs = [(key, one.get(key), other.get(key)) for key in sorted({*one, *other}, key=str)]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = list(zip(map(str, range(len(one))), one, other, strict=True))
    else:
        return [f"{where}: {one!r}, and in the server {other!r}"]
    return [each for key, a, b in pairs for each in differences(a, b, f"{where}.{key}")]
