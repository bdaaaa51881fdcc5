"""Random streams of messages to a shared head, as its members might send them, and as they never should.

What a stream says depends on the head's own replies, so that it gets into states that matter: leases that
run out, needs that wait, balances that prove other spenders. Seeded: the same stream every time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

from budgetguard._core.balance import Balance
from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import (
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
    Reply,
    Report,
)

SCALES = (1, 7, 10**6, 2**53 // 100, 2**53, 10**16, 10**17)
"""Micro-credits of a usual call."""

_AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
_CAUSES = (None, "TimeoutError", "ValueError", "OSError")
_HOLD_FOR = (0.5, 3.0, 20.0, 60.0)


@dataclass
class Sender:
    """One member, as far as its next message depends on it."""

    name: str
    number: int = 0
    epoch: str = ""
    seen: float = NEVER
    dropped: float = 0.0
    received: float = 0.0
    recall: int = 0
    tickets: int = 0
    joins: bool = True
    lease: int = 0
    needs: list[Need] = field(default_factory=list)
    windows: dict[str, tuple[float, float, float | None]] = field(default_factory=dict)
    refresh: tuple[str, int] | None = None
    last: Message | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One message at a time of the server's clock, and what the head answered.

    Before it, the server may be another one: `run` names it, and with `lost` it knows nothing.
    """

    message: Message
    clock: float
    run: str
    epoch: str
    lost: bool
    reply: Reply
    woken: frozenset[str]


