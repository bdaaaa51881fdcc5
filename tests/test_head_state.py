"""The state of a shared head as JSON: whatever happens next, what was loaded does the same."""

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.balance import Balance
from budgetguard._core.clock import Instant
from budgetguard._core.debits import Bucket, Debits
from budgetguard._core.head_state import DamagedState, NewerFormat, dump, load
from budgetguard._core.member_record import MemberRecord
from budgetguard._core.other_spenders import Belief, Checkpoint
from budgetguard._core.queued_needs import QueuedNeeds
from budgetguard._core.shared_budgets import SharedBudget, SharedBudgets
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.snapshot import BalanceSnapshot
from budgetguard._core.store_messages import (
    FORMAT,
    NEVER,
    TICK,
    BudgetNeed,
    BudgetUse,
    Busy,
    Debit,
    Exhausted,
    Join,
    KeptDebit,
    KeyLimited,
    Landing,
    Message,
    Need,
    News,
    Offered,
    Pausing,
    RefreshView,
    Reply,
    Report,
    View,
)
from budgetguard._core.virtual_clock import VirtualClock


def written(head: SharedHead) -> str:
    """The state as a store may write it, which need not keep the order of an object's keys."""
    return json.dumps(dump(head), allow_nan=False, sort_keys=True)


def reloaded(head: SharedHead) -> SharedHead:
    """The head as the next process finds it."""
    return load(json.loads(written(head)))


# What a head consists of, to the last attribute, without a word about any single one.

FOREIGN = {"_sent", "_clock"}  # of a balance: the clock of the process that asked for it


def attributes(value: object) -> list[str]:
    """The names of everything that an object of ours keeps."""
    names = [each for kind in type(value).__mro__ for each in getattr(kind, "__slots__", ())]
    return [each for each in names if each not in FOREIGN]


