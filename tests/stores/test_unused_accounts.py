"""Accounts that nobody uses any more are removed from the file, and take nothing with them that still counts."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from budgetguard._core.balance import Balance
from budgetguard._core.clock import SYSTEM
from budgetguard._core.store_messages import (
    NEVER,
    BudgetUse,
    Debit,
    Exhausted,
    Join,
    Landing,
    Message,
    Need,
    News,
    Pausing,
    Reply,
    Report,
)
from budgetguard.stores import _heads, _transactions
from budgetguard.stores._living import LivingMembers
from budgetguard.stores._store_file import StoreFile
from budgetguard.stores._transactions import StoreLetter, StoreTransactions
from budgetguard.stores.members import read_members

MICRO = 1_000_000
DAY = _heads.UNUSED_FOR
OLD, NEW = "a" * 64, "b" * 64


class Process:
    """One process that sends messages to accounts of a file; it dies when it is told to."""

    def __init__(self, path: Path, token: str) -> None:
        self.token = token
        self.living = LivingMembers(f"{path}-members", token)
        self.file = StoreFile(str(path), lambda: False)
        self.transactions = StoreTransactions(self.file, self.living)
        self.epochs: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self.seen: dict[str, float] = {}

    def send(
        self,
        account: str,
        *,
        report: Report = Report(),  # noqa: B008  it is frozen
        news: tuple[News, ...] = (),
        leave: bool = False,
        landing: float | None = None,
    ) -> Reply:
        """Send the next message to an account; the first one joins and asks for the right to refresh."""
        number = self.numbers[account] = self.numbers.get(account, 0) + 1
        epoch = self.epochs.get(account, "")
        landed = None
        if landing is not None:
            landed = Landing(epoch, 1, balance=Balance(credits=landing), wall=0.0)
        message = Message(
            f"{self.token}.1",
            number,
            epoch,
            self.seen.get(account, NEVER),
            report=report,
            join=None if epoch else Join(None),
            refresh_after=None if epoch else float("-inf"),
            refresh_timeout=10.0,
            landing=landed,
            news=news,
            leave=leave,
        )
        letter = StoreLetter(account, message)
        [answer], _ = self.transactions.run([letter], SYSTEM.monotonic() + 60)
        assert isinstance(answer, Reply)
        assert answer.status == "done"
        self.epochs[account], self.seen[account] = answer.epoch, answer.view.now
        return answer

    def spend(self, account: str) -> None:
        """Join it, with 100 credits, and use 10 of them."""
        self.send(account)
        self.send(account, landing=100)
        need = Need(1, 10 * MICRO, 10 * MICRO, counts=True)
        assert self.send(account, report=Report(needs=(need,), patience=300.0)).granted == (1,)

    def die(self) -> None:
        """End without a word."""
        self.living.let_go()
        self.file.close()


class Machine:
    """A file, and the clock of the machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0
        self.started: list[Process] = []

    def process(self) -> Process:
        """Start one."""
        self.started.append(Process(self.path, f"{len(self.started) + 1:016x}"))
        return self.started[-1]

    def visit(self, after: float) -> set[str]:
        """So much later, let a new process use another account; returns the accounts that are there then."""
        self.now += after
        visitor = self.process()
        visitor.send(NEW)
        visitor.send(NEW, leave=True)
        visitor.die()
        return {account.name for account in read_members(self.path)}


