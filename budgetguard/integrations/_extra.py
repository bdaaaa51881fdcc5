"""Which extra installs the package that an integration needs."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """A block for imports of packages that the extra `name` installs; the error says how."""
    try:
        yield
    except ModuleNotFoundError as error:
        # Not by the distribution's name: no index has it.
        msg = (
            f"{error}. Install it from the checkout's top folder: "
            f'python -m pip install ".[{name}]"'
        )
        raise ModuleNotFoundError(msg, name=error.name) from error
