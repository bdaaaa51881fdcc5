"""Clients that check every reply against the OpenAPI descriptions in tests/data."""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from budgetguard.testing.sandbox import Sandbox

# Made once: each client would load all certificates for itself, for plain HTTP.
UNUSED_TLS = ssl.create_default_context()
DATA = Path(__file__).parent.parent / "data"


def documents() -> dict[tuple[str, str, str], Any]:
    """Response schemas by path pattern, method and status."""
    schemas = {}
    for file in sorted(DATA.glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        for path, methods in document["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", path)
            for method, operation in methods.items():
                for status, response in operation["responses"].items():
                    schema = response["content"]["application/json"]["schema"]
                    whole = _nullable({**schema, "components": document["components"]})
                    schemas[pattern, method.upper(), status] = whole
    return schemas


def _nullable(schema: object) -> object:
    """Translate `nullable`, which the page uses as in OpenAPI 3.0, and which OpenAPI 3.1 ignores."""
    if isinstance(schema, list):
        return [_nullable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: _nullable(each) for key, each in schema.items() if key != "nullable"}
    if schema.get("nullable") is True:
        read["type"] = [schema["type"], "null"]
    return read


@pytest.fixture(scope="session")
def check() -> Callable[[httpx.Response], None]:
    """Raise if an endpoint has a page and its reply is not as the page describes."""
    schemas = documents()

    def check(response: httpx.Response) -> None:
        path, method = response.request.url.path, response.request.method
        described = [key for key in schemas if re.fullmatch(key[0], path) and key[1] == method]
        if not described:
            return
        response.read()
        status = str(response.status_code)
        matching = [key for key in described if key[2] == status]
        assert matching, f"{method} {path} is not described with status {status}"
        jsonschema.validate(response.json(), schemas[matching[0]], jsonschema.Draft202012Validator)

    return check


@pytest.fixture
def client(check: Callable[[httpx.Response], None]) -> Iterator[Callable[..., httpx.Client]]:
    """Make clients that carry both keys; `checked=False` for replies that no page describes."""
    with ExitStack() as stack:

        def make(sandbox: Sandbox, *, checked: bool = True, **headers: str) -> httpx.Client:
            keys = {
                "authorization": f"Bearer {sandbox.predev_key}",
                "anchor-api-key": sandbox.anchor_key,
            }
            return stack.enter_context(
                httpx.Client(
                    base_url=sandbox.url,
                    headers=keys | headers,
                    trust_env=False,
                    verify=UNUSED_TLS,
                    timeout=30,
                    event_hooks={"response": [check] if checked else []},
                )
            )

        yield make


@pytest.fixture
def manual() -> Iterator[Sandbox]:
    """Give a sandbox with 100 credits whose time moves by hand."""
    with Sandbox(credits=100, clock="manual") as sandbox:
        yield sandbox
