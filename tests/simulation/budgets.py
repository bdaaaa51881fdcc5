"""The budgets of a simulation: a crowd that enters and leaves them, and what it knows of each.

A `Book` is the crowd's own record of one budget. It counts only what callers see: who was let in, what a
call was said to cost, how it ended, which block was left. While an answer is on its way, a figure is known
only between two bounds.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

from invariants import COSTS, Broken
from provider import MICRO, Nature, Provider

from budgetguard._core.call_context import context_of
from budgetguard._core.errors import BalanceUnavailable, BudgetExceeded, InsufficientCredits
from budgetguard._core.policy import Admit, QueuedAhead, decide, possible
from budgetguard._engine.account import Account
from budgetguard._engine.binding import binding_of
from budgetguard.budget import Budget
from budgetguard.guard import Guard

if TYPE_CHECKING:
    from scenario import Facts, Simulation

LIMITS = (5, 20, 60, 150)
HOUR, DAY = 3600.0, 86400.0
UNITS = {"hour": HOUR, "day": DAY}
# What is given back after the window is given back by so much of it later, at most.
LATE = 1 / 60
EPSILON = 1e-6
# By so much a waiter may hear late that its budget renews.
ALARM = 0.0015

Bounds = tuple[int, int, int, int]
"""The least and the most that is held, and that is spent."""


def broken(what: str) -> NoReturn:
    """An invariant does not hold."""
    raise Broken(what)


@dataclass(eq=False)
class Book:
    """What is known of one budget, or of one window of it; micro-credits."""

    limit: int
    name: str = ""
    its: Any = None
    """The library's own record of it."""
    above: "tuple[Book, ...]" = ()
    """What its limit was set aside in."""
    set_aside_in: "tuple[Book | Keyed, ...]" = ()
    """The same, without the windows."""
    rolls: float = 0.0
    closed: bool = False
    calls: "dict[int, Facts]" = field(default_factory=dict)
    asking: "dict[int, Facts]" = field(default_factory=dict)
    carved: "list[Book]" = field(default_factory=list)
    spent: int = 0
    """By calls that are over."""
    over: list[tuple[float, int]] = field(default_factory=list)
    """These calls, by when they were let in; only where the window rolls."""
    excess: int = 0
    """By how much calls cost more than they held."""
    exceeded_at: float = -1.0
    freed_at: float = -1.0
    highest: int = 0
    left: bool = False
    at: float = 0.0
    """When it was set aside."""

    def bounds(self, now: float = 0.0) -> Bounds:
        """What is held, and what is spent."""
        held = most_held = 0
        spent = most_spent = self.spent
        if self.rolls:
            spent = sum(cost for at, cost in self.over if at > now - self.rolls + EPSILON)
            most_spent = sum(
                cost for at, cost in self.over if at > now - self.rolls * (1 + LATE) - EPSILON
            )
        for facts in self.calls.values():
            least, most, cost, most_cost = facts.bounds()
            held, most_held = held + least, most_held + most
            if self.rolls and facts.at < now - self.rolls + EPSILON:
                cost = 0
            spent, most_spent = spent + cost, most_spent + most_cost
        most_held += sum(facts.asked for facts in self.asking.values())
        for child in self.carved:
            least, most, cost, most_cost = child.bounds() if child.closed else child.whole
            if self.rolls and child.at < now - self.rolls + EPSILON:
                cost = 0
            held, most_held = held + least, most_held + most
            spent, most_spent = spent + cost, most_spent + most_cost
        return held, most_held, spent, most_spent

    @property
    def whole(self) -> Bounds:
        """What an open block that was carved out takes."""
        return self.limit, self.limit, 0, 0

    def frees(self, now: float) -> None:
        """There is more room than there may have been a moment ago."""
        self.freed_at = now
        for book in self.above:
            book.frees(now)

    def all_excess(self) -> int:
        """The excess of those that were carved out as well."""
        return self.excess + sum(child.all_excess() for child in self.carved)

    def exceeds(self, by: int, now: float) -> None:
        """A call costs more than it was let in with."""
        self.excess += by
        self.exceeded_at = now
        for book in self.above:
            book.exceeded_at = now

    def in_use(self) -> bool:
        """Whether something may still change."""
        return (
            not self.left or bool(self.calls or self.asking) or any(map(Book.in_use, self.carved))
        )

    def now(self) -> "Book":
        """Itself; a budget with a period is in a window."""
        return self


