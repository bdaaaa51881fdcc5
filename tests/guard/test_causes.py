"""What a balance function raised is the cause of the error, unless a key could be reached by it."""

import httpx
import pytest

from budgetguard import BalanceUnavailable, Guard

KEY = "canary-key"


def refused() -> float:
    """Fail as an HTTP client does, with the request in hand."""
    request = httpx.Request("GET", "https://example.com", headers={"x-key": KEY})
    msg = "no route"
    raise httpx.ConnectError(msg, request=request)


def wrapped() -> float:
    """Fail as an SDK does, with the client's error inside."""
    try:
        return refused()
    except httpx.ConnectError as error:
        msg = "the SDK could not connect"
        raise ConnectionError(msg) from error


@pytest.mark.parametrize("fails", [refused, wrapped])
def test_an_error_that_holds_a_request_is_no_cause(fails: object) -> None:
    """The request's headers hold the key; the words say what happened without it."""
    with pytest.raises(BalanceUnavailable) as caught:
        Guard(fails).balance()
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert KEY not in str(error)


def test_another_error_is_the_cause() -> None:
    """Whoever wrote the function wants to see it."""
    failure = LookupError("no such account")

    def fails() -> float:
        raise failure

    with pytest.raises(BalanceUnavailable, match="LookupError") as caught:
        Guard(fails).balance()
    assert caught.value.__cause__ is failure
