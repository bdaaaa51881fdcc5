"""A key in the wrong place is shown nowhere: not in messages, nor notes, nor our frames' locals."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import budgetguard
from budgetguard import (
    AnchorBrowser,
    Balance,
    ConfigurationError,
    Guard,
    GuardPool,
    PreDev,
    require_credits,
    set_active,
    set_default_guard,
)
from budgetguard._cli.main import main
from budgetguard._core.activation import ACTIVATION
from budgetguard._core.argument_types import place, shown
from budgetguard.asgi import GuardMiddleware, require
from budgetguard.browser import Journal, Patience, areap, browser_session, reap
from budgetguard.integrations import guarded
from budgetguard.integrations._sdk import checked_costs
from budgetguard.integrations.tools import Tools
from budgetguard.routes import Routes
from budgetguard.testing import FakeProvider
from budgetguard.testing.sandbox import Fault, Sandbox
from budgetguard.transport import AsyncGuardTransport, GuardTransport

KEY: Any = "sk-live-0123456789abcdef"
PACKAGE = str(Path(budgetguard.__file__).parent)
URL = "https://a.example"


class Client:
    """An object with a method that spends."""

    def spec(self) -> None:
        """Spend."""


def guard() -> Guard:
    """Any guard."""
    return Guard(FakeProvider(100))


def transport(**options: Any) -> object:
    """A transport of any guard."""
    return GuardTransport(guard(), **{"prices": {("POST", "/a"): 1}, "base_url": URL} | options)


MISTAKES: dict[str, Callable[[], object]] = {
    "set_active": lambda: set_active(cast("Any", KEY)),
    "guard": lambda: Guard(KEY),
    **{
        f"guard {name}": lambda name=name: Guard(FakeProvider(), **{name: KEY})  # type: ignore[misc]
        for name in (
            *("fresh_for", "stale_for", "hold_for", "lag", "linger", "sole_spender", "floor"),
            *("recheck_after", "timeout", "if_unknown", "mode", "alert_below", "store", "on_event"),
        )
    },
    "require_credits": lambda: require_credits(KEY),
    **{
        f"require_credits {name}": lambda name=name: require_credits(**{"min": 1, name: KEY})  # type: ignore[misc]
        for name in (
            *("min", "cost", "actual", "slots", "wait", "lag", "linger", "release_on", "guard"),
            "on_refusal",
        )
    },
    "release_on among others": lambda: guard().require_credits(1, release_on=(OSError, KEY)),
    "release_on a list": lambda: guard().require_credits(1, release_on=[KEY]),  # type: ignore[arg-type]
    "guard's own": lambda: guard().require_credits(KEY),
    "decorated": lambda: guard().require_credits(1)(KEY),
    "acquire": lambda: guard().acquire(KEY),
    "acquire slots": lambda: guard().acquire(1, slots=KEY),
    "balance": lambda: guard().balance(KEY),
    "set_default_guard": lambda: set_default_guard(KEY),
    "pool": lambda: GuardPool(KEY),
    "pool's size": lambda: GuardPool(lambda _: guard(), KEY),
    "pool's guard": lambda: GuardPool(lambda key: key)[KEY],  # type: ignore[arg-type,return-value]
    "PreDev": lambda: PreDev(f"Bearer {KEY}"),
    "PreDev url": lambda: PreDev("k", base_url=KEY),
    "PreDev url's query": lambda: PreDev("k", base_url=f"{URL}?key={KEY}"),
    "PreDev url's user": lambda: PreDev("k", base_url=f"https://{KEY}@a.example"),
    "PreDev plain url": lambda: PreDev("k", base_url=f"http://{KEY}.example"),
    "PreDev extra": lambda: PreDev("k", extra_credits=KEY),
    "PreDev flag": lambda: PreDev("k", trust_env=KEY),
    "AnchorBrowser project": lambda: AnchorBrowser("k", f"{KEY} "[:5] + f"/{KEY}"),
    "FakeProvider": lambda: FakeProvider(KEY),
    "transport": lambda: GuardTransport(KEY),
    "awaiting transport": lambda: AsyncGuardTransport(KEY),
    "transport's own": lambda: transport(transport=KEY),
    "transport's url": lambda: transport(base_url=KEY),
    "transport's refusal": lambda: transport(on_refusal=KEY),
    "prices": lambda: transport(prices=KEY),
    "a price": lambda: transport(prices={("POST", "/a"): KEY}),
    "a price's key": lambda: transport(prices={KEY: 1}),
    "a price's method": lambda: transport(prices={(KEY, "/a"): 1}),
    "a price's path": lambda: transport(prices={("POST", KEY): 1}),
    "a price's query": lambda: transport(prices={("POST", f"/a?key={KEY}"): 1}),
    "a price's terms": lambda: transport(prices={("POST", "/a"): {KEY: 1}}),
    "a price's min": lambda: transport(prices={("POST", "/a"): {"min": KEY}}),
    "routes": lambda: Routes({(KEY, KEY, KEY): 1}),  # type: ignore[dict-item]
    "guarded": lambda: guarded(Client(), KEY, {"spec": 1}),
    "guarded costs": lambda: guarded(Client(), guard(), KEY),
    "guarded cost": lambda: guarded(Client(), guard(), {"spec": KEY}),
    "guarded name": lambda: guarded(Client(), guard(), {KEY: 1}),
    "guarded terms": lambda: guarded(Client(), guard(), {"spec": {KEY: 1}}),
    "tools": lambda: Tools(KEY, {"a": 1}),
    "tools' costs": lambda: Tools(guard(), KEY),
    "tools' cost": lambda: Tools(guard(), {"a": KEY}),
    "tools' terms": lambda: Tools(guard(), {"a": {KEY: 1}}),
    "a tool's refusal": lambda: Tools(guard(), {"a": {"min": 1, "on_refusal": KEY}}),
    "tools' refusal": lambda: Tools(guard(), {"a": 1}, on_refusal=KEY),
    "rules": lambda: GuardMiddleware(KEY, guard(), KEY),
    "a rule": lambda: GuardMiddleware(KEY, guard(), {("POST", "/a"): KEY}),
    "a rule's key": lambda: GuardMiddleware(KEY, guard(), {KEY: 1}),
    "a rule's path": lambda: GuardMiddleware(KEY, guard(), {("POST", KEY): KEY}),
    "a rule's terms": lambda: GuardMiddleware(KEY, guard(), {("POST", "/a"): {KEY: 1}}),
    "a rule's guard": lambda: GuardMiddleware(KEY, KEY, {("POST", "/a"): 1}),
    "require": lambda: require(guard(), min=KEY),
    "require's guard": lambda: require(KEY, min=1),
    "browser_session": lambda: browser_session(KEY, guard()),
    "browser_session's guard": lambda: browser_session(KEY, KEY),
    "browser_session's minutes": lambda: browser_session(KEY, guard(), KEY),
    "browser_session's journal": lambda: browser_session(KEY, guard(), journal=KEY),
    "reap": lambda: reap(KEY, Journal("x")),
    "reap's journal": lambda: reap(None, KEY),
    "Sandbox": lambda: Sandbox(KEY),
    "Sandbox's clock": lambda: Sandbox(1, clock=KEY),
    "settle": lambda: guard().acquire(1).settle(KEY),
    "extend": lambda: guard().acquire(1).extend(KEY),
    "charged": lambda: guard().acquire(1).charged(KEY),
    "Balance": lambda: Balance(KEY),
    "Balance limit": lambda: Balance(1, max_concurrency=KEY),  # type: ignore[arg-type]
    "Journal": lambda: Journal([KEY]),  # type: ignore[arg-type]
    "pool's key": lambda: GuardPool(lambda _: guard())[[KEY]],
    "what min says": lambda: guard().require_credits(lambda: KEY).__enter__(),
    "what cost says": lambda: guard().require_credits(1, cost=lambda: KEY).__enter__(),
    "what guard says": lambda: require_credits(1, guard=lambda: KEY).__enter__(),
    "routes as a text": lambda: Routes(KEY),
}
# What is no place for a key at all; frames are not looked at.
FIGURES: dict[str, Callable[[], object]] = {
    "Patience": lambda: Patience(tries=KEY),
    "Fault": lambda: Fault(status=KEY, pattern="/"),
}


def traces(error: BaseException) -> str:
    """All that can be seen of an error: messages, notes, causes, and the locals of our frames."""
    told = ["".join(traceback.format_exception_only(error)), repr(error), repr(vars(error))]
    seen: BaseException | None = error
    while seen is not None:
        told += [str(seen), repr(seen.args), *getattr(seen, "__notes__", [])]
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE):
                told += map(repr, frame.f_locals.values())
        seen = seen.__cause__ or seen.__context__
    return "\n".join(told)


NO_MAPPING: dict[str, Callable[[], object]] = {
    "prices": lambda: transport(prices=KEY),
    "routes": lambda: Routes(KEY),
    "an SDK's costs": lambda: checked_costs(KEY),
    "guarded costs": lambda: guarded(Client(), guard(), KEY),
    "tools' costs": lambda: Tools(guard(), KEY),
    "rules": lambda: GuardMiddleware(KEY, guard(), KEY),
}


@pytest.mark.parametrize("mistake", NO_MAPPING.values(), ids=NO_MAPPING)
def test_a_text_for_a_mapping(mistake: Callable[[], object]) -> None:
    """It is named by its type, and what is wanted is said."""
    with pytest.raises(TypeError, match=r"mapping of .*, not str$"):
        mistake()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_key_in_the_wrong_place_is_not_shown(
    mistake: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong argument is described by its type, with what to write instead."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises((TypeError, ValueError, AttributeError, ConfigurationError)) as wrong:
        mistake()
    assert KEY not in traces(wrong.value) + caplog.text
    assert str(wrong.value)


@pytest.mark.parametrize("mistake", FIGURES.values(), ids=FIGURES)
def test_no_message_shows_what_is_no_figure(mistake: Callable[[], object]) -> None:
    """The same words for every argument that is wrong."""
    with pytest.raises((TypeError, ValueError)) as wrong:
        mistake()
    assert KEY not in f"{wrong.value} {wrong.value.args}"


def test_the_likeliest_mistakes_say_what_to_write() -> None:
    """A key is for the provider."""
    with pytest.raises(TypeError, match=r"not str\. Pass a key to the provider: Guard\(PreDev\("):
        Guard(KEY)
    with pytest.raises(ValueError, match=r"min is not a number.*write it like 50"):
        require_credits(KEY)


@pytest.mark.anyio
async def test_awaiting_functions_show_no_more() -> None:
    """Their frames are forgotten as well."""
    for wrong in (lambda: guard().aacquire(KEY), lambda: areap(None, KEY)):
        with pytest.raises((TypeError, ValueError)) as said:
            await wrong()
        assert KEY not in traces(said.value)


def test_a_wrong_word_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch, and the two providers' own."""
    monkeypatch.setenv("BUDGETGUARD", KEY)
    ACTIVATION.read = False
    with pytest.raises(ConfigurationError, match="BUDGETGUARD has an unknown value") as wrong:
        ACTIVATION.read_environment()
    assert KEY not in traces(wrong.value)
    set_active(True)
    ACTIVATION.read = True
    monkeypatch.setenv("PREDEV_API_KEY", f"key {KEY}")
    with pytest.raises(ConfigurationError) as wrong:
        PreDev()
    assert KEY not in traces(wrong.value)


