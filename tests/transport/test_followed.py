"""Submitted work behind a transport, and requests without a reply: both libraries, plain and awaiting."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import httpx
import pytest
from followed import BATCH, BEGUN, LIST, STATUS, at_rest, elapsed, follower
from web import Web

from budgetguard import Balance, Event, Guard, PreDev
from budgetguard._core.activation import ACTIVATION
from budgetguard._core.status_schedule import LEFT_ALONE
from budgetguard._engine.binding import binding_of
from budgetguard.providers.billing import Billing, BillingReply, WorkStatus, parse
from budgetguard.testing import HandClock
from budgetguard.testing.sandbox import Sandbox
from budgetguard.transport import GuardTransport

pytestmark = [
    pytest.mark.anyio,
    # The libraries leave generators of their own to trio where a reply is not read to its end.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]

KEY = Sandbox.predev_key
SPEC = {"input": "A web shop for a bakery"}
LATER = SPEC | {"async": True}
TASKS = {"tasks": [{"url": "https://example.com"}] * 4, "async": True}


@pytest.fixture
def anyio_backend(way: tuple[str, str]) -> str:
    """Give the loop that the test runs on."""
    return way[1] or "asyncio"


@pytest.fixture
def sandbox(open_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """Give one whose time is moved by hand."""
    return open_sandbox(300, clock="manual", speed=1)


class Scene:
    """A guard of pre.dev's account there, what it tells, and time."""

    def __init__(self, sandbox: Sandbox, clock: HandClock) -> None:
        clock.set_wall(BEGUN)
        self.kinds: list[str] = []
        self.causes: list[str | None] = []
        self.guard = Guard(PreDev(KEY, base_url=sandbox.url), on_event=self._note)
        self.sandbox = sandbox
        self._elapse = elapsed(clock, self.guard)

    def _note(self, event: Event) -> None:
        if event.kind in {"settled", "kept", "released"}:
            self.kinds.append(event.kind)
            self.causes.append(event.reason)

    def elapse(self, seconds: float, step: float = 15) -> None:
        """Let it pass, at the provider first."""
        self._elapse(self.sandbox, seconds, step)

    def is_exact(self) -> bool:
        """Whether the guard knows exactly what is left."""
        self.guard.balance(max_age=0)
        return self.guard.available == self.sandbox.predev.balance


@pytest.fixture
def scene(sandbox: Sandbox, clock: HandClock) -> Scene:
    """Give one."""
    return Scene(sandbox, clock)


async def test_work_that_nobody_polls_is_settled_at_its_real_cost(
    web: Web, scene: Scene, sandbox: Sandbox
) -> None:
    """A spec and a batch, also after their client was closed."""
    await web.open(scene.guard, key=KEY)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    await web.send("POST", f"{sandbox.url}/browser-agent", json=TASKS)
    await web.close()
    scene.elapse(120)
    assert sandbox.requests[BATCH] >= 1
    assert "kept" not in scene.kinds
    scene.elapse(280)
    assert scene.kinds == ["settled", "settled"]
    assert 2 <= sandbox.requests[STATUS] <= 400 / 30
    assert scene.is_exact()


async def test_work_that_the_program_polls_is_left_alone(
    web: Web, scene: Scene, sandbox: Sandbox
) -> None:
    """Its replies move what was charged, and postpone our requests; the last one settles."""
    await web.open(scene.guard, key=KEY)
    submitted = await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    status = f"{sandbox.url}/spec-status/{submitted.json()['specId']}"
    polls = 0
    while True:
        scene.elapse(25, step=25)
        reply = (await web.send("GET", status)).json()
        polls += 1
        assert sandbox.requests[STATUS] == polls
        if reply["status"] == "completed":
            break
        [work] = follower(scene.guard)._by_path.values()
        assert work.hold.charged_micro == reply["creditsUsed"] * 10**6
    assert scene.kinds == ["settled"]
    assert scene.guard.available == 300 - Decimal(str(reply["creditsUsed"]))


async def test_a_program_that_stops_polling(web: Web, scene: Scene, sandbox: Sandbox) -> None:
    """Two minutes after its last reply, ours begin; replies that tell nothing do not count."""
    await web.open(scene.guard, key=KEY)
    submitted = await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    status = f"{sandbox.url}/spec-status/{submitted.json()['specId']}"
    sandbox.fault("/spec-status/*", body={"status": "processing", "creditsUsed": 3}, times=1)
    await web.send("GET", status)
    sandbox.fault("/spec-status/*", status=500, times=1)
    scene.elapse(LEFT_ALONE - 5)
    await web.send("GET", status)
    assert sandbox.requests[STATUS] == 2
    scene.elapse(10)
    assert sandbox.requests[STATUS] == 3


