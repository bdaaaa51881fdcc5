"""HTTPBalance: a provider for vendors that are not built in, without code."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_FLOOR, Context, Decimal, Inexact
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from budgetguard._core.amounts import CREDITS, LIMIT, Amount, exact, spell
from budgetguard._core.argument_types import other
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard._core.durations import seconds
from budgetguard._core.errors import BalanceUnavailable
from budgetguard._core.events import logger
from budgetguard._core.provider_refusal import NOT_CREDITS, ProviderRefusal, RefusalKind
from budgetguard._io.base_url import check_base_url
from budgetguard.providers._account import (
    check_account,
    check_flag,
    find_extra,
    find_step,
    fingerprint,
)
from budgetguard.providers._expression_parser import parse_condition, parse_expression, parse_path
from budgetguard.providers._field_expressions import (
    EXACT,
    FieldExpression,
    MissingField,
    Reading,
    ReplyCondition,
    UnreadableField,
)
from budgetguard.providers._renewal import renewal
from budgetguard.providers._request_arguments import request_arguments
from budgetguard.providers.base import LAG, LINGER
from budgetguard.providers.billing import (
    OK,
    PAYMENT_REQUIRED,
    REFUSED,
    Billing,
    BillingReply,
    Outcome,
    Prices,
    amount,
)

if TYPE_CHECKING:
    import httpx

RefusedBy: TypeAlias = Mapping[int, bool | str | Sequence[str]]
"""Refusals by status: True, or the conditions on the reply's JSON of which one must hold."""

_STATUSES = range(200, 600)
_NULLS = ("unknown", "unlimited")
_EXHAUSTED: Final = {PAYMENT_REQUIRED: True}
_MOST_DIGITS = 30
_SMALLEST = -12
_MICRO = Decimal("0.000001")
_FLOOR = Context(prec=EXACT.prec, rounding=ROUND_FLOOR)
_REPLIES = Billing()

_Refusals: TypeAlias = Mapping[int, tuple[ReplyCondition, ...]]
"""The conditions by status; without one, each reply with the status refuses."""


