"""A guard's event listeners: called one after the other, and kept apart from the calls that they hear of."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from budgetguard._core.call_context import CallContext
from budgetguard._core.events import Event, OnEvent, report
from budgetguard._core.reentrancy import CALL_STATE, Inside
from budgetguard._core.sync_callables import check_plain


class _Here(threading.local):
    """Each thread's own marker for being inside a listener; one per thread is enough, and is reused."""

    def __init__(self) -> None:
        self.inside = Inside()
        self.ident = threading.get_ident()


_HERE = _Here()

# Not all of them are resumed, and more than a few at once means that a program is being stopped.
_MOST_INTERRUPTED = 8


class EventListener:
    """One listener of one guard."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._complained = False
        # An interrupted delivery is resumed, maybe after later events, and must not deliver twice.
        self._delivered: Event | None = None
        self._interrupted: deque[Event] = deque(maxlen=_MOST_INTERRUPTED)

    def deliver(self, event: Event) -> None:
        """Call the listener with an event, on this thread."""
        if event is self._delivered or (self._interrupted and _has(self._interrupted, event)):
            return
        self._delivered = event
        here, token = _HERE, None
        own = inside = here.inside
        # A listener may end a hold of another guard, whose listener is then called inside this one.
        before = inside.thread
        try:
            inside.thread = here.ident
            token = CALL_STATE.set(inside)
            around = token.old_value
            if isinstance(around, CallContext):
                # The threads and tasks that the listener starts are in the budgets around the call.
                inside = own.within(around)
                CALL_STATE.set(inside)
            self._on_event(event)
        except BaseException as error:
            # On the main thread this is most likely Ctrl-C, or a SIGTERM handler that exits. On any
            # other thread no signal arrives, and the error would end a thread that serves others.
            if isinstance(error, KeyboardInterrupt | SystemExit) and _receives_signals():
                self._interrupted.append(event)
                raise
            if not self._complained:
                self._complained = True
                message = "on_event raised an error for %r; further errors are not logged"
                report(message, event.kind, exc_info=True)
        finally:
            inside.thread = None
            own.thread = before
            if token is not None:
                CALL_STATE.reset(token)


class _Several:
    """The listeners of one guard, in the order in which they were given."""

    def __init__(self, listeners: Sequence[OnEvent]) -> None:
        self._listeners = [EventListener(each) for each in listeners]
        self._interrupted: deque[Event] = deque(maxlen=_MOST_INTERRUPTED)

    def deliver(self, event: Event) -> None:
        """Call each listener, also if one of them is interrupted; the first interrupt is raised then."""
        if self._interrupted and _has(self._interrupted, event):
            return
        interrupt: BaseException | None = None
        for listener in self._listeners:
            try:
                listener.deliver(event)
            except BaseException as error:  # noqa: BLE001  raised below
                interrupt = interrupt or error
        if interrupt is not None:
            self._interrupted.append(event)
            try:
                raise interrupt
            finally:
                # Its traceback refers to this frame.
                del interrupt


def delivery_to(listeners: Sequence[OnEvent]) -> Callable[[Event], None]:
    """What delivers an event to these listeners. A single one is called without a step in between."""
    return (
        EventListener(listeners[0]).deliver if len(listeners) == 1 else _Several(listeners).deliver
    )


def checked_listeners(given: OnEvent | Sequence[OnEvent] | None) -> tuple[OnEvent, ...]:
    """`on_event` as a tuple. Raises TypeError for what is neither a callable nor a list or tuple of them."""
    if given is None:
        return ()
    if callable(given):
        given = (given,)
    elif not isinstance(given, list | tuple):
        msg = f"on_event takes a callable, or a list or tuple of them, not {type(given).__name__}"
        raise TypeError(msg)
    for number, each in enumerate(given, 1):
        if not callable(each):
            msg = f"on_event takes callables, and number {number} of its list is {type(each).__name__}"
            raise TypeError(msg)
        check_plain(each, "on_event")
    return tuple(given)


def _has(events: Iterable[Event], event: Event) -> bool:
    # By identity: two events of one moment may be equal.
    return any(each is event for each in events)


def _receives_signals() -> bool:
    return threading.get_ident() == threading.main_thread().ident
