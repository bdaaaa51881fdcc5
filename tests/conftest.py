"""Fixtures that all tests share."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from budgetguard._core.activation import ACTIVATION
from budgetguard._engine.account_registry import _PROCESS
from budgetguard.defaults import DEFAULT
from budgetguard.providers.registry import VENDORS
from budgetguard.testing import HandClock, hand_clock

# The suite tries the same examples every time; the long run looks for others.
settings.register_profile("suite", derandomize=not os.environ.get("BUDGETGUARD_LONG"))
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Programs that tests start end on Ctrl-C, also where a shell's background job ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def few_to_collect() -> Iterator[None]:
    """Leave what was there before out of the test's collections: they take as long as there is much."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def clock() -> Iterator[HandClock]:
    """A clock turned by hand, for guards made during the test."""
    with hand_clock() as clock:
        yield clock


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _as_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Leave the switch, the default guard and the accounts as they were; none of our variables is set.

    A later sandbox may get an earlier one's port: its account would be taken for the same.
    """
    keys = [vendor.variable for vendor in VENDORS.values()]
    for name in (
        *keys,
        *(key.replace("_API_KEY", "_BASE_URL") for key in keys),
        "ANCHORBROWSER_PROJECT_ID",
        "DEEPSEEK_CURRENCY",
        "MOONSHOT_CURRENCY",
        "OPENROUTER_MANAGEMENT_KEY",
        "BUDGETGUARD",
        "BUDGETGUARD_PROVIDER",
    ):
        monkeypatch.delenv(name, raising=False)
    # Not the user's own, which may be there.
    monkeypatch.setenv("BUDGETGUARD_PAUSE_DIR", str(tmp_path_factory.getbasetemp() / "no pauses"))
    switch, guard, known = ACTIVATION.save(), DEFAULT.guard, set(_PROCESS.named)
    yield
    ACTIVATION.restore(switch)
    DEFAULT.guard = guard
    for name in set(_PROCESS.named) - known:
        del _PROCESS.named[name]
