"""One call of a tool, whose hold ends according to what the tool's own body did.

The caller of a tool may stop waiting while the tool continues: frameworks run synchronous functions in
threads, and when a sibling fails or a time-out expires, only the wait is over. Nor does a framework's
result say much about the tool: rejected arguments and exceptions turned into text are indistinguishable
there. So the body itself reports that it begins and how it finishes.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from budgetguard._engine.hold import Hold


class Refused(BaseException):
    """Carries a refusal out of a tool's body; `error` is the reason.

    It is not an Exception, because frameworks turn those into text, or try again.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Turn:
    """An admitted call, until the tool's body finishes or nobody waits for it any more.

    The body runs through `run` or `arun`, perhaps in a thread of its own. The code that waits for it calls
    `over` or `left`. If the body has finished by then, that ends the hold; otherwise the body ends it.
    """

    def __init__(self, hold: Hold, settle: Callable[[Any], None] | None = None) -> None:
        """`settle` ends the hold of a body that returns after its caller stopped waiting."""
        self.hold = hold
        self._settle = settle or (lambda _: hold.finish(None))
        # dict.setdefault is atomic: it decides whether the body or the end of the wait came first.
        self._begun: dict[str, str] = {}
        self._ended: dict[str, Any] = {}

    @property
    def began(self) -> bool:
        """Whether the tool's body was reached."""
        return self._begun.get("by") == "body"

    def run(self, body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a synchronous body; raises RuntimeError instead if nobody waits for it any more.

        If the body returns an awaitable, it finishes when that has been awaited.
        """
        self._begin()
        try:
            result = body(*args, **kwargs)
        except BaseException as error:
            self._end(None, error)
            raise
        if inspect.isawaitable(result):
            return self._awaited(result)
        self._end(result, None)
        return result

    async def arun(self, body: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        """`run`, for an asynchronous body."""
        self._begin()
        try:
            work = body(*args, **kwargs)
        except BaseException as error:
            self._end(None, error)
            raise
        return await self._awaited(work)

    def over(self, settle: Callable[[], None]) -> None:
        """The framework has a result: `settle` ends the hold if the body returned.

        If the body raised, the hold ends as that of a block would, whatever the framework made of the
        exception. A body that is still running ends the hold later; one that never began never runs.
        """
        if self._begun.setdefault("by", "nobody") == "nobody":
            settle()
            return
        error = self._ended.setdefault("by", _ABANDONED)
        if error is _ABANDONED:
            return
        self._ended["by"] = None  # a stored exception would keep its frames alive, and this object
        if error is None:
            settle()
        else:
            self._finish(error)

    def left(
        self,
        unbegun: Callable[[], None] | None = None,
        returned: Callable[[], None] | None = None,
    ) -> None:
        """The wait is over without a result. A body that has not begun never runs.

        In that case nothing was charged, unless `unbegun` says otherwise. A body that has returned cost what
        was held, unless `returned` says otherwise.
        """
        if self._begun.setdefault("by", "nobody") == "nobody":
            release(self.hold) if unbegun is None else unbegun()
        else:
            self.over(returned or functools.partial(self.hold.finish, None))

    async def _awaited(self, work: Awaitable[Any]) -> Any:
        try:
            result = await work
        except BaseException as error:
            self._end(None, error)
            raise
        self._end(result, None)
        return result

    def _begin(self) -> None:
        if self._begun.setdefault("by", "body") != "body":
            msg = f"{self.hold.operation} does not run: its caller stopped waiting before it began"
            raise RuntimeError(msg)
        self._ended.pop("by", None)  # begun again: code inside retries

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self._ended.setdefault("by", error) is not _ABANDONED:
            return
        if error is None:
            self._settle(result)
        else:
            self._finish(error)

    def _finish(self, error: BaseException) -> None:
        if isinstance(error, Refused):
            release(self.hold)  # another guard, inside this one, refused the call
        else:
            self.hold.finish(error)


_ABANDONED: Any = object()


def release(hold: Hold) -> None:
    """Release the hold of a call that never began, unless the hold has already ended."""
    if hold.state == "open":
        hold.release()


def is_outcome_unknown(error: BaseException | None) -> bool:
    """Whether `error` comes from a time-out, or from a broken connection to a tool.

    The framework's error then describes only the wait; the outcome of the tool is unknown.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, TimeoutError) or unanswered(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def unanswered(error: BaseException) -> bool:
    """Whether `error` is an MCPError which says that no answer came, or none in time."""
    code = getattr(getattr(error, "error", None), "code", None)
    return type(code) is int and code in _UNANSWERED


# Codes of the MCP SDK (2.3, read 2026-11): connection closed, and request timed out. FastMCP (4.1)
# uses the first for a tool's own time-out.
_UNANSWERED = {-32000, -32001}


def within(function: Any) -> dict[str, Any]:
    """The contents of a function's closure, by name."""
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
