"""What an integration stands on may not be installed: which extra has it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside the block what the extra of that name installs; the error names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f'{error}: pip install "budgetguard-preflight[{name}]"'
        raise ModuleNotFoundError(msg, name=error.name) from error
