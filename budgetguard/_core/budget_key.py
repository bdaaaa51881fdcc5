"""Which keys tell budgets apart: values of plain types, which run no code of a user's under the lock."""

from typing import TYPE_CHECKING, TypeAlias

from budgetguard._core.sync_callables import leave_alone

if TYPE_CHECKING:
    from uuid import UUID

Key: TypeAlias = "str | int | bytes | UUID | tuple[Key, ...] | None"


def plain_key(key: object) -> Key:
    """`key` with all its parts of exactly these types: str, int, bytes, UUID, None, and tuples of them.

    Values of derived types, such as enumerations of text, become plain. Raises TypeError for others.
    """
    if key is None:
        return None
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int):
        return int.__int__(key)
    if isinstance(key, bytes):
        return bytes.__getitem__(key, slice(None))
    if isinstance(key, tuple):
        return tuple(map(plain_key, tuple.__iter__(key)))
    # Imported here, so that `import budgetguard` does not pay for it.
    from uuid import UUID

    if isinstance(key, UUID):
        return UUID(int=key.int)
    leave_alone(key)
    kind = type(key).__name__
    del key  # a traceback may be printed together with its locals
    msg = f"key takes a str, int, bytes, UUID or a tuple of these, not {kind}"
    raise TypeError(msg)


def spell_key(key: Key) -> str:
    """A plain key as text, different for different keys, and the same in every process."""
    if key is None:
        return "none"
    if isinstance(key, str):
        return ascii(key)
    if isinstance(key, int):
        return hex(key)
    if isinstance(key, bytes):
        return f"b{key.hex()}"
    if isinstance(key, tuple):
        return f"({','.join(map(spell_key, key))})"
    return f"u{key.hex}"