@pytest.fixture
def machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine whose clock the test turns."""
    machine = Machine(path)
    monkeypatch.setattr(_transactions, "since_boot", lambda: machine.now)
    yield machine
    for each in machine.started:
        each.die()


def test_an_account_that_everybody_left_goes_after_a_day(machine: Machine) -> None:
    """Not earlier, because its balance is of use to whoever comes back soon."""
    here = machine.process()
    here.send(OLD)
    here.send(OLD, landing=100)
    here.send(OLD, leave=True)
    here.die()
    assert machine.visit(DAY - 1) == {OLD, NEW}
    assert machine.visit(2) == {NEW}


def test_what_a_dead_process_held_is_there_until_a_new_balance_would_show_it(
    machine: Machine,
) -> None:
    """From when its death is known it counts as long as its calls may still be charged, and a day more."""
    here = machine.process()
    here.spend(OLD)
    here.die()
    assert machine.visit(DAY) == {OLD, NEW}
    [found] = [each for each in read_members(machine.path) if each.name == OLD]
    assert [(each.state, each.unresolved) for each in found.members] == [("gone", 10)]
    assert machine.visit(DAY - 1) == {OLD, NEW}
    assert machine.visit(1) == {NEW}


def test_whoever_comes_after_it_is_gone_needs_a_new_balance(machine: Machine) -> None:
    """No credits are free before that, so age alone frees none."""
    here = machine.process()
    here.spend(OLD)
    here.die()
    machine.visit(DAY)
    assert machine.visit(DAY) == {NEW}
    late = machine.process()
    joined = late.send(OLD)
    assert (joined.view.snapshot, joined.refresh, joined.lease) == (None, "yours", 0)
    need = Need(1, MICRO, MICRO, counts=True)
    assert late.send(OLD, report=Report(needs=(need,))).granted == ()


def test_a_living_member_keeps_its_account(machine: Machine) -> None:
    """However long it is silent, and nobody else moves its clock on."""
    here = machine.process()
    here.spend(OLD)
    assert machine.visit(400 * DAY) == {OLD, NEW}
    told = here.send(OLD, report=Report(used=10 * MICRO, running=1))
    assert (told.lease, told.view.now) == (10 * MICRO, pytest.approx(0, abs=60))


@pytest.mark.parametrize(
    "leave",
    [
        lambda here: here.send(OLD, news=(Pausing("guard", "the key may have leaked"),)),
        lambda here: here.send(OLD, news=(Pausing("command", "the month is over"),)),
        lambda here: here.send(OLD, news=(Exhausted(400 * DAY, 0.0),)),
        lambda here: here.send(OLD, report=Report(settled=(Debit(MICRO, 400 * DAY),))),
        lambda here: here.send(
            OLD,
            report=Report(budgets=(BudgetUse("day", 0.0, 0, MICRO, 400 * DAY),)),
        ),
    ],
    ids=["a pause", "a pause from outside", "a refusal", "a debit", "a budget"],
)
def test_what_still_counts_keeps_its_account(
    machine: Machine, leave: Callable[[Process], Reply]
) -> None:
    """A pause for ever, all else for as long as it counts."""
    here = machine.process()
    here.spend(OLD)
    leave(here)
    here.send(OLD, leave=True)
    here.die()
    for _ in range(3):
        assert machine.visit(2 * DAY) == {OLD, NEW}


def test_many_are_removed_a_few_at_a_time(machine: Machine) -> None:
    """Some with each connection, and two more with each account that is added."""
    here = machine.process()
    names = [f"{number:064x}" for number in range(40)]
    for name in names:
        here.send(name)
        here.send(name, leave=True)
    here.die()
    left = [40, len(machine.visit(DAY)) - 1]
    while left[-1] and len(left) < 10:
        left.append(len(machine.visit(1)) - 1)
    assert left[-1] == 0
    # The visitor's own account is one of those that are checked.
    assert all(7 <= before - after <= 10 for before, after in pairwise(left[:-1]))


def test_an_account_in_a_format_of_the_future_is_left_alone(machine: Machine) -> None:
    """And keeps nobody else from the file."""
    here = machine.process()
    here.send(OLD)
    here.send(OLD, leave=True)
    connection = here.file.begin(SYSTEM.monotonic() + 60)
    connection.execute("UPDATE parts SET state = '{}' WHERE account = ?", (OLD,))
    here.file.commit()
    here.die()
    machine.now += 2 * DAY
    other = machine.process()
    other.send(NEW)
    connection = other.file.begin(SYSTEM.monotonic() + 60)
    assert connection.execute("SELECT count(*) FROM heads").fetchone() == (2,)
    other.file.rollback()