def contents(value: Any) -> Any:
    """Everything in a value, down to texts and numbers, each with its type, in order."""
    if isinstance(value, dict):
        return [(key, contents(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [type(value), *map(contents, value)]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if not type(value).__module__.startswith("budgetguard"):
        return type(value), repr(value)
    inner = {each: getattr(value, each) for each in attributes(value)}
    if isinstance(value, Debits):
        # Any heap of the same keys is as good, and nobody goes through the others in their order.
        inner["_order"] = sorted(inner["_order"])
        inner["_buckets"] = dict(sorted(inner["_buckets"].items()))
    if isinstance(value, SharedBudgets):
        # Likewise.
        inner["_budgets"] = dict(sorted(value._budgets.items()))
    if isinstance(value, Bucket):
        inner["calls"], inner["sessions"] = value.calls or None, value.sessions or None
    if isinstance(value, SharedHead):
        inner["numbers_at"] = sorted(
            (n, sorted(each.items())) for n, each in value.numbers_at.items()
        )
    return [(each, contents(found)) for each, found in inner.items()]


def default_of(value: Any) -> Any:
    """An object of the same kind that nothing has been said about; absent: it has no defaults at all."""
    plain: dict[type, Callable[[], Any]] = {
        SharedHead: lambda: SharedHead(""),
        QueuedNeeds: lambda: QueuedNeeds(Need(0, 0, 0), 0, 0.0),
        Bucket: lambda: Bucket(0.0),
        SharedBudget: lambda: SharedBudget(None),
    }
    if type(value) in plain:
        return plain[type(value)]()
    if is_dataclass(value) and not isinstance(value, type):
        needed = [each.name for each in fields(value) if each.default is MISSING]
        return type(value)(**dict.fromkeys(needed))
    return type(value)()


def untold(value: Any, where: str = "head") -> list[str]:
    """The attributes of all objects in a value that are as in an object nothing has been said about."""
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in untold(inner, f"{where}[{key}]")]
    if isinstance(value, list | tuple) and not isinstance(value, Instant):
        return [each for n, inner in enumerate(value) for each in untold(inner, f"{where}[{n}]")]
    ours = type(value).__module__.startswith("budgetguard")
    if not ours or isinstance(value, Instant | View):
        return []
    plain = default_of(value)
    same = [
        f"{where}.{each}"
        for each in attributes(value)
        if contents(getattr(value, each)) == contents(getattr(plain, each))
    ]
    inner = [untold(getattr(value, each), f"{where}.{each}") for each in attributes(value)]
    return same + [each for found in inner for each in found]


def balance_of(credits: str) -> Balance:
    """A balance in which everything is said."""
    return Balance(
        credits=Decimal(credits),
        tier="pro",
        max_concurrency=7,
        cost_limit=Decimal("100.50"),
        credits_used=Decimal("1E+1"),
        as_of=datetime(2026, 11, 30, 15, 0, 0, 123456, UTC),
        unit="USD",
        renews_at=datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    )


def full() -> SharedHead:
    """A head in which every attribute of every object differs from what it is without a word."""
    head = SharedHead("e7", regroup=3.5, await_members=["b", "lost"])
    head.clock.now, head.clock.server = 1000.25 + TICK, 1_700_000_000.125
    head.clock.behind, head.clock.dropped = 1.5, 900.5
    head.next_order, head.balances, head.changes, head.recall = 5, 6, 7, 8
    head.calm_until, head.busy_until, head.turns = 901.5, 1200.0, 12
    head.refresh = RefreshView(3, 910.0, True, 990.0, 950.0, 2, "no answer", True)
    head.refreshing_member = "a"
    head.numbers_at = {0: {"a": 3}, 1: {"b": 1, "a": 9}}
    head.unit = "USD"
    head.limit_key("key b", 1100.0, 1000.0)
    head.limit_key("key a", 1050.0, 1000.0)
    head.pause("guard", "stop")
    head.pause("command", "stop, too")
    sent = Instant(890.0, 1_699_999_000.5)
    head.snapshot = BalanceSnapshot(
        sent, balance_of("10.00"), 10**16 + 1, 90_500_000, 5_000_000, 7, 1300.0, 11, 12
    )
    others = head.others
    others.setting, others.topup_step, others.epoch = True, 500, 2
    others.belief = Belief(others=True, since=sent, proven=13, spell=1800.0)
    others.changed, others.contradiction = True, 14
    others._until, others._spell, others._checked_at, others._landed = 2000.0, 3600.0, 880.0, 891.0
    others._reference = BalanceSnapshot(
        sent, balance_of("0E-7"), 1, 90_500_001, 5_000_001, 8, 1301.0, 15, 16
    )
    others._cleared, others._residual, others._ceiling_residual = 17, 18, 19
    others._checkpoints = [Checkpoint(1, 20, 21), Checkpoint(2, -22, 23)]
    for name in ("b", "a"):
        member = head.members[name] = MemberRecord()
        member.lease, member.used, member.slots, member.running = 30, 25, 2, 3
        member.number, member.heard, member.hold_for, member.patience = 9, 980.0, 30.0, 65.0
        over, windows = ((4, "budget"),), ((1, (3600.0,)),)
        member.reply = Reply("old", "e6", 9, 30, 2, (1, 2), windows, (3,), over, "wait", 3)
        member.floor, member.extra, member.recall, member.asked_at = 31, 32, 7, 900.5
        member.turn, member.woken_at = 11, 901.5
        member.gone = member.waits_for_refresh = True
        uses = (BudgetNeed("budget", 100, 3600.0, 7200.0, 60.0, 3600.0),)
        need = Need(5, 40, 41, 1, 42, 43, counts=True, budgets=uses, reserved=True)
        other = Need(7, 2, 3, 1, 4, 5, counts=True, budgets=uses, reserved=True)
        member.needs = [QueuedNeeds(need, 3, 9, [5, 6, 9]), QueuedNeeds(other, 4, 10)]
        member.needs[0].told, member.needs[1].told = 6, 8
        for n in (3, 1, 2):
            member.settled.add(n, 1010.0 + n / 3, n)
            for kept in member.unresolved:
                kept.add_counted(n, 1011.0 + n, 1, (("TimeoutError", n), (None, 1)), ((None, 1),))
        member.sole_spender, member.words, member.format = False, (("process", "4711"),), 1
    _spend_from_budgets(head)
    head.budgets.unchecked = 2
    return head


def _spend_from_budgets(head: SharedHead) -> None:
    """Two members hold and spent something in several windows, one of them is dead, and one came back."""
    budgets, clock = head.budgets, VirtualClock()
    clock.now = 5.0
    daily = BudgetNeed("daily", 100, 86_400.0, 172_800.0)
    for name, cost in (("b", 30), ("a", 40), ("lost", 7)):
        need = Need(1, cost, cost, budgets=(daily, BudgetNeed("rolling", 200, rolling=60.0)))
        (day, bucket) = budgets.take(name, need, clock)
        uses = (
            BudgetUse("daily", day, cost - 5, 3, daily.until),
            BudgetUse("rolling", bucket, cost - 6, 4, rolling=60.0),
        )
        budgets.report(name, uses, clock)
    budgets.died("lost", 7.0)
    budgets.forget(8.0)


def test_nothing_is_left_out() -> None:
    """Every attribute of every object comes back, among them those that somebody adds one day."""
    head = full()
    # Settled debits have no causes, and a stored reply has no view: that is made anew for each answer.
    # And no budget has both a window and buckets; tests of their own tell what these consist of.
    left = [
        each
        for each in untold(head)
        if ".settled._buckets" not in each and "head.budgets" not in each
    ]
    assert left == [f"head.members[{name}].reply.view" for name in "ba"]
    assert contents(reloaded(head)) == contents(head)
    assert dump(reloaded(head)) == dump(head)


def test_the_parts_are_values_of_json_alone() -> None:
    """They are equal to what a parser gives: no tuples, no keys but texts, no infinities."""
    for head in (full(), SharedHead("e1")):
        state = dump(head)
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        assert state.keys() == {"account", "members", "debits", "budgets"}


def test_a_member_that_has_nothing_to_say_changes_its_own_row_alone() -> None:
    """So a store has little to write."""
    head = SharedHead("e1")
    for name in "ab":
        head.handle(Message(name, 1, "", join=Join(None)), 1.0)
    before = dump(head)
    head.handle(Message("a", 2, "e1", 0.0, 0.5, Report(settled=(Debit(3, 5.0),))), 1.5)
    after = dump(head)
    for part in ("members", "debits"):
        assert [name for name in "ab" if before[part][name] != after[part][name]] == ["a"]


def test_amounts_and_times_are_exact() -> None:
    """Beyond what a double holds, and times between ticks, too."""
    head = full()
    debits = head.members["a"].settled
    debits.add(10**18 + 1, 1010 + 0.1)
    debits.add(1, 1e9 / 7)
    debits.add(1, -0.25)
    after = reloaded(head).members["a"].settled
    assert list(after.in_order()) == list(debits.in_order())
    assert after.total == debits.total
    assert after.slots == debits.slots


@pytest.mark.parametrize("credits", ["0", "-0", "0.00", "1E+3", "12.3400", "-5", None])
def test_a_balance_is_written_as_it_was_reported(credits: str | None) -> None:
    """Also to the digit, since errors and logs show it."""
    head = SharedHead("e1")
    balance = Balance(credits=None if credits is None else Decimal(credits))
    head.snapshot = BalanceSnapshot.of(balance, Instant(0.0, 5.0))
    after = reloaded(head).snapshot
    assert contents(after) == contents(head.snapshot)
    assert after is not None
    assert after.slots == after.ceiling == after.cap == UNLIMITED


def test_a_tier_of_any_kind_is_text_afterwards() -> None:
    """Nothing has checked what a provider of somebody's own gives, and JSON takes little."""
    head = SharedHead("e1")
    balance = Balance(credits=Decimal(1), tier=Decimal(3))  # type: ignore[arg-type]
    head.snapshot = BalanceSnapshot.of(balance, Instant(0.0, 5.0))
    after = reloaded(head).snapshot
    assert after is not None
    assert after.balance.tier == "3"


# What stays as it is until `FORMAT` says otherwise.

RECORDED = Path(__file__).parent / "data" / f"head-state-{FORMAT}.json"


def test_what_is_written_is_what_this_format_has_always_been() -> None:
    """A state that says more, less or something else needs another `FORMAT`, and a file beside this one.

    Before the release that has the format first, the file is `json.dumps(dump(full()), indent=1)`.
    """
    assert dump(full()) == json.loads(RECORDED.read_text())


def test_what_was_written_by_an_earlier_version_is_read() -> None:
    """The recorded state is that of the head which it was made of."""
    assert contents(load(json.loads(RECORDED.read_text()))) == contents(full())


# What cannot be read.


def test_a_newer_format_is_named() -> None:
    """With what to do about it."""
    state = dump(full())
    state["account"]["format"] = FORMAT + 1
    with pytest.raises(
        NewerFormat, match=f"format is {FORMAT + 1}.*up to {FORMAT}: a newer"
    ) as caught:
        load(state)
    assert caught.value.format == FORMAT + 1


def _lose(*path: Any) -> Callable[[dict[str, Any]], None]:
    def lose(state: dict[str, Any]) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    return lose


def _put(value: object, *path: Any) -> Callable[[dict[str, Any]], None]:
    def put(state: dict[str, Any]) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value

    return put


@pytest.mark.parametrize(
    "damage",
    [
        _lose("account"),
        _lose("account", "format"),
        _lose("members", "a"),
        _lose("debits", "b"),
        _lose("budgets"),
        _lose("budgets", "daily"),
        _lose("budgets", "daily", "windows"),
        _lose("members", "a", "lease"),
        _lose("debits", "a", "kept", "calls_of"),
        _put({}, "members", "stranger"),
        _put(None, "account"),
        _put("2", "account", "format"),
        _put("many", "account", "state", "snapshot", "balance", "credits"),
        _put("today", "account", "state", "snapshot", "balance", "as_of"),
        _put([1], "debits", "a", "settled", "amounts"),
        _put([0, 0, 99], "debits", "a", "kept", "calls_of"),
    ],
)
def test_what_is_damaged_is_not_read(damage: Callable[[dict[str, Any]], None]) -> None:
    """Not in part either: a row that is missing would be credits that nobody counts."""
    state = dump(full())
    damage(state)
    with pytest.raises(DamagedState):
        load(state)


# Whatever happens next.

NAMES = "abc"
MICRO = st.integers(0, 30)
SECONDS = st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 30.0, 130.0])
CAUSES = st.lists(
    st.tuples(st.sampled_from(["TimeoutError", "OSError", None]), st.integers(1, 3)),
    max_size=2,
    unique_by=lambda each: each[0],
).map(tuple)
BALANCES = st.builds(
    Balance,
    credits=st.sampled_from(
        [None, *(Decimal(n) / 100_000 for n in (0, 2, 5, 12, 30, 50, 80, 100))]
    ),
    max_concurrency=st.sampled_from([None, 0, 3]),
    cost_limit=st.sampled_from([None, Decimal("0.0001")]),
    credits_used=st.sampled_from([None, Decimal("0.00001"), Decimal("0.00002")]),
    as_of=st.just(datetime(2026, 11, 30, tzinfo=UTC)),
    unit=st.sampled_from(["credits", "credits", "credits", "USD"]),
)
BUDGETS = (BudgetNeed("daily", 60, 0.0, 86_400.0), BudgetNeed("rolling", 40, rolling=60.0))
REPORTS = st.builds(
    Report,
    used=MICRO,
    keep=MICRO,
    slots=st.integers(0, 2),
    running=st.integers(0, 2),
    settled=st.lists(st.builds(Debit, MICRO, SECONDS), max_size=2).map(tuple),
    kept=st.lists(
        st.builds(KeptDebit, MICRO, SECONDS, st.integers(0, 1), CAUSES, CAUSES), max_size=2
    ).map(tuple),
    saved=st.lists(st.tuples(st.integers(0, 5), MICRO), max_size=1).map(tuple),
    needs=st.lists(
        st.builds(
            Need,
            st.integers(1, 4),
            MICRO,
            MICRO,
            st.integers(0, 1),
            MICRO,
            MICRO,
            st.booleans(),
            st.sampled_from([(), (), *((each,) for each in BUDGETS), BUDGETS]),
        ),
        max_size=3,
        unique_by=lambda need: need.ticket,
    ).map(tuple),
    want=MICRO,
    floor=MICRO,
    extra=MICRO,
    recall=st.integers(0, 3),
    patience=SECONDS,
    budgets=st.lists(
        st.builds(BudgetUse, st.just("daily"), st.just(0.0), MICRO, MICRO, st.just(86_400.0)),
        max_size=1,
    ).map(tuple),
)
JOINS = st.builds(
    Join,
    st.sampled_from([None, 3.0]),
    st.sampled_from([True, False, "auto", "auto"]),
    st.sampled_from([None, 10]),
    st.sampled_from([None, "credits"]),
    st.just((("process", "1"),)),
)
NEWS = st.one_of(
    st.builds(Exhausted, SECONDS, SECONDS),
    st.builds(Busy, SECONDS),
    st.builds(KeyLimited, st.sampled_from(["k1", "k2"]), SECONDS),
    st.builds(Pausing, st.sampled_from(["guard", "command"]), st.sampled_from([None, "stop"])),
    st.builds(Offered, BALANCES, st.just("now"), SECONDS, SECONDS),
)
STEPS = st.fixed_dictionaries(
    {
        "member": st.sampled_from(NAMES),
        "what": st.sampled_from(["next"] * 20 + ["again"] * 2 + ["older", "fail over"]),
        "server": st.sampled_from([0.0, 0.05, 0.3, 1.0, 30.0, 130.0, -5.0]),
        "elapsed": st.sampled_from([0.0, 0.05, 0.3, 1.0, 30.0, 130.0]),
        "report": REPORTS,
        "join": JOINS,
        "rejoin": st.booleans(),
        "refresh": st.booleans(),
        "landing": st.none() | BALANCES,
        "news": st.one_of(st.just([]), st.just([]), NEWS.map(lambda each: [each])),
        "leave": st.sampled_from([False] * 19 + [True]),
        "dead": st.sampled_from([""] * 40 + list(NAMES)),
    }
)


