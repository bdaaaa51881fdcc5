"""pre.dev's AI gateway: calls of a model, charged by the token when the answer is complete."""

import random
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice

from budgetguard.testing.sandbox.account import Account, Operation, number
from budgetguard.testing.sandbox.bell import Bell
from budgetguard.testing.sandbox.clock import EPOCH, Clock, after
from budgetguard.testing.sandbox.replies import Refusal, gateway

MODEL = "sandbox/parrot"
# Micro-credits per token, that is, credits per million tokens. Real prices depend on the model.
INPUT_TOKEN = 30
OUTPUT_TOKEN = 150
# Not documented: the limit of tokens if the request names none, the length of an answer, the
# number of its pieces, and the provider seconds that a piece takes.
_MOST_TOKENS = 4096
_TOKENS = (20, 200)
_PIECES = 5
_PIECE = 0.5
# The charge is available "a few seconds" after the end of a call (pages, 2026-11).
_POSTED_AFTER = 3.0
_TOP_UP = "https://pre.dev/billing"
_WORDS = [
    "There",
    "is",
    "no",
    "model",
    "behind",
    "the",
    "sandbox;",
    "these",
    "words",
    "stand",
    "for",
    "its",
    "answer.",
    "",
][:-1]


@dataclass(slots=True)
class Call:
    """One call of a model."""

    model: str
    created: float
    prompt_tokens: int
    pieces: list[str]
    tokens: int
    operation: Operation
    said: int = 0
    ended: float | None = None
    refusal: Refusal | None = None
    bell: Bell = field(default_factory=Bell)

    @property
    def epoch(self) -> int:
        """When it arrived, in seconds since the epoch."""
        return int(EPOCH.timestamp() + self.created)


class Gateway:
    """All calls of a model.

    A call is admitted if the balance covers the most that it may cost. When its answer is
    complete, it is charged the tokens that it used, even if the client has gone by then (AI
    gateway's pages, 2026-11: credits are charged when the response or stream finishes).
    """

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self._account = account
        self._clock = clock
        self._seed = seed
        self._calls: dict[str, Call] = {}

    def submit(self, model: str, prompt: str, limit: int | None) -> Call:
        """Start a call. Raises the documented 402, and then charges nothing."""
        with self._clock.settled() as now:
            prompt_tokens = max(1, len(prompt) // 4)
            most = _MOST_TOKENS if limit is None else limit
            self._check(prompt_tokens * INPUT_TOKEN + most * OUTPUT_TOKEN)
            order = len(self._calls) + 1
            draw = random.Random(f"{self._seed}:call:{order}")  # noqa: S311 - a simulation
            tokens = min(draw.randint(*_TOKENS), most)
            id = f"pdg-{order:06d}"
            operation = self._account.begin("gateway_call", id)
            call = Call(model, now, prompt_tokens, _pieces(tokens), tokens, operation)
            self._calls[id] = call
            self._clock.at(after(now, _PIECE), partial(self._go_on, call))
            return call

    def posted(self, id: str) -> Call:
        """The call with that id. Raises 404 until its charge is available."""
        with self._clock.settled() as now:
            call = self._calls.get(id)
            if call is None:
                raise gateway(404, "not_found", "No generation has that id.")
            if call.ended is None or now < after(call.ended, _POSTED_AFTER):
                raise gateway(404, "not_ready", "The charge is not posted yet. Try again shortly.")
            return call

    def remaining(self) -> int | float:
        """The balance in credits, as the header of a reply reports it."""
        return number(self._account.reported_micros())

    def _go_on(self, call: Call, when: float) -> None:
        call.said += 1
        if call.said < len(call.pieces):
            self._clock.at(after(when, _PIECE), partial(self._go_on, call))
        else:
            micros = call.prompt_tokens * INPUT_TOKEN + call.tokens * OUTPUT_TOKEN
            paid = self._account.charge(call.operation, micros, when)
            call.ended = when
            if not paid:
                call.refusal = self._out_of_credits(micros)
            self._account.end(call.operation, "finished" if paid else "died")
        call.bell.ring()

    def _check(self, most: int) -> None:
        if not self._account.covers(most):
            self._account.refuse()
            raise self._out_of_credits(most)

    def _out_of_credits(self, micros: int) -> Refusal:
        return gateway(
            402,
            "insufficient_credits",
            "The workspace has too few credits for this call.",
            credits_remaining=self.remaining(),
            estimated_credits=number(micros),
            topup_url=_TOP_UP,
        )


def _pieces(tokens: int) -> list[str]:
    words = [f"{word} " for word in islice(cycle(_WORDS), tokens)]
    size = -(-tokens // _PIECES)
    return ["".join(words[start : start + size]) for start in range(0, tokens, size)]
