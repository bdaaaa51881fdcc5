"""The result of a decorated function's refused call, where `on_refusal` supplies it."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from budgetguard._core.on_refusal import OnRefusal, awaited
from budgetguard._core.sync_callables import PLAIN, kind_of

ASYNC = "an async function"
GENERATOR = "a generator"
ASYNC_GENERATOR = "an async generator"

_TAKES = {
    PLAIN: {PLAIN},
    ASYNC: {PLAIN, ASYNC},
    GENERATOR: {PLAIN, GENERATOR},
    ASYNC_GENERATOR: {PLAIN, ASYNC, GENERATOR, ASYNC_GENERATOR},
}
_TEXT = (str, bytes, bytearray)


def check_kind(on_refusal: OnRefusal, decorated: str) -> None:
    """Raise TypeError for an `on_refusal` whose result cannot take the place of a decorated function's.

    `decorated` is what that function is, in the words of `kind_of`.
    """
    kind = kind_of(on_refusal)
    if kind not in _TAKES[decorated]:
        msg = f"on_refusal of {decorated} must be {' or '.join(sorted(_TAKES[decorated]))}, not {kind}"
        raise TypeError(msg)


def items(on_refusal: OnRefusal, *args: Any, **kwargs: Any) -> Iterable[Any]:
    """What a refused generator yields instead; raises TypeError for what cannot be iterated over."""
    result = on_refusal(*args, **kwargs)
    if not isinstance(result, Iterable) or isinstance(result, _TEXT):
        raise TypeError(_not_items(GENERATOR, result))
    return result


async def async_items(on_refusal: OnRefusal, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
    """What a refused async generator yields instead: from an iterable, async or not."""
    result = await awaited(on_refusal, *args, **kwargs)
    if isinstance(result, AsyncGenerator):
        return result
    if isinstance(result, AsyncIterable):
        return _from_async(result)
    if not isinstance(result, Iterable) or isinstance(result, _TEXT):
        raise TypeError(_not_items(ASYNC_GENERATOR, result))
    return _from(result)


async def _from_async(given: AsyncIterable[Any]) -> AsyncGenerator[Any, Any]:
    async for item in given:
        yield item


async def _from(given: Iterable[Any]) -> AsyncGenerator[Any, Any]:
    for item in given:
        yield item


def _not_items(decorated: str, result: object) -> str:
    # A text can be iterated over too, by its characters, which nobody means.
    return (
        f"on_refusal of {decorated} must return an iterable of the items to yield, such as a list, "
        f"not {type(result).__name__}"
    )
