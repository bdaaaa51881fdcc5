"""check_provider: the replies that a provider must not take for a balance."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard.providers.base import Fetches, Profile
from budgetguard.providers.billing import BillingReply
from budgetguard.testing.provider_check.cases import ANY, ExampleReplies, all_cases, paths, valid
from budgetguard.testing.provider_check.hostile_json import distinct

if TYPE_CHECKING:
    from budgetguard.testing.provider_check.faults import Fault

_KEY: Final = "canary_5d0c1e84f7b2_not_a_real_key"


def check_provider(
    provider: Callable[[str], Fetches] | Fetches,
    *,
    reply: Mapping[str, Any],
    credits: Amount | None = None,
    unlimited: Collection[str] = (),
    optional: Collection[str] = (),
    replies: Collection[BillingReply] = (),
    key: str | None = None,
) -> None:
    """Check that a provider takes nothing for a balance that is none, and shows its key nowhere.

    Raises AssertionError with one sentence for each fault: what was answered, what the provider made of it,
    and what to do. Opens no connection, and no time passes. For plain tests and for pytest, also where an
    event loop runs.

    - `provider`: what makes it from a key, such as its class or `lambda key: Acme(key, "project")`; or the
      provider itself, and the `key` that it was made with. If it takes several keys, let each contain `key`.
    - `reply`: a valid balance reply, as a JSON object. For a provider that asks several times, a mapping of
      paths to such objects; a path may lack its beginning, but not its slash.
    - `credits`: what the provider has to report for it; by default not checked.
    - `unlimited`: the fields, written like `data.items[0].limit`, in which null or "unlimited" means that
      there is no limit, as the vendor documents. Nowhere else may a null lead to another balance.
    - `optional`: the fields that may be left out, as the vendor documents.
    - `replies`: examples of replies to calls, such as one that says what the call cost, and each refusal.

    What a provider is given in place of `reply`: bodies that are not JSON, not an object, or not complete; in
    each field another type, null, no finite number, or nothing; other statuses; redirects; connections that
    fail, and bodies without an end. It must raise BalanceUnavailable, or, if one field alone has changed, may
    report the balance of `reply`. A guard must not admit a call. The key must not be in an error, its
    traceback's local variables, its pickle, an event or a log record, and no redirect may be followed.

    Then `cost_of`, `classify`, `remaining` and `refusal_body`, of the provider or of its `billing`, are given
    `replies`, changed in the same way, and replies that make no sense. They must not raise, and a changed
    field must not lead to another cost.

    It does not find a field that is read rightly but means something else: set `credits` for that. It calls no
    `prices`. Raises TypeError or ValueError for wrong arguments.
    """
    made, used = _made(provider, key)
    example = _example(reply)
    _check_paths(example, (*unlimited, *optional))
    profile = Profile.of(made)
    # Deferred, so that importing budgetguard.testing does not import an HTTP client.
    from budgetguard.testing.provider_check.billing import billing_faults
    from budgetguard.testing.provider_check.canary import shown_by
    from budgetguard.testing.provider_check.faults import own_faults, report

    faults = [
        *_balance_faults(made, used, example, credits, unlimited, optional, profile.unit),
        *own_faults(shown_by(made, used)),
        *billing_faults(profile, used, replies),
    ]
    if faults:
        raise AssertionError(report(profile.name, faults))


def _made(provider: Any, key: str | None) -> tuple[Any, str]:
    fetches = callable(getattr(provider, "fetch", None)) and not isinstance(provider, type)
    if fetches and key is None:
        msg = (
            "check_provider searches for the provider's key: pass what makes the provider from a key, such "
            "as its class, or the provider's key as key="
        )
        raise TypeError(msg)
    if not fetches and not callable(provider):
        msg = f"provider takes a provider or what makes one, not {type(provider).__name__}"
        raise TypeError(msg)
    used = _KEY if key is None else key
    return (provider if fetches else provider(used)), used


def _example(reply: Mapping[str, Any]) -> ExampleReplies:
    if not isinstance(reply, Mapping) or not reply:
        msg = "reply takes a JSON object with at least one field, or a mapping of paths to such objects"
        raise TypeError(msg)
    several = all(isinstance(name, str) and name.startswith("/") for name in reply)
    if several and all(isinstance(each, Mapping) for each in reply.values()):
        return dict(reply.items())
    return {ANY: reply}


def _check_paths(example: ExampleReplies, named: Collection[str]) -> None:
    known = paths(example)
    for each in named:
        if each not in known:
            msg = f"{each} is no field of the reply, which has {', '.join(known)}"
            raise ValueError(msg)


def _balance_faults(
    provider: Any,
    key: str,
    example: ExampleReplies,
    credits: Amount | None,
    unlimited: Collection[str],
    optional: Collection[str],
    unit: str | None,
) -> "Iterator[Fault]":
    from budgetguard.testing.provider_check.faults import (
        faults_of,
        faults_of_the_example,
        wrong_credits,
    )
    from budgetguard.testing.provider_check.run import run

    clear = {path: distinct(each) for path, each in example.items()}
    first, second = run(provider, key, valid(example), [valid(clear)])
    faults = [*faults_of_the_example(first), *wrong_credits(first, credits)]
    if faults:
        yield from faults
        return
    # 0 and 1 are what a missing field or `true` may be mistaken for, so it had better be without them.
    base, balance = example, first.outcome
    if isinstance(second.outcome, Balance):
        base, balance = clear, second.outcome
    assert isinstance(balance, Balance)
    for seen in run(provider, key, valid(base), all_cases(base, key)):
        yield from faults_of(seen, balance, unit, unlimited=unlimited, optional=optional)
