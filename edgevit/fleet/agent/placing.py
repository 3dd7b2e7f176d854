"""Who is to hold what, from what the nodes say of themselves: anew, with as little moved as can be, or better than now.

Pure functions over ``split.assign``; nothing here talks to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from edgevit.bundle.assign import Node, Part, assign
from edgevit.bundle.local_search import Board, improve
from edgevit.errors import PlacementImpossible
from edgevit.fleet.bus.messages import Info

RATE = 1e9  # MACs/s of a node that does not say, where no other does
ALIKE = 1.25  # nodes within this factor of each other's rate are equal
WORTH = 0.95  # of the slowest node's time, that a rebalance must come below

Where = dict[str, tuple[str, ...]]  # node -> its parts


def candidates(infos: Iterable[Info], revision: str, without: Iterable[str] = ()) -> list[Node]:
    """The nodes that may hold parts of ``revision``, by name. What they hold of it already counts as room."""
    able = sorted((one for one in infos if not one.drained and one.node not in set(without)), key=lambda one: one.node)
    rates = [one.macs_per_s for one in able if one.macs_per_s]
    usual = median(rates) if rates else RATE
    return [Node(one.node, room(one, revision), one.macs_per_s or usual) for one in able]


def room(info: Info, revision: str) -> int:
    """Bytes that a node has for parts of ``revision``."""
    mine = sum(one.memory_bytes for one in info.held if one.revision == revision and one.state != "failed")
    return max(info.free_bytes + mine, 0)


def place(parts: Sequence[Part], nodes: Sequence[Node], replicas: int = 1) -> Where:
    """The placement with the fastest slowest node; of equal nodes each gets one part before any gets two.

    Raises what ``assign`` raises.
    """
    found = assign(parts, nodes, replicas=replicas, fleet_file="fleet.toml")
    held = {node.name: [parts[row].name for row in rows] for node, rows in zip(nodes, found.parts_on(), strict=True)}
    return _tidy(_spread(parts, nodes, held))


def fill(parts: Sequence[Part], nodes: Sequence[Node], now: Mapping[str, Sequence[str]], replicas: int = 1) -> Where:
    """``now`` as far as its nodes are among ``nodes``, and what is missing where it would be done first.

    Nothing moves. A part that fits nowhere stays out, and there are fewer replicas where there are fewer nodes.
    """
    return _tidy(_held(_filled(parts, nodes, now, replicas), parts, nodes))


def better(parts: Sequence[Part], nodes: Sequence[Node], now: Mapping[str, Sequence[str]], replicas: int = 1) -> Where:
    """``fill``, and then moved about if that makes the slowest node at least 5 % faster or uses an idle equal one."""
    board = _filled(parts, nodes, now, replicas)
    if (board.where >= 0).all():
        improved = improve(board)
        if improved.load.max() < WORTH * board.load.max():
            board = improved
    return _tidy(_spread(parts, nodes, {node: list(held) for node, held in _held(board, parts, nodes).items()}))


def spares(where: Mapping[str, Sequence[str]], node: str) -> tuple[str, ...]:
    """The parts whose files ``node`` is to have on its disk without loading them, so that others can take over what
    nodes held that are gone, and both sides of a cut can serve all of it.

    The nodes that hold a part have its files, and one more, which follows its last holder, by name and in a ring. So as
    many nodes as hold a part may be gone, whichever they are.
    """
    ring, alike = sorted(where), dict[tuple[str, ...], list[str]]()
    for part in dict.fromkeys(part for name in ring for part in where[name]):
        alike.setdefault(tuple(name for name in ring if part in where[name]), []).append(part)
    found: list[str] = []
    for holders, parts in alike.items():
        last = ring.index(holders[-1])
        others = [name for name in (*ring[last + 1 :], *ring[:last]) if name not in holders]
        found += [part for row, part in enumerate(parts) if others and others[row % len(others)] == node]
    return tuple(found)


def with_spare(where: Where, nodes: Iterable[str]) -> Where:
    """``where``; if all of its nodes hold some part, with another of ``nodes`` that holds nothing but spare copies."""
    everywhere = set.intersection(*map(set, where.values())) if where else set()
    others = sorted(name for name in nodes if name not in where)
    return {**where, others[0]: ()} if everywhere and others else where


def missing(parts: Sequence[Part], where: Mapping[str, Sequence[str]]) -> list[Part]:
    """The parts that are nowhere."""
    placed = {part for held in where.values() for part in held}
    return [part for part in parts if part.name not in placed]


def impossible(
    part: Part, nodes: Sequence[Node], where: Mapping[str, Sequence[str]], parts: Sequence[Part]
) -> Exception:
    """The error for a part that fits nowhere beside what is placed."""
    need = {one.name: one.memory_bytes for one in parts}
    free = {node.name: node.memory_bytes - sum(need[name] for name in where.get(node.name, ())) for node in nodes}
    nearest = max(free, key=lambda name: free[name], default="")
    said = f"{nearest}, which comes nearest, has {free[nearest]:,} free" if free else "no node may take it"
    return PlacementImpossible(
        f"{part.name} fits on no other node: it needs {part.memory_bytes:,} bytes, and {said}",
        hint="give a node more memory, or add one",
        part=part.name,
        node=nearest,
        needed_bytes=part.memory_bytes,
        free_bytes=free.get(nearest, 0),
    )


def moves(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    """(part, node that loses it or "", node that gains it or "") of everything that changes."""
    changed: list[tuple[str, str, str]] = []
    for part in sorted({part for held in (*before.values(), *after.values()) for part in held}):
        lost = sorted(node for node in before if part in before[node] and part not in after.get(node, ()))
        gained = sorted(node for node in after if part in after[node] and part not in before.get(node, ()))
        for row in range(max(len(lost), len(gained))):
            changed.append((part, lost[row] if row < len(lost) else "", gained[row] if row < len(gained) else ""))
    return changed


def _filled(parts: Sequence[Part], nodes: Sequence[Node], now: Mapping[str, Sequence[str]], replicas: int) -> Board:
    """A board with ``now`` and what could be added; -1 where nothing could."""
    rates = np.array([node.macs_per_s or RATE for node in nodes])
    macs = np.array([part.macs for part in parts], dtype=np.float64)
    board = Board.empty(
        1e3 * macs[:, None] / rates,
        np.repeat(np.array([part.memory_bytes for part in parts], dtype=np.int64)[:, None], len(nodes), axis=1),
        macs,
        np.array([node.memory_bytes for node in nodes], dtype=np.int64),
        np.full(len(nodes), np.inf),
        min(replicas, max(len(nodes), 1)),
    )
    row = {part.name: index for index, part in enumerate(parts)}
    count = np.zeros(len(parts), dtype=int)
    for column, node in enumerate(nodes):
        for name in now.get(node.name, ()):
            if name in row and count[row[name]] < board.replicas:
                board.put(row[name], int(count[row[name]]), column)
                count[row[name]] += 1
    wanted = [
        (replica, -macs[part], part) for part in range(len(parts)) for replica in range(count[part], board.replicas)
    ]
    for replica, _, part in sorted(wanted):
        finish = np.where(board.fits(part), board.load + board.latency[part], np.inf)
        if finish.size and np.isfinite(finish).any():
            board.put(part, replica, int(finish.argmin()))
    return board


def _held(board: Board, parts: Sequence[Part], nodes: Sequence[Node]) -> Where:
    return {
        node.name: tuple(parts[row].name for row in np.flatnonzero((board.where == column).any(axis=1)))
        for column, node in enumerate(nodes)
    }


def _spread(parts: Sequence[Part], nodes: Sequence[Node], held: dict[str, list[str]]) -> dict[str, list[str]]:
    """Idle nodes take the smallest part of a node like them that has two or more."""
    by_name = {part.name: part for part in parts}
    rate = {node.name: node.macs_per_s or RATE for node in nodes}
    for idle in (node for node in nodes if not held[node.name]):
        movable = [
            (-len(mine), by_name[part].macs, part, other)
            for other, mine in held.items()
            if len(mine) > 1 and rate[idle.name] * ALIKE >= rate[other]
            for part in mine
            if by_name[part].memory_bytes <= idle.memory_bytes
        ]
        if movable:
            *_, part, other = min(movable)
            held[other].remove(part)
            held[idle.name].append(part)
    return held


def _tidy(held: Mapping[str, Sequence[str]]) -> Where:
    return {node: tuple(sorted(parts, key=natural)) for node, parts in sorted(held.items()) if parts}


def natural(name: str) -> tuple[str, int, str]:
    """part-2 before part-10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1), name
