"""Who serves what, and who is there: the announced keys of nodes as two tables. Pure, and guarded by the client's lock.

A node that is started again announces a new incarnation, and the old one's keys may still be there for a moment: a node
serves a part as long as one of its incarnations does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Routes:
    """The nodes of every part, and the incarnations of every node, the newest last."""

    def __init__(self) -> None:
        self._ready: dict[str, dict[str, dict[str, dict[str, None]]]] = {}  # revision -> part -> node -> incarnations
        self._live: dict[str, dict[str, None]] = {}  # node -> incarnations
        self._held: Counter[str] = Counter()  # node -> parts

    def ready(self, revision: str, part: str, node: str, incarnation: str, here: bool) -> None:
        """A part is served by a node, or no longer."""
        nodes = self._ready.setdefault(revision, {}).setdefault(part, {})
        before = node in nodes
        if here:
            nodes.setdefault(node, {})[incarnation] = None
        elif before:
            nodes[node].pop(incarnation, None)
            if not nodes[node]:
                del nodes[node]
        self._held[node] += (node in nodes) - before
        if not self._held[node]:
            del self._held[node]
        if not nodes:
            del self._ready[revision][part]
        if not self._ready[revision]:
            del self._ready[revision]

    def live(self, node: str, incarnation: str, here: bool) -> None:
        """A node is there, or gone."""
        if here:
            self._live.setdefault(node, {})[incarnation] = None
        elif node in self._live:
            self._live[node].pop(incarnation, None)
            if not self._live[node]:
                del self._live[node]

    def nodes(self, revision: str, part: str) -> Mapping[str, str]:
        """Node -> its newest incarnation that serves the part."""
        return {node: next(reversed(all_)) for node, all_ in self._ready.get(revision, {}).get(part, {}).items()}

    def parts(self, revision: str) -> frozenset[str]:
        """The parts that somebody serves."""
        return frozenset(self._ready.get(revision, ()))

    def held(self, node: str) -> int:
        """How many parts a node serves, of all revisions."""
        return self._held[node]

    def is_live(self, node: str, incarnation: str) -> bool:
        return incarnation in self._live.get(node, ())
