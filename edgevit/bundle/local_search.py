"""The search behind ``assign``: a board of placements, its local improvement, and a way out of dead ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MANY = 100_000  # parts × nodes from which it is not asked which nodes are alike
GAIN = 1 - 1e-9  # a step must beat the slowest node by more than rounding


@dataclass
class Board:
    """P parts × R replicas on N nodes.

    latency  (P, N) ms, memory (P, N) bytes, macs (P,)
    where    (P, R) node of each replica, -1 while it is not placed
    load     (N,) ms, free (N,) bytes, left (N,) MACs of the energy budget, infinite without one
    stranded the part for which no node was found, or None
    """

    latency: Array
    memory: Array
    macs: Array
    where: Array
    load: Array
    free: Array
    left: Array
    stranded: int | None = None

    @classmethod
    def empty(cls, latency: Array, memory: Array, macs: Array, free: Array, left: Array, replicas: int) -> Board:
        where = np.full((len(macs), replicas), -1, dtype=np.int64)
        return cls(latency, memory, macs, where, np.zeros(len(free)), free, left)

    @property
    def replicas(self) -> int:
        return int(self.where.shape[1])

    def copy(self) -> Board:
        return replace(
            self, where=self.where.copy(), load=self.load.copy(), free=self.free.copy(), left=self.left.copy()
        )

    def stuck(self, part: int) -> Board:
        self.stranded = int(part)
        return self

    def fits(self, part: int) -> Array:
        """(N,) nodes that have the memory and the energy for one more replica and hold none yet."""
        fits: Array = (self.free >= self.memory[part]) & (self.left >= self.macs[part])
        fits[self.where[part][self.where[part] >= 0]] = False
        return fits

    def put(self, part: int, replica: int, node: int) -> None:
        self.where[part, replica] = node
        self._add(part, node, 1)

    def take(self, part: int, replica: int) -> None:
        self._add(part, int(self.where[part, replica]), -1)
        self.where[part, replica] = -1

    def _add(self, part: int, node: int, sign: int) -> None:
        self.load[node] += sign * self.latency[part, node]
        self.free[node] -= sign * self.memory[part, node]
        self.left[node] -= sign * self.macs[part]

    def settled(self) -> Board:
        """The same placement with loads summed anew in the parts' order, free of rounding left by moves."""
        load = np.zeros_like(self.load)
        np.add.at(load, self.where, np.take_along_axis(self.latency, self.where, axis=1))
        return replace(self, load=load)

    def used(self) -> tuple[Array, Array]:
        """(N,) bytes and (N,) MACs of what each node holds."""
        memory, macs = np.zeros(len(self.free), dtype=np.int64), np.zeros(len(self.free))
        np.add.at(memory, self.where, np.take_along_axis(self.memory, self.where, axis=1))
        np.add.at(macs, self.where, np.broadcast_to(self.macs[:, None], self.where.shape))
        return memory, macs


@dataclass(frozen=True)
class Step:
    """Replica (part, replica) goes to ``node``; ``back`` = (part, replica) that comes from there in exchange."""

    slowest: float
    part: int
    replica: int
    node: int
    back: tuple[int, int] | None = None


def improve(board: Board) -> Board:
    """Move or swap the parts of the slowest node as long as that makes the slowest of the nodes involved faster.

    Each step lowers the sorted list of node latencies, so it ends.
    """
    board = board.copy()
    while (step := _best_step(board)) is not None:
        source = int(board.where[step.part, step.replica])
        board.take(step.part, step.replica)
        if step.back is not None:
            board.take(*step.back)
            board.put(*step.back, source)
        board.put(step.part, step.replica, step.node)
    return board


def _best_step(board: Board) -> Step | None:
    """The move that relieves the slowest node most; a swap where no move does."""
    slowest = int(board.load.argmax())
    held = np.argwhere(board.where == slowest).tolist()
    for kind in (_move, _swap):
        best = min((kind(board, part, replica) for part, replica in held), key=lambda step: step.slowest)
        if best.slowest < board.load[slowest] * GAIN:
            return best
    return None


def _move(board: Board, part: int, replica: int) -> Step:
    """The best other node for one replica; ``slowest`` is infinite where there is none."""
    source = int(board.where[part, replica])
    finish = np.where(board.fits(part), board.load + board.latency[part], np.inf)
    node = int(finish.argmin())
    return Step(max(float(finish[node]), float(board.load[source] - board.latency[part, source])), part, replica, node)


