"""What a member and the shared head of its account tell each other.

A *member* is one process that spends from an account kept in a store. It sends a `Message` and gets a
`Reply`, one at a time: the next message follows the reply to the last one. All verbs travel in one
message, so that whatever came up while one was under way goes into the next, in one round trip.

Messages are plain values. Amounts are integer micro-credits. No clock reading of a member leaves its
process: times are either durations in seconds, or *stamps*, readings of the account's virtual clock that
the head itself gave out. Both are whole multiples of `TICK`, so sums of them are exact.
"""

from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, TypeAlias

from budgetguard._core.balance import Balance
from budgetguard._core.pause import PausedBy
from budgetguard._core.snapshot import BalanceSnapshot

FORMAT = 1
"""The version of the messages and of the head's state, apart from the library's version."""

TICK = 2.0**-20
"""Seconds. A float holds every multiple of it exactly, up to 272 years."""

NEVER = float("-inf")


def ticks_down(seconds: float) -> float:
    """The largest multiple of `TICK` that is not larger."""
    return floor(seconds / TICK) * TICK


def ticks_up(seconds: float) -> float:
    """The smallest multiple of `TICK` that is not smaller."""
    return ceil(seconds / TICK) * TICK


@dataclass(frozen=True, slots=True)
class BudgetNeed:
    """What a call takes from a keyed budget: `limit` counts from now on, for all members.

    `budget` identifies the budget without showing its key. A calendar budget has the `window` that the
    call belongs to, as the wall time of its start, and `until`, that of its end. A rolling one has
    `rolling`, its seconds. A call that is extended says which window `admitted` it, as its reply did.
    """

    budget: str
    limit: int
    window: float = 0.0
    until: float = 0.0
    rolling: float | None = None
    admitted: float | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """A caller whose needs the lease does not cover; `ticket` is its number within the session.

    It needs `amount` available above `floor`, with `extra` credits that the provider does not report,
    and draws `cost`. `counts` if it waits, so that nobody behind it may take what it needs. If it is
    `reserved`, the account has set the credits aside before, and it needs only slots and its budgets.
    """

    ticket: int
    amount: int
    cost: int
    slots: int = 0
    floor: int = 0
    extra: int = 0
    counts: bool = False
    budgets: tuple[BudgetNeed, ...] = ()
    reserved: bool = False

    def like(self, other: "Need") -> bool:
        """Whether only the tickets differ."""
        return (
            self.amount == other.amount
            and self.cost == other.cost
            and self.counts == other.counts
            and self.floor == other.floor
            and self.extra == other.extra
            and self.slots == other.slots
            and self.reserved == other.reserved
            and self.budgets == other.budgets
        )

    @property
    def from_account(self) -> int:
        """What must be available in the account."""
        return 0 if self.reserved else self.amount

    @property
    def drawn(self) -> int:
        """What it takes from the account."""
        return 0 if self.reserved else self.cost


@dataclass(frozen=True, slots=True)
class Debit:
    """Finished calls, which count until a balance arrives whose request began `clears_in` seconds from now."""

    amount: int
    clears_in: float


