"""A key goes out over https, or not beyond this machine."""

import pytest

from budgetguard import AnchorBrowser, PreDev
from budgetguard._core.errors import ConfigurationError
from budgetguard._io.base_url import check_base_url


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("https://api.pre.dev", "https://api.pre.dev"),
        ("https://api.pre.dev/", "https://api.pre.dev"),
        ("https://api.pre.dev///", "https://api.pre.dev"),
        ("HTTPS://API.pre.dev:443", "https://api.pre.dev"),
        ("https://api.pre.dev:8443/V1/", "https://api.pre.dev:8443/V1"),
        ("https://api.pre.dev:0443", "https://api.pre.dev"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://LOCALHOST:80/", "http://localhost"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.255.0.9", "http://127.255.0.9"),
        ("http://[::1]:65535/x", "http://[::1]:65535/x"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://sand_box", "https://sand_box"),
    ],
)
def test_sound_urls_come_back_in_one_form(given: str, plain: str) -> None:
    """What means the same is the same, since accounts are told apart by it."""
    assert check_base_url(given) == plain


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.pre.dev",
        "//api.pre.dev",
        "ftp://api.pre.dev",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https:api.pre.dev",
        "https://user:pass@api.pre.dev",
        "https://user@api.pre.dev",
        "https://api.pre.dev?key=pass",
        "https://api.pre.dev/?",
        "https://api.pre.dev/#pass",
        "https://api.pre.dev:0",
        "https://api.pre.dev:65536",
        "https://api.pre.dev:x",
        "https://[::1",
        "https://[1:2]",
        "https://api.pre.dev\n",
        " https://api.pre.dev",
        "https://api.pre.dev/a b",
        "https://api.pre.dev/\u00e9",
        "https://api.pre.dev\\@evil.example",
        "http://127.0.0.1\\@evil.example",
        "http://127.0.0.1@evil.example",
        "http\u017f://api.pre.dev",
        "https://\u0430pi.pre.dev",
        None,
        5,
        b"https://api.pre.dev",
    ],
)
def test_other_urls_are_refused_with_the_right_form(url: object) -> None:
    """The message shows how to write it, and quotes nothing that may be a password."""
    with pytest.raises(ConfigurationError, match=r"https://host\[:port\]\[/path\]") as caught:
        check_base_url(url)  # type: ignore[arg-type]
    assert "pass@" not in str(caught.value)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.pre.dev",
        "http://10.0.0.1",
        "http://0.0.0.0:80",
        "http://128.0.0.1",
        "http://127.1",
        "http://2130706433",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://localhost.",
        "http://[::]",
        "http://[::ffff:127.0.0.1]",
        "http://[::2]",
    ],
)
def test_plain_http_stays_on_this_machine(url: str) -> None:
    """Names that only resemble loopback do not count."""
    with pytest.raises(ConfigurationError, match="unencrypted"):
        check_base_url(url)


VARIABLES = [(PreDev, "PREDEV_BASE_URL"), (AnchorBrowser, "ANCHORBROWSER_BASE_URL")]


@pytest.mark.parametrize(("provider", "variable"), VARIABLES)
def test_the_environment_names_the_address(
    monkeypatch: pytest.MonkeyPatch, provider: type[PreDev | AnchorBrowser], variable: str
) -> None:
    """An argument wins over the variable, the variable over the provider's own address."""
    own = provider("key").base_url
    monkeypatch.setenv(variable, " http://127.0.0.1:8402/ ")
    assert provider("key").base_url == "http://127.0.0.1:8402"
    assert provider("key", base_url="https://x.example").base_url == "https://x.example"
    monkeypatch.setenv(variable, "")
    assert provider("key").base_url == own


@pytest.mark.parametrize(("provider", "variable"), VARIABLES)
def test_the_environments_address_is_checked_as_any(
    monkeypatch: pytest.MonkeyPatch, provider: type[PreDev | AnchorBrowser], variable: str
) -> None:
    """The error names the variable, and does not show what it holds."""
    monkeypatch.setenv(variable, "http://api.evil.example")
    with pytest.raises(ConfigurationError, match=rf"^{variable} would send the key") as caught:
        provider("key")
    assert "evil" not in str(caught.value)
    monkeypatch.setenv(variable, "api.evil.example")
    with pytest.raises(ConfigurationError, match=rf"^{variable} must be written https:") as caught:
        provider("key")
    assert "evil" not in str(caught.value)
