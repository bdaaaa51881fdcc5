"""One call of a tool, told by the tool's own body: that it begins, and how it ends.

Who waits for a tool may stop waiting while the tool works on: frameworks run plain functions in
threads, and when a sibling fails or a time-out comes only the waiting ends. And what a framework
makes of a call says little about the tool: arguments it turned down and exceptions it made words of
look alike. So the hold of a call ends with what the body did.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from budgetguard.hold import Hold


class Refused(BaseException):
    """Carries out of a tool's body that it was not let in; `error` says why.

    No Exception: frameworks make words of those, or try again.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Turn:
    """A call that was let in, from there to the end of the tool's body or of the wait for it.

    The body runs through `run` or `arun`, which may be in a thread of its own. Who waits for it calls
    `over` or `left`, and ends the hold there if the body has ended by then; else the body does.
    """

    def __init__(self, hold: Hold, settle: Callable[[Any], None] | None = None) -> None:
        """`settle` ends the hold of a body that returns when nobody waits any more."""
        self.hold = hold
        self._settle = settle or (lambda _: hold.finish(None))
        # dict.setdefault is atomic: of a body that begins, or ends, and a wait that ends, one is first.
        self._begun: dict[str, str] = {}
        self._ended: dict[str, Any] = {}

    @property
    def began(self) -> bool:
        """Whether the tool's body was reached."""
        return self._begun.get("by") == "body"

    def run(self, body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a plain body; raises RuntimeError in place of it if nobody waits for it any more.

        One that gives back what is to be awaited ends when that has been.
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
        """`run`, for a body that is awaited."""
        self._begin()
        try:
            work = body(*args, **kwargs)
        except BaseException as error:
            self._end(None, error)
            raise
        return await self._awaited(work)

    def over(self, settle: Callable[[], None]) -> None:
        """The framework has a result: `settle` ends the hold, unless the body did not return.

        A body that raised ends it as a block would, whatever was made of that. A body that is still
        at work will end it, and one that never began never will.
        """
        if self._begun.setdefault("by", "nobody") == "nobody":
            settle()
            return
        error = self._ended.setdefault("by", _NOBODY_WAITS)
        if error is _NOBODY_WAITS:
            return
        self._ended["by"] = None  # an exception kept here would keep its frames, and this
        if error is None:
            settle()
        else:
            self._finish(error)

    def left(
        self,
        unbegun: Callable[[], None] | None = None,
        returned: Callable[[], None] | None = None,
    ) -> None:
        """The wait has ended without a result. A body that never began never will.

        Nothing was charged then, unless `unbegun` says otherwise; a body that has returned cost what
        was held, unless `returned` does.
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
            msg = f"{self.hold.operation} was given up before it began, and does not run"
            raise RuntimeError(msg)
        self._ended.pop("by", None)  # begun again: somebody inside tries anew

    def _end(self, result: Any, error: BaseException | None) -> None:
        if self._ended.setdefault("by", error) is not _NOBODY_WAITS:
            return
        if error is None:
            self._settle(result)
        else:
            self._finish(error)

    def _finish(self, error: BaseException) -> None:
        if isinstance(error, Refused):
            release(self.hold)  # another guard, inside of this one, let nothing run
        else:
            self.hold.finish(error)


_NOBODY_WAITS: Any = object()


def release(hold: Hold) -> None:
    """Give back the hold of a call that never began, unless it has ended."""
    if hold.state == "open":
        hold.release()


def in_the_dark(error: BaseException | None) -> bool:
    """Whether `error` was raised because of a time-out, or because a connection to a tool broke.

    What a framework says then, it says of the wait, and knows nothing of the tool.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, TimeoutError) or unanswered(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def unanswered(error: BaseException) -> bool:
    """Whether `error` is an MCPError that says that no answer came, or none in time."""
    code = getattr(getattr(error, "error", None), "code", None)
    return type(code) is int and code in _UNANSWERED


# Of the MCP SDK (2.3, read 2026-11): connection closed, and request timed out. FastMCP (4.1)
# has the first for a tool's own time-out.
_UNANSWERED = {-32000, -32001}


def within(function: Any) -> dict[str, Any]:
    """What a function finds in its closure, by name."""
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