class HTTPBalance:
    """An account at any vendor whose balance is one GET away.

    `url` is requested with `headers` and `params`, whose values are all treated as secrets, and so is the query
    of the URL. It must be https, or http to this machine, and its path must not contain a key.

    `left` says where the reply has what is left, and how to compute it: `"data.limit - data.used"`. The how-to
    for any vendor has the whole grammar. Figures are JSON numbers, or texts that are decimal numbers.

    - `scale`: what the figure is multiplied by: `"0.01"` for cents, `"1/60"` for seconds of which a credit is
      60. What has no exact decimal form is rounded down.
    - `null`: what null means in a figure: `"unknown"` is BalanceUnavailable, `"unlimited"` is no limit. With
      `unlimited(path)` in an expression, it means no limit in that field alone. A missing field is never null.
    - `slots`: an expression for the number of sessions that may be open at once, which is the vendor's limit
      and not what is free of it.
    - `renews`: the path to the time at which the allocation renews: a unix time (s or ms), or an ISO 8601 date or
      time, in UTC if it does not say. Anything else is None, and so is a missing field, which is logged once:
      no decision depends on it.
    - `unit`: what `left`, scaled, and all costs are counted in. Currencies are not converted: a field `currency`
      beside a figure must not name another one.
    - `name`: as shown in errors and events; by default the URL's host.
    - `lag`, `linger` (s), `top_up_url`, `extra_credits`, `topup_step`, `trust_env`: as in `Provider`.
    - `account`: the account's name, where keys rotate or several keys share it. Guards whose `HTTPBalance` have
      the same name and read the same URL in the same way share the account; without a name, those that also
      have the same headers and parameters.

    A transport guards the vendor's calls if it has prices. They may be sent with another key than the balance,
    because a transport adds none:

    - `base_url`: where the calls go; by default the origin of `url`.
    - `prices`: as in GuardTransport.
    - `cost`: an expression for what a call cost, in a reply or in the last events of a stream, in `unit`; `scale`
      does not apply to it. Where it cannot be read, the call costs what was held.
    - `exhausted`, `busy`, `key_limit`: how the vendor refuses a call, see `ProviderRefusal`. They map a status to
      True, or to a condition on the JSON of the reply such as `"error.code = NO_CREDITS"`, or
      `"message ~ credits"` for a text that occurs in a field, or to several of which one must hold. By default, a
      402 is `exhausted`. Any other failure changes nothing.

    Raises ConfigurationError for a URL, header, parameter, expression or condition that cannot be right, and
    TypeError or ValueError for other invalid arguments.
    """

    billing: Billing | None = None

    @clean_traceback
    def __init__(
        self,
        url: str,
        *,
        left: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        scale: Amount = 1,
        null: Literal["unknown", "unlimited"] = "unknown",
        slots: str | None = None,
        renews: str | None = None,
        unit: str = CREDITS,
        name: str | None = None,
        lag: float = LAG,
        linger: float = LINGER,
        account: str | None = None,
        base_url: str | None = None,
        prices: Prices | None = None,
        cost: str | None = None,
        exhausted: RefusedBy | None = None,
        busy: RefusedBy | None = None,
        key_limit: RefusedBy | None = None,
        top_up_url: str | None = None,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        address, self._secrets = request_arguments(url, headers, params)
        self._url = str(address)
        self._left = parse_expression(left, "left")
        self._scale = Scale.of(scale)
        self._slots = None if slots is None else parse_expression(slots, "slots")
        self._renews = None if renews is None else parse_path(renews, "renews")
        self._cost = None if cost is None else parse_expression(cost, "cost")
        if null not in _NULLS:
            msg = f"null takes 'unknown' or 'unlimited', not {other(null)}"
            raise ValueError(msg)
        self._nulls_are_unlimited = null == "unlimited"
        # What a refusal means by default comes last, after what is said of it.
        self._refused: list[tuple[RefusalKind, _Refusals]] = [
            ("key_limit", _refusals(key_limit, "key_limit")),
            ("busy", _refusals(busy, "busy")),
            ("exhausted", _refusals(_EXHAUSTED if exhausted is None else exhausted, "exhausted")),
        ]
        self._has_warned = False
        self.unit = _text(unit, "unit")
        self.name = address.origin.partition("://")[2] if name is None else _text(name, "name")
        self.lag = seconds(lag, "lag")
        self.linger = seconds(linger, "linger")
        self.base_url = address.origin if base_url is None else check_base_url(base_url)
        self.prices = prices
        self.top_up_url = None if top_up_url is None else _text(top_up_url, "top_up_url")
        self.extra_credits = find_extra(extra_credits)
        self.topup_step = find_step(topup_step)
        self.trust_env = check_flag(trust_env, "trust_env")
        self.credential = self._secrets.fingerprint()
        named = check_account(account)
        reading = map(str, (self._left, self._scale, self._slots, self._renews, self.unit, null))
        who = ("key", self.credential) if named is None else ("account", named)
        self.fingerprint = fingerprint(type(self).__name__, self._url, *reading, *who)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, left={str(self._left)!r}, unit={self.unit!r})"

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        # Deferred, so that importing budgetguard does not import an HTTP client.
        from budgetguard._io.http import cleaner, get_json

        clean = cleaner(*self._secrets.secrets())
        outcome = self._read(
            await get_json(client, self._url, self._secrets, provider=self.name, as_sent=True),
            clean,
        )
        # Raised here, where no local variable has the reply, which may repeat a key.
        if isinstance(outcome, BalanceUnavailable):
            raise outcome
        return outcome

    def cost_of(self, reply: BillingReply) -> Outcome:
        """What the call cost: the figure at `cost`, if the reply has it."""
        outcome = _REPLIES.cost_of(reply)
        if outcome != "cost":
            return outcome
        if self.classify(reply) is not None:
            return "release"
        known = None if self._cost is None else _figure_in(reply, self._cost, self.unit)
        return "cost" if known is None else known

    def classify(self, reply: BillingReply) -> ProviderRefusal | None:
        """How the reply refuses the call, by the conditions that were given."""
        for kind, refusals in self._refused:
            conditions = refusals.get(reply.status)
            if conditions is not None and _one_holds(conditions, reply):
                return ProviderRefusal(kind, reply.retry_after())
        return NOT_CREDITS if reply.status in REFUSED else None

    def _read(
        self, reply: Mapping[str, Any], clean: Callable[[str], str]
    ) -> Balance | BalanceUnavailable:
        reading = Reading(
            nulls_are_unlimited=self._nulls_are_unlimited,
            unit=self.unit,
            most=self._scale.most(),
            clean=clean,
        )
        try:
            return Balance(
                credits=self._credits(reply, reading),
                max_concurrency=self._sessions(reply, reading),
                unit=self.unit,
                renews_at=self._renewal(reply, reading),
            )
        except UnreadableField as unreadable:
            return BalanceUnavailable(provider=self.name, reason=str(unreadable))

    def _credits(self, reply: Mapping[str, Any], reading: Reading) -> Decimal | None:
        figure = self._left.figure(reply, reading)
        credits = None if figure is None else self._scale.apply(figure)
        if credits is not None and credits.copy_abs() > LIMIT:
            msg = f"{self._left} in the provider's reply is beyond 10^12"
            raise UnreadableField(msg)
        return credits

    def _sessions(self, reply: Mapping[str, Any], reading: Reading) -> int | None:
        if self._slots is None:
            return None
        limit = self._slots.figure(reply, replace(reading, unit=None, most=LIMIT))
        if limit is None:
            return None
        if limit < 0 or limit != limit.to_integral_value():
            msg = f"{self._slots} in the provider's reply is not a whole number of sessions"
            raise UnreadableField(msg)
        return int(limit)

    def _renewal(self, reply: Mapping[str, Any], reading: Reading) -> datetime | None:
        if self._renews is None:
            return None
        try:
            return renewal(self._renews.value(reply, reading))
        except MissingField as missing:
            self._warn(missing)
        except UnreadableField:
            pass
        return None

    def _warn(self, missing: MissingField) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("It is not known when %s renews (check renews=): %s", self.name, missing)


