"""The state of a head that lives in a server, as its script tells it, as a `SharedHead`.

For people who want to see it, and for the tests that compare it. An empty table of Lua may be a list or an
object, a value that is not there is false, and a time that never came is a text.
"""

import json
from collections.abc import Mapping
from typing import Any

from budgetguard._core.head_state import load
from budgetguard._core.shared_head import SharedHead
from budgetguard.stores._wire import snapshot_from


def head_from(text: str) -> SharedHead:
    """The head whose state the script told."""
    told = json.loads(text)
    account, members, debits = told["account"], told["members"], told["debits"]
    needs, words = told["needs"], told["words"]
    return load(
        {
            "account": _account(account, told["evidence"], list(members), told["numbers"]),
            "members": {
                name: _member(each, needs.get(name, []), words.get(name), told["woken"].get(name))
                for name, each in members.items()
            },
            "debits": {name: _debits(debits.get(name)) for name in members},
            "budgets": {name: _budget(each) for name, each in dict(told["budgets"]).items()},
        }
    )


def _time(value: Any) -> float | None:
    return None if value in {"-inf", "inf", None} or value is False else float(value)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _amount(value: Any) -> Any:
    """An amount, which is a pair of limbs where a double could not hold it."""
    if isinstance(value, list):
        return int(value[0]) * 10**12 + int(value[1])
    return value


def _account(
    account: dict[str, Any], evidence: dict[str, Any], names: list[str], numbers: Mapping[str, int]
) -> dict[str, Any]:
    refresh = account["refresh"]
    by_epoch: dict[int, dict[str, int]] = {epoch: {} for epoch in account["epochs"]}
    for key, number in numbers.items():
        epoch, name = key.split(" ", 1)
        by_epoch[int(epoch)][name] = number
    return {
        **{
            name: account[name]
            for name in (
                "format",
                "epoch",
                "next_order",
                "turns",
                "balances",
                "changes",
                "recall",
                "refreshing_member",
                "budgets",
                "budget_checked",
                "budgets_unchecked",
            )
        },
        **{name: float(account[name]) for name in ("now", "behind", "dropped", "regroup")},
        "server": _time(account["server"]),
        "members": names,
        "awaited": sorted(_table(account["awaited"])),
        "calm_until": _time(account["calm_until"]),
        "refresh": {
            **refresh,
            **{name: _time(refresh[name]) for name in ("last_began", "expires", "blocked_until")},
        },
        "numbers_at": [[epoch, by_epoch[epoch]] for epoch in account["epochs"]],
        "state": {
            "snapshot": _snapshot(evidence["snapshot"]),
            "unit": account["unit"] or None,
            "busy_until": _time(account["busy_until"]),
            "limited": [[key, float(until)] for key, until in account["limited"]],
            "pauses": account["pauses"],
            "others": _others(evidence),
        },
    }


def _snapshot(told: Any) -> Any:
    if not told:
        return None
    bounded = [
        None if told[name] == "inf" else _amount(told[name])
        for name in ("credits", "ceiling", "cap", "slots")
    ]
    born = told.get("born")
    row = [
        *(float(told["mono"]), float(told["wall"]), told["text"] or None, told["unit"], born),
        *(told["emptied"], *bounded, _time(told["refused_until"])),
        *(_amount(told["overlap"]), _amount(told["ceiling_overlap"])),
    ]
    return snapshot_from(row).dump()


def _others(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "setting": told["setting"],
        "topup_step": None if told["topup_step"] is False else _amount(told["topup_step"]),
        "epoch": told["epoch"],
        "belief": _belief(told["belief"]) if told["belief"] else None,
        "changed": told["changed"],
        "contradiction": _amount(told["contradiction"]),
        "until": _time(told["until_"]),
        "spell": float(told["spell"]),
        "checked_at": _time(told["checked_at"]),
        "reference": _snapshot(told["reference"]),
        "landed": _time(told["landed"]),
        "cleared": _amount(told["cleared"]),
        "residual": _amount(told["residual"]),
        "ceiling_residual": _amount(told["ceiling_residual"]),
        "checkpoints": [
            [epoch, _amount(residual), _amount(bound)]
            for epoch, residual, bound in told["checkpoints"]
        ],
    }


