"""A key is shown to whoever reveals it, and to nobody else."""

import copy
import pickle
import traceback

import pytest

from budgetguard._core.errors import ConfigurationError
from budgetguard._io.credentials import Credential, Secret

KEY = "pdk_canary"


def test_white_space_around_a_key_is_stripped() -> None:
    """A trailing newline, as `cat key > .env` leaves it, would end up in the client's errors."""
    assert Secret(f" \t{KEY}\r\n", "The key").reveal() == KEY


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (f"Bearer {KEY}", "contains white space"),
        (f"{KEY}\n{KEY}", "contains white space"),
        (f"{KEY}\x00", "control or non-ASCII"),
        (f"{KEY}\x7f", "control or non-ASCII"),
        (f"{KEY}é", "control or non-ASCII"),
        (f"\ufeff{KEY}", "control or non-ASCII"),
        (f"{KEY}\u200b", "control or non-ASCII"),
        (f"{KEY}\ud800", "control or non-ASCII"),
    ],
)
def test_what_no_header_can_carry_is_refused_without_quoting_it(value: str, words: str) -> None:
    """The message names the key's purpose, not the key."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        Secret(value, "The pre.dev key")
    assert str(caught.value).startswith("The pre.dev key ")
    assert KEY not in str(caught.value)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert not any(KEY in repr(frame.f_locals) for frame in frames[1:])


@pytest.mark.parametrize("value", [None, 5, True, KEY.encode(), [KEY]])
def test_only_text_is_a_key(value: object) -> None:
    """Bytes would be sent as their repr."""
    with pytest.raises(TypeError, match="takes a str") as caught:
        Secret(value, "The key")  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


def test_no_way_of_printing_shows_it() -> None:
    """Neither repr, str and format, nor the repr of what holds it."""
    secret = Secret(KEY, "The key")
    held = [secret, {"key": secret}, Credential(secret, "authorization", "Bearer ")]
    shown = [f"{secret}", f"{secret!r}", f"{secret:>20}", str(secret), "%s" % secret, repr(held)]  # noqa: UP031
    assert not any(KEY in text for text in shown)
    assert f"{secret}" == "***"


def test_it_cannot_be_dumped() -> None:
    """Neither pickled, copied, nor read off its state."""
    secret = Secret(KEY, "The key")
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            dump(secret)
        assert KEY not in str(caught.value)
    with pytest.raises(TypeError):
        secret.__getstate__()
    with pytest.raises(TypeError):
        vars(secret)


def test_fingerprints_tell_keys_apart_and_give_nothing_away() -> None:
    """Two modules that read the same key have the same account."""
    one, same, other = (Secret(text, "The key") for text in (KEY, f"{KEY}\n", f"{KEY}2"))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert KEY not in one.fingerprint()
    assert one != same
