"""Plausible mistakes, each as one replacement in one file, and the tests that have to find it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands in `file` once; with `new` in its place some test of `tests` fails."""

    name: str
    file: str
    old: str
    new: str
    tests: str = "tests/guard tests/test_ledger.py tests/test_policy.py"


MUTANTS = [
    Mutant(
        "check without holding",
        "ledger.py",
        "- floor - self.held - self.pending",
        "- floor - self.pending",
    ),
    Mutant(
        "quick way takes nothing",
        "gate.py",
        "ledger.room -= cost",
        "ledger.room -= 0",
    ),
    Mutant(
        "debit dropped at the next balance",
        "ledger.py",
        "while self._order and self._buckets[self._order[0]][0] <= sent:",
        "while self._order:",
    ),
    Mutant(
        "hold dropped at the end of the call",
        "ledger.py",
        "        self.settled.add(debit, clears_at)\n\n    def give_back",
        "\n    def give_back",
    ),
    Mutant(
        "looks ordered by arrival",
        "ledger.py",
        "if look.sent.mono <= at_hand.sent.mono:",
        "if False:",
    ),
    Mutant(
        "lag left out",
        "account.py",
        "open_.ledger.settle(entry, actual, at + open_.call.lag)",
        "open_.ledger.settle(entry, actual, at)",
    ),
    Mutant(
        "linger left out",
        "account.py",
        "at + call.linger + call.lag",
        "at + call.lag",
    ),
    Mutant(
        "slots of kept holds forgotten",
        "ledger.py",
        "return self.slots_held + self.kept.slots",
        "return self.slots_held",
    ),
    Mutant(
        "slots not counted",
        "ledger.py",
        "self.slots_held += entry.slots",
        "self.slots_held += 0",
    ),
    Mutant(
        "kept hold's look left to chance",
        "account.py",
        "due = self._looks.due(self._kept_due())",
        "due = self._looks.due(LATER)",
    ),
    Mutant(
        "no refresh behind a stale balance",
        "policy.py",
        "if now.since(look.sent) >= terms.fresh_for:",
        "if False:",
    ),
    Mutant(
        "off by one at fresh_for",
        "policy.py",
        "if now.since(look.sent) >= terms.fresh_for:",
        "if now.since(look.sent) > terms.fresh_for:",
    ),
    Mutant(
        "no look near the edge",
        "policy.py",
        "return left < need.cost and",
        "return False and",
    ),
    Mutant(
        "refused on an old look",
        "policy.py",
        "verified = newest >= asked",
        "verified = True or newest >= asked",
    ),
    Mutant(
        "recheck_after not kept",
        "policy.py",
        "return left < need.cost and now.mono >= _recheck_at(looking, terms)",
        "return left < need.cost",
    ),
    Mutant(
        "unknown admits",
        "policy.py",
        "return Admit(unknown=True) if terms.allow_unknown else",
        "return Admit(unknown=True) if True else",
    ),
    Mutant(
        "refusal refreshes the balance's age",
        "account.py",
        "ticket.settle(self._why(call, decision, ahead, now))",
        "ticket.settle(self._why(call, decision, ahead, now));"
        " self.ledger.look = replace(self.ledger.look, sent=now) if self.ledger.look else None",
    ),
    Mutant(
        "wall clock alone",
        "clock.py",
        "return max(self.mono - earlier.mono, self.wall - earlier.wall, 0.0)",
        "return max(self.wall - earlier.wall, 0.0)",
    ),
    Mutant(
        "monotonic clock alone",
        "clock.py",
        "return max(self.mono - earlier.mono, self.wall - earlier.wall, 0.0)",
        "return max(self.mono - earlier.mono, 0.0)",
    ),
    Mutant(
        "NaN let in",
        "credits.py",
        "if not number.is_finite():",
        "if False:",
        "tests/test_credits.py tests/providers/test_parsing.py",
    ),
    Mutant(
        "no backoff",
        "looks.py",
        "blocked_until=now.mono + answer.delay",
        "blocked_until=now.mono",
    ),
    Mutant(
        "backoff without jitter",
        "flight.py",
        "jitter(0.0, longest)",
        "longest",
    ),
    Mutant(
        "one caller's cancellation ends the look of all",
        "account.py",
        "        self.post_later(self._abandon, ticket)",
        "        self._looks = Looks()\n        self.post_later(self._abandon, ticket)",
    ),
    Mutant(
        "queue served last come, first",
        "account.py",
        "self.queue.append(ticket)",
        "self.queue.insert(0, ticket)",
    ),
    Mutant(
        "everybody goes past the queue",
        "account.py",
        "return Ahead(ahead.amount + need.amount, ahead.slots + need.slots) if queues else ahead",
        "return ahead",
    ),
    Mutant(
        "the provider's refusal forgotten at the next look",
        "ledger.py",
        "and look.sent.mono < until",
        "and False",
    ),
    Mutant(
        "floor promised",
        "ledger.py",
        "return self.spendable(extra) - floor",
        "return self.spendable(extra)",
    ),
    Mutant(
        "release_on taken for any exception",
        "hold.py",
        "elif isinstance(error, self._release_on):",
        "elif isinstance(error, Exception):",
    ),
    Mutant(
        "except Exception",
        "wrapping.py",
        "        result = await function(*args, **kwargs)\n    except BaseException as error:",
        "        result = await function(*args, **kwargs)\n    except Exception as error:",
    ),
    Mutant(
        "a finalizer takes the lock",
        "hold.py",
        "later = isinstance(error, GeneratorExit)",
        "later = False",
        "tests/guard tests/process",
    ),
    Mutant(
        "fork keeps the lock",
        "account.py",
        "        self.lock = threading.Lock()\n",
        "        self.lock = getattr(self, 'lock', None) or threading.Lock()\n",
        "tests/process",
    ),
    Mutant(
        "fork keeps the balance",
        "account.py",
        "        self.ledger = Ledger()\n",
        "        self.ledger = getattr(self, 'ledger', None) or Ledger()\n",
        "tests/process",
    ),
    Mutant(
        "redirects followed",
        "fetching.py",
        "headers=credential.headers(), follow_redirects=False",
        "headers=credential.headers(), follow_redirects=True",
        "tests/providers",
    ),
    Mutant(
        "proxies from the environment",
        "fetching.py",
        "trust_env=trust_env,",
        "trust_env=True,",
        "tests/providers",
    ),
]
