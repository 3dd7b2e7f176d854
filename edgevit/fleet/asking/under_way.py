"""What a client keeps of what is under way: requests, their questions, and the nodes these go to. Records only, which
``scatter.py`` changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgevit.fleet.asking.breaker import Breaker, State
from edgevit.fleet.asking.credits import Credits
from edgevit.fleet.asking.pace import Mean
from edgevit.fleet.asking.questions import Load, PartAnswer, Wanted


@dataclass(slots=True)
class NodeFigures:
    """What a client has seen of one node.

    late      answers or refusals after their deadline   missed    questions unanswered at their deadline
    rejected  answers that were not what was asked for: id, dtype, shape, NaN, or no message at all
    replayed  further answers to a question that was answered
    hedged    questions to it because another replica was slow
    """

    node: str
    asked: int = 0
    answered: int = 0
    busy: int = 0
    refused: int = 0
    silent: int = 0
    late: int = 0
    missed: int = 0
    rejected: int = 0
    replayed: int = 0
    hedged: int = 0
    owed: int = 0
    breaker: State = "closed"

    def record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Peer:
    """A node as one client knows it."""

    __slots__ = ("breaker", "credits", "figures", "hungry", "means", "node")

    def __init__(self, node: str) -> None:
        self.node = node
        self.credits: Credits[Ask] = Credits()
        self.breaker = Breaker()
        self.figures = NodeFigures(node)
        self.means: dict[tuple[str, str], Mean] = {}  # by revision and part
        self.hungry: dict[Request, None] = {}  # those that wait for a credit of it, and were not woken


@dataclass(eq=False, slots=True)
class Ask:
    """One question to one node."""

    request: Request
    wanted: Wanted
    node: str
    incarnation: str
    id: str  # 16 hex digits
    asked: float  # when; whoever sends it says when that was
    hedge: bool = False
    over: bool = False


@dataclass(eq=False, slots=True)
class Pending:
    """A part that has not answered yet."""

    wanted: Wanted
    under_way: list[Ask] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    why: dict[str, None] = field(default_factory=dict)  # in the order it was noticed
    hedged: bool = False
    again: bool = False


class Request:
    """One scatter. ``wake`` is for whoever drives the machine: to be called when it says that there is something to do.

    Every part is in ``pending`` until it is in ``found`` or, with the reason, in ``missing``.
    """

    __slots__ = ("due", "found", "hungry", "load", "missing", "pending", "revision", "wake")

    def __init__(
        self, revision: str, load: Load, wanted: Sequence[Wanted], due: float, wake: Callable[[], None]
    ) -> None:
        self.revision, self.load, self.due, self.wake = revision, load, due, wake
        self.pending = {one.part: Pending(one) for one in wanted}
        self.found: dict[str, PartAnswer] = {}
        self.missing: dict[str, str] = {}
        self.hungry: dict[Peer, None] = {}  # the nodes of which it waits for a credit
