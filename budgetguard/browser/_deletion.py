"""The end of a session: request its deletion, then check until the provider confirms that it is gone."""

import inspect
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx

from budgetguard._core.errors import BudgetGuardError
from budgetguard._core.provider_refusal import ProviderRefusal
from budgetguard.browser._steps import Patience, RequestSteps, Tries
from budgetguard.providers import AnchorBrowser, BillingReply

# States of a session that may still cost credits. The provider's pages mention "running" but give no
# list (docs.anchorbrowser.io, 2026-11); every word in "-ing" counts: "starting", "stopping", "pending".
# After a deletion, accepted or refused, any other state means that the session is over; a missing
# state is no answer.
_ALIVE = frozenset(
    {"active", "alive", "allocated", "connected", "created", "idle", "in_progress", "live", "new"}
    | {"online", "open", "paused", "queued", "ready", "started", "unknown", "up", "warm"}
)
_GOES_ON = "ing"
_NOT_THERE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_TRY_AGAIN = frozenset({408, 409, 425, 429})
# Deletions that were refused for a reason unrelated to the session.
_UNRELATED = frozenset({401, 403, 408, 425, 429})
_UNSENT = (
    BudgetGuardError,  # from a guard inside the client
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
_LARGEST_PAGE = 50


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a session, or of one that may never have existed.

    - `ids`: the sessions concerned.
    - `gone`: the provider accepted the deletion and confirmed that they are over.
    - `credits_used`: the provider's own value, of whatever type.
    - `unseen`: the provider answered, and knows no such session.
    - `reason`: why the end could not be confirmed.
    """

    ids: tuple[str, ...]
    gone: bool
    credits_used: Any = None
    unseen: bool = False
    reason: str = ""


def sessions_of(client: Any, *, awaits: bool) -> Any:
    """The client's sessions, without the SDK's own retries, which would multiply the tries.

    Raises TypeError for a sync client where an async one is needed, and the other way round.
    """
    sessions = client.with_options(max_retries=0).sessions
    if inspect.iscoroutinefunction(sessions.create_session) is not awaits:
        msg = "this takes an Anchorbrowser; for an async client, use `async with` or `areap`"
        if awaits:
            msg = "this takes an AsyncAnchorbrowser; for a sync client, use `with` or `reap`"
        raise TypeError(msg)
    return sessions


def end(sessions: Any, id: str, patience: Patience) -> RequestSteps[Ending]:
    """Delete the session of that id until the provider confirms that it is gone.

    The session is checked even after a deletion that failed: a session that ended by itself may not be
    deletable.
    """
    tries = Tries(patience)
    accepted = False
    refused: Exception | None = None
    reason = ""
    for pause in tries:
        try:
            yield pause
            if not accepted and (refused is None or not _is_final(refused)):
                refused = yield from _delete(sessions, id, tries)
                accepted = refused is None
            seen = (yield tries.ask(sessions.get_session, id)).data
        except Exception as error:  # noqa: BLE001  any error uses up one try
            reason = _words(refused or error)
            if _status(error) in _NOT_THERE and (refused is None or _was_checked(refused)):
                return Ending((id,), gone=True)
            if _is_final(error):
                break
            continue
        status = getattr(seen, "status", None)
        if status is None:
            reason = "the provider does not give its state"
        elif not is_alive(status):
            used = getattr(seen, "credits_used", None)
            return Ending((id,), gone=True, credits_used=used)
        else:
            accepted = False
            reason = f"it is still {status}"
            if refused is not None:
                reason = f"{_words(refused)}; {reason}"
                if _is_final(refused):
                    break
    return Ending((id,), gone=False, reason=reason)


def end_tagged(sessions: Any, tag: str, patience: Patience) -> RequestSteps[Ending]:
    """Find the session that carries `tag`, which may appear later or never, and end it."""
    tries = Tries(patience)
    unseen, reason = False, ""
    for pause in tries:
        try:
            yield pause
            ids = yield from _tagged(sessions, tag, tries)
        except Exception as error:  # noqa: BLE001  as above
            unseen, reason = False, _words(error)
            if _is_final(error):
                break
            continue
        if ids:
            # One request makes one session; if there are more, all must be ended.
            endings: list[Ending] = []
            for id in ids:
                endings += [(yield from end(sessions, id, patience))]
            worst = min(endings, key=lambda each: each.gone)
            return replace(worst, ids=tuple(ids))
        unseen, reason = True, "no session carries its tag"
    return Ending((), gone=False, unseen=unseen, reason=reason)


def is_alive(status: Any) -> bool:
    """Whether the provider's word for a session's state means that the session may still cost credits."""
    word = str(status).lower()
    return word in _ALIVE or word.endswith(_GOES_ON)


def refusal_in(error: BaseException) -> ProviderRefusal | None:
    """How the provider refused the call that raised this error; None if it is no refusal."""
    status = _status(error)
    if status is None:
        return None
    # The SDK's error quotes the body.
    return AnchorBrowser.billing.classify(BillingReply("", status, {}, str(error).encode()))


def never_began(error: BaseException) -> bool:
    """Whether a creation that failed with this error has certainly started no session."""
    causes = (error, error.__cause__)
    if any(isinstance(each, _UNSENT) for each in causes):
        return True
    status = _status(error)
    return status is not None and _is_refusal(status) and status != HTTPStatus.REQUEST_TIMEOUT


def _delete(sessions: Any, id: str, tries: Tries) -> RequestSteps[Exception | None]:
    """Request the deletion; returns its error, or None if it was accepted or the session is not there."""
    try:
        yield tries.ask(sessions.delete_session, id)
    except Exception as error:  # noqa: BLE001  the check that follows shows what it means
        return None if _status(error) in _NOT_THERE else error
    return None


def _tagged(sessions: Any, tag: str, tries: Tries) -> RequestSteps[list[str]]:
    """The ids of sessions that list the tag themselves: the filter alone is not trusted."""
    ids: list[str] = []
    page = pages = 1
    while page <= pages:
        ask = tries.ask(sessions.list_sessions, tags=tag, page=page, limit=_LARGEST_PAGE)
        data = (yield ask).data
        ids += [each.id for each in data.sessions if tag in (each.tags or ())]
        pages = int(data.total_pages)
        page += 1
    return ids


def _was_checked(refused: Exception) -> bool:
    """Whether a deletion was refused after the provider had searched for the session."""
    status = _status(refused)
    return status is not None and _is_refusal(status) and status not in _UNRELATED


def _is_final(error: Exception) -> bool:
    """Whether the provider refused the request, so that the same request would be refused again."""
    status = _status(error)
    return status is not None and _is_refusal(status) and status not in _TRY_AGAIN


def _is_refusal(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