class Stream:
    """A head in Python, and who speaks to it."""

    def __init__(
        self, seed: int, *, members: int, scale: int, budgets: int = 3, chaos: float = 0.03
    ) -> None:
        self.random = Random(seed)
        self.scale = scale
        self.chaos = chaos
        self.budgets = [f"{number:032x}" for number in range(budgets)]
        self.senders = [Sender(f"{seed:08x}{number:08x}.1") for number in range(members)]
        self.servers = 1
        self.head = SharedHead(self.epoch)
        self.clock = self.wall = float(self.random.randrange(10**9))
        self.credits = scale * self.random.choice((10, 100, 1000))

    @property
    def epoch(self) -> str:
        """The epoch of the present server."""
        return f"epoch {self.servers}"

    def steps(self, count: int) -> Iterator[Step]:
        """So many messages."""
        for _ in range(count):
            lost = self._disturb()
            sender = self.random.choice(self.senders)
            message = self._message(sender)
            self._advance()
            reply, woken = self.head.handle(message, self.clock)
            self._hear(sender, message, reply)
            yield Step(message, self.clock, f"run{self.servers}", self.epoch, lost, reply, woken)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _disturb(self) -> bool:
        if not self._chance(self.chaos / 20):
            return False
        self.servers += 1
        if self._chance(0.5):
            self.head.fail_over(self.epoch)
            return False
        self.head = SharedHead(self.epoch)
        return True

    def _advance(self) -> None:
        by = self.random.choice((0.0, 0.001, 0.01, 0.05, 0.3))
        if self._chance(self.chaos):
            by = self.random.choice((-100.0, -0.5, 2.0, 10.0, 3600.0))
        self.clock += by * self.random.random()
        self.wall += max(by, 0.0)

    def _amount(self) -> int:
        if self._chance(0.05):
            return 0
        return max(
            int(
                self.scale * self.random.choice((0.5, 1, 1, 1, 2.5)) + self.random.randrange(-2, 3)
            ),
            0,
        )

    def _message(self, sender: Sender) -> Message:
        if sender.last is not None and self._chance(self.chaos):
            # Sent again, or late.
            last = sender.last
            return replace(last, number=max(last.number - self.random.choice((0, 0, 0, 1)), 1))
        sender.number += 1
        passed = max(self.clock - sender.received, 0.0)
        elapsed = passed * self.random.uniform(0.99, 1.01) if not self._chance(self.chaos) else 0.0
        leave = not sender.joins and self._chance(0.01)
        join = self._join(sender) if sender.joins or self._chance(self.chaos / 4) else None
        after = None
        if self._chance(0.15):
            after = self.random.choice((NEVER, sender.seen, max(sender.seen, 0.0) - 5.0))
        landing = None
        if sender.refresh is not None and self._chance(0.6):
            landing = self._landing(*sender.refresh)
            sender.refresh = None
        message = Message(
            sender.name,
            sender.number,
            sender.epoch if not self._chance(self.chaos / 20) else "another",
            seen=sender.seen,
            elapsed=elapsed,
            dropped=sender.dropped,
            report=self._report(sender, last=leave),
            join=join,
            refresh_after=after,
            refresh_timeout=self.random.choice((0.1, 3.0)),
            landing=landing,
            news=tuple(self._news(sender)),
            leave=leave,
        )
        sender.last = message
        return message

    def _join(self, sender: Sender) -> Join:
        return Join(
            self.random.choice(_HOLD_FOR),
            sole_spender=self.random.choice(("auto", "auto", "auto", True, False)),
            topup_step=self.random.choice((None, None, None, self.scale * 10)),
            whole=sender.epoch == "" or self._chance(0.5),
            words=(("process", sender.name), ("host", 'a "host" \u00fc')),
        )

    def _report(self, sender: Sender, *, last: bool) -> Report:
        random = self.random
        settled = tuple(
            Debit(self._amount(), random.choice((0.0, 0.5, 7.0)) + random.random())
            for _ in range(random.choice((0, 0, 1, 1, 2)))
        )
        kept = tuple(
            KeptDebit(
                self._amount(),
                random.random() * 9,
                slots=random.choice((0, 0, 1)),
                calls=((random.choice(_CAUSES), random.randrange(1, 4)),),
                sessions=((random.choice(_CAUSES), 1),) if self._chance(0.3) else (),
            )
            for _ in range(int(self._chance(0.08)))
        )
        used = min(self._amount(), sender.lease) if self._chance(0.8) else self._amount()
        keep = max(sender.lease - used, 0) if self._chance(0.5) and not sender.joins else 0
        return Report(
            used=used,
            keep=0 if last else keep,
            slots=random.choice((0, 0, 0, 1, 2)),
            running=random.choice((0, 1, 1, 3)),
            settled=settled,
            kept=kept,
            saved=tuple(
                (random.randrange(sender.number + 1), self._amount())
                for _ in range(int(self._chance(0.3)))
            ),
            needs=self._needs(sender),
            want=random.choice((0, 0, self.scale * 3, self.scale * 50)),
            floor=random.choice((0, 0, self.scale * 2)),
            extra=random.choice((0, 0, 0, self.scale)),
            recall=sender.recall if self._chance(0.8) else max(sender.recall - 1, 0),
            patience=random.choice((0.0, 3.0, 10.0)),
            budgets=tuple(self._uses(sender)),
        )

    def _needs(self, sender: Sender) -> tuple[Need, ...]:
        random = self.random
        if self._chance(0.3):
            sender.needs = [each for each in sender.needs if self._chance(0.7)]
        while self._chance(0.25):
            need = self._need()
            # A crowd needs the same.
            for _ in range(random.choice((1, 1, 1, 2, 6))):
                sender.tickets += 1
                sender.needs.append(replace(need, ticket=sender.tickets))
        return tuple(sender.needs)

    def _need(self) -> Need:
        random, amount = self.random, self._amount()
        return Need(
            0,
            amount,
            random.choice((amount, amount, self._amount())),
            slots=random.choice((0, 0, 0, 1)),
            floor=random.choice((0, 0, self.scale)),
            extra=random.choice((0, 0, 0, self.scale)),
            counts=self._chance(0.6),
            budgets=self._budget_needs(),
            reserved=self._chance(0.05),
        )

    def _budget_needs(self) -> tuple[BudgetNeed, ...]:
        if not self.budgets or not self._chance(0.25):
            return ()
        most = min(len(self.budgets), 2)
        chosen = self.random.sample(self.budgets, self.random.choice((1, 1, most)))
        return tuple(self._budget_need(name) for name in chosen)

    def _budget_need(self, name: str) -> BudgetNeed:
        limit = self.scale * self.random.choice((5, 5, 5, 20))
        if int(name, 16) % 2:
            return BudgetNeed(name, limit, rolling=6.0)
        width = 4.0
        wall = self.wall + self.random.choice((0.0, 0.0, 0.0, 0.0, 3.0, -3.0))
        window = wall // width * width
        return BudgetNeed(name, limit, window=window, until=window + width)

    def _uses(self, sender: Sender) -> Iterator[BudgetUse]:
        for name, (window, until, rolling) in list(sender.windows.items()):
            if self._chance(0.3):
                yield BudgetUse(
                    name,
                    window,
                    held=self.random.choice((0, 0, self._amount())),
                    spent=self.random.choice((0, self._amount())),
                    until=until,
                    rolling=rolling,
                )
                if self._chance(0.2):
                    del sender.windows[name]

    def _balance(self) -> Balance:
        random = self.random
        if self._chance(0.05):
            self.credits += self.scale * random.choice((10, 100))
        elif self._chance(0.8):
            self.credits = max(
                self.credits - self._amount() * random.choice((0, 1, 1, 3)), -self.scale
            )
        credits: Decimal | None = Decimal(min(self.credits, 10**18)).scaleb(-6)
        if self._chance(0.01):
            credits = None
        limit = used = None
        if self._chance(0.3):
            limit = Decimal(min(self.scale * 500, 10**18)).scaleb(-6)
            used = limit - abs(credits or Decimal(0)) / 2 if self._chance(0.7) else None
        return Balance(
            credits,
            tier=random.choice((None, "pro")),
            max_concurrency=random.choice((None, 3, 10)),
            cost_limit=limit,
            credits_used=used,
            as_of=_AS_OF,
            unit=random.choice(("credits",) * 30 + ("USD",)),
        )

    def _landing(self, epoch: str, number: int) -> Landing:
        if self._chance(0.1):
            return Landing(
                epoch, number, reason="no answer", failures=1, delay=0.3, denied=self._chance(0.3)
            )
        return Landing(epoch, number, self._balance(), self.wall)

    def _news(self, sender: Sender) -> Iterator[News]:
        random = self.random
        if self._chance(self.chaos / 3):
            yield Exhausted(random.choice((0.0, 0.5, 4.0)), self.wall)
        if self._chance(self.chaos / 3):
            yield Busy(random.random())
        if self._chance(self.chaos / 3):
            yield KeyLimited(random.choice(("key 1", "key 2", "key 3")), random.random())
        if self._chance(self.chaos / 3):
            yield Pausing(
                random.choice(("guard", "command")), random.choice((None, None, 'a "reason"'))
            )
        if self._chance(0.05) and sender.seen != NEVER:
            began = max(sender.seen - random.choice((0.0, TICK, 1.0)), 0.0)
            yield Offered(self._balance(), sender.epoch, began, self.wall)

    def _hear(self, sender: Sender, message: Message, reply: Reply) -> None:
        if reply.status == "old" or self._chance(self.chaos):
            return  # ... or the reply was lost
        before, sender.epoch = sender.epoch, reply.epoch
        sender.seen, sender.dropped, sender.received = (
            reply.view.now,
            reply.view.dropped,
            self.clock,
        )
        sender.recall = reply.view.recall if before == reply.epoch else 0
        sender.joins = reply.status != "done" or message.leave
        sender.lease = reply.lease
        if reply.status != "done":
            return
        needs: dict[int, Need] = {each.ticket: each for each in message.report.needs}
        for ticket, windows in reply.windows:
            for need, window in zip(needs[ticket].budgets, windows, strict=True):
                sender.windows[need.budget] = window, need.until, need.rolling
        answered: set[Any] = {*reply.granted, *(ticket for ticket, _ in reply.over)}
        if self._chance(0.8):
            answered.update(reply.refused)
        sender.needs = [each for each in sender.needs if each.ticket not in answered]
        if reply.refresh == "yours":
            sender.refresh = reply.epoch, reply.refresh_number
