"""Who runs what: places sub-models on devices so that the slowest device is as fast as it can be.

A device's predicted latency is the sum over the parts it holds of compute time (measured on it, else MACs ÷ its stated
rate) plus the time to send the part's features over its link. Memory and energy budgets are never exceeded, and the
replicas of a part are on different devices. Energy is counted in MACs per inference, as ED-ViT does.

    greedy    ED-ViT's rule (a reconstruction): parts by MACs, largest first, each on the device with the
              most energy left that has the memory. Devices without a budget have unlimited energy; among equals the
              one that would finish first is taken
    improved  the better of two starts, that one and earliest finish, after local improvement; it finds a placement
              where greedy runs into a dead end

Everything here is a pure function of its arguments, without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgevit.bundle.local_search import GAIN, Array, Board, improve, search
from edgevit.errors import PlacementImpossible, UnknownName, UsageError

Method = Literal["greedy", "improved"]
METHODS: tuple[Method, ...] = ("greedy", "improved")

WORKING_COPIES = 2  # of the weights while a runtime loads and packs them
WORKING_BYTES = 6_000_000  # a session's graph, arena and activations
TRIES = 20_000  # of a search, before it gives up
SMALL = 1_000  # parts × replicas × nodes up to which better placements are searched for
HOPELESS = 2.0  # a start so many times slower than the other one is not improved


def memory_need(model_bytes: int) -> int:
    """Bytes that a part of ``model_bytes`` takes where nobody measured it: twice its files and 6 MB.

    Beyond the process and the runtime's own libraries, which a node has loaded anyway (docs/how-to/assign.md).
    """
    return WORKING_COPIES * model_bytes + WORKING_BYTES


@dataclass(frozen=True)
class Part:
    """One sub-model as placement sees it.

    bytes         of the exported model files
    memory_bytes  that it takes on a device, ``memory_need(bytes)`` or better
    macs          multiply-accumulates of one image
    feature_bytes sent by the device per image
    latency_ms    node name -> compute time measured there
    memory_on     node name -> bytes measured there, instead of ``memory_bytes``
    model_files   SHA-256 of the model files, by which a profile of this part is recognised
    """

    name: str
    bytes: int
    memory_bytes: int
    macs: int
    feature_bytes: int
    latency_ms: Mapping[str, float] | None = None
    memory_on: Mapping[str, int] | None = None
    model_files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Node:
    """One device. ``memory_bytes`` is what it gives to sub-models; None is: rate not stated, no energy budget (MACs per
    inference), a link (Mbit/s) that costs nothing."""

    name: str
    memory_bytes: int
    macs_per_s: float | None = None
    energy_macs: float | None = None
    link_mbps: float | None = None


@dataclass(frozen=True)
class Assignment:
    """``where[p, k]`` is the index of the node with replica k of part p; figures are per node, in the nodes' order."""

    where: tuple[tuple[int, ...], ...]
    latency_ms: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    macs: tuple[int, ...]

    @property
    def max_latency_ms(self) -> float:
        return max(self.latency_ms)

    def parts_on(self) -> list[list[int]]:
        """Indices of the parts that each node holds, ascending."""
        held: list[list[int]] = [[] for _ in self.latency_ms]
        for part, nodes in enumerate(self.where):
            for node in nodes:
                held[node].append(part)
        return held


def assign(
    parts: Sequence[Part],
    nodes: Sequence[Node],
    *,
    replicas: int = 1,
    method: Method = "improved",
    fleet_file: str = "FILE",
) -> Assignment:
    """Place every part on ``replicas`` different nodes; deterministic. ``fleet_file`` is only for the hint.

    Raises PlacementImpossible naming the part that is left, its need and the free bytes of the node that comes
    nearest; UsageError for no parts, no nodes, repeated names, more replicas than nodes, or a node whose speed for a
    part is not known; UnknownName for a method.
    """
    _check(parts, nodes, replicas, method)
    board = _board(parts, nodes, replicas)
    found = _greedy(board) if method == "greedy" else _improved(board)
    if found.stranded is not None:
        raise _impossible(parts, nodes, found, fleet_file)
    return _assignment(found)


def _check(parts: Sequence[Part], nodes: Sequence[Node], replicas: int, method: str) -> None:
    if method not in METHODS:
        raise UnknownName("placement method", method, METHODS)
    for kind, items in (("part", parts), ("node", nodes)):
        if not items:
            raise UsageError(f"there is no {kind} to place" if kind == "part" else "the fleet has no node")
        name, count = Counter(item.name for item in items).most_common(1)[0]
        if count > 1:
            raise UsageError(f"{kind} {name!r} is there {count} times")
    if not 1 <= replicas <= len(nodes):
        raise UsageError(
            f"{replicas} replicas of each part need as many different nodes; there are {len(nodes)}",
            hint=f"--replicas 1 to {len(nodes)}, or more nodes",
        )


def _board(parts: Sequence[Part], nodes: Sequence[Node], replicas: int) -> Board:
    """Everything as arrays: latency and memory (P, N), MACs (P,), budgets (N,)."""
    return Board.empty(
        _latency(parts, nodes),
        _memory(parts, nodes),
        np.array([part.macs for part in parts], dtype=np.float64),
        np.array([node.memory_bytes for node in nodes], dtype=np.int64),
        np.array([np.inf if node.energy_macs is None else node.energy_macs for node in nodes], dtype=np.float64),
        replicas,
    )


