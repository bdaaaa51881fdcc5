"""The end of a session: deleted, asked about, and believed gone only when the provider says so."""

import inspect
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx

from budgetguard.browser.course import Course, Patience, Tries
from budgetguard.errors import BudgetGuardError

# Words of the provider for a session that still costs, or may: "running" is on its pages, which give
# no list (docs.anchorbrowser.io, 2026-11). So is whatever goes on: "starting", "stopping", "pending".
# After a deletion, accepted or turned down, any other word is an end; none at all is no answer.
_ALIVE = frozenset(
    {"active", "alive", "allocated", "connected", "created", "idle", "in_progress", "live", "new"}
    | {"online", "open", "paused", "queued", "ready", "started", "unknown", "up", "warm"}
)
_GOES_ON = "ing"
_NOT_THERE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_TRY_AGAIN = frozenset({408, 409, 425, 429})
# Deletions that were turned down for a reason that says nothing of the session.
_NOT_HEARD = frozenset({401, 403, 408, 425, 429})
_UNSENT = (
    BudgetGuardError,  # of a guard inside the client
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
_LARGEST_PAGE = 50


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a session, or of one that may never have been.

    - `ids`: the sessions that it is about.
    - `gone`: the provider took the deletion and confirmed that they are over.
    - `credits_used`: as the provider gives it, whatever that is.
    - `unseen`: the provider was asked, and knows of none.
    - `reason`: what stood in the way.
    """

    ids: tuple[str, ...]
    gone: bool
    credits_used: Any = None
    unseen: bool = False
    reason: str = ""


def sessions_of(client: Any, *, awaits: bool) -> Any:
    """The client's sessions, without the SDK's own retries, which would multiply the tries.

    Raises TypeError for the client of the other kind.
    """
    sessions = client.with_options(max_retries=0).sessions
    if inspect.iscoroutinefunction(sessions.create_session) is not awaits:
        right = "an AsyncAnchorbrowser, and `async with`" if awaits else "an Anchorbrowser"
        msg = f"this takes {right}: the client given is the other kind"
        raise TypeError(msg)
    return sessions


def end(sessions: Any, id: str, patience: Patience) -> Course[Ending]:
    """Delete the session of that id until the provider confirms that it is gone.

    A deletion that fails is followed by the question all the same: a session that ended by itself may
    be one that cannot be deleted.
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
        except Exception as error:  # noqa: BLE001  whatever the client raises is one try less
            reason = _words(refused or error)
            if _status(error) in _NOT_THERE and (refused is None or _was_heard(refused)):
                return Ending((id,), gone=True)
            if _is_final(error):
                break
            continue
        status = getattr(seen, "status", None)
        if status is None:
            reason = "the provider does not say what became of it"
        elif not is_alive(status):
            used = getattr(seen, "credits_used", None)
            return Ending((id,), gone=True, credits_used=used)
        else:
            accepted = False
            reason = f"it is {status} still"
            if refused is not None:
                reason = f"{_words(refused)}; {reason}"
                if _is_final(refused):
                    break
    return Ending((id,), gone=False, reason=reason)


def end_tagged(sessions: Any, tag: str, patience: Patience) -> Course[Ending]:
    """Find the session that carries `tag`, which may not be there yet or never, and end it."""
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
            # One request makes one session; should there be more, none may be left.
            endings: list[Ending] = []
            for id in ids:
                endings += [(yield from end(sessions, id, patience))]
            worst = min(endings, key=lambda each: each.gone)
            return replace(worst, ids=tuple(ids))
        unseen, reason = True, "no session carries its tag"
    return Ending((), gone=False, unseen=unseen, reason=reason)


def is_alive(status: Any) -> bool:
    """Whether the provider's word for a session's state is one of a session that may still cost."""
    word = str(status).lower()
    return word in _ALIVE or word.endswith(_GOES_ON)


def wants_credits(error: BaseException) -> bool:
    """Whether the provider says that credits, or what the project may spend of them, are used up."""
    if _status(error) == HTTPStatus.FORBIDDEN:
        # The words are those of the API reference (2026-11): other 403 are about the key.
        return "cost limit reached" in str(error).lower()
    return _status(error) == HTTPStatus.PAYMENT_REQUIRED


def never_began(error: BaseException) -> bool:
    """Whether a creation that failed in this way has certainly started no session."""
    causes = (error, error.__cause__)
    if any(isinstance(each, _UNSENT) for each in causes):
        return True
    status = _status(error)
    return status is not None and _is_refusal(status) and status != HTTPStatus.REQUEST_TIMEOUT


def _delete(sessions: Any, id: str, tries: Tries) -> Course[Exception | None]:
    """Ask for the deletion; the error that it failed with, None where it is as good as accepted."""
    try:
        yield tries.ask(sessions.delete_session, id)
    except Exception as error:  # noqa: BLE001  the question that follows tells what it means
        return None if _status(error) in _NOT_THERE else error
    return None


def _tagged(sessions: Any, tag: str, tries: Tries) -> Course[list[str]]:
    """Ids of the sessions that carry the tag by their own account: the filter alone is not trusted."""
    ids: list[str] = []
    page = pages = 1
    while page <= pages:
        ask = tries.ask(sessions.list_sessions, tags=tag, page=page, limit=_LARGEST_PAGE)
        data = (yield ask).data
        ids += [each.id for each in data.sessions if tag in (each.tags or ())]
        pages = int(data.total_pages)
        page += 1
    return ids


def _was_heard(refused: Exception) -> bool:
    """Whether a deletion was turned down by somebody who had looked for the session."""
    status = _status(refused)
    return status is not None and _is_refusal(status) and status not in _NOT_HEARD


def _is_final(error: Exception) -> bool:
    """Whether the provider turned the request down, so that another like it would fare no better."""
    status = _status(error)
    return status is not None and _is_refusal(status) and status not in _TRY_AGAIN


def _is_refusal(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
