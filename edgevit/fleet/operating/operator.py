"""One operator's session: asks the nodes what they are and know, and gives them signed orders.

What is signed here is built only from what a trusted operator has signed before. Everything else that nodes say of
deployments is ignored, and they are named. Of two operators who deploy under one name at the same moment one goes on,
and the other one is told; neither takes back what the other has brought about.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

from edgevit.errors import FleetError, UnknownName
from edgevit.fleet.agent.known import Known, known_infos, known_orders
from edgevit.fleet.agent.orders import DrainOrder
from edgevit.fleet.agent.release import Release, read_release
from edgevit.fleet.agent.shipping import Find, Puller, Supplier
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_GENERATION, BadMessage, Info, Placement, Progress, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Answer, gather
from edgevit.fleet.trust.signatures import order_keys, sign_placement, trusts
from edgevit.home import fleet_home

FIND_S = 3.0  # for a first node
SETTLE_S = 0.3  # for the others
CHECK_S = 20.0
SILENT_S = 10.0  # without a word of a node that works on an order: it is asked again
GONE_S = 10.0  # that a node which is gone has to come back
UNLOAD_S = 60.0
ROUNDS = 3  # of an operator who goes on where another one deploys the same name

OnProgress = Callable[[str, str, float | None], None]  # node, stage, share


def unheard(node: str, stage: str, share: float | None) -> None:
    return None


class Operator:
    """A session as operator: asks nodes what they are, and gives orders."""

    def __init__(self, link: Link) -> None:
        self.name = f"operator-{secrets.token_hex(4)}"
        self.notes: dict[str, None] = {}  # what was ignored, in sentences
        self._identity = link.identity
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
                infos |= {one.node: one for one in known_infos(self.bus, self.names)}
            time.sleep(0.02)
        if not infos:
            raise FleetError("no node is found", hint="start one: edgevit node; or name where they are: --connect")
        return sorted(infos.values(), key=lambda one: one.node)

    def known(self, name: str = "*") -> dict[str, Known]:
        """Deployment -> what the nodes know of it, as far as a trusted operator signed it."""
        keys = order_keys(self._identity)
        return known_orders(
            self.bus, self.names, name, accept=lambda one: trusts(one, keys), ignored=lambda node: self._ignore(node)
        )

    def _ignore(self, node: str) -> None:
        self.notes.setdefault(f"{node} answers with an order that no trusted operator signed: it is ignored")

    def placements(self, name: str = "*") -> dict[str, Placement]:
        """Deployment -> its newest order that any node knows, withdrawn ones among them."""
        return {known: one.newest for known, one in self.known(name).items()}

    def placement(self, name: str) -> Placement | None:
        return self.placements(name).get(name)

    def known_placement(self, name: str) -> Placement:
        """UnknownName when no node knows it, FleetError when nobody who is trusted here signed what they know."""
        everything = {known: one for known, one in self.placements().items() if not one.withdrawn}
        if name not in everything:
            for note in self.notes:
                raise FleetError(
                    f"no order for {name} is signed by an operator who is trusted here; {note}",
                    hint="edgevit keys show, where it was deployed, prints the key to trust: edgevit keys trust KEY",
                )
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
        """Above all that any operator has signed. A higher one that a node claims to know is ignored, and it is named:
        the order itself would have been shown."""
        newest = known.epoch if known else 0
        for info in infos:
            if info.placements.get(name, (0, 0))[0] > newest:
                self.notes.setdefault(f"{info.node} claims to know a newer order for {name}, and shows none: ignored")
        if newest >= MAX_GENERATION:
            raise FleetError(f"{name} was deployed too often", hint="deploy under another name: --name")
        return newest + 1

    def sign(self, **fields: Any) -> Placement:
        return sign_placement(fields)

    def again(self, known: Placement, infos: Iterable[Info], **changes: Any) -> Placement:
        """``known`` with changes, one epoch later, signed by this operator; the nodes that are there are its hosts."""
        kept = Placement.model_fields.keys() - {"key", "signature", "given"}
        fields = {key: getattr(known, key) for key in kept} | {"hosts": hosts(infos) or known.hosts}
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
            found = next(known_infos(self.bus, self.names, node), None)
            if found is not None and not found.held:
                return
            if time.monotonic() > until:
                held = "unknown parts" if found is None else ", ".join(one.part for one in found.held)
                raise FleetError(f"{node} still holds {held}", hint="edgevit fleet status says why")
            time.sleep(0.1)

    def bring_about(
        self, placement: Placement, infos: Sequence[Info], before: Placement | None, on_progress: OnProgress
    ) -> Brought:
        """Have ``placement`` checked by all who are to hold parts, then done by everyone.

        FleetError names the node that cannot, and ``before`` is restored unless it was to be withdrawn; and it says so
        where another operator deploys under that name at the same time, and goes on.
        """
        rival = placement
        for _ in range(ROUNDS):
            given = False
            try:
                self._ask_holders(placement, on_progress)
                given = not placement.withdrawn
                return Brought(placement, self._have_done(placement, infos, on_progress))
            except BaseException as exc:
                found, mine = self._contest(placement)
                if found is None or not isinstance(exc, FleetError):
                    if given and found is None:
                        self._restore(placement, before, infos)
                    raise
                if not mine or _rank(found) > _rank(placement):
                    raise _overtaken(placement, found) from exc
                rival = found
            placement = self.again(placement, infos, epoch=max(placement.epoch, rival.epoch) + 1)
        raise _overtaken(placement, rival)

    def _ask_holders(self, placement: Placement, on_progress: OnProgress) -> None:
        """FleetError where one of those that are to hold parts would not take them. Nothing is changed."""
        holders = [node for node, parts in placement.nodes.items() if parts]
        for node, reason in self.give("check", placement, holders, on_progress, silent_s=SILENT_S / 2).items():
            raise FleetError(f"{node} refuses {placement.name}: {reason}")

    def _have_done(self, placement: Placement, infos: Sequence[Info], on_progress: OnProgress) -> dict[str, str]:
        """Nodes that hold nothing and refused -> why. FleetError where it is not done, or not this alone."""
        holders = [node for node, parts in placement.nodes.items() if parts]
        waited = None if placement.withdrawn else holders
        failed = self.give("apply", placement, [one.node for one in infos], on_progress, waited)
        for node in holders:
            if node in failed:
                raise FleetError(f"{node} cannot take {placement.name}: {failed[node]}")
        rival, _ = self._contest(placement)
        if rival is not None:
            raise _overtaken(placement, rival)
        return failed

    def _contest(self, placement: Placement) -> tuple[Placement | None, bool]:
        """Another operator's order that is not older than ``placement``, and whether any node took this one."""
        known = self.known(placement.name).get(placement.name)
        orders = known.orders.values() if known else ()
        others = [one for one in orders if one.epoch >= placement.epoch and not one.same(placement)]
        rival = max(others, key=_rank, default=None)
        return rival, any(one.same(placement) for one in orders)

    def _restore(self, failed: Placement, before: Placement | None, infos: Sequence[Info]) -> None:
        """Have ``before`` again, or nothing where there was nothing."""
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


def hosts(infos: Iterable[Info]) -> tuple[str, ...]:
    """The nodes that may take parts over."""
    return tuple(sorted(one.node for one in infos))


def _rank(placement: Placement) -> tuple[int, str]:
    """Of two operators' orders the higher one goes on; both know which that is."""
    return placement.epoch, placement.signature


def _overtaken(placement: Placement, rival: Placement) -> FleetError:
    return FleetError(
        f"{placement.name} is deployed by somebody else at the same time (key {rival.key[:16]}…), who goes on",
        hint="edgevit fleet status shows what runs now; deploy again if it is to be yours",
    )


@dataclass(frozen=True)
class Brought:
    """The order that nodes have carried out, and why those refused that hold nothing."""

    placement: Placement
    refused: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        said = self.refused.items()
        return tuple(f"{node} refused the order, which gives it nothing: {reason}" for node, reason in said)


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