def _belief(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "others": told["others"],
        "since": [float(told["mono"]), float(told["wall"])],
        "proven": _amount(told["proven"]),
        "spell": float(told["spell"]),
    }


def _member(told: dict[str, Any], needs: Any, words: Any, woken: Any) -> dict[str, Any]:
    amounts = ("lease", "used", "floor", "extra")
    kept = ("slots", "running", "number", "recall", "turn", "gone", "sole_spender", "format")
    return {
        **{name: _amount(told[name]) for name in amounts},
        **{name: told[name] for name in kept},
        "patience": float(told["patience"]),
        "heard": _time(told["heard"]),
        "hold_for": _time(told["hold_for"]),
        "asked_at": _time(told["asked_at"]),
        "woken_at": _time(woken),
        "waits_for_refresh": told["waits_for_refresh"],
        "reply": _reply(json.loads(f"{{{told['reply']}}}")) if told["reply"] else None,
        "needs": [_need(each) for each in needs],
        "words": words or [],
    }


def _reply(told: dict[str, Any]) -> dict[str, Any]:
    plain = {"lease": 0, "slots": 0, "granted": [], "refused": [], "over": [], "refresh": ""}
    windows = [[ticket, list(map(float, each))] for ticket, each in told.get("windows", [])]
    return {"refresh_number": 0, **plain, **told, "windows": windows}


def _need(told: dict[str, Any]) -> dict[str, Any]:
    need = told["need"]
    return {
        "order": told["order"],
        "turn": told["turn"],
        "told": told["told"] or None,
        "tickets": told["tickets"],
        "slots": need["slots"],
        **{name: _amount(need[name]) for name in ("amount", "cost", "floor", "extra")},
        "counts": need.get("counts", False),
        "reserved": need.get("reserved", False),
        "budgets": [
            {
                "budget": each["budget"],
                "limit": _amount(each["limit"]),
                "window": float(each["window"]),
                "until": float(each["until"]),
                "rolling": _time(each.get("rolling")),
                "admitted": _time(each.get("admitted")),
            }
            for each in need["budgets"]
        ],
    }


def _debits(told: Any) -> dict[str, Any]:
    settled, kept, lost = told or [{}, {}, {}]
    return {"settled": _columns(settled), "kept": _with_causes(kept), "lost": _with_causes(lost)}


def _columns(told: dict[str, Any]) -> dict[str, Any]:
    amounts = told.get("amounts", [])
    return {
        "ticks": told.get("ticks", []),
        "amounts": [_amount(each) for each in amounts],
        "slots": told.get("slots") or [0] * len(amounts),
    }


def _with_causes(told: dict[str, Any]) -> dict[str, Any]:
    causes: list[list[list[Any]]] = []
    places: dict[str, list[int]] = {"calls": [], "sessions": []}
    totals: dict[str, dict[str, int]] = {"calls": {}, "sessions": {}}
    for name, of_each in places.items():
        for counts in map(_table, told.get(name, [])):
            of_each.append(len(causes))
            causes.append([[cause or None, calls] for cause, calls in counts.items()])
            for cause, calls in counts.items():
                totals[name][cause] = totals[name].get(cause, 0) + calls
    return {
        **_columns(told),
        **{name: [[cause or None, n] for cause, n in totals[name].items()] for name in totals},
        "causes": causes,
        "calls_of": places["calls"],
        "sessions_of": places["sessions"],
    }


def _budget(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "limit": _amount(told["limit"]),
        "rolling": _time(told["rolling"]),
        "window": _time(told["window"]),
        "until": _time(told["until"]),
        "reached": _time(told["reached"]),
        "beyond": _time(told["beyond"]),
        "moved": told["moved"],
        "windows": [
            [
                float(each["stamp"]),
                _amount(each["held"]),
                _amount(each["spent"]),
                [[name, *map(_amount, share)] for name, share in _table(each["shares"]).items()],
                [[name, _amount(held), _amount(spent)] for name, held, spent in each["dead"]],
            ]
            for each in told["windows"]
        ],
    }
