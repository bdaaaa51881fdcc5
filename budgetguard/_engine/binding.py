"""What the layers below a Guard need from it: its side of the account, and a reference to the guard."""

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from budgetguard._core.events import logger
from budgetguard._engine.fast_path import open_for

if TYPE_CHECKING:
    from budgetguard._core.clock import Clock
    from budgetguard._engine.account import Account
    from budgetguard._engine.subscriber import Subscriber
    from budgetguard.providers.base import Profile


class GuardBinding:
    """One guard's provider and account, and its calls' default `lag` and `linger`, in seconds."""

    __slots__ = ("_logged", "account", "lag", "linger", "listened", "provider", "subscriber")

    def __init__(
        self,
        provider: "Profile",
        account: "Account",
        subscriber: "Subscriber",
        *,
        lag: float,
        linger: float,
    ) -> None:
        # This guard's own provider. The account has that of its first guard.
        self.provider = provider
        self.account = account
        self.subscriber = subscriber
        self.lag = lag
        self.linger = linger
        self.listened = subscriber.on_event is not None
        self._logged: set[str] = set()

    @property
    def _binding(self) -> "GuardBinding":
        # Lets a binding be used in place of its guard where the guard must not be kept alive.
        return self

    @property
    def clock(self) -> "Clock":
        """The clock that this guard uses."""
        return self.account.runtime.clock

    def check_open(self, operation: str) -> None:
        """Raise RuntimeError if the guard was closed."""
        if self.subscriber.closed:
            msg = (
                f"{operation} was called after the guard of {self.subscriber.provider} was closed."
            )
            raise RuntimeError(msg)

    def log_once(self, what: str, level: int, message: str, *args: object) -> None:
        """Log a message once per guard; `what` identifies the message."""
        if what not in self._logged:
            self._logged.add(what)
            logger.log(level, message, *args)


class Bound(Protocol):
    """An object with a binding: a Guard, or a binding itself."""

    @property
    def _binding(self) -> GuardBinding: ...


def binding_of(guard: Any) -> GuardBinding:
    """The binding of a Guard; raises TypeError for any other object, naming its type."""
    binding = getattr(guard, "_binding", None)
    if isinstance(binding, GuardBinding):
        return binding
    msg = f"guard takes a Guard or a callable, not {type(guard).__name__}"
    raise TypeError(msg)


G = TypeVar("G", bound=Bound)


class GuardRef(Generic[G]):
    """A reference to a function's guard, which may not exist yet.

    `binding` is that guard's binding. After the guard was replaced, it is None until that guard has
    admitted a call.
    """

    def __init__(self, guard: G | None) -> None:
        self._guard = guard
        self.binding = None if guard is None else binding_of(guard)

    @property
    def guard(self) -> G | None:
        """The guard, if there is one."""
        return self._guard

    @guard.setter
    def guard(self, guard: G | None) -> None:
        self._guard = guard
        self.binding = None

    def found(self, binding: GuardBinding) -> None:
        """That guard admitted a call, so that later calls may use its fast path."""
        guard = self._guard
        if guard is None or guard._binding is not binding:  # noqa: SLF001  the protocol's
            return
        open_for(binding.subscriber, binding.account)
        self.binding = binding
        # Checked last, because a thread that replaces the guard sets `_guard` first.
        if self._guard is not guard:
            self.binding = None