def _latency(parts: Sequence[Part], nodes: Sequence[Node]) -> Array:
    """(P, N) ms: compute time, measured or MACs ÷ rate, plus the transfer of the features."""
    per_mac = np.array([1e3 / node.macs_per_s if node.macs_per_s else np.nan for node in nodes])
    per_byte = np.array([8e-3 / node.link_mbps if node.link_mbps else 0.0 for node in nodes])  # ms
    column = {node.name: index for index, node in enumerate(nodes)}
    table = np.empty((len(parts), len(nodes)))
    for part, row in zip(parts, table, strict=True):
        np.multiply(per_mac, part.macs, out=row)
        for name, measured in (part.latency_ms or {}).items():
            if name in column:
                row[column[name]] = measured
        row += per_byte * part.feature_bytes
    unknown = np.argwhere(np.isnan(table[:, np.isnan(per_mac)]))
    if unknown.size:
        node = nodes[np.flatnonzero(np.isnan(per_mac))[unknown[0, 1]]]
        raise UsageError(
            f"nothing says how fast node {node.name!r} runs {parts[unknown[0, 0]].name}",
            hint="give the node macs_per_s, or profile the part there and name the file with profile",
        )
    return table


def _memory(parts: Sequence[Part], nodes: Sequence[Node]) -> Array:
    """(P, N) bytes, measured on the node or the part's own estimate."""
    own = np.array([part.memory_bytes for part in parts], dtype=np.int64)
    table = np.broadcast_to(own[:, None], (len(parts), len(nodes)))
    if not any(part.memory_on for part in parts):
        return table
    table = table.copy()
    for row, part in enumerate(parts):
        for index, node in enumerate(nodes):
            table[row, index] = (part.memory_on or {}).get(node.name, part.memory_bytes)
    return table


def _greedy(empty: Board) -> Board:
    """ED-ViT's rule: largest part first, on the node with the most energy left; then the earliest finish."""
    board = empty.copy()
    for part in np.argsort(-board.macs, kind="stable"):
        for replica in range(board.replicas):
            fits = board.fits(part)
            if not fits.any():
                return board.stuck(part)
            left = np.where(fits, board.left, -np.inf)
            finish = np.where(left == left.max(), board.load + board.latency[part], np.inf)
            board.put(part, replica, int(finish.argmin()))
    return board


def _earliest(empty: Board) -> Board:
    """Parts by their shortest latency, longest first, each where it finishes earliest."""
    board = empty.copy()
    for part in np.argsort(-board.latency.min(axis=1), kind="stable"):
        for replica in range(board.replicas):
            finish = np.where(board.fits(part), board.load + board.latency[part], np.inf)
            node = int(finish.argmin())
            if finish[node] == np.inf:
                return board.stuck(part)
            board.put(part, replica, node)
    return board


def _improved(empty: Board) -> Board:
    """The best of both starts, each improved if it is worth it; where both are stuck, of what a search finds."""
    starts = [start for start in (_greedy(empty), _earliest(empty)) if start.stranded is None]
    if not starts:
        found = search(empty, tries=_tries(empty))
        if found.stranded is not None:
            return found
        starts = [found]
    best = min(float(start.load.max()) for start in starts)
    close = [improve(start) for start in starts if start.load.max() <= HOPELESS * best]
    found = min((board.settled() for board in (*close, *starts)), key=_slowest)
    return _searched(empty, found) if empty.latency.size * empty.replicas <= SMALL else found


def _searched(empty: Board, best: Board) -> Board:
    """Better placements, as long as a search finds one."""
    while True:
        found = search(empty, below=_slowest(best) * GAIN, tries=_tries(empty) // 4)
        if found.stranded is not None:
            return best
        best = min((board.settled() for board in (improve(found), found)), key=_slowest)


def _tries(empty: Board) -> int:
    """How long a search may go on: enough to place everything once, and some 20 million looks at a node beyond that."""
    return int(empty.where.size + min(TRIES, 1000 * TRIES // len(empty.free)))


def _slowest(board: Board) -> float:
    return float(board.load.max())


def _assignment(board: Board) -> Assignment:
    board = board.settled()
    used_memory, used_macs = board.used()
    return Assignment(
        where=tuple(tuple(int(node) for node in row) for row in board.where),
        latency_ms=tuple(board.load.tolist()),
        memory_bytes=tuple(used_memory.tolist()),
        macs=tuple(int(value) for value in used_macs),
    )


def _impossible(parts: Sequence[Part], nodes: Sequence[Node], board: Board, fleet_file: str) -> PlacementImpossible:
    """The error for the part that is left, seen from the node that comes nearest to holding it."""
    row = board.stranded
    if row is None:
        raise ValueError("every part is placed")
    part, nearest = parts[row], _nearest(board, row)
    needed, free = int(board.memory[row, nearest]), int(board.free[nearest])
    what = f"a replica of {part.name}" if board.replicas > 1 else part.name
    start = f"{what} fits on no node" if (board.where < 0).all() else f"no room is left for {what}"
    short = f"it needs {needed:,} bytes, and {nodes[nearest].name}, which comes nearest, has {free:,} free"
    if free >= needed:
        short += f", but energy left for {board.left[nearest]:,.0f} of its {part.macs:,} MACs"
    return PlacementImpossible(
        f"{start}: {short}",
        hint=f"edgevit split … --fleet {fleet_file} prunes it until it fits; or give the fleet a larger node",
        part=part.name,
        node=nodes[nearest].name,
        needed_bytes=needed,
        free_bytes=free,
    )


def _nearest(board: Board, row: int) -> int:
    """The node that lacks least memory for another replica of the part at ``row``; one with the energy, if there is."""
    other = np.ones(len(board.free), dtype=bool)
    other[board.where[row][board.where[row] >= 0]] = False  # nodes that hold a replica already
    energy = board.left >= board.macs[row]
    candidates = other & energy if (other & energy).any() else other
    return int(np.where(candidates, board.free - board.memory[row], np.iinfo(np.int64).min).argmax())
