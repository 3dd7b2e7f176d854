"""One operator's session: asks the nodes what they are and know, and gives them signed orders."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from edgevit.errors import FleetError, UnknownName
from edgevit.fleet.agent.controller import known_orders
from edgevit.fleet.agent.orders import DrainOrder
from edgevit.fleet.agent.release import Release, read_release
from edgevit.fleet.agent.shipping import Find, Puller, Supplier
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Info, Placement, Progress, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer, gather
from edgevit.fleet.trust.signatures import sign_placement
from edgevit.home import fleet_home

FIND_S = 3.0  # for a first node
SETTLE_S = 0.3  # for the others
CHECK_S = 20.0
SILENT_S = 10.0  # without a word of a node that works on an order: it is asked again
GONE_S = 10.0  # that a node which is gone has to come back
UNLOAD_S = 60.0

OnProgress = Callable[[str, str, float | None], None]  # node, stage, share


def unheard(node: str, stage: str, share: float | None) -> None:
    return None


class Operator:
    """A session as operator: asks nodes what they are, and gives orders."""

    def __init__(self, link: Link) -> None:
        self.name = f"operator-{secrets.token_hex(4)}"
        self.bus = open_bus(link, "operator", self.name)
        self.names = Names(link.cluster)
        self._live: set[tuple[str, ...]] = set()  # (node, incarnation)
        self._watch = self.bus.watch(self.names.live(), self._change)

    @classmethod
    @contextmanager
    def on(cls, link: Link | None) -> Iterator[Self]:
        operator = cls(link or Link())
        try:
            yield operator
        finally:
            operator._watch.close()
            operator.bus.close()

    def _change(self, key: str, there: bool) -> None:
        one = self.names.steps(key)[1:]
        (self._live.add if there else self._live.discard)(one)

    @property
    def live(self) -> set[str]:
        """The nodes that are announced."""
        return {node for node, *_ in self._live.copy()}

    def nodes(self, wanted: str | None = None) -> list[Info]:
        """Every node that is there, by name; FleetError when there is none."""
        started, infos = time.monotonic(), dict[str, Info]()
        while (waited := time.monotonic() - started) < FIND_S:
            live = self.live
            if live and waited >= SETTLE_S and live <= infos.keys() and (wanted is None or wanted in live):
                break
            if live - infos.keys():
                infos |= {one.node: one for one in self._infos()}
            time.sleep(0.02)
        if not infos:
            raise FleetError("no node is found", hint="start one: edgevit node; or name where they are: --connect")
        return sorted(infos.values(), key=lambda one: one.node)

    def _infos(self, node: str = "*") -> Iterator[Info]:
        expected = None if node == "*" else 1
        for answer in gather(self.bus, self.names.info(node), timeout_s=1.0, expected=expected).good:
            with suppress(BadMessage):
                yield parse(Info, answer.payload or answer.meta, MAX_RECORD)

    def placements(self, name: str = "*") -> dict[str, Placement]:
        """Deployment -> its newest order that any node knows, withdrawn ones among them."""
        return {known: one.newest for known, one in known_orders(self.bus, self.names, name).items()}

    def placement(self, name: str) -> Placement | None:
        return self.placements(name).get(name)

    def known_placement(self, name: str) -> Placement:
        """UnknownName when no node knows it."""
        everything = {known: one for known, one in self.placements().items() if not one.withdrawn}
        if name not in everything:
            raise UnknownName("deployment", name, everything)
        return everything[name]

    def release(self, placement: Placement) -> Release:
        """Its record, from a node that has it."""
        store = Store(fleet_home() / "blobs")
        return read_release(Puller(self.bus, self.names, store, patience_s=5.0).record(placement.release), placement)

    @contextmanager
    def serving(self, find: Find) -> Iterator[None]:
        """Nodes may pull what ``find`` knows from here."""
        supplier = Supplier(self.bus, self.names, self.name, find)
        try:
            yield
        finally:
            supplier.close()

    def next_epoch(self, name: str, infos: Iterable[Info], known: Placement | None) -> int:
        """Above all that any node knows."""
        epochs = [one.placements[name][0] for one in infos if name in one.placements]
        return 1 + max([*epochs, known.epoch if known else 0], default=0)

    def sign(self, **fields: Any) -> Placement:
        return sign_placement(fields)

    def again(self, known: Placement, infos: Iterable[Info], **changes: Any) -> Placement:
        """``known`` with changes, one epoch later, signed by this operator."""
        fields = {key: getattr(known, key) for key in Placement.model_fields if key not in ("key", "signature")}
        epoch = self.next_epoch(known.name, infos, known)
        return self.sign(**{**fields, "epoch": epoch, "step": 0, **changes})

    def drain(self, node: str, drained: bool) -> None:
        """FleetError when the node refuses."""
        order = DrainOrder.signed(node=node, drained=drained, at=time.time_ns()).encode()
        reply = gather(self.bus, self.names.order(node, "drain"), payload=order, timeout_s=5.0)
        if not reply.good:
            raise FleetError(f"{node} refused: {next(iter(reply.refusals), 'it does not answer')}")

    def wait_empty(self, node: str) -> None:
        """Until a node holds nothing; FleetError when it does not let go."""
        until = time.monotonic() + UNLOAD_S
        while True:
            found = next(self._infos(node), None)
            if found is not None and not found.held:
                return
            if time.monotonic() > until:
                held = "unknown parts" if found is None else ", ".join(one.part for one in found.held)
                raise FleetError(f"{node} still holds {held}", hint="edgevit fleet status says why")
            time.sleep(0.1)

    def bring_about(
        self, placement: Placement, infos: Sequence[Info], before: Placement | None, on_progress: OnProgress
    ) -> list[str]:
        """Have ``placement`` checked by all who are to hold parts, then done by everyone; sentences about nodes that
        hold nothing and refused. FleetError names the node that cannot, and ``before`` is restored."""
        holders = [node for node, parts in placement.nodes.items() if parts]
        for node, reason in self.give("check", placement, holders, on_progress, silent_s=SILENT_S / 2).items():
            raise FleetError(f"{node} refuses {placement.name}: {reason}")
        try:
            failed = self.give("apply", placement, [one.node for one in infos], on_progress, holders)
            for node in holders:
                if node in failed:
                    raise FleetError(f"{node} cannot take {placement.name}: {failed[node]}")
        except BaseException:
            self._restore(placement, before, infos)
            raise
        return [f"{node} refused the order, which gives it nothing: {reason}" for node, reason in failed.items()]

    def _restore(self, failed: Placement, before: Placement | None, infos: Sequence[Info]) -> None:
        base = before if before is not None and not before.withdrawn else None
        changes: dict[str, Any] = {} if base else {"nodes": {}, "withdrawn": True}
        order = self.again(base or failed, infos, **changes, epoch=failed.epoch + 1)
        self.give("apply", order, [one.node for one in infos], unheard, silent_s=2.0)

    def give(
        self,
        verb: str,
        placement: Placement,
        nodes: Sequence[str],
        on_progress: OnProgress,
        holders: Sequence[str] | None = None,
        silent_s: float = GONE_S,
    ) -> dict[str, str]:
        """Give an order to ``nodes`` at once, and wait until every one of ``holders`` (default: all) has finished or
        failed; node -> why it failed. A node that falls silent is asked again, and given up after ``silent_s``."""
        rounds = {node: _Round(self, verb, placement, node) for node in nodes}
        waited = set(nodes if holders is None else holders)
        heard: queue.Queue[tuple[str, Answer | None]] = queue.Queue()
        for one in rounds.values():
            one.ask(heard)
        failed: dict[str, str] = {}
        open_, ends = set(nodes), time.monotonic() + SETTLE_S
        while open_ & waited or (open_ and time.monotonic() < ends):
            with suppress(queue.Empty):
                node, answer = heard.get(timeout=0.1)
                if node in open_:
                    outcome = rounds[node].heard(answer, on_progress)
                    if outcome is not None:
                        open_.discard(node)
                        failed |= {node: outcome} if outcome else {}
            for node in sorted(open_):
                if (reason := rounds[node].patience(silent_s, heard)) is not None:
                    open_.discard(node)
                    failed[node] = reason
        return failed


@dataclass
class _Round:
    """One order to one node: asked again until it says how it ended."""

    operator: Operator
    verb: str
    placement: Placement
    node: str
    heard_at: float = field(default_factory=time.monotonic)
    asked_at: float = 0.0
    over: bool = False

    def ask(self, heard: queue.Queue[tuple[str, Answer | None]]) -> None:
        self.asked_at, self.over = time.monotonic(), False
        self.operator.bus.ask(
            self.operator.names.order(self.node, self.verb),
            lambda answer: heard.put((self.node, answer)),
            lambda: heard.put((self.node, None)),
            payload=self.placement.encode(),
            timeout_s=CHECK_S if self.verb == "check" else 600.0,
        )

    def heard(self, answer: Answer | None, on_progress: OnProgress) -> str | None:
        """None while it goes on, "" when it is done, else why it is not."""
        if answer is None:
            self.over = True
            return None
        self.heard_at = time.monotonic()
        if answer.refused is not None:
            return None if answer.refused == "busy" else answer.refused
        try:
            progress = parse(Progress, answer.meta)
        except BadMessage:
            return "its answer cannot be read"
        on_progress(self.node, progress.stage, progress.share)
        if progress.stage == "failed":
            return progress.said or "failed"
        return "" if progress.stage == "ready" or self.verb == "check" else None

    def patience(self, silent_s: float, heard: queue.Queue[tuple[str, Answer | None]]) -> str | None:
        """Ask again where that may help; a sentence when it does not any more."""
        now = time.monotonic()
        live = self.node in self.operator.live
        if now - self.heard_at > silent_s and (not live or self.verb == "check"):
            return "it does not answer" if live else "it is gone"
        if (self.over and now - self.asked_at > 0.5) or now - max(self.heard_at, self.asked_at) > SILENT_S:
            self.ask(heard)
        return None
