"""What one node holds, and how it gets there: the desk hears orders, the loader carries them out, and between orders
what was replaced settles.

An order is kept (orders.py) before anything is done about it, so that a node that is killed goes on with it. New parts
are pulled, checked, loaded and announced beside those that run; these go only when every part of the new order answers,
here and elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from edgevit.fleet.agent.desk import CLOSE_S, Desk
from edgevit.fleet.agent.loader import Loader, Parts
from edgevit.fleet.agent.orders import Job, Orders
from edgevit.fleet.agent.readiness import LOOK_S
from edgevit.fleet.agent.release import Release
from edgevit.fleet.agent.settling import Settling
from edgevit.fleet.agent.shipping import Supplier
from edgevit.fleet.agent.station import Station, sentence
from edgevit.fleet.agent.store import Store, node_home
from edgevit.fleet.bus.messages import Held, Placement, Progress


class Holdings:
    """One node's parts and orders, and the one thread that changes them.

    Args:
        memory_bytes: that all parts together may take
        trusted: public keys of operators, hex -> name; asked anew for every order
    """

    def __init__(
        self, station: Station, engine: Parts, *, memory_bytes: int, trusted: Callable[[], Mapping[str, str]]
    ) -> None:
        self._station = station
        self._closing = threading.Event()
        self._in_work: Placement | None = None  # written by the worker; None between orders
        self._book = Orders(node_home(station.node), station.node, trusted)
        self._loader = Loader(
            station, engine, self._book, memory_bytes, closing=self._closing.is_set, stopped=self._stopped
        )
        self._desk = Desk(station, self._book, self._loader.check)
        self._settling = Settling(station, self._loader, self._book)
        self._supplier: Supplier | None = None
        self._worker = threading.Thread(target=self._work, name="holdings", daemon=True)

    def open(self) -> None:
        """Serve files and orders, and begin to load what was held before. Returns at once."""
        bus, names, node = self._station.bus, self._station.names, self._station.node
        self._supplier = Supplier(bus, names, node, self.store.path)
        self._desk.open()
        for unread in self._book.unread:
            self._station.log.warning("cannot be read", file=unread)
        self._worker.start()

    def close(self) -> None:
        """Stop taking orders; a pull in work ends, and goes on the next time."""
        self._closing.set()
        self._desk.close()
        if self._supplier is not None:
            self._supplier.close()
        if self._worker.is_alive():
            self._worker.join(CLOSE_S)
        self._settling.close()

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        return self._loader.store

    @property
    def drained(self) -> bool:
        return self._book.drained

    @property
    def free_bytes(self) -> int:
        return self._loader.free_bytes

    def held(self) -> tuple[Held, ...]:
        """Loaded parts, and those that are being pulled or loaded or could not be."""
        return self._loader.held()

    def placements(self) -> dict[str, tuple[int, int]]:
        """Deployment -> generation, of withdrawn ones too."""
        return {name: placement.generation for name, placement in self._book.known().items()}

    def trusts(self, placement: Placement) -> bool:
        """Whether an operator who is trusted here signed it."""
        return self._book.trusts(placement)

    def release(self, placement: Placement) -> Release:
        """Its record, pulled if need be. FleetError when nobody has it."""
        return self._loader.release(placement)

    # --- the worker --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            job = self._desk.next(LOOK_S if self._settling.due else None)
            if job is not None:
                self._carry_out(job)
            elif not self._closing.is_set():
                self._settling.look()

    def _carry_out(self, job: Job) -> None:
        placement = self._in_work = job.placement
        node = self._station.node
        try:
            self._settling.carried_out(self._do(job))
            end = Progress(node=node, stage="ready", share=1.0)
        except Exception as exc:  # an engine may raise anything while it opens a file
            self._station.log.warning("order failed", deployment=placement.name, reason=sentence(exc))
            self._settling.failed(placement)
            end = Progress(node=node, stage="failed", said=sentence(exc))
        finally:
            self._in_work = None
        self._desk.done(job, end)

    def _do(self, job: Job) -> Placement:
        """The order that was carried out: the job's, and what was known to be taken over of it."""
        placement, loader = self._book.fence(job.placement), self._loader
        job.say(Progress(node=self._station.node, stage="checking"))
        if placement.withdrawn:
            loader.keep(loader.accepted(placement))
            loader.forget_unwanted()
            return placement
        release = loader.check(placement)
        loader.keep(loader.accepted(placement))
        loader.forget_unwanted()
        loader.obtain(placement, release, loader.lacking(placement), job.say)
        return placement

    def _stopped(self) -> bool:
        """Whether the pull in work is for an order that counts no longer, or may wait."""
        return self._closing.is_set() or self._desk.overtakes(self._in_work)
