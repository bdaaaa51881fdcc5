"""A real HTTP server on loopback that speaks both providers' APIs, for tests and demos."""

try:
    from budgetguard.testing.sandbox.server import Sandbox, serve
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in {"starlette", "uvicorn", "h11"}:
        raise
    msg = 'the sandbox needs starlette and uvicorn: pip install "budgetguard-preflight[sandbox]"'
    raise ImportError(msg, name=error.name) from error

from budgetguard.testing.sandbox.account import Account, Operation
from budgetguard.testing.sandbox.batches import TASK_FLOOR
from budgetguard.testing.sandbox.browsers import BROWSER_CREATED, BROWSER_MINUTE
from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.specs import DEEP_SPEC, FAST_SPEC

__all__ = [
    "BROWSER_CREATED",
    "BROWSER_MINUTE",
    "DEEP_SPEC",
    "FAST_SPEC",
    "TASK_FLOOR",
    "Account",
    "Fault",
    "Operation",
    "Sandbox",
    "serve",
]
