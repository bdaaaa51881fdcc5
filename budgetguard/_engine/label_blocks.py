"""The block that `guard.labels(...)` makes: what the code around a call says about it."""

from types import TracebackType
from typing import Any

from budgetguard._core.call_context import CallContext, leave
from budgetguard._core.labels import NO_LABELS, Labels
from budgetguard._engine.binding import GuardBinding
from budgetguard._engine.budget_blocks import context_around, open_context


class LabelBlock:
    """A block whose labels are carried to the errors and events of the calls in it. Entered once.

    Labels of an inner block are added, and win over those of an outer one.
    """

    __slots__ = ("_binding", "_context", "_labels")

    def __init__(self, binding: GuardBinding, labels: Labels) -> None:
        self._binding = binding
        self._labels = labels
        self._context: CallContext[Any] | None = None

    def __enter__(self) -> None:
        if self._context is not None:
            msg = "This labels(...) block was entered already. Make a new one for each block"
            raise RuntimeError(msg)
        around = context_around(self._binding.account)
        outer = NO_LABELS if around is None else around.labels
        self._context = open_context(
            self._binding,
            () if around is None else around.budgets,
            None if around is None else around.reserve,
            outer.joined(self._labels),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._context is not None
        leave(self._context)


def checked_labels(labels: dict[str, object]) -> Labels:
    """Labels as text; raises TypeError for a value that is neither text nor a whole number."""
    checked: dict[str, str] = {}
    for name, value in labels.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            msg = f"labels takes str or int values, not {type(value).__name__}"
            raise TypeError(msg)
        checked[name] = str(value)
    return Labels(checked)