@dataclass(frozen=True, slots=True)
class KeptDebit:
    """Finished calls of unknown cost: as `Debit`, with slots, and the names of what the calls raised."""

    amount: int
    clears_in: float
    slots: int = 0
    calls: tuple[tuple[str | None, int], ...] = ()
    sessions: tuple[tuple[str | None, int], ...] = ()


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What a member's open calls hold of a keyed budget, and what finished ones spent since its last report.

    `window` is the one that admitted these calls, as the reply that granted them said; `until` and
    `rolling` are those of the need. In a message that reasserts, `spent` is all that the member spent.
    """

    budget: str
    window: float
    held: int
    spent: int
    until: float = 0.0
    rolling: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a member did since its last message, and what it needs.

    - `used`: what its open calls hold now. It may be more than its lease covers.
    - `keep`: what it goes on taking from while the message is under way. The head may use the rest.
    - `slots`, `running`: its open sessions and calls.
    - `settled`, `kept`: calls that finished since the last message; all that no balance may show yet in one
      that joins with `whole`.
    - `saved`: how much less finished calls cost than they held, by the number of the message that was
      the next to be sent when they began.
    - `needs`: every caller that waits for credits or slots, in order of arrival.
    - `want`: the slack that it would like to have. Slack is above `floor`, without more than `extra`.
    - `recall`: the latest recall that it heard of; after it, `keep` is 0.
    - `patience`: for how long after its death its calls may still be charged; at least what the last
      message said.
    """

    used: int = 0
    keep: int = 0
    slots: int = 0
    running: int = 0
    settled: tuple[Debit, ...] = ()
    kept: tuple[KeptDebit, ...] = ()
    saved: tuple[tuple[int, int], ...] = ()
    needs: tuple[Need, ...] = ()
    want: int = 0
    floor: int = 0
    extra: int = 0
    recall: int = 0
    patience: float = 0.0
    budgets: tuple[BudgetUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """Who a member is. In the first message of a session, and whenever the head asks to reassert.

    `hold_for` is how long the head keeps its lease after its last message; None if the store itself
    knows whether the process lives. `whole` if the report has all debits that no balance may show yet: in an
    epoch that has not heard of them. `words` describe it for people: process, host, version, since when.
    """

    hold_for: float | None
    sole_spender: bool | Literal["auto"] = "auto"
    topup_step: int | None = None
    unit: str | None = None
    whole: bool = True
    words: tuple[tuple[str, str], ...] = ()
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Landing:
    """How the refresh of that number ended: with a balance (its wall time in `wall`), or failed.

    `epoch` is the one in which the right to refresh was given; in another one this says nothing. A failure
    blocks the next refresh for `delay` seconds; `denied` if the provider refuses the key.
    """

    epoch: str
    number: int
    balance: Balance | None = None
    wall: float = 0.0
    reason: str = ""
    denied: bool = False
    failures: int = 0
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The provider refused a call for lack of credits, at that wall time.

    An equal balance counts again if its request began `lag` seconds later.
    """

    lag: float
    wall: float


@dataclass(frozen=True, slots=True)
class Busy:
    """The provider refuses calls for so many seconds although there are credits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class KeyLimited:
    """The provider refuses that credential for so many seconds, because of a limit of its own."""

    credential: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Pausing:
    """A guard or the command line pauses the account; None as the reason ends that."""

    by: Literal["guard", "command"]
    reason: str | None


@dataclass(frozen=True, slots=True)
class Offered:
    """A reply of the provider carried a balance; its request began after the stamp `began` of that epoch."""

    balance: Balance
    epoch: str
    began: float
    wall: float


News: TypeAlias = Exhausted | Busy | KeyLimited | Pausing | Offered


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a member's session.

    `number` grows by one with each; one that is sent again has the same number and the same content.
    `epoch` is that of the last reply. `elapsed` seconds passed since the reply with the stamp `seen` was
    received, by the slower of the member's clocks, when this was sent; the same reply said what was `dropped`. `refresh_after` asks for the right
    to refresh, unless a refresh began after that stamp, and for `refresh_timeout` seconds.
    """

    member: str
    number: int
    epoch: str
    seen: float = NEVER
    elapsed: float = 0.0
    report: Report = Report()
    join: Join | None = None
    refresh_after: float | None = None
    refresh_timeout: float = 0.0
    landing: Landing | None = None
    news: tuple[News, ...] = ()
    leave: bool = False
    dropped: float = 0.0


RefreshRight: TypeAlias = Literal["yours", "newer", "wait", "blocked", ""]
"""To refresh is this member's; a newer one has ended; another member refreshes; the provider is left alone."""


@dataclass(frozen=True, slots=True)
class RefreshView:
    """The refreshes of all members: stamps, and the last failure if none has succeeded since."""

    number: int = 0
    last_began: float = NEVER
    in_flight: bool = False
    expires: float = NEVER
    blocked_until: float = NEVER
    failures: int = 0
    reason: str = ""
    denied: bool = False


@dataclass(frozen=True, slots=True)
class OthersView:
    """What the balances prove about spenders outside the store; `changes` grows with each change of mind."""

    setting: bool | Literal["auto"] = "auto"
    others: bool = False
    since: float = 0.0
    wall: float = 0.0
    proven: int = 0
    spell: float = 0.0
    changes: int = 0
    contradiction: int = 0


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A keyed budget after a message: what all members hold and spent in its current window.

    An hour, day or month has that `window`, up to `until`, in wall time. Something is given back for
    certain when the head's clock has advanced by `gives_back_in` seconds; None if nothing is spent.
    """

    budget: str
    spent: int
    held: int
    window: float = 0.0
    until: float = 0.0
    gives_back_in: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The account as its head sees it after a message; all figures are of all members.

    `snapshot` has its stamp in `sent.mono`; `balances` grows with each change of it. `leased` is in the
    leases of all members, `holders` of them, of which `used` is held by open calls as far as reported;
    `slots` are open sessions, of `slot_holders`.
    `missing` members have not answered the last recall in time, and the last of their leases ends at
    `missing_until`. While it is not `granting`, the head waits for members that it knows to say what they
    hold; without one of them it grants from `granting_at` on, if that is known. Callers of other members
    wait for `queued` credits and `queued_slots`. `budgets` are those that the message mentioned, in a need
    or in its report. The account's time is `now`, or up to `behind` seconds more, see `virtual_clock`.
    """

    now: float
    snapshot: BalanceSnapshot | None = None
    balances: int = 0
    leased: int = 0
    used: int = 0
    running: int = 0
    members: int = 0
    missing: int = 0
    missing_until: float = NEVER
    settled: int = 0
    kept: int = 0
    kept_slots: int = 0
    kept_calls: tuple[tuple[str | None, int], ...] = ()
    kept_sessions: tuple[tuple[str | None, int], ...] = ()
    kept_next: float | None = None
    kept_last: float | None = None
    slots: int = 0
    debits: tuple[tuple[float, int, int], ...] = ()
    busy_until: float = NEVER
    limited: tuple[tuple[str, float], ...] = ()
    pauses: tuple[tuple[PausedBy, str], ...] = ()
    refresh: RefreshView = RefreshView()
    others: OthersView = OthersView()
    recall: int = 0
    exact: bool = False
    dropped: float = 0.0
    behind: float = 0.0
    granting: bool = True
    granting_at: float | None = None
    budgets: tuple[BudgetView, ...] = ()
    holders: int = 0
    slot_holders: int = 0
    queued: int = 0
    queued_slots: int = 0

    @property
    def latest(self) -> float:
        """The latest that the account's time may be."""
        return self.now + self.behind


Status: TypeAlias = Literal["done", "old", "reassert", "expired"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The head's answer.

    - "done": the message took effect, now or when it was first received.
    - "old": it is older than the last one that took effect, and is ignored.
    - "reassert": the head does not know this member in this epoch: it sends a message with `join`, with
      its whole lease and all its debits.
    - "expired": the member was not heard for `hold_for`, and its lease counts as kept; `number` is that of
      the last message that took effect. It sends a message with `join`, and without any slack.

    `lease` and `slots` are the member's after the message; the tickets `granted` are in it. `windows`
    has, for those with budgets, the window of each of the need's budgets that admitted it. Those
    `refused` cannot be met, by what is free and what any member that answers could give back; `over`
    exceed a keyed budget. All others wait.
    """

    status: Status
    epoch: str
    number: int
    lease: int = 0
    slots: int = 0
    granted: tuple[int, ...] = ()
    windows: tuple[tuple[int, tuple[float, ...]], ...] = ()
    refused: tuple[int, ...] = ()
    over: tuple[tuple[int, str], ...] = ()
    refresh: RefreshRight = ""
    refresh_number: int = 0
    view: View = View(NEVER)
