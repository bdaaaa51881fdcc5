"""A crowd of callers that need the same is one entry of the queue: that is only cheaper, and changes no answer."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import pytest

from budgetguard._core.balance import Balance
from budgetguard._core.head_state import dump, load
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import (
    BudgetNeed,
    Join,
    Landing,
    Message,
    Need,
    Reply,
    Report,
)

MEMBERS = "abc"
AS_OF = datetime(2026, 11, 30, tzinfo=UTC)


class Member:
    """A process whose callers come in crowds, and that ends calls as it likes."""

    def __init__(self, name: str, chance: Random) -> None:
        self.name = name
        self.chance = chance
        self.number = self.lease = self.slots = self.ticket = self.recall = 0
        self.needs: list[Need] = []

    def message(self, head: SharedHead) -> Message:
        """The next one, with some calls ended, some callers gone and some more come."""
        chance, self.number = self.chance, self.number + 1
        self.needs = [each for each in self.needs if chance.random() < 0.9]
        for _ in range(chance.choice((0, 0, 1, 2))):
            self.needs += self._crowd()
        used = min(self.lease, chance.choice((0, self.lease // 2, self.lease)))
        keep = 0 if head.recall > self.recall else chance.randint(0, self.lease - used)
        self.slots = chance.randint(0, self.slots)
        self.recall = head.recall
        first = self.number == 1
        return Message(
            self.name,
            self.number,
            "" if first else head.epoch,
            head.now,
            0.1,
            Report(
                used=used,
                keep=keep,
                slots=self.slots,
                running=used > 0,
                needs=tuple(self.needs),
                want=chance.choice((0, 5, 40)),
                recall=self.recall,
                patience=5.0,
            ),
            join=Join(60.0, sole_spender=True) if first else None,
            refresh_after=float("-inf") if chance.random() < 0.2 else None,
            refresh_timeout=5.0,
        )

    def _crowd(self) -> list[Need]:
        chance = self.chance
        amount = chance.choice((0, 1, 1, 3, 10))
        budgets = (BudgetNeed("daily", 20, 86_400.0, 172_800.0),) if chance.random() < 0.3 else ()
        kind = Need(
            0,
            amount + chance.choice((0, 0, 2)),
            amount,
            slots=chance.choice((0, 0, 0, 1)),
            floor=chance.choice((0, 0, 5)),
            counts=chance.random() < 0.5,
            budgets=budgets,
        )
        found = []
        for _ in range(chance.choice((1, 2, 8))):
            self.ticket += 1
            found.append(replace(kind, ticket=self.ticket))
        return found

    def hear(self, reply: Reply) -> None:
        """What was granted runs, and what was answered waits no more."""
        self.lease, self.slots = reply.lease, reply.slots
        answered = {*reply.granted, *(ticket for ticket, _ in reply.over)}
        self.needs = [each for each in self.needs if each.ticket not in answered]


def told(seed: int) -> tuple[list[tuple[Reply, frozenset[str]]], int, int]:
    """What members are answered over many messages, how often callers were refused, and the longest queue."""
    chance, head, clock = Random(seed), SharedHead("e1"), 100.0
    members = [Member(name, chance) for name in MEMBERS]
    answers, refused, longest = [], 0, 0
    for _ in range(150):
        clock += chance.choice((0.01, 0.1, 0.4))
        member = chance.choice(members)
        message = member.message(head)
        reply, woken = head.handle(message, clock)
        answers.append((reply, woken))
        member.hear(reply)
        refused += len(reply.refused)
        head = load(dump(head))
        longest = max(longest, *(len(each.needs) for each in head.members.values()))
        if reply.refresh == "yours":
            member.number += 1
            credits = Balance(
                Decimal(chance.choice((0, 10, 25, 60))).scaleb(-6), max_concurrency=3, as_of=AS_OF
            )
            report = Report(used=member.lease, needs=tuple(member.needs), slots=member.slots)
            landing = Landing(head.epoch, reply.refresh_number, balance=credits)
            landed = Message(
                member.name, member.number, head.epoch, head.now, 0.0, report, landing=landing
            )
            reply, woken = head.handle(landed, clock)
            answers.append((reply, woken))
            member.hear(reply)
    return answers, refused, longest


@pytest.mark.parametrize("seed", range(40))
def test_callers_in_a_row_are_answered_as_one_by_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grants, refusals, recalls and figures are the same when no two needs are taken for alike."""
    together, refused, longest = told(seed)
    monkeypatch.setattr(Need, "like", lambda *_: False)
    one_by_one, _, entries = told(seed)
    for number, (here, there) in enumerate(zip(together, one_by_one, strict=True)):
        assert here == there, number
    assert refused
    assert longest < entries


def test_a_thousand_alike_are_one_entry() -> None:
    """Also after some of them were granted, and others came."""
    head = SharedHead("e1")
    needs = tuple(Need(ticket, 1, 1) for ticket in range(1000))
    head.handle(Message("a", 1, "", report=Report(needs=needs), join=Join(60.0)), 1.0)
    assert [len(each.tickets) for each in head.members["a"].needs] == [1000]
    more = (*needs[7:], *(Need(ticket, 1, 1) for ticket in range(1000, 1500)))
    head.handle(Message("a", 2, "e1", 0.0, 0.1, Report(needs=more)), 1.1)
    # Those that came later have a later turn, which tells who may have given back since.
    assert [len(each.tickets) for each in head.members["a"].needs] == [993, 500]