@pytest.mark.parametrize("how", ["hang", "reset", "cancel"])
async def test_a_request_without_a_reply_is_found(
    web: Web, scene: Scene, sandbox: Sandbox, how: str
) -> None:
    """It timed out, broke or was cancelled, and its spec was begun: followed, and settled."""
    if how == "cancel" and not web.awaiting:
        pytest.skip("plain code cannot be cancelled")
    await web.open(scene.guard, key=KEY, timeout=0.2 if how == "hang" else 10)
    address = f"{sandbox.url}/deep-spec"
    if how == "hang":
        with pytest.raises(web.library.TransportError):
            await web.send("POST", address, json=SPEC)
    elif how == "reset":
        await web.library_post(address, json=LATER, headers={"authorization": f"Bearer {KEY}"})
        sandbox.fault("/deep-spec", reset=True)
        with pytest.raises(web.library.TransportError):
            await web.send("POST", address, json=SPEC)
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: web.send("POST", address, json=SPEC))
            with anyio.fail_after(10):
                while not sandbox.predev.running:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert sandbox.wait_until(lambda: sandbox.predev.running == 1)
    assert (scene.guard.available, scene.kinds) == (250, [])
    scene.elapse(400)
    assert scene.kinds == ["settled"]
    assert sandbox.requests[LIST] == 1
    assert scene.is_exact()


async def test_a_request_that_began_nothing_is_kept(
    web: Web, scene: Scene, sandbox: Sandbox
) -> None:
    """Under the name of what broke it; and one of two that could be it, too."""
    await web.open(scene.guard, key=KEY)
    sandbox.fault("/deep-spec", reset=True, times=1)
    with pytest.raises(web.library.TransportError) as broken:
        await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC)
    scene.elapse(30)
    assert (scene.kinds, scene.causes) == (["kept"], [type(broken.value).__name__])
    for _ in range(2):
        await web.library_post(
            f"{sandbox.url}/deep-spec", json=LATER, headers={"authorization": f"Bearer {KEY}"}
        )
    sandbox.fault("/deep-spec", status=500, times=1)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC)
    scene.elapse(30)
    assert scene.kinds == ["kept", "kept"]
    assert sandbox.requests[LIST] == 2


async def test_a_reply_that_breaks_off_is_searched_for(
    web: Web, scene: Scene, sandbox: Sandbox
) -> None:
    """A half of it names nothing, and the list has it."""
    await web.open(scene.guard, key=KEY)
    await web.library_post(
        f"{sandbox.url}/fast-spec", json=LATER, headers={"authorization": f"Bearer {KEY}"}
    )
    body = '{"creditsUsed": 1, "status": "completed"}\n\n'
    sandbox.fault("/fast-spec", status=200, body=body, size=1_000_000, drip=0.0001)
    async with web.stream("POST", f"{sandbox.url}/fast-spec", json=SPEC) as lines:
        assert "creditsUsed" in await anext(lines)
    scene.elapse(120)
    assert scene.kinds == ["settled"]
    assert scene.is_exact()


async def test_with_follow_false_nothing_is_asked(web: Web, scene: Scene, sandbox: Sandbox) -> None:
    """Submitted work is kept at once, and so is a request without a reply."""
    await web.open(scene.guard, key=KEY, follow=False)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    sandbox.fault("/deep-spec", status=500)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=SPEC)
    assert scene.kinds == ["kept", "kept"]
    scene.elapse(200)
    assert sandbox.requests[STATUS] == sandbox.requests[LIST] == 0


@pytest.mark.parametrize("way", ["httpx"], indirect=True)
async def test_a_long_status_is_read_to_its_end(web: Web, scene: Scene, sandbox: Sandbox) -> None:
    """A finished spec is in its status, up to 8 MiB of it."""
    await web.open(scene.guard, key=KEY)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    sandbox.fault("/spec-status/*", size=8 * 1024 * 1024)
    scene.elapse(400)
    assert scene.kinds == ["settled"]
    assert scene.is_exact()


@pytest.mark.parametrize("way", ["httpx"], indirect=True)
async def test_switched_off_nothing_is_asked(web: Web, scene: Scene, sandbox: Sandbox) -> None:
    """There is no hold to follow."""
    ACTIVATION.set_active(False)
    await web.open(scene.guard, key=KEY)
    await web.send("POST", f"{sandbox.url}/deep-spec", json=LATER)
    assert binding_of(scene.guard).account.follower is None


@pytest.mark.parametrize("way", ["httpx"], indirect=True)
async def test_elsewhere_nothing_is_asked(
    web: Web, scene: Scene, sandbox: Sandbox, open_sandbox: Callable[..., Sandbox]
) -> None:
    """The provider's key and address are for its own work, not for another server's."""
    other = open_sandbox(100, clock="manual", speed=1)
    await web.open(scene.guard, key=KEY, base_url=other.url)
    await web.send("POST", f"{other.url}/deep-spec", json=LATER)
    scene.elapse(100)
    assert scene.kinds == ["kept"]
    assert other.requests[STATUS] == sandbox.requests[STATUS] == 0


