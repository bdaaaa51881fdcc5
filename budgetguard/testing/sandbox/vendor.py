"""What the vendors below a prefix of their own share: an account, keys, routes and refusals."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeAlias, final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from budgetguard._core.argument_types import shown
from budgetguard.testing.sandbox.account import Account, Amount, Operation, micro, number
from budgetguard.testing.sandbox.clock import Clock
from budgetguard.testing.sandbox.reading import json_object
from budgetguard.testing.sandbox.replies import Refusal

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Handlers: TypeAlias = Mapping[tuple[str, str], Handler]
"""Handlers by method and path, the path below the vendor's prefix. The first match counts."""


class PaidRequests(NamedTuple):
    """How many requests to the routes that spend arrived, and what became of them.

    Those that were neither carried out nor refused met a fault, had a wrong key or were invalid.
    """

    arrived: int
    carried_out: int
    refused: int


class Vendor:
    """One vendor's API below `/<name>`, with an account of its own. A subclass is one vendor.

    A subclass sets `name` and `key`, and writes `free`, `paid`, `refusals` and `error`. All else is
    done here: authentication, the count of requests, and refusals on request.

    - `name`: the prefix, and the name in `Sandbox.vendor`, without a slash.
    - `key`, `other_key`: two keys of the one account. A plain one says `not_a_real_key`.
    - `key_header`, `key_prefix`: where a request has its key, and what is before it.
    - `url`: the base URL of its clients, without a slash at the end. It is set when the sandbox is
      entered.
    - `also_at_root`: whether its routes are served without the prefix too, for an SDK that drops the
      path of its base URL. That of `Sandbox.url` is then the vendor's as well.
    - `account`: the `Account`. Its unit is the vendor's own.
    - `slots`: how many operations may run at once, or None for any number. A test may set it.
    - `full`: the name of the refusal that a request without a free slot gets.
    - `retry_after`: the seconds that a busy reply says. A test may set it.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    other_key: ClassVar[str]
    key_header: ClassVar[str] = "authorization"
    key_prefix: ClassVar[str] = "Bearer "
    full: ClassVar[str] = "busy"
    also_at_root: ClassVar[bool] = False
    slots: int | None = None
    retry_after: float = 5
    url = ""

    def __init__(
        self,
        credits: Amount,
        clock: Clock,
        arrivals: Counter[tuple[str, str]],
        *,
        lag: float,
        overdraft: bool,
    ) -> None:
        self.clock = clock
        self.account = Account(credits, clock, lag=lag, overdraft=overdraft)
        self._arrivals = arrivals
        self._refuse_with: str | None = None

    def free(self) -> Handlers:
        """The routes that spend nothing, such as the balance endpoint."""
        return {}

    def paid(self) -> Handlers:
        """The routes that spend. `refuse_with` applies to them, and `requests` counts them."""
        raise NotImplementedError

    def refusals(self) -> Mapping[str, Refusal]:
        """The vendor's refusals by what `refuse_with` calls them; `"exhausted"` is one of them.

        The one that `full` names is also what a request without a free slot gets. `"key_limit"`
        refuses the requests that have `key`, and carries out those that have `other_key`. A vendor that refuses in more
        ways has more names here.
        """
        raise NotImplementedError

    def error(self, status: int, message: str) -> Refusal:
        """Any other error, in the vendor's shape."""
        raise NotImplementedError

    def given_key(self, request: Request) -> str | None:
        """The key in a request, or None."""
        given = request.headers.get(self.key_header, "")
        return given.removeprefix(self.key_prefix) if given.startswith(self.key_prefix) else None

    def unauthorized(self) -> Refusal:
        """The reply to a request without a key that the vendor knows."""
        return self.error(401, "Unauthorized")

    @property
    def refuse_with(self) -> str | None:
        """How every paid request is refused from now on: a name of `refusals`, or None.

        The balance does not change, and the balance endpoint continues to report it.
        """
        return self._refuse_with

    @refuse_with.setter
    def refuse_with(self, kind: str | None) -> None:
        if kind is not None and kind not in (kinds := self.refusals()):
            msg = f"{self.name} refuses with {', '.join(kinds)} or None, not {shown(kind)}"
            raise ValueError(msg)
        self._refuse_with = kind

    @property
    def requests(self) -> PaidRequests:
        """How many paid requests arrived, were carried out and were refused."""
        with self.clock.settled():
            routes = [(method, full) for method, path in self.paid() for full in self._full(path)]
            arrived = sum(self._arrivals[route] for route in routes)
            return PaidRequests(arrived, len(self.account.operations), self.account.refused)

    @property
    def left(self) -> int | float:
        """The balance that the vendor reports, as a JSON number. It is `lag` behind the true one."""
        return number(self.account.reported_micros())

    @property
    def used(self) -> int | float:
        """What was spent as the vendor reports it, as a JSON number. It is `lag` behind."""
        return number(self.account.reported_used_micros())

    @final
    def charge(self, cost: Amount, kind: str = "call") -> Operation:
        """Do one piece of work that is over at once and costs `cost`, as the operation it returns.

        Raises the refusal `"exhausted"` if the account cannot pay it, and the one that `full` names
        if no slot is free; then nothing is charged.
        """
        with self.clock.settled() as now:
            operation = self.begin(kind, cost)
            self.account.charge(operation, micro(cost), now)
            self.account.end(operation, "finished")
            return operation

    @final
    def begin(self, kind: str, first: Amount = 0) -> Operation:
        """Start work that goes on: `clock.at` schedules its charges and its end.

        Those are `account.charge` and `account.end`, as in `budgetguard.testing.sandbox.specs`.
        Raises the refusal `"exhausted"` if the account cannot pay `first`, and the one that `full`
        names if no slot is free.
        """
        with self.clock.settled():
            if not self.account.covers(micro(first)):
                self.refuse("exhausted")
            if self.slots is not None and self.account.running >= self.slots:
                self.refuse(self.full)
            order = len(self.account.operations) + 1
            return self.account.begin(kind, f"{self.name}_{order:06d}")

    @final
    def refuse(self, kind: str) -> NoReturn:
        """Raise the refusal of that kind, and count it."""
        with self.clock.settled():
            self.account.refuse()
            self.clock.tell()
        raise self.refusals()[kind]

    @final
    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object in the request. Raises 400 for anything else."""
        given = await json_object(request)
        if given is None:
            raise self.error(400, "The body is not a JSON object.")
        return given

    @final
    def routes(self) -> list[Route]:
        """All routes with their full paths."""
        handlers = [(key, handler, False) for key, handler in self.free().items()]
        handlers += [(key, handler, True) for key, handler in self.paid().items()]
        return [
            self._route(method, full, handler, paid=paid)
            for (method, path), handler, paid in handlers
            for full in self._full(path)
        ]

    @final
    def owns(self, path: str) -> bool:
        """Whether a path is below this vendor's prefix, or is a route of its at the root."""
        if f"{path}/".startswith(f"/{self.name}/"):
            return True
        return self.also_at_root and any(each.path_regex.match(path) for each in self.routes())

    @final
    def state(self) -> dict[str, Any]:
        """What the sandbox's state says of this vendor besides its account."""
        return {
            "url": self.url,
            "key": self.key,
            "refuse_with": self.refuse_with,
            "paid_requests": self.requests._asdict(),
        }

    def _full(self, path: str) -> list[str]:
        return [f"/{self.name}{path}", *([path] if self.also_at_root else ())]

    def _route(self, method: str, full: str, handler: Handler, *, paid: bool) -> Route:
        async def endpoint(request: Request) -> Response:
            key = self.given_key(request)
            if key not in (self.key, self.other_key):
                raise self.unauthorized()
            kind = self.refuse_with if paid else None
            if kind is not None and (kind != "key_limit" or key == self.key):
                self.refuse(kind)
            return await handler(request)

        return Route(full, endpoint, methods=[method])
