"""A look that was begun and never launched, as an interrupt can leave it, is not waited for long."""

import pytest
from staging import Caller, until, waiting

from budgetguard import BalanceUnavailable, Guard
from budgetguard.testing import FakeProvider, HandClock


def test_a_lost_look_is_replaced(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it hears so at its deadline; a little later the next one is made."""
    provider = FakeProvider(100)
    guard = Guard(provider)
    launched: list[object] = []
    with monkeypatch.context() as interrupted:
        interrupted.setattr(guard.runtime, "submit", launched.append)
        caller = Caller(lambda: guard.acquire(1))
        until(lambda: waiting(guard) == 1)
        clock.advance(10)
        assert isinstance(caller.outcome(), BalanceUnavailable)
    assert len(launched) == 1
    clock.advance(6)
    with pytest.raises(BalanceUnavailable, match="no answer within 10 s"):
        guard.acquire(1)
    clock.advance(1)
    guard.acquire(1).release()
    assert provider.requests == 1
