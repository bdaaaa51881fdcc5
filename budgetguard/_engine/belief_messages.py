"""What guards say, in events, the log and on the command line, about other spenders of an account."""

from budgetguard._core.amounts import spell, to_credits
from budgetguard._core.other_spenders import Belief


def belief_changed(provider: str, belief: Belief) -> str:
    """The message for the moment at which `sole_spender="auto"` changes what it believes."""
    minutes = f"{belief.spell / 60:g} minutes"
    if not belief.others:
        return (
            f"No recent balance proves that somebody else spends from the account at {provider}: what running "
            "calls were charged is no longer counted twice."
        )
    then = (
        f"For {minutes} after the last such proof, what running calls were charged is counted twice, as with "
        "sole_spender=False."
    )
    if not belief.proven:
        return (
            f"{provider} refused a call that the cached balance covers: somebody else spends from this account, "
            f"or the call needs more than it holds. {then}"
        )
    return (
        f"The balance at {provider} is {spell(to_credits(belief.proven))} lower than this guard's calls can "
        "explain: somebody else spends from this account, or a call cost more than it held or was settled at. "
        f"{then}"
    )


def contradicted(provider: str, by: int) -> str:
    """The message for a balance that is so many micro-credits too low for `sole_spender=True`."""
    return (
        f"The balance at {provider} is {spell(to_credits(by))} less than sole_spender=True allows for: somebody "
        "else spends from this account, or a call cost more than it held or was settled at. The guard uses this "
        "balance, and discards what it concluded from earlier ones."
    )
