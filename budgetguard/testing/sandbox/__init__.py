"""A real HTTP server on loopback that serves the providers' APIs, for tests and demos."""

try:
    from budgetguard.testing.sandbox.server import Sandbox, serve
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in {"starlette", "uvicorn", "h11"}:
        raise
    msg = (
        "the sandbox needs starlette and uvicorn. Install them from the checkout's top folder: "
        'python -m pip install ".[sandbox]"'
    )
    raise ImportError(msg, name=error.name) from error

from budgetguard.testing.sandbox.account import Account, Operation
from budgetguard.testing.sandbox.batches import TASK_FLOOR
from budgetguard.testing.sandbox.browsers import BROWSER_CREATED, BROWSER_MINUTE
from budgetguard.testing.sandbox.faults import Fault
from budgetguard.testing.sandbox.gateway import INPUT_TOKEN, OUTPUT_TOKEN
from budgetguard.testing.sandbox.pages import PROXY_MB
from budgetguard.testing.sandbox.specs import DEEP_SPEC, FAST_SPEC
from budgetguard.testing.sandbox.vendor import PaidRequests, Vendor
from budgetguard.testing.sandbox.web_tasks import AI_STEP

__all__ = [
    "AI_STEP",
    "BROWSER_CREATED",
    "BROWSER_MINUTE",
    "DEEP_SPEC",
    "FAST_SPEC",
    "INPUT_TOKEN",
    "OUTPUT_TOKEN",
    "PROXY_MB",
    "TASK_FLOOR",
    "Account",
    "Fault",
    "Operation",
    "PaidRequests",
    "Sandbox",
    "Vendor",
    "serve",
]
