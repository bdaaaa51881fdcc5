"""Tavily's sync SDK, which uses requests, with a guard before every method that costs credits.

The async client of the SDK takes an httpx client, and so a guarded transport.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._costs import Cost
from budgetguard._decorators.unfinished_results import follow as follow_result
from budgetguard._engine import nested_holds as nested
from budgetguard._engine.binding import binding_of
from budgetguard._engine.follower import ask_status, follower_of
from budgetguard._engine.hold import NullHold
from budgetguard._engine.submitted_work import Work, Works
from budgetguard.guard import check_guard
from budgetguard.integrations._extra import extra
from budgetguard.integrations._guarded_object import check_unguarded
from budgetguard.integrations._sdk import Replaced, bound, checked_costs, requirement
from budgetguard.providers._account import check_flag
from budgetguard.providers.billing import BillingReply
from budgetguard.providers.tavily.billing import (
    COSTS,
    LIMIT_REACHED,
    PAYGO_LIMIT_REACHED,
    RESEARCH_LINGER,
    TavilyBilling,
    charged,
    research_path,
    research_status,
)
from budgetguard.providers.tavily.provider import Tavily

if TYPE_CHECKING:
    from budgetguard._engine.call_spec import CallSpec
    from budgetguard._engine.hold import Hold
    from budgetguard.guard import Guard

with extra("tavily"):
    import requests
    from tavily import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        TavilyClient,
    )
    from tavily.errors import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        BadRequestError,
        ForbiddenError,
        InvalidAPIKeyError,
        UsageLimitExceededError,
    )

    from budgetguard.integrations._requests import never_connected

_BILLING: Final = TavilyBilling()
# The endpoint of each method that spends.
_KINDS: Final = {kind: kind for kind in COSTS} | {
    "qna_search": "search",
    "get_search_context": "search",
}
# The SDK gives the status only as the class of its error, and the last class stands for three.
_STATUS: Final = (
    (BadRequestError, 400),
    (InvalidAPIKeyError, 401),
    (UsageLimitExceededError, 429),
    (ForbiddenError, 403),
)


@clean_traceback
def guarded(
    client: TavilyClient,
    guard: "Guard",
    *,
    costs: Mapping[str, Cost] | None = None,
    follow: bool = True,
) -> TavilyClient:
    """A client that refuses calls which its credits do not cover, and settles each at its real cost.

    A call is held at the most that it can cost, see docs/providers/tavily.md. `costs` overrides this by method
    name, with a number, a callable that is given the method's arguments, or a mapping of arguments for
    `require_credits`. A call is settled at the credits in its reply if it has `include_usage=True`; if not, at
    the most that its results can have cost.

    Research is held until a reply reports that it is over: one to `get_research` that you request through this
    object, or one that the library requests itself if you have not done so for a while (30 to 60 s after the
    submission, or 120 s after the last one), every 30 to 60 s, with the guard's key. With `follow=False`
    it requests nothing. A stream of research is held until it ends.

    A hold is released if the call was refused, or if the connection was never made. It is kept if the outcome
    is unknown: time-outs, broken connections, server errors. A refusal because of the plan's limit or of the
    pay-as-you-go limit marks the guard exhausted; one because of the key's own limit counts for this key only.

    Raises TypeError if `client` is not a TavilyClient or is already guarded, or if the guard is of another
    provider; AttributeError for costs of methods that it does not have.
    """
    if not isinstance(client, TavilyClient):
        msg = (
            f"guarded() takes a TavilyClient, not {type(client).__name__}; an AsyncTavilyClient takes "
            "client=httpx.AsyncClient(transport=AsyncGuardTransport(guard))"
        )
        raise TypeError(msg)
    check_unguarded(client)
    check_guard(guard, Tavily)
    costs = checked_costs(costs)
    check_flag(follow, "follow")
    here = _Account(guard, costs, follow=follow).methods(client)
    more = {name: cost for name, cost in costs.items() if name not in _KINDS}
    return cast("TavilyClient", Replaced(client, guard, more, here, type(client).__name__))


class _Account:
    """The guard and the holds of one guarded client. Its methods hold no reference to that client."""

    def __init__(self, guard: "Guard", costs: Mapping[str, Cost], *, follow: bool) -> None:
        self._guard = guard
        self._costs = costs
        binding = binding_of(guard)
        self._account = binding.account
        self._provider = binding.provider
        self._follows = follow
        # Research that only replies to the client itself tell about.
        self._works = Works()

    def methods(self, client: TavilyClient) -> dict[str, Any]:
        """The methods that replace the client's own."""
        url = client.base_url
        here = {name: self._spends(name, getattr(client, name), url) for name in _KINDS}
        return here | {"get_research": self._reports(client.get_research)}

    def _spends(self, name: str, method: Callable[..., Any], url: str) -> Callable[..., Any]:
        kind = _KINDS[name]

        def most(*args: Any, **kwargs: Any) -> Decimal:
            return COSTS[kind](_fields(method, args, kwargs))

        options: dict[str, Any] = {"min": most, "name": f"TavilyClient.{name}"}
        if kind == "research":
            options["linger"] = RESEARCH_LINGER
        need = requirement(self._guard, options, self._costs.get(name))

        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            fields = _fields(method, args, kwargs)
            hold = need.open(None, args, kwargs)
            try:
                reply = method(*args, **kwargs)
            except BaseException as error:
                self._failed(hold, error, url)
                raise
            if isinstance(reply, Iterator):
                return follow_result(need, hold, reply)
            if not isinstance(hold, NullHold):
                self._answered(kind, need, hold, fields, reply)
            return reply

        return guarded

    def _reports(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def reporting(*args: Any, **kwargs: Any) -> Any:
            path = research_path(bound(method, args, kwargs)["request_id"])
            reply = method(*args, **kwargs)
            status = research_status(reply)
            for works in (self._works, self._account.follower):
                work = None if works is None or path is None else works.get(path)
                if works is not None and work is not None and status is not None:
                    works.tell(work, status)
            return reply

        return reporting

    def _answered(
        self, kind: str, need: "CallSpec", hold: "Hold", fields: Mapping[str, Any], reply: Any
    ) -> None:
        status = research_status(reply) if kind == "research" else None
        path = None if status is None else research_path(reply.get("request_id"))
        if path is not None and status is not None and status.end is None:
            nested.step_out(hold)
            self._follow(Work(hold, path, trust_env=self._provider.trust_env), path)
            return
        cost = charged(kind, fields, reply) if need.actual is None else None
        if cost is None:
            need.settle(hold, reply)
        else:
            hold.settle(cost)

    def _follow(self, work: Work, path: str) -> None:
        if self._follows:
            work.ask = ask_status(self._provider, path, _BILLING.status)
            if follower_of(self._account).follow(work):
                return
        self._works.add(work)

    def _failed(self, hold: "Hold", error: BaseException, url: str) -> None:
        reply = _reply_of(error)
        if reply is not None:
            refusal = _BILLING.classify(reply)
            if refusal is not None:
                # Before the release, which could admit another call.
                self._guard.mark_refused(refusal)
            if _BILLING.cost_of(reply) == "release":
                hold.release()
        elif _never_sent(error, url):
            hold.release()
        hold.finish(error)


def _fields(method: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """What a call's request will contain, with the method's own defaults; raises TypeError as the method would."""
    import inspect

    call = inspect.signature(method).bind(*args, **kwargs)
    call.apply_defaults()
    fields = dict(call.arguments)
    return {**fields, **fields.pop("kwargs", {})}


def _reply_of(error: BaseException) -> BillingReply | None:
    """The refusal that an error of the SDK stands for; None if there was no reply."""
    response = getattr(error, "response", None)
    if isinstance(error, requests.HTTPError) and isinstance(response, requests.Response):
        return BillingReply("", response.status_code, response.headers, response.content)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return None
    text = str(error)
    if isinstance(error, ForbiddenError):
        status = _limit(text.lower()) or status
    content = json.dumps({"detail": {"error": text}}).encode()
    return BillingReply("", status, {}, content)


def _limit(text: str) -> int | None:
    if "pay-as-you-go limit" in text:
        return PAYGO_LIMIT_REACHED
    return LIMIT_REACHED if "usage limit" in text else None


def _never_sent(error: BaseException, url: str) -> bool:
    """Whether the request to Tavily was never sent."""
    # `get_search_context` downloads a tokenizer after the search, which may be what failed (0.8.5).
    if not isinstance(error, requests.ConnectionError) or not _is_below(error.request, url):
        return False
    return never_connected(error)


def _is_below(request: Any, url: str) -> bool:
    return str(getattr(request, "url", "")).startswith(f"{url}/")
