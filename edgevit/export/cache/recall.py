"""Finds a figure again, or has it made and keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from edgevit.export.cache.content import Undescribed, digest_of, surroundings
from edgevit.export.cache.findings import Found, Kind
from edgevit.export.cache.store import Entry, Store, own_store
from edgevit.request import ExportRequest

_RELEASED = frozenset({"zoo", "timm", "torchvision", "hf"})


@dataclass
class Recall:
    """What one export finds again; ``reused`` names it, in the order in which it was asked for.

    Without a store nothing is found, and nothing kept.
    """

    store: Store | None = None
    reused: list[str] = field(default_factory=list)
    hashed: WeakKeyDictionary[nn.Module, str | None] = field(default_factory=WeakKeyDictionary)  # none is edited here

    def found(
        self,
        kind: Kind[Found],
        decided: tuple[Any, ...],
        made: Callable[[], Found],
        holds: Callable[[Found], bool] = lambda _: True,
    ) -> Found:
        """What was found out before from all that is in ``decided``, if it still ``holds``; else ``made`` now."""
        key = self._key(kind, decided)
        if self.store is None or key is None:
            return made()
        for value in _read(kind, self.store.get(key)):
            if holds(value):
                self.reused.append(kind.name)
                return value
        value = made()
        if (entry := kind.write(value)) is not None:
            self.store.put(key, entry)
        return value

    def content(self, module: nn.Module) -> str | None:
        """The hash of all that the module is; None where nothing can be found again for it."""
        if self.store is None:
            return None
        if module not in self.hashed:
            self.hashed[module] = None
            with contextlib.suppress(Undescribed):
                self.hashed[module] = digest_of(module)
        return self.hashed[module]

    def _key(self, kind: Kind[Any], decided: tuple[Any, ...]) -> str | None:
        if self.store is None:
            return None
        parts = [self.content(part) if isinstance(part, nn.Module) else part for part in decided]
        if any(part is None and isinstance(one, nn.Module) for part, one in zip(parts, decided, strict=True)):
            return None
        with contextlib.suppress(Undescribed):
            return digest_of(kind.name, surroundings(), parts)
        return None


def recall_for(request: ExportRequest, source: str) -> Recall:
    """For a request, and where its model is from. Modules of the user's own, or of a plug-in's, are never found again,
    not even such as were only put together: they come with code that ran in this process."""
    named = isinstance(request.model.source, str) and source in _RELEASED
    return Recall(own_store() if request.cache and named else None)


def _read(kind: Kind[Found], entry: Entry | None) -> list[Found]:
    """What is in the entry, as a list of one; of none where there is no such finding in it."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        return [kind.read(entry)] if entry else []
    return []
