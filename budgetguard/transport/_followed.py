"""Work that goes on after its reply, and work whose reply was lost, as a transport sees them.

The provider's `billing` says which work a reply is about, and how to ask about it.
"""

from typing import TYPE_CHECKING, Any

from budgetguard._engine.follower import FollowedAccount, Sending, ask_list, ask_status, follower_of
from budgetguard._engine.submitted_work import StatusRequest, Work
from budgetguard.providers.billing import Billing, BillingReply, read
from budgetguard.transport._body import BodyEnd
from budgetguard.transport._retries import content_of

if TYPE_CHECKING:
    from budgetguard._engine.hold import Hold
    from budgetguard.providers.base import Profile


class WorkOfReplies:
    """The work of one transport's requests, followed by their account."""

    def __init__(self, provider: "Profile", account: FollowedAccount) -> None:
        self._provider = provider
        self._account = account

    @property
    def finds_work(self) -> bool:
        """Whether the provider's billing names the work that goes on after a reply, at least of some."""
        return type(self._provider.billing).work is not Billing.work

    def knows(self, path: str) -> bool:
        """Whether the status of followed work is found at this path."""
        follower = self._account.follower
        return follower is not None and follower.get(path) is not None

    def told(self, path: str, response: Any, end: BodyEnd, content: bytes | None) -> None:
        """The program received a reply about followed work."""
        complete = end is BodyEnd.COMPLETE
        reply = read(path, response.status_code, response.headers, content, complete=complete)
        status = self._provider.billing.status(reply)
        follower = self._account.follower
        work = None if follower is None else follower.get(path)
        if follower is not None and work is not None and status is not None:
            follower.tell(work, status)

    def claim(self, reply: BillingReply) -> None:
        """A call is over whose work the reply names."""
        path = self._provider.billing.work(reply)
        if path is not None:
            follower_of(self._account).claim(path)

    def follow(self, hold: "Hold", reply: BillingReply) -> bool:
        """Follow the work that goes on after a reply; False if the reply names none."""
        path = self._provider.billing.work(reply)
        if path is None:
            return False
        work = Work(hold, path, self._ask(path), trust_env=self._provider.trust_env)
        return follower_of(self._account).follow(work)

    def sending(self, path: str, request: Any) -> Sending | None:
        """A request is about to be sent; None if its work could not be searched for."""
        content = content_of(request)
        if content is None:
            return None
        lost = self._provider.billing.lost(path, content)
        return None if lost is None else follower_of(self._account).sending(lost)

    def search(self, hold: "Hold", sending: Sending, cause: str | None) -> bool:
        """Search for the work of a call whose reply was lost; `cause` is the name of its exception."""
        follower = follower_of(self._account)
        ask = ask_list(
            self._provider, follower, sending, self._account.runtime.clock.wall(), self._ask
        )
        work = Work(hold, None, ask, trust_env=self._provider.trust_env, cause=cause)
        return follower.search(work)

    def _ask(self, path: str) -> StatusRequest:
        return ask_status(self._provider, path, self._provider.billing.status)
