"""The right to refresh the balance of a shared account does not go with the member that has it."""

import pytest

from budgetguard._core.shared_head import SharedHead
from budgetguard._core.store_messages import NEVER, Join, Message


@pytest.mark.parametrize("leaves", [True, False], ids=["it leaves", "it dies"])
def test_who_waits_refreshes_itself(leaves: bool) -> None:
    """A member that goes while it refreshes lets the next one begin at once."""
    head = SharedHead("epoch")

    def send(member: str, number: int, *, leave: bool = False, dead: tuple[str, ...] = ()) -> str:
        message = Message(
            member,
            number,
            "epoch",
            join=Join(None),
            refresh_after=NEVER,
            refresh_timeout=10.0,
            leave=leave,
        )
        reply, woken = head.handle(message, 1.0, dead)
        return f"{reply.refresh} {' '.join(sorted(woken))}".strip()

    assert send("a", 1) == "yours"
    assert send("b", 1) == "wait"
    if leaves:
        assert send("a", 2, leave=True) == "b"
        assert send("b", 2) == "yours"
    else:
        assert send("b", 2, dead=("a",)) == "yours"