class Fleet:
    """Members that say whatever they like, to a head and to another that is loaded before each message."""

    def __init__(self) -> None:
        self.head = SharedHead("e1", regroup=0.5, await_members=["a"])
        self.other = reloaded(self.head)
        self.server, self.lives = 100.0, 1
        self.last: dict[str, Message] = {}
        self.replies: dict[str, Reply] = {}

    def step(self, step: dict[str, Any]) -> None:
        """One thing happens."""
        self.server += step["server"]
        if step["what"] == "fail over":
            self.lives += 1
            self.both(lambda head: head.fail_over(f"e{self.lives}"))
            return
        last = self.last.get(step["member"])
        message = last if step["what"] == "again" and last else self.message(step)
        if step["what"] == "older" and last and last.number > 1:
            message = Message(last.member, last.number - 1, last.epoch)
        reply, _ = self.both(lambda head: head.handle(message, self.server, step["dead"]))
        if message is not last:
            self.last[message.member] = message
        if reply.status != "old":
            self.replies[message.member] = reply

    def message(self, step: dict[str, Any]) -> Message:
        """The next message of a member, which behaves as far as its session goes."""
        name = step["member"]
        reply, last = self.replies.get(name), self.last.get(name)
        landing = None
        if reply is not None and reply.refresh == "yours":
            landing = Landing(
                reply.epoch, reply.refresh_number, step["landing"], 5.0, "no", True, 1, 2.0
            )
        joins = reply is None or reply.status != "done" or step["rejoin"]
        now = self.head.now
        news: list[News] = [
            Offered(each.balance, self.head.epoch, max(now - each.began, 0.0), each.wall)
            if isinstance(each, Offered)
            else each
            for each in step["news"]
        ]
        return Message(
            name,
            1 if last is None else last.number + 1,
            "" if reply is None else reply.epoch,
            NEVER if reply is None else reply.view.now,
            step["elapsed"],
            step["report"],
            step["join"] if joins else None,
            NEVER if step["refresh"] else None,
            1.0,
            landing,
            tuple(news),
            step["leave"],
        )

    def both(self, act: Callable[[SharedHead], Any]) -> Any:
        """Do it to both heads, which give the same answer and are the same afterwards."""
        answer = act(self.head)
        assert contents(act(self.other)) == contents(answer)
        assert dump(self.other) == dump(self.head)
        self.other = reloaded(self.other)
        assert contents(self.other) == contents(self.head)
        assert dump(self.other) == dump(self.head)
        return answer


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(STEPS, min_size=20, max_size=60))
def test_what_was_loaded_goes_on_as_if_it_had_never_been_written(
    steps: list[dict[str, Any]],
) -> None:
    """Any messages whatever: same replies, same members to wake, same state, to the last attribute."""
    fleet = Fleet()
    for each in steps:
        fleet.step(each)