@pytest.mark.parametrize(
    "arguments",
    [
        *([KEY], ["check", "--min", KEY], ["check", f"--min={KEY}"], ["balance", KEY]),
        *(["balance", "--api-key", KEY], ["balance", f"--api-key={KEY}"]),
        ["balance", f"--{KEY}"],
        *(["balance", "--provider", KEY], ["balance", f"--json={KEY}"], ["sandbox", "--port", KEY]),
        *(["demo", "--seed", KEY], ["balance", "--provider", "predev", "--base-url", KEY]),
    ],
    ids=lambda arguments: " ".join(
        "KEY" if each == KEY else each.replace(KEY, "KEY") for each in arguments
    ),
)
def test_the_command_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usage errors do not show what was given, but say which argument it is."""
    monkeypatch.setenv("PREDEV_API_KEY", "k")
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert code == 2
    assert KEY not in out + err
    # A program that asked for JSON reads the error there.
    assert (out + err).strip()


def test_reprs_show_no_project() -> None:
    """A key that was given for the project's id looks like one."""
    assert KEY not in repr(AnchorBrowser("k", KEY))
    assert repr(AnchorBrowser("k")).startswith("AnchorBrowser(project_id=None, ")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "5"),
        (-2.5, "-2.5"),
        ("5", "a str"),
        (b"5", "a bytes"),
        (True, "a bool"),
        (None, "a NoneType"),
    ],
)
def test_what_is_shown(value: object, said: str) -> None:
    """Numbers; and of all else the type."""
    assert shown(value) == said


def test_places() -> None:
    """As they are counted in English."""
    things = list(range(1, 125))
    told = [place(things, each) for each in (1, 2, 3, 4, 11, 12, 13, 21, 22, 111, 123)]
    assert told == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "111th",
        "123rd",
    ]


def test_what_a_guard_is_made_of_stays_in_sight() -> None:
    """Errors that are not about arguments keep their frames."""
    with pytest.raises(ZeroDivisionError) as error:
        GuardPool(lambda _: 1 / 0)["x"]  # type: ignore[arg-type,return-value]
    assert error.traceback[-1].name == "<lambda>"