@dataclass(eq=False)
class Keyed:
    """A budget with a period, as it is found by its name and key."""

    crowd: "Crowd"
    guard: Guard
    name: str
    key: str
    per: Any
    limit: int
    its: Any = None
    windows: dict[float, Book] = field(default_factory=dict)
    asking: "dict[int, Facts]" = field(default_factory=dict)

    def find(self) -> Budget:
        """The library's budget, found again."""
        budget = self.guard.budget(self.limit // MICRO, name=self.name, key=self.key, per=self.per)
        if budget._its is not self.its:
            if sum(self.now().bounds(self.crowd.mono)[::2]):
                broken(f"B7: {self.name} of {self.key} was forgotten, and is in use")
            if self.its is not None:
                self.windows.clear()
            self.its = budget._its
        return budget

    def now(self) -> Book:
        """The book of the window that it is in."""
        rolls = 0.0 if self.per in UNITS else self.per
        start = 0.0 if rolls else self.crowd.window(self.guard, self.per)
        book = self.windows.get(start)
        if book is None:
            book = self.windows[start] = Book(
                self.limit, self.name, rolls=rolls, asking=self.asking
            )
        self.crowd.books[book] = None
        return book

    def let_in(self) -> Book:
        """The book in which a call was just let in.

        While the clock is set back before the window, calls that need no decision may go on in an
        earlier one, whose rest they use up; which of them it is, the library alone knows.
        """
        book, context = self.now(), context_of(binding_of(self.guard).account)
        if not book.rolls and self.crowd.simulation.clock.wall() < self.crowd.window(
            self.guard, self.per
        ):
            allowances = () if context is None else context.allowances
            book = next((each for each in self.windows.values() if each.its in allowances), book)
            if book.its in allowances:
                return book
        return self.seen()

    def seen(self) -> Book:
        """The book of the window that it is in, which has one allowance."""
        book = self.now()
        its = self.its._total if book.rolls else self.its.allowance
        if book.its is None:
            book.its = its
        elif book.its is not its:
            broken(f"B7: {self.name} of {self.key} has two allowances for one window")
        return book


@dataclass(eq=False)
class Reserve:
    """What a block set aside in the account."""

    limit: int
    entered: bool = False
    left: bool = False
    book: Book = field(default_factory=lambda: Book(0))

    def bounds(self) -> tuple[int, int]:
        """What is left of it, at least and at most."""
        if self.left:
            return 0, 0
        if not self.entered:
            return 0, self.limit
        held, most_held, spent, most_spent = self.book.bounds()
        most = max(self.limit - held - spent, 0) + self.book.excess
        return max(self.limit - most_held - most_spent, 0), min(most, self.limit)


@dataclass(eq=False)
class Place:
    """Where code is: in which budgets of which account."""

    guard: Guard
    books: "tuple[Book | Keyed, ...]"
    reserve: Reserve | None

    @property
    def path(self) -> str:
        """The names of the budgets, innermost first."""
        return " in ".join(each.name for each in self.books)


PLACES: ContextVar[tuple[Place, ...]] = ContextVar("places", default=())
"""Innermost first: those that this task has entered, or was started in, and has not left."""


def without_those_above(books: "tuple[Book | Keyed, ...]") -> "tuple[Book | Keyed, ...]":
    """What a call takes from: not from what the limit of another one was set aside in."""
    above, rest = set[Book | Keyed](), list(books)
    while rest:
        each = rest.pop()
        if isinstance(each, Book):
            above.update(each.set_aside_in)
            rest += each.set_aside_in
    return tuple(each for each in books if each not in above)


@dataclass(eq=False)
class Entered:
    """A block that was entered."""

    budget: Budget
    place: Place
    book: "Book | Keyed"
    reserve: Reserve | None


class Crowd:
    """All budgets of a simulation, of one process; `draw` is apart from what the seed draws otherwise."""

    def __init__(self, simulation: "Simulation", draw: Random) -> None:
        self.simulation = simulation
        self.draw = draw
        self.numbers = simulation.numbers
        self.books: dict[Book, None] = {}
        self.reserves: list[Reserve] = []
        self.live: list[Entered] = []
        self.keyed: dict[tuple[Any, ...], Keyed] = {}
        self._starts: dict[tuple[Guard, str], float] = {}
        nature = Nature(lag=0.0, linger=0.0, books="end", latency=0.05, failing=0.0)
        other = Provider(nature, 10**6, simulation.clock, Random(1))
        other.name = "elsewhere"
        self.other = Guard(other)
        self.accounts = {
            simulation.guard: Book(0, its=binding_of(simulation.guard).account),
            self.other: Book(0, its=binding_of(self.other).account),
        }

    @property
    def mono(self) -> float:
        """The time."""
        return self.simulation.clock.mono

    def window(self, guard: Guard, unit: str) -> float:
        """When the window began that it is now; no clock that is set back reopens an earlier one."""
        length = UNITS[unit]
        begun = self.simulation.clock.wall() // length * length
        begun = self._starts[guard, unit] = max(begun, self._starts.get((guard, unit), begun))
        return begun

    def look(self) -> None:
        """Look at every budget with a period, so that both records have seen the clocks."""
        for keyed in self.keyed.values():
            if keyed.its is not None:
                book, spent = keyed.now(), keyed.find().spent * MICRO
                if book.rolls and spent > (most := book.bounds(self.mono)[3]):
                    broken(f"B7: {spent} spent of late in a budget, by calls {most}")

    # What callers report.

    def around(self, guard: Guard) -> Place | None:
        """The budgets around this code, of that guard's account."""
        return next((place for place in PLACES.get() if place.guard is guard), None)

    def promised(self, facts: "Facts") -> bool:
        """Whether a call that was just let in takes what was set aside before."""
        reserve = facts.place.reserve if facts.place else None
        return reserve is not None and not reserve.left

    def asks(self, guard: Guard, number: int, facts: "Facts", amount: int) -> None:
        """A call asks for so many micro-credits."""
        facts.asked, facts.state = amount, "asking"
        place = self.around(guard)
        facts.place = place
        if place is not None:
            self.simulation.say(f"{number} asks in {place.path}")
        books = (self.accounts[guard], *(place.books if place else ()))
        for book in books:
            book.asking[number] = facts
        if place is not None and place.reserve is not None:
            place.reserve.book.asking[number] = facts

        def answered() -> None:
            if facts.state == "asking":
                facts.state = "refused"
            for book in books:
                book.asking.pop(number, None)
            if place is not None and place.reserve is not None:
                place.reserve.book.asking.pop(number, None)

        facts.answered = answered

    def let_in(self, guard: Guard, number: int, facts: "Facts") -> None:
        """B1: it was let in, and there was room in every budget around it."""
        facts.answered()
        facts.state, facts.at = "open", self.mono
        place, books = facts.place, [self.accounts[guard]]
        for each in place.books if place else ():
            book = each.let_in() if isinstance(each, Keyed) else each
            books.append(book)
        for book in books:
            book.calls[number] = facts
        self.books.update(dict.fromkeys(books[1:]))
        facts.books = books
        if place is not None and place.reserve is not None:
            place.reserve.book.calls[number] = facts
            facts.books = [*books, place.reserve.book]
        for book in books[1:]:
            if book.closed and book.freed_at != self.mono:
                broken(f"B1: {number} was let in by a budget that was carved and given back")
            held, _, spent, _ = book.bounds(self.mono)
            if held + spent > book.limit and book.exceeded_at != self.mono:
                broken(
                    f"B1: {number} was let in at {facts.held / MICRO:g}: now {held / MICRO:g} are held "
                    f"and {spent / MICRO:g} spent of {book.limit / MICRO:g}"
                )

    def repeats(self, facts: "Facts") -> None:
        """An earlier attempt may have cost what the call holds."""
        facts.attempts += facts.held
        for book in facts.books:
            book.exceeds(facts.held, self.mono)

    def ends(self, number: int, facts: "Facts") -> None:
        """It has ended, or is about to."""
        facts.state = "leaving"
        assert facts.final is not None
        for book in facts.books:
            book.frees(self.mono)
        if facts.final > facts.held:
            for book in facts.books:
                book.exceeds(facts.final - facts.held, self.mono)

        def done() -> None:
            facts.state = "done"
            for book in facts.books:
                del book.calls[number]
                book.spent += facts.final + facts.attempts
                if book.rolls:
                    book.over.append((facts.at, facts.final + facts.attempts))

        self.soon(done)

    def soon(self, then: Callable[[], object], hops: int = 4) -> None:
        """When all that was posted has been recorded."""
        if hops:
            self.simulation.loop.call_soon(self.soon, then, hops - 1)
        elif self is self.simulation.crowd:
            then()

    def refused(self, error: BudgetExceeded, facts: "Facts", number: int) -> None:
        """The figures add up, and the budget that is named has too little left."""
        if error.limit - error.spent - error.held != error.available:
            broken(f"the figures of a refusal do not add up: {error}")
        if error.available >= error.needed or error.top_up_url is not None:
            broken(f"B4: refused although enough was left: {error}")
        need = int(error.needed * MICRO)
        for each in facts.place.books if facts.place else ():
            book = each.now()
            own = book.asking.pop(number, None)
            _, held, _, spent = book.bounds(self.mono)
            if own is not None:
                book.asking[number] = own
            if book.closed or book.limit - held - spent < need or book.freed_at == self.mono:
                return
        broken(f"B4: refused, and all budgets around have room: {error}")

    def set_aside(self) -> int:
        """What blocks have set aside in the account, at least."""
        guard = self.simulation.guard
        return sum(each.bounds()[0] for each in self.reserves if each.book.its is guard)

    def figures(self) -> tuple[Any, ...]:
        """All that an admission could change; what is due was given back."""
        for keyed in self.keyed.values():
            if keyed.its is not None:
                keyed.its.current(self.simulation.clock.now())
        of_books = (
            (book.its.limit, book.its.room, book.its.spent)
            for book in self.books
            if book.its is not None
        )
        return *of_books, *self.simulation.watch.figures()

    @contextlib.contextmanager
    def changing_nothing(self) -> Iterator[Callable[[], None]]:
        """B4 and B5: gives a check that no budget changed meanwhile, and that no refresh began."""
        for account in self.accounts.values():
            account.its.flush()
        starts, before = len(self.simulation.runtime.starts), self.figures()

        def check() -> None:
            if self.figures() != before:
                broken("B4: a call that was refused changed a budget")
            if len(self.simulation.runtime.starts) != starts:
                broken("B5: a refusal by a budget began a refresh")

        yield check

    # What holds at every moment.

    def step(self) -> None:
        """B1, B2, B3, B5 and B7."""
        for guard, whole in self.accounts.items():
            account: Account = whole.its
            ledger = account.ledger
            if account._posts or ledger.ends or any(ledger.ends_at_cost.values()):
                return
            self._account(guard, whole)
            self._queue(account)
        for book in self.books:
            if book.its is not None:
                self._book(book)
        for book in [book for book in self.books if not book.in_use()]:
            del self.books[book]

    def _account(self, guard: Guard, whole: Book) -> None:
        ledger = whole.its.ledger
        least, most, _, _ = whole.bounds()
        for reserve in self.reserves:
            if reserve.book.its is guard:
                low, high = reserve.bounds()
                least, most = least + low, most + high
        if not least <= ledger.held <= most:
            broken(
                f"B3: the account holds {ledger.held / MICRO:g}, and open calls and reserves hold "
                f"{least / MICRO:g} to {most / MICRO:g}"
            )
        snapshot = ledger.snapshot
        if snapshot is not None:
            available = snapshot.before_holds(0) - ledger.held - ledger.pending
            if ledger.room != available:
                broken(f"B3: {ledger.room} is taken for available, and {available} is")

    def _book(self, book: Book) -> None:
        its = book.its
        held, spent = its.limit - its.room - its.spent, its.spent
        low, high, least, most = book.bounds(self.mono)
        if not low <= held <= high:
            broken(
                f"B2: {held / MICRO:g} held in a budget of {book.limit / MICRO:g}, by calls "
                f"{low / MICRO:g} to {high / MICRO:g}"
            )
        if spent < least:
            what = "B7: given back early" if book.rolls else "B2"
            broken(f"{what}: {spent / MICRO:g} spent in a budget, by calls {least / MICRO:g}")
        if spent > most and not book.rolls:
            broken(f"B2: {spent / MICRO:g} spent in a budget, by calls {most / MICRO:g}")
        if held + spent > book.limit + book.all_excess():
            broken(
                f"B1: {held / MICRO:g} held and {spent / MICRO:g} spent of {book.limit / MICRO:g}, "
                f"and {book.all_excess() / MICRO:g} more than was held"
            )
        if not book.rolls:
            if spent < book.highest:
                broken(f"B7: what was spent fell from {book.highest} to {spent}")
            book.highest = spent

    def _queue(self, account: Account) -> None:
        """B5: nobody waits who would fit, and who lacks only a budget's room is in nobody's way."""
        ledger, now = account.ledger, self.simulation.clock.now()
        if account._alarm_at - now.mono <= ALARM or (
            # A clock that is set back makes a balance usable again while another one is on its way.
            self.simulation.jumps and account._schedule.known.in_flight
        ):
            return
        amount = slots = 0
        for waiter in account.wait_queue.queue:
            need, terms = waiter.call.need, waiter.call.subscriber.terms
            lacks = any(budget.current(now).room < need.amount for budget in need.budgets)
            ahead = QueuedAhead(amount, slots)
            decision = decide(ledger, account._schedule.known, terms, need, ahead, now)
            if isinstance(decision, Admit) and not decision.unknown and not lacks:
                broken(f"B5: {waiter.call.operation} waits for {need.amount}, and would fit")
            if not lacks and now.mono < need.until and possible(ledger, terms, need):
                amount, slots = amount + need.amount, slots + need.slots

    def after_everything(self) -> None:
        """B6: nothing is held in any budget, and every block that was carved was given back."""
        for whole in self.accounts.values():
            whole.its.flush()
        self.step()
        self.look()
        for book in self.books:
            if book.its is None:
                continue
            if book.calls or book.asking or (book.above and not book.closed):
                broken("B6: the simulation itself has not ended all calls and blocks")
            held = book.its.limit - book.its.room - book.its.spent
            if held:
                broken(f"B6: {held / MICRO:g} are held in a budget after everything")
        for whole in self.accounts.values():
            if whole.its.ledger.held:
                broken(f"B6: {whole.its.ledger.held} held in the account after everything")

    # The crowd itself.

    async def caller(self, number: int) -> None:
        """A caller that may be in budgets: in those of others, in its own, or in one by its key."""
        call, draw = self.simulation._caller, self.draw.random()
        if draw < 0.25:
            await call(number)
        elif draw < 0.5 and self.live:
            with contextlib.ExitStack() as stack:
                for _ in range(self.draw.choice([1, 1, 2])):
                    self._use(stack, self.draw.choice(self.live))
                await call(number)
        elif draw < 0.7:
            async with self._tree(self.draw.randint(1, 4)):
                await self._calls(number)
            if self.draw.random() < 0.4:
                await call(next(self.numbers))
        elif draw < 0.85:
            await self._decorated(number)
        else:
            await self._keeper(number)

    async def _calls(self, number: int) -> None:
        await self.simulation._caller(number)
        if self.draw.random() < 0.3:
            await self._elsewhere()
        if self.draw.random() < 0.3:
            self._start()

    def _start(self) -> None:
        """A task that is started here is in these budgets, also after they were left."""
        number = next(self.numbers)

        async def late() -> None:
            if self.draw.random() < 0.3:
                async with self._tree(1):
                    await self.simulation._caller(next(self.numbers))
            await self.simulation._caller(number)

        self.simulation.start(number, late())

    async def _elsewhere(self) -> None:
        """A call of another account."""
        from scenario import Facts

        number, facts, amount = next(self.numbers), Facts(), self.draw.choice(COSTS)
        self.asks(self.other, number, facts, amount * MICRO)
        try:
            async with self.other.require_credits(min=amount, name=f"elsewhere {number}") as hold:
                facts.held = amount * MICRO
                self.let_in(self.other, number, facts)
                facts.final = facts.held
                try:
                    await self.simulation.sleep(self.draw.expovariate(1 / 3))
                    if self.draw.random() < 0.5:
                        hold.settle(amount - 1)
                        facts.final -= MICRO
                finally:
                    self.ends(number, facts)
        except (InsufficientCredits, BalanceUnavailable):
            pass
        finally:
            self.soon(facts.answered)

    async def _keeper(self, number: int) -> None:
        """Blocks that others use, left in another order than they were entered in."""
        mine: list[Entered] = []
        sim, draw = self.simulation, self.draw
        try:
            guard = self._a_guard()
            for _ in range(draw.randint(1, 4)):
                entered = await self._enter(guard)
                if entered is None:
                    break
                mine.append(entered)
                self.live.append(entered)
                if draw.random() < 0.4:
                    self._start()
                await sim.sleep(draw.expovariate(1 / 8))
            await sim._caller(number)
            draw.shuffle(mine)
            while mine and draw.random() < 0.8:
                self._leave(mine.pop())
                await sim._caller(next(self.numbers))
                await sim.sleep(draw.expovariate(1 / 4))
        finally:
            for entered in mine:
                # As in another thread.
                Context().run(self._leave, entered) if draw.random() < 0.5 else self._leave(entered)

    @contextlib.asynccontextmanager
    async def _tree(self, depth: int) -> AsyncIterator[None]:
        mine: list[Entered] = []
        try:
            for _ in range(depth):
                entered = await self._enter(self._a_guard())
                if entered is None:
                    break
                mine.append(entered)
            yield
        finally:
            for entered in reversed(mine):
                self._leave(entered)

    def _use(self, stack: contextlib.ExitStack, entered: Entered) -> None:
        guard, around = entered.place.guard, self.around(entered.place.guard)
        stack.enter_context(entered.budget.use())
        books, reserve = entered.place.books, entered.place.reserve
        if around is not None:
            books += tuple(each for each in around.books if each not in books)
            reserve = reserve or around.reserve
        place = Place(guard, without_those_above(books), reserve)
        self._go_in(place)
        stack.callback(self._go_out, place)

    def _go_in(self, place: Place) -> None:
        self.simulation.say(f"into {place.path}")
        for each in place.books:
            if isinstance(each, Keyed):
                each.seen()
        PLACES.set((place, *PLACES.get()))

    def _go_out(self, place: Place) -> None:
        self.simulation.say(f"out of {place.path}")
        PLACES.set(tuple(each for each in PLACES.get() if each is not place))

    def _a_guard(self) -> Guard:
        return self.simulation.guard if self.draw.random() < 0.8 else self.other

    async def _enter(self, guard: Guard) -> Entered | None:
        """Enter a block; None if it is refused."""
        draw = self.draw
        kind = draw.choice(["shared", "carve", "keyed"])
        if kind == "keyed":
            return self._enter_keyed(guard)
        limit = draw.choice(LIMITS)
        budget = guard.budget(limit, name=f"{kind} {limit}", share=kind)  # type: ignore[arg-type]
        around = self.around(guard)
        reserve = self._reserve(guard, kind, limit)
        blocks = reserve is None and draw.random() < 0.5
        try:
            with self.changing_nothing() as unchanged:
                try:
                    if blocks:
                        budget.__enter__()
                    else:
                        await budget.__aenter__()
                except BudgetExceeded:
                    unchanged()
                    raise
        except (InsufficientCredits, BalanceUnavailable) as error:
            self.simulation.say(f"no budget: {error}")
            self._drop(reserve)
            return None
        except BaseException:
            self._drop(reserve)
            raise
        return self._entered(budget, guard, kind, limit, around, reserve, budget._its)

    def _enter_keyed(self, guard: Guard) -> Entered:
        keyed, around = self._a_keyed(guard), self.around(guard)
        budget = keyed.find()
        budget.__enter__()
        books = around.books if around else ()
        place = Place(
            guard,
            without_those_above((keyed, *(each for each in books if each is not keyed))),
            around.reserve if around else None,
        )
        self._go_in(place)
        return Entered(budget, place, keyed, None)

    def _a_keyed(self, guard: Guard) -> Keyed:
        per = self.draw.choice(["hour", "day", 20.0, 300.0])
        name, key = f"per {per}", self.draw.choice(["ada", "bob"])
        keyed = self.keyed.get((guard, name, key))
        if keyed is None:
            limit = self.draw.choice(LIMITS) * MICRO
            keyed = Keyed(self, guard, name, key, per, limit)
            keyed.limit = limit
            self.keyed[guard, name, key] = keyed
        return keyed

    def _reserve(self, guard: Guard, kind: str, limit: int) -> Reserve | None:
        around = self.around(guard)
        if kind != "carve" or (around is not None and around.books):
            return None
        reserve = Reserve(limit * MICRO)
        reserve.book.its = guard
        self.reserves.append(reserve)
        return reserve

    def _drop(self, reserve: Reserve | None) -> None:
        if reserve is not None:
            self.soon(lambda: self.reserves.remove(reserve))

    def _entered(
        self,
        budget: Any,
        guard: Guard,
        kind: str,
        limit: int,
        around: Place | None,
        reserve: Reserve | None,
        its: Any,
    ) -> Entered:
        book = Book(limit * MICRO, f"{kind} {next(self.numbers)}", its.allowance)
        self.books[book] = None
        books: tuple[Any, ...] = around.books if around else ()
        if reserve is not None:
            reserve.entered = True
            if guard is self.simulation.guard:
                self.simulation.watch.covered(f"{book.name} of {limit}")
        elif kind == "carve":
            book.above = tuple(each.let_in() if isinstance(each, Keyed) else each for each in books)
            book.at, book.set_aside_in = self.mono, books
            for above in book.above:
                above.carved.append(book)
            books = ()
        place = Place(guard, (book, *books), reserve or (around.reserve if around else None))
        self._go_in(place)
        return Entered(budget, place, book, reserve)

    def _leave(self, entered: Entered) -> None:
        if entered in self.live:
            self.live.remove(entered)
        entered.budget.__exit__(None, None, None)
        self._left(entered)

    def _left(self, entered: Entered) -> None:
        self._go_out(entered.place)
        book = entered.book
        if isinstance(book, Book):
            book.left = True
            book.frees(self.mono)
            book.closed = bool(book.above)
            if book.excess:
                book.exceeds(0, self.mono)
        if entered.reserve is not None:
            entered.reserve.left = True

    async def _decorated(self, number: int) -> None:
        """A function that has a budget of its own for each call."""
        guard, draw = self.simulation.guard, self.draw
        kind, limit = draw.choice(["shared", "carve"]), draw.choice(LIMITS)
        around, reserve = self.around(guard), self._reserve(guard, kind, limit)
        entered: list[Entered] = []

        @guard.budget(limit, share=kind)  # type: ignore[arg-type]
        async def run() -> None:
            context = context_of(binding_of(guard).account)
            assert context is not None
            its = context.budgets[0]
            entered.append(self._entered(None, guard, kind, limit, around, reserve, its))
            await self._calls(number)

        try:
            await run()
        except (InsufficientCredits, BalanceUnavailable) as error:
            self.simulation.say(f"no budget: {error}")
        finally:
            if entered:
                self._left(entered[0])
            else:
                self._drop(reserve)