@dataclass(frozen=True, slots=True)
class Scale:
    """What a figure is multiplied by: a fraction, so that a sixtieth is exact."""

    over: Decimal
    under: Decimal

    @classmethod
    def of(cls, given: Amount) -> "Scale":
        """Read a number, or a text such as "1/60"; raises TypeError or ValueError unless it is above zero."""
        over, slash, under = given.partition("/") if isinstance(given, str) else (given, "", "")
        scale = cls(exact(over, "scale"), exact(under, "scale") if slash else Decimal(1))
        if scale.over <= 0 or scale.under <= 0:
            msg = 'scale must be above zero, such as "0.01" for cents or "1/60" for seconds'
            raise ValueError(msg)
        if not all(
            each.adjusted() >= _SMALLEST and _is_short(each) for each in (scale.over, scale.under)
        ):
            msg = f"scale must be at least 10^{_SMALLEST}, with at most {_MOST_DIGITS} digits"
            raise ValueError(msg)
        return scale

    def __str__(self) -> str:
        return f"{spell(self.over)}/{spell(self.under)}"

    def most(self) -> Decimal:
        """The largest figure that is not beyond 10^12 when it is scaled."""
        return _FLOOR.divide(EXACT.multiply(LIMIT, self.under), self.over)

    def apply(self, figure: Decimal) -> Decimal:
        """The figure times the scale; rounded down to a millionth if it has no exact decimal form."""
        product = EXACT.multiply(figure, self.over)
        with suppress(Inexact):
            return EXACT.divide(product, self.under)
        return _FLOOR.divide(product, self.under).quantize(_MICRO, context=_FLOOR)


def _is_short(number: Decimal) -> bool:
    return len(number.as_tuple().digits) <= _MOST_DIGITS


def _text(given: object, what: str) -> str:
    if not isinstance(given, str):
        msg = f"{what} takes a str, not {type(given).__name__}"
        raise TypeError(msg)
    if not given.strip() or not given.isprintable():
        msg = f"{what} must be a printable text that is not empty"
        raise ValueError(msg)
    return given.strip()


def _refusals(given: RefusedBy | None, what: str) -> _Refusals:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        msg = (
            f"{what} takes a mapping of a status to True or conditions, not {type(given).__name__}"
        )
        raise TypeError(msg)
    return {_status(status, what): _conditions(status, given[status], what) for status in given}


def _status(status: object, what: str) -> int:
    if isinstance(status, bool) or not isinstance(status, int):
        msg = f"{what} takes HTTP statuses such as 402, and one of them is {type(status).__name__}"
        raise TypeError(msg)
    if status not in _STATUSES:
        msg = f"{what} takes HTTP statuses from 200 to 599, not {status}"
        raise ValueError(msg)
    return status


def _conditions(status: int, given: object, what: str) -> tuple[ReplyCondition, ...]:
    where = f"{what}[{status}]"
    if given is True:
        if status in OK:
            msg = f"{where} needs a condition: every call that succeeds has this status"
            raise ValueError(msg)
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not texts:
        msg = f'{where} takes True, a condition such as "error.code = NO_CREDITS", or several in a list'
        raise TypeError(msg)
    return tuple(parse_condition(text, where) for text in texts)


def _one_holds(conditions: tuple[ReplyCondition, ...], reply: BillingReply) -> bool:
    # Without conditions the body is not parsed.
    return not conditions or any(condition.holds(reply.body) for condition in conditions)


def _figure_in(reply: BillingReply, expression: FieldExpression, unit: str) -> Decimal | None:
    """The figure in a body, or in the last events of a stream that have its fields; None if it is none."""
    fields = {name: reply.last(name) for name in expression.fields()}
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        return amount(expression.figure(known, Reading(unit=unit)))
    except UnreadableField:
        return None
