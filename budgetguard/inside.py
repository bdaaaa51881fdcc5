"""Whether the code that runs now was called by the library itself."""

from contextvars import ContextVar

INSIDE: ContextVar[bool] = ContextVar("budgetguard_inside", default=False)
"""True in a provider's fetch and in `on_event`: a guarded call there would wait for itself."""
