"""What a value was made of: whether the inputs of a model had a part in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Reach:
    """Everything that was made of ``inputs``, by the memory that it lies in; without inputs, everything.

    What is made of constants alone is one, however it is computed: a mask of windows, a grid of positions.
    """

    def __init__(self, inputs: Sequence[Tensor] | None) -> None:
        self._all = inputs is None
        self._held: dict[int, StorageWeakRef] = {}
        self.add(inputs or ())

    def add(self, values: Iterable[Tensor]) -> None:
        if self._all:
            return
        for value in values:
            storage = value.untyped_storage()
            self._held[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def any(self, values: Iterable[Tensor]) -> bool:
        """Whether one of them was made of the inputs."""
        return any(self._all or self._reached(value) for value in values)

    def _reached(self, value: Tensor) -> bool:
        found = self._held.get(value.untyped_storage()._cdata)
        # memory that was given back may be somebody else's by now
        return found is not None and not found.expired()  # type: ignore[no-untyped-call]
