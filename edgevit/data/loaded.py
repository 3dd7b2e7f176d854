"""Rows of data that are loaded when they are looked at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

from typing_extensions import Self

Row = TypeVar("Row", covariant=True)


class Loaded(Sequence[Row]):
    """What ``load(index)`` gives for each of ``indices``, one at a time. Slicing loads nothing.

    ``digest(index)`` is a hash of the row as it is stored, for those that are files; else it is of what was loaded.
    """

    def __init__(
        self, load: Callable[[int], Row], indices: Iterable[int], digest: Callable[[int], bytes] | None = None
    ) -> None:
        self._load, self._digest = load, digest
        self._indices = [int(index) for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._at(self._indices[index]) if isinstance(index, slice) else self._load(self._indices[index])

    def take(self, indices: Iterable[int]) -> Self:
        """Those at ``indices``, in that order, still unloaded."""
        return self._at(self._indices[index] for index in indices)

    def digest(self, index: int) -> bytes:
        """The same for the same row, wherever it lies."""
        return self._hash_of(self[index]) if self._digest is None else self._digest(self._indices[index])

    def _hash_of(self, row: Any) -> bytes:
        """Of a row that is no file of its own."""
        raise NotImplementedError

    def _at(self, indices: Iterable[int]) -> Self:
        found = copy.copy(self)
        found._indices = [int(index) for index in indices]
        return found
