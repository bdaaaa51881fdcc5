"""Labels: what the code around a call says about it, such as whose call it is."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Labels(Mapping[str, str]):
    """A read-only mapping of labels, which can be pickled, copied and hashed."""

    __slots__ = ("_labels",)

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self._labels = dict(labels or {})

    def __getitem__(self, name: str) -> str:
        return self._labels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __hash__(self) -> int:
        return hash(frozenset(self._labels.items()))

    def __repr__(self) -> str:
        return repr(self._labels)

    def joined(self, inner: "Labels") -> "Labels":
        """These labels and those of an inner block, which win."""
        return Labels({**self, **inner})

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self._labels,)


NO_LABELS = Labels()
