"""Whether anybody else spends from an account: what its balances can tell, and what follows from that.

A running call may be charged bit by bit. What the balance shows of that already is its *overlap* with
the holds and debits, and need not be subtracted a second time. But a balance does not say who spent.

Let `fell` be the sum of all falls of the balance since some earlier balance, and `cleared` the debits
that cleared since then, at their real cost. The *residual* `R = fell - cleared` is what the balance
shows beyond them:

    R = S + X

`S` is what our own holds and debits were charged and the balance shows, between 0 and `C`, all that is
held and pending. `X` is what others spent, and never shrinks. So each balance gives the bounds

    R - C <= X <= R

and they are tight: for every value between them there is an account that shows the same balances.
Three settings follow. `False` assumes X = R, so the overlap is 0. `True` assumes X = 0, so the overlap
is R. `"auto"` assumes X = 0 until a *proof* that X > 0, then X = R for a spell.

**Proofs.** A balance with R > C. Or a *checkpoint*: what the calls of an earlier balance were charged by
then is at most what they cost in the end. So each call that ends below its hold lowers the bound U of
that checkpoint, which began as its C, and R > U proves X > 0 although R <= C held at the time. Or a
refusal by the provider itself, although the cached balance covered everything held and pending.

**What this promises.** It assumes that debits clear no earlier than their charges are posted, that a
charge once shown is not taken back, and that calls cost at most what they hold or are settled at. If
nobody else spends, then R <= C and R <= U always hold: there is no proof, and "auto" is the same as
`True`. There S = R, so no overlap between 0 and R promises a credit that is spent. This holds whatever
the guard believes, so a wrong belief can only refuse too much. If others spend, an overlap promises at
most X too much, and at most C.

**What it cannot promise.** Take an account whose own calls are charged as they run, and another one
whose calls are charged at the end while others spend the same amounts. Until a call has ended, both show
the same balances, so no rule can tell them apart. Before the first proof, "auto" is the same as `True`.
A busy account can never prove that nobody else spends.

**Top-ups.** A rise of the balance by D is a top-up P less the charges c between the two balances. From
the balances alone c can be anything, so it counts as 0, and that part of the overlap is lost until
nothing is held or pending. If top-ups are known to be multiples of a step q, then c is at least the rest
to the next multiple of q.

**Charges taken back.** A provider may reserve credits and give the rest back, or a replica may not show
yet what another showed. A rise that is no larger than R may be that, so it lowers R. A larger one is a
top-up; if it hides such a charge as well, R is too high by that.

**The order of balances.** A balance that was requested before the reply of another arrived, as with the
balances in replies to concurrent calls, may be the earlier or the later one. It proves nothing, and the
residual is carried past it, from the last balance that is in order, the *reference*.

The state is a few integers, which are only added, subtracted, multiplied, divided with floor, and
compared. Amounts are micro-credits, times are monotonic seconds.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from budgetguard._core.amounts import UNLIMITED
from budgetguard._core.clock import Instant
from budgetguard._core.snapshot import BalanceSnapshot, Micro

SoleSpender: TypeAlias = Literal["auto"] | bool
"""The setting of a guard: True for nobody else, False for others, "auto" to find out."""

FIRST_SPELL = 30 * 60.0
LONGEST_SPELL = 24 * 3600.0

# A provider that computes in floats may report 9.699999999999999 for 9.7. Micro-credits.
NOISE = 10

CHECKPOINT_EVERY = 120.0
MOST_CHECKPOINTS = 4


@dataclass(slots=True)
class Checkpoint:
    """A balance whose residual can still become a proof.

    `bound` is the most that the calls of its time, those of `epoch` and earlier, may have been charged.
    """

    epoch: int
    residual: int
    bound: int


@dataclass(frozen=True, slots=True)
class Belief:
    """Whether others are believed to spend, and since when; `proven` is what they spent at least.

    `proven` is 0 if the provider's own refusal was the proof. `spell` is for how many seconds after the
    latest proof the belief lasts.
    """

    others: bool
    since: Instant
    proven: int = 0
    spell: float = 0.0


class OtherSpenders:
    """The evidence about one account, and the overlap that it allows.

    `epoch` grows by one with each checkpoint: a call belongs to the epoch in which its credits were
    taken. `topup_step` is the amount of which each top-up is a whole multiple, in micro-credits; None if
    not known.
    """

    __slots__ = (
        "_ceiling_residual",
        "_checked_at",
        "_checkpoints",
        "_cleared",
        "_landed",
        "_reference",
        "_residual",
        "_spell",
        "_until",
        "belief",
        "changed",
        "contradiction",
        "epoch",
        "setting",
        "topup_step",
    )

    def __init__(self) -> None:
        self.setting: SoleSpender = "auto"
        self.topup_step: int | None = None
        self.epoch = 0
        self.belief: Belief | None = None
        self.changed = False
        self.contradiction = 0
        self._until = float("-inf")
        self._spell = FIRST_SPELL
        self._checked_at = float("-inf")
        self._reference: BalanceSnapshot | None = None
        self._landed = float("-inf")
        # What balances beside the reference cleared: it may be in the fall since the reference.
        self._cleared = 0
        self._residual = 0
        self._ceiling_residual = 0
        self._checkpoints: list[Checkpoint] = []

    def join(self, setting: SoleSpender) -> None:
        """Combine the setting of another guard: False wins over True, and both over "auto"."""
        if setting is False or (setting is True and self.setting == "auto"):
            self.setting = setting

    def forget_charges(self, by: int) -> None:
        """So much of what was held or pending counts no more, although no balance has cleared it."""
        self._cleared += by

    def lose_track(self) -> None:
        """The state was restored from an earlier one: its belief remains, what balances showed does not."""
        self._forget()
        self._reference = None

    def distrusted(self, now: float) -> bool:
        """Whether a proof is so recent that it must not be forgotten."""
        return now < self._until

    def dump(self) -> dict[str, Any]:
        """All evidence as JSON values; a time that has not come yet is null."""
        belief, reference = self.belief, self._reference
        return {
            "setting": self.setting,
            "topup_step": self.topup_step,
            "epoch": self.epoch,
            "belief": None if belief is None else _dumped(belief),
            "changed": self.changed,
            "contradiction": self.contradiction,
            "until": _if_ever(self._until),
            "spell": self._spell,
            "checked_at": _if_ever(self._checked_at),
            "reference": None if reference is None else reference.dump(),
            "landed": _if_ever(self._landed),
            "cleared": self._cleared,
            "residual": self._residual,
            "ceiling_residual": self._ceiling_residual,
            "checkpoints": [[each.epoch, each.residual, each.bound] for each in self._checkpoints],
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> "OtherSpenders":
        """The evidence that `dump` gave."""
        self = cls()
        belief, reference = state["belief"], state["reference"]
        self.setting = state["setting"]
        self.topup_step = state["topup_step"]
        self.epoch = state["epoch"]
        self.belief = None if belief is None else _loaded(belief)
        self.changed = state["changed"]
        self.contradiction = state["contradiction"]
        self._until = _or_never(state["until"])
        self._spell = state["spell"]
        self._checked_at = _or_never(state["checked_at"])
        self._reference = None if reference is None else BalanceSnapshot.load(reference)
        self._landed = _or_never(state["landed"])
        self._cleared = state["cleared"]
        self._residual = state["residual"]
        self._ceiling_residual = state["ceiling_residual"]
        self._checkpoints = [Checkpoint(*each) for each in state["checkpoints"]]
        return self

    # What calls do to the bounds of the checkpoints.

    def cost_less(self, epoch: int, by: int) -> None:
        """A call of that epoch ended, and cost so much less than it may have been charged."""
        for checkpoint in self._checkpoints:
            if epoch <= checkpoint.epoch:
                checkpoint.bound -= by

    def may_cost_more(self, epoch: int, by: int) -> None:
        """A call of that epoch may be charged so much more."""
        self.cost_less(epoch, -by)

    # What balances say.

    def with_overlap(
        self, new: BalanceSnapshot, landed: float, committed: int, cleared: int
    ) -> BalanceSnapshot:
        """The new balance with its overlap; its reply arrived at `landed`.

        `committed` was held or pending before it, and it must show the part `cleared` of that.
        """
        self.changed, self.contradiction = False, 0
        if self.setting is False:
            return new
        if self.belief is None:
            self.belief = Belief(others=False, since=new.sent)
        if new.refused_until is not None:
            self._forget()
            self._reference = None
            return new
        rest = committed - cleared
        self._cleared += cleared
        if self._reference is None:
            self._begin(new, landed)
        elif new.sent.mono < self._landed:
            new = self._beside(self._reference, new, rest)
        else:
            self._after(self._reference, new, rest)
            self._begin(new, landed)
            new = replace(new, overlap=self._residual, ceiling_overlap=self._ceiling_residual)
        if self.setting == "auto" and self.belief.others:
            return replace(new, overlap=0, ceiling_overlap=0)
        return new

    def _begin(self, reference: BalanceSnapshot, landed: float) -> None:
        self._reference, self._landed, self._cleared = reference, landed, 0

    def _beside(
        self, reference: BalanceSnapshot, new: BalanceSnapshot, rest: int
    ) -> BalanceSnapshot:
        """A balance that was requested before the reference arrived: either may be the earlier one.

        It proves nothing. What the reference promised still holds, less the debits that cleared.
        """
        cleared = self._cleared
        ceiling = _ceiling(reference, new)
        return replace(
            new,
            overlap=_carried(self._residual, _fall(reference.credits, new.credits), cleared, rest),
            ceiling_overlap=_carried(
                self._ceiling_residual, _fall(reference.ceiling, ceiling), cleared, rest
            ),
        )

    def _after(self, reference: BalanceSnapshot, new: BalanceSnapshot, rest: int) -> None:
        """A balance that was requested after the reference arrived."""
        cleared = self._cleared
        assert self.belief is not None
        proven = self._proven(reference, new, rest + cleared)
        if proven > 0:
            self._prove(new.sent, proven)
        else:
            self._follow(reference, new, cleared, rest)
            if self.belief.others and new.sent.mono >= self._until:
                self._change(Belief(others=False, since=new.sent))
        self._check(new.sent.mono, rest)

    def refused(self, cached: BalanceSnapshot | None, committed: int, now: Instant) -> None:
        """The provider refused a call for lack of credits, with so much held and pending.

        If the cached balance covers that, it is a proof.
        """
        self.changed, self.contradiction = False, 0
        covered = (
            cached is not None
            and cached.refused_until is None
            and committed <= cached.before_holds(0)
        )
        if covered and self.setting == "auto":
            self._prove(now, 0)
        self._forget()
        self._reference = None

    def _proven(self, reference: BalanceSnapshot, new: BalanceSnapshot, committed: int) -> int:
        """What others must have spent, at least.

        A rise counts against it: the provider may have given back what it had reserved for a call.
        """
        falls = (
            (self._residual, _fall(reference.credits, new.credits)),
            (self._ceiling_residual, _fall(reference.ceiling, _ceiling(reference, new))),
        )
        direct = max(0 if fall is None else residual + fall - committed for residual, fall in falls)
        if self.setting != "auto":
            return direct
        rose = max([0, *(-fall for _, fall in falls if fall is not None)])
        for checkpoint in self._checkpoints:
            checkpoint.residual -= rose
        found = max([direct, *(each.residual - each.bound for each in self._checkpoints)])
        return found if found > NOISE else 0

    def _follow(
        self, reference: BalanceSnapshot, new: BalanceSnapshot, cleared: int, rest: int
    ) -> None:
        fell = _fall(reference.credits, new.credits)
        fell = _shown(fell, self._residual, self.topup_step)
        self._residual = _carried(self._residual, fell, cleared, rest)
        fell = _fall(reference.ceiling, _ceiling(reference, new))
        fell = _shown(fell, self._ceiling_residual, None)
        self._ceiling_residual = _carried(self._ceiling_residual, fell, cleared, rest)
        if reference.balance.cost_limit != new.balance.cost_limit:
            # They do not tell the two residuals apart.
            self._checkpoints.clear()

    def _prove(self, at: Instant, proven: int) -> None:
        self.contradiction = proven
        self._forget()
        if self.setting != "auto":
            return
        if self.belief is None or not self.belief.others:
            self._change(Belief(others=True, since=at, proven=proven, spell=self._spell))
            self._until = at.mono + self._spell
            self._spell = min(2 * self._spell, LONGEST_SPELL)
        else:
            self._until = max(self._until, at.mono + self.belief.spell)

    def _change(self, belief: Belief) -> None:
        self.belief = belief
        self.changed = self.setting == "auto"

    def _forget(self) -> None:
        self._residual = self._ceiling_residual = 0
        self._checkpoints.clear()

    def _check(self, sent: float, rest: int) -> None:
        """Make a checkpoint from time to time."""
        if not rest:
            # What the balance shows beyond the cleared debits is nothing, or was a proof.
            self._forget()
        elif sent - self._checked_at >= CHECKPOINT_EVERY:
            self._checked_at = sent
            residual = max(self._residual, self._ceiling_residual)
            self._checkpoints.append(Checkpoint(self.epoch, residual, rest))
            del self._checkpoints[:-MOST_CHECKPOINTS]
            self.epoch += 1


def _ceiling(reference: BalanceSnapshot, new: BalanceSnapshot) -> Micro:
    """The new ceiling; no bound if it is that of another cost limit, which says nothing of what was spent."""
    same = reference.balance.cost_limit == new.balance.cost_limit
    return new.ceiling if same else UNLIMITED


def _fall(before: Micro, after: Micro) -> int | None:
    """How far a figure fell, negative if it rose; None if it had no bound before or after."""
    return None if UNLIMITED in {before, after} else int(before) - int(after)


def _shown(fell: int | None, residual: int, step: int | None) -> int | None:
    """How much more of the charges the new balance shows than the reference; negative for less."""
    if fell is None or fell >= 0:
        return fell
    if step is not None:
        # At least the rest to the step, unless that is a rounding error above one.
        hidden = fell % step
        return hidden if step - hidden > NOISE else 0
    # A rise that is no larger than what was shown may be charges that were taken back.
    return fell if -fell <= residual else 0


def _carried(residual: int, fell: int | None, cleared: int, rest: int) -> int:
    """The residual of the new balance.

    Never more than `rest`, what is still held and pending: a provider that gave back what it had
    reserved for a call must not leave a residual for the calls after it.
    """
    return 0 if fell is None else min(max(residual + fell - cleared, 0), rest)


def _dumped(belief: Belief) -> dict[str, Any]:
    return {
        "others": belief.others,
        "since": list(belief.since),
        "proven": belief.proven,
        "spell": belief.spell,
    }


def _loaded(state: dict[str, Any]) -> Belief:
    return Belief(state["others"], Instant(*state["since"]), state["proven"], state["spell"])


def _if_ever(at: float) -> float | None:
    return None if at == float("-inf") else at


def _or_never(at: float | None) -> float:
    return float("-inf") if at is None else at
