"""Who works on an account and who else spends from it: the scenarios, by what is asked of a guard there."""

from dataclasses import replace

from workload import MINUTE, Scenario

ALONE = [
    Scenario("1 worker", 1, 300),
    Scenario("8 workers", 8, 1000),
    Scenario("64 workers", 64, 4000),
    Scenario("64 workers, lag 60 s", 64, 4000, lag=60),
    Scenario("bursts of 40", 40, 2000, bursts=5 * MINUTE),
    Scenario("an outage of 7 minutes", 16, 2000, outage=(5 * MINUTE, 7 * MINUTE)),
]
"""Nobody else spends, and every charge can be told from a balance."""

TOP_UPS = Scenario("top-ups", 16, 500, top_ups=tuple((at * MINUTE, 500) for at in (15, 30, 45)))
"""A rise between two balances hides what was charged meanwhile."""

SMALL_STEP, LARGE_STEP = (
    replace(TOP_UPS, name=f"top-ups, topup_step={step}", topup_step=step) for step in (1, 10)
)
"""The same, and the provider says that a top-up is a multiple of so many credits.

That tells what a rise hides up to one step: the larger is more than is charged between two balances.
"""

GIVEN_UP = Scenario("2 % given up half-way", 16, 2000, given_up=0.02)
"""What a call cost that was given up is never told."""

OFTEN_GIVEN_UP = Scenario("1 worker, 30 % given up half-way", 1, 300, given_up=0.3)
"""Often nothing else is open that could explain what was charged for a call that was given up."""

OTHERS = Scenario("others spend 10 a minute", 8, 2000, others=10)

PROVEN = [
    OTHERS,
    replace(OTHERS, name="others begin after 15 minutes", others_from=15 * MINUTE),
    replace(OTHERS, name="others spend 100 every 10 minutes", others_each=100),
    Scenario("two processes, each with a guard of its own", 16, 2000, processes=2),
]
"""Others spend for so long that the balances prove it before the account is nearly empty."""

UNPROVEN = [
    Scenario("nearly empty from the start, others spend 10 a minute", 8, 250, others=10),
    Scenario(
        "topped up when empty, others begin then",
        8,
        500,
        others=10,
        others_from=20 * MINUTE,
        top_ups=((20 * MINUTE, 500),),
    ),
    Scenario("64 workers, others spend 80 a minute", 64, 4000, others=80),
    Scenario("64 workers, others spend 10 a minute", 64, 4000, others=10),
]
"""The account is nearly empty, or all of it promised, before a balance can prove anything."""

STOPPING = Scenario("others stop after 15 minutes", 8, 6000, others=10, others_until=15 * MINUTE)
"""What was proven once is true no longer."""

WORKERS = [replace(each, processes=4) for each in ALONE if each.workers >= 4]
"""The same crowds, dealt out to four processes."""

SCENARIOS = [
    *ALONE,
    TOP_UPS,
    SMALL_STEP,
    LARGE_STEP,
    GIVEN_UP,
    OFTEN_GIVEN_UP,
    *PROVEN,
    *UNPROVEN,
    STOPPING,
]
