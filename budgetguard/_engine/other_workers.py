"""Whether this process is one of several workers that may spend from one account, as far as that can be told.

Only what is certain counts: the server or queue that runs this process, and what was in its parent. Whether
the others spend from the same account is for the reader of the log to say.
"""

import os
import sys

from budgetguard._core.events import logger
from budgetguard._engine.fork import start_afresh_by

_TOLD: list[None] = []


def tell_of_other_workers(provider: str, *, forked: bool) -> None:
    """Log once if there may be other workers, none of which sees what the others hold.

    `forked` if this process was forked from one that had guards of the account.
    """
    if _TOLD:
        return
    what = _runs_under()
    if what is not None:
        what = f"runs under {what}"
    elif forked:
        what = "was forked from one that has guards of the same account"
    else:
        return
    _TOLD.append(None)
    logger.info(
        "This process %s, and its guard of %s has no store. If other workers spend from that account, none "
        "of them sees what the others hold: docs/how-to/workers.md says how they share it.",
        what,
        provider,
    )


def _runs_under() -> str | None:
    """The program that runs this process as one of its workers; None if there is none, or only one worker."""
    if "gunicorn.arbiter" in sys.modules and "gunicorn" in os.environ.get("SERVER_SOFTWARE", ""):
        return "gunicorn"
    process = _current("multiprocessing.process")
    target = getattr(process, "_target", None)
    if getattr(target, "__module__", None) == "uvicorn._subprocess":
        config = getattr(process, "_kwargs", {}).get("config")
        # With --reload there is one worker.
        return "uvicorn" if getattr(config, "workers", 1) > 1 else None
    # Celery's own copy of multiprocessing. Its main process only hands out tasks.
    if "celery" in sys.modules and getattr(_current("billiard.process"), "_identity", None):
        return "Celery"
    return None


def _current(module: str) -> object:
    """The process as a module of that name describes it, if it has been imported."""
    find = getattr(sys.modules.get(module), "current_process", None)
    return find() if callable(find) else None


start_afresh_by(_TOLD.clear)