def _swap(board: Board, part: int, replica: int) -> Step:
    """The best exchange of one replica with a replica of any other part on any other node."""
    home = int(board.where[part, replica])
    there = board.where  # (P, R)
    parts = np.arange(len(board.macs))[:, None]
    own, other = board.latency[parts, there], board.latency[part][there]
    allowed = _exchangeable(board, part, home)
    here = board.load[home] - board.latency[part, home] + board.latency[:, home][:, None]
    slowest = np.where(allowed, np.maximum(here, board.load[there] - own + other), np.inf)
    at = int(slowest.argmin())
    back = (at // board.replicas, at % board.replicas)
    return Step(float(slowest[back]), part, replica, int(there[back]), back)


def _exchangeable(board: Board, part: int, home: int) -> Array:
    """(P, R) whether ``part`` at ``home`` may change places with each replica: room and energy on both sides."""
    there = board.where
    macs = board.macs[:, None]
    comes, goes = board.memory[part][there], board.memory[np.arange(len(board.macs))[:, None], there]
    found: Array = (
        (there != home)
        & (board.free[there] + goes >= comes)
        & (board.left[there] + macs >= board.macs[part])
        & (board.free[home] + board.memory[part, home] >= board.memory[:, home][:, None])
        & (board.left[home] + board.macs[part] >= macs)
        & ~(there == home).any(axis=1)[:, None]  # that part is here already
        & ~np.isin(there, board.where[part])  # this part is there already
    )
    return found


def search(empty: Board, *, below: float = math.inf, tries: int) -> Board:
    """Depth-first search for a placement whose slowest node takes less than ``below`` ms.

    The part that takes the largest share of a node comes first, each on the node that it fills best. Complete within
    ``tries`` tries, and with that a proof on small fleets. When it finds none, the board of the deepest attempt comes
    back, with the part that was left.
    """
    board = empty.copy()
    alone = (board.memory <= board.free) & (board.macs[:, None] <= board.left)
    if (nowhere := np.flatnonzero(~alone.any(axis=1))).size:
        return board.stuck(nowhere[board.macs[nowhere].argmax()])
    kinds = _kinds(board, timed=below < math.inf)
    order = [(part, replica) for part in _by_share(board) for replica in range(board.replicas)]
    reached, deepest = 0, board.copy().stuck(order[0][0])
    ahead = np.cumsum([board.memory[part].min() for part, _ in order][::-1])[::-1]  # bytes from this replica on
    choices = [_choices(board, kinds, order[0][0], below)]
    while choices:
        depth = len(choices) - 1
        part, replica = order[depth]
        if board.where[part, replica] >= 0:
            board.take(part, replica)
        if depth > reached:
            reached, deepest = depth, board.copy().stuck(part)
        going_on = depth == reached or ahead[depth] <= board.free.sum()  # a first descent shows where room runs out
        node = next(choices[-1], None) if going_on else None
        if node is None:
            choices.pop()
            continue
        if (tries := tries - 1) < 0:
            break
        board.put(part, replica, node)
        if depth + 1 == len(order):
            return board
        choices.append(_choices(board, kinds, order[depth + 1][0], below))
    return deepest


def _by_share(board: Board) -> list[int]:
    """Parts by the largest share that they take of the most roomy node's memory or energy, largest first."""
    memory = board.memory.min(axis=1) / max(int(board.free.max()), 1)
    energy = board.macs / max(float(board.left.max()), 1.0)
    return [int(part) for part in np.argsort(-np.maximum(memory, energy), kind="stable")]


def _kinds(board: Board, *, timed: bool) -> Array:
    """(N,) a number per node; nodes with the same number take the same memory, and time, for every part."""
    if board.latency.size > MANY:
        return np.arange(len(board.free))
    alike = np.vstack([board.memory, board.latency]) if timed else board.memory
    return np.unique(alike, axis=1, return_inverse=True)[1].reshape(-1)


def _choices(board: Board, kinds: Array, part: int, below: float) -> Iterator[int]:
    """Nodes for a part, the fullest first; of nodes that are alike in all only the first."""
    finish = board.load + board.latency[part]
    nodes = np.flatnonzero(board.fits(part) & (finish < below))
    if not nodes.size:
        return iter(())
    room = board.free[nodes] - board.memory[part, nodes]
    load = finish[nodes] if below < math.inf else np.zeros(len(nodes))
    order = np.lexsort((nodes, kinds[nodes], load, board.left[nodes], room))
    key = np.stack([room, board.left[nodes], load, kinds[nodes]])[:, order]
    new = np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]
    return iter(nodes[order[new]].tolist())
