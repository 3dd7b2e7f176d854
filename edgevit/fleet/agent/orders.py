"""The orders that a node knows, on its disk: what it may believe, and what it keeps when it is killed.

    <node home>/placements/<name>.json   the newest order of a deployment, and the one before it until that is replaced
    <node home>/drained.json             whether the node takes no new parts

An order counts if a trusted operator signed it and its generation is higher than the one that is known, or it is the
one that is known and more of it was taken over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, ValidationError

from edgevit.artifact.files import write_durably
from edgevit.errors import FleetError
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Message, Placement, Progress, parse
from edgevit.fleet.bus.transport import Question
from edgevit.fleet.trust.signatures import SignedOrder, check_placement, trusts

ASKERS = 8  # who hear how an order goes on

Key = tuple[str, str]  # revision, part


class DrainOrder(SignedOrder):
    """``at`` only rises: an old one means nothing."""

    purpose: ClassVar[str] = "drain"
    drained: bool
    at: Annotated[int, Field(ge=0, lt=1 << 63, description="nanoseconds since 1970")]


class Kept(Message):
    """placements/<name>.json. ``before`` is what runs until ``newest`` answers everywhere."""

    newest: Placement
    before: Placement | None = None

    @property
    def orders(self) -> tuple[Placement, ...]:
        """Those that give anyone anything, the older first."""
        return tuple(one for one in (self.before, self.newest) if one is not None and not one.withdrawn)

    def wants(self, node: str) -> set[Key]:
        """The parts that are to be loaded here."""
        return {(order.revision, part) for order in self.orders for part in order.nodes.get(node, ())}


class Drained(Message):
    """drained.json."""

    drained: bool = False
    at: int = 0


class Orders:
    """What one node knows. Thread-safe; what it says is on the disk already."""

    def __init__(self, root: Path, node: str, trusted: Callable[[], Mapping[str, str]]) -> None:
        self._root, self._node, self._trusted = root, node, trusted
        self._lock = threading.Lock()
        self.unread: list[str] = []  # files that hold no order, and why
        self._kept = dict(self._read())
        self._drained = self._read_drained()

    @property
    def drained(self) -> bool:
        with self._lock:
            return self._drained.drained

    def kept(self) -> dict[str, Kept]:
        """By deployment."""
        with self._lock:
            return dict(self._kept)

    def known(self) -> dict[str, Placement]:
        """Deployment -> its newest order, withdrawn ones among them."""
        return {name: kept.newest for name, kept in self.kept().items()}

    def wanted(self) -> set[Key]:
        """The parts that are to be loaded here."""
        return {key for one in self.kept().values() for key in one.wants(self._node)}

    def wanted_with(self, kept: Kept) -> set[Key]:
        """The same once ``kept`` is what is kept of its deployment."""
        others = {name: one for name, one in self.kept().items() if name != kept.newest.name}
        return {key for one in (kept, *others.values()) for key in one.wants(self._node)}

    def accepted(self, placement: Placement, runs: Callable[[Key], bool]) -> Kept:
        """What is kept of its deployment once it is accepted: the order before it too, where some of that runs here."""
        old = self.kept().get(placement.name)
        if old is not None and old.newest.same(placement):
            return old.model_copy(update={"newest": old.newest.joined(placement)})
        before = None if old is None or placement.withdrawn else old.before or old.newest
        if before is not None and not any(map(runs, Kept(newest=before).wants(self._node))):
            before = None
        return Kept(newest=placement, before=before)

    def keep(self, kept: Kept) -> None:
        name = kept.newest.name
        write_durably(self._root / "placements" / f"{name}.json", kept.encode())
        with self._lock:
            self._kept[name] = kept

    def read(self, question: Question) -> Placement:
        """The order in a question's payload. BadMessage when it is none, BadArtifact or FleetError when it does not
        count here."""
        placement = parse(Placement, _payload(question), MAX_RECORD)
        self.check(placement)
        if placement.withdrawn and any(placement.nodes.values()):
            raise BadMessage("a withdrawn placement that gives parts to nodes")
        return self.fence(placement)

    def check(self, placement: Placement) -> None:
        """Raises what ``check_placement`` raises unless a trusted operator signed it."""
        check_placement(placement, self._trusted())

    def trusts(self, placement: Placement) -> bool:
        """Whether one did."""
        return trusts(placement, self._trusted())

    def fence(self, placement: Placement) -> Placement:
        """The order, with what is known to be taken over already. FleetError for what is older than the order that is
        known, or another one of its generation."""
        known = self.known().get(placement.name)
        if known is not None and placement.same(known):
            return known.joined(placement)
        if known is None or placement.generation > known.generation:
            return placement
        given, have = (".".join(map(str, one.generation)) for one in (placement, known))
        other = "another order of that generation" if given == have else f"generation {have}"
        raise FleetError(
            f"the order for {placement.name} has generation {given}, and {other} is known here",
            hint="somebody else deploys it too: look at its state, then deploy again",
        )

    def drain(self, question: Question) -> bool:
        """Take the order to drain, or to end that; which it is. BadMessage or FleetError when it does not count."""
        order = parse(DrainOrder, _payload(question))
        order.check(self._trusted())
        with self._lock:
            if order.node != self._node or order.at <= self._drained.at:
                raise FleetError(f"the order to drain {order.node} is not for here, or an old one")
            state = Drained(drained=order.drained, at=order.at)
            write_durably(self._root / "drained.json", state.encode())
            self._drained = state
        return order.drained

    def _read(self) -> Iterator[tuple[str, Kept]]:
        for path in sorted((self._root / "placements").glob("[!.]*.json")):
            try:
                kept = Kept.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as exc:
                self.unread.append(f"{path}: {type(exc).__name__}")
            else:
                yield kept.newest.name, kept

    def _read_drained(self) -> Drained:
        try:
            return Drained.model_validate_json((self._root / "drained.json").read_bytes())
        except (OSError, ValidationError):
            return Drained()


@dataclass
class Job:
    """An order in work, and who wants to hear of it."""

    placement: Placement
    lock: threading.Lock = field(default_factory=threading.Lock)
    askers: list[Question] = field(default_factory=list)
    over: bool = False

    def join(self, question: Question) -> bool:
        with self.lock:
            if not self.over:
                self.askers.append(question)
                for old in self.askers[:-ASKERS]:
                    old.finish()
                del self.askers[:-ASKERS]
            return not self.over

    def say(self, progress: Progress) -> None:
        with self.lock:
            for asker in self.askers:
                asker.answer(b"", progress.encode())

    def end(self, progress: Progress) -> None:
        self.say(progress)
        with self.lock:
            self.over = True
            for asker in self.askers:
                asker.finish()


def _payload(question: Question) -> bytes:
    if question.size > MAX_RECORD:
        raise BadMessage(f"an order of {question.size} bytes; at most {MAX_RECORD} are read")
    return question.payload()
