"""Which announcements of parts a client believes: those of nodes that an operator gave the part.

An announced key is signed by nobody, and a node's certificate lets it announce any. So a key counts where a signed
order gives that part to that node. Where the node only took the part over, it counts as long as no node serves the part
to which the operator gave it. Pure, and guarded by the client's lock; the client asks for the orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edgevit.fleet.bus.messages import Placement
from edgevit.fleet.trust.signatures import pairs

MOST = 100_000  # announced keys that are remembered


class Token(NamedTuple):
    """An announced key: ``ready/<revision>/<part>/<node>/<incarnation>``."""

    revision: str
    part: str
    node: str
    incarnation: str


Changes = list[tuple[Token, bool]]  # what is believed from now on, or no longer


class Belief:
    """The announced keys, the orders that are known, and which keys they make believable."""

    def __init__(self) -> None:
        self._there: dict[str, dict[str, dict[Token, None]]] = {}  # revision -> part -> keys
        self._count = 0
        self._believed: dict[tuple[str, str], set[Token]] = {}
        self._orders: dict[str, list[Placement]] = {}  # deployment -> the newest order, and the one before it

    def token(self, token: Token, here: bool) -> Changes:
        """A key that is announced, or no longer."""
        tokens = self._there.setdefault(token.revision, {}).setdefault(token.part, {})
        if here and token not in tokens and self._count < MOST:
            tokens[token] = None
            self._count += 1
        elif not here and token in tokens:
            del tokens[token]
            self._count -= 1
        return self._changes(token.revision, token.part)

    def learned(self, orders: Iterable[Placement]) -> Changes:
        """Orders that a trusted operator signed, which a node answered with."""
        for order in orders:
            self._orders[order.name] = _newest_two([*self._orders.get(order.name, ()), order])
        announced = [(revision, part) for revision, parts in self._there.items() for part in parts]
        return [change for one in announced for change in self._changes(*one)]

    def doubts(self, token: Token) -> bool:
        """Whether no order that is known gives this part to this node: then there may be a newer one."""
        return token.node not in self._given(token.revision, token.part)

    def doubtful(self) -> bool:
        """Whether anything is announced that is not believed."""
        return self._count > sum(map(len, self._believed.values()))

    def _changes(self, revision: str, part: str) -> Changes:
        tokens = self._there.get(revision, {}).get(part, {})
        given, taken = self._given(revision, part), self._taken(revision, part)
        true = {one for one in tokens if one.node in given} or {one for one in tokens if one.node in taken}
        before = self._believed.get((revision, part), set())
        self._believed[revision, part] = true
        return [(one, False) for one in before - true] + [(one, True) for one in tokens if one in true - before]

    def _of(self, revision: str) -> Iterator[Placement]:
        return (one for orders in self._orders.values() for one in orders if one.revision == revision)

    def _given(self, revision: str, part: str) -> set[str]:
        return {node for order in self._of(revision) for node, one in pairs(order.given) if one == part}

    def _taken(self, revision: str, part: str) -> set[str]:
        return {node for order in self._of(revision) for node, one in pairs(order.nodes) if one == part}


def _newest_two(orders: list[Placement]) -> list[Placement]:
    """The newest order with all that was taken over, and the one before it, which runs until the newest answers."""
    joined: dict[str, Placement] = {}
    for order in orders:
        known = joined.get(order.signature)
        joined[order.signature] = order if known is None else known.joined(order)
    return sorted(joined.values(), key=lambda one: (one.epoch, one.signature))[-2:]