class Jobs(Billing):
    """What another vendor's replies say."""

    def cost_of(self, reply: BillingReply) -> Any:
        return "keep" if reply.field("state") == "queued" else super().cost_of(reply)

    def work(self, reply: BillingReply) -> str | None:
        return f"/jobs/{reply.field('job')}" if reply.field("job") else None

    def status(self, reply: BillingReply) -> WorkStatus | None:
        price = reply.field("price")
        return WorkStatus(end=price) if reply.field("state") == "done" else WorkStatus(price)


class Vendor:
    """Another vendor, which sells by credits too."""

    name = "Jobs Inc."
    base_url = "https://jobs.example"
    prices = {("POST", "/jobs"): 40}  # noqa: RUF012
    billing = Jobs()

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.state = "queued"

    async def fetch(self, client: Any) -> Balance:
        return Balance(credits=100)

    async def fetch_reply(self, client: Any, path: str) -> BillingReply:
        self.asked.append(path)
        body = {"job": "j1", "state": self.state, "price": 7}
        return BillingReply(path, 200, {}, json.dumps(body).encode())


def test_another_vendor_says_how_to_ask(clock: HandClock) -> None:
    """Nothing else knows of a vendor: its billing reads the replies, its provider requests them."""
    vendor = Vendor()
    guard = Guard(vendor)

    def answer(request: Any) -> Any:
        return httpx.Response(200, json={"job": "j1", "state": "queued"})

    with httpx.Client(
        transport=GuardTransport(guard, transport=httpx.MockTransport(answer))
    ) as client:
        client.post("https://jobs.example/jobs", json={})
    clock.advance(60)
    at_rest(guard)
    assert (vendor.asked, guard.available) == (["/jobs/j1"], 60)
    [work] = follower(guard)._by_path.values()
    assert work.hold.charged_micro == 7_000_000
    vendor.state = "done"
    clock.advance(60)
    at_rest(guard)
    assert (len(vendor.asked), guard.available) == (2, 93)


def test_a_status_costs_nothing_and_needs_no_hold(sandbox: Sandbox, clock: HandClock) -> None:
    """A request for work that nobody follows passes untouched."""
    guard = Guard(PreDev(KEY, base_url=sandbox.url))
    with httpx.Client(
        transport=GuardTransport(guard), headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        assert client.get(f"{sandbox.url}/spec-status/unknown").status_code == 404
    assert binding_of(guard).account.follower is None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"status": "processing", "creditsUsed": 3}', WorkStatus(charged=Decimal(3))),
        ('{"status": "pending"}', WorkStatus()),
        ('{"status": "completed", "creditsUsed": 7.5}', WorkStatus(end=Decimal("7.5"))),
        ('{"status": "completed", "totalCreditsUsed": 2}', WorkStatus(end=Decimal(2))),
        ('{"status": "completed", "creditsUsed": "?"}', WorkStatus(end="cost")),
        ('{"status": "failed", "creditsUsed": 4}', WorkStatus(end=Decimal(4))),
        ('{"status": "failed"}', WorkStatus(end="keep")),
        ('{"status": "odd", "creditsUsed": 4}', None),
        ('{"creditsUsed": 4}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_what_a_status_says(text: str, status: WorkStatus | None) -> None:
    """Its figures as they are documented, and nothing where it says nothing."""
    billing = PreDev.billing
    assert billing.status(BillingReply("/spec-status/s1", 200, {}, text.encode())) == status
    assert billing.status(BillingReply("/spec-status/s1", 500, {}, text.encode())) is None
    gone = billing.status(BillingReply("/spec-status/s1", 404, {}, b"{}"))
    assert gone == WorkStatus(end="keep")


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("/fast-spec", '{"specId": "s1", "status": "pending"}', "/spec-status/s1"),
        ("/deep-spec", '{"_id": "s1", "status": "completed"}', "/spec-status/s1"),
        ("/browser-agent", '{"id": "b1"}', "/browser-agent/b1"),
        ("/deep-spec", '{"specId": "../v1/x?a=1"}', "/spec-status/..%2Fv1%2Fx%3Fa%3D1"),
        ("/deep-spec", '{"specId": ".."}', None),
        ("/deep-spec", '{"specId": ""}', None),
        ("/deep-spec", '{"specId": 7}', None),
        ("/v1/responses", '{"id": "r1"}', None),
    ],
)
def test_which_work_a_reply_is_about(path: str, text: str, found: str | None) -> None:
    """An id is one segment of a path, whatever is in it."""
    assert parse(text.encode()) is not None
    assert PreDev.billing.work(BillingReply(path, 200, {}, text.encode())) == found
    assert PreDev.billing.work(BillingReply(path, 402, {}, text.encode())) is None
