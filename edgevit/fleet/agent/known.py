"""What the nodes of a fleet know of its deployments.

Only orders that a trusted operator signed count. Whatever else a node answers is ignored, and the node can be named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce

from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Info, Placement, parse, record
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Answer, Bus, gather


@dataclass(frozen=True)
class Known:
    """The newest order of a deployment that any node knows, with all that any node knows to be taken over.

    conflict  there is another one of its generation
    orders    node -> the order that it knows
    """

    newest: Placement
    conflict: bool
    orders: Mapping[str, Placement]


def known_orders(
    bus: Bus,
    names: Names,
    name: str = "*",
    *,
    accept: Callable[[Placement], bool],
    ignored: Callable[[str], None] = lambda node: None,
    timeout_s: float = 1.0,
) -> dict[str, Known]:
    """Deployment -> what the nodes that are there know of it, withdrawn ones among them.

    ``accept`` tells whether a trusted operator signed an order; ``ignored`` is told who answered with another one.
    """
    found: dict[str, dict[str, Placement]] = {}
    for answer in gather(bus, names.place(name), timeout_s=timeout_s, expected=None).good:
        node = _who(answer)
        try:
            placement = parse(Placement, answer.payload, MAX_RECORD)
        except BadMessage:
            ignored(node)
            continue
        if not accept(placement):
            ignored(node)
        elif (before := found.setdefault(placement.name, {}).get(node)) is None or _newer(placement, before):
            found[placement.name][node] = placement
    return {name: _known(orders) for name, orders in found.items()}


def _newer(one: Placement, other: Placement) -> bool:
    return one.generation > other.generation


def known_infos(bus: Bus, names: Names, node: str = "*", *, timeout_s: float = 1.0) -> Iterator[Info]:
    """What a node, or every one, says of itself; nothing that one says of another."""
    expected = None if node == "*" else 1
    for answer in gather(bus, names.info(node), timeout_s=timeout_s, expected=expected).good:
        with suppress(BadMessage):
            info = parse(Info, answer.payload, MAX_RECORD)
            if info.node == names.steps(answer.key)[-1]:
                yield info


def _who(answer: Answer) -> str:
    if answer.by is not None:
        return answer.by
    try:
        return str(record(answer.meta)["node"])[:64]
    except (BadMessage, KeyError):
        return "a node without a name"


def _known(orders: Mapping[str, Placement]) -> Known:
    top = max(order.generation for order in orders.values())
    first = orders[min(node for node, order in orders.items() if order.generation == top)]
    conflict = any(order.generation == top and not order.same(first) for order in orders.values())
    return Known(_joined(first, orders.values()), conflict, orders)


def _joined(first: Placement, orders: Iterable[Placement]) -> Placement:
    return reduce(Placement.joined, (order for order in orders if order.same(first)), first)
