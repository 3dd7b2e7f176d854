"""What a node does between orders: it loads what it held before, tries again what it could not have, lets go of what
was replaced once all of the new answers, and pulls spare copies of what others hold alone.
"""

from __future__ import annotations

import time

from edgevit.errors import EdgeVitError
from edgevit.fleet.agent import placing
from edgevit.fleet.agent.loader import Loader
from edgevit.fleet.agent.orders import Kept, Orders
from edgevit.fleet.agent.readiness import Readiness
from edgevit.fleet.agent.station import Station, sentence
from edgevit.fleet.bus.messages import Placement

SPARE_S = 1.0  # after an order, before spare copies are pulled
RETRY_S, LONGEST_RETRY_S = (
    30.0,
    480.0,
)  # after a part could not be had; doubled each time


class Backoff:
    """When to try again what failed. Pure; times are in seconds."""

    def __init__(self, due: float | None = None) -> None:
        self._due = due
        self._wait_s = RETRY_S

    @property
    def pending(self) -> bool:
        return self._due is not None

    def take(self, now: float) -> bool:
        """Whether it is time; then nothing is pending until it fails again."""
        due = self._due is not None and now >= self._due
        if due:
            self._due = None
        return due

    def failed(self, now: float) -> float:
        """It did (again). In how many seconds it is tried next."""
        if self._due is None:
            self._due = now + self._wait_s
            self._wait_s = min(2 * self._wait_s, LONGEST_RETRY_S)
        return max(self._due - now, 0.0)

    def worked(self) -> None:
        """Nothing failed: the next failure is the first."""
        self._wait_s = RETRY_S

    def changed(self, now: float) -> None:
        """Something did by which what failed may work now: there may be room."""
        self._wait_s = RETRY_S
        if self._due is not None:
            self._due = now


class Settling:
    """One node's. Everything here is for the worker's thread alone."""

    def __init__(self, station: Station, loader: Loader, book: Orders) -> None:
        self._station, self._loader, self._book = station, loader, book
        self._readiness: dict[str, Readiness] = {}
        self._retry = Backoff(time.monotonic() if book.known() else None)
        self._spare_at: float | None = None

    @property
    def due(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._readiness) or self._retry.pending or self._spare_at is not None

    def look(self) -> None:
        """Do what it is time for."""
        try:
            if self._retry.take(time.monotonic()):
                self._reload()
            self._settle()
            if self._spare_at is not None and time.monotonic() >= self._spare_at:
                self._spare_at = None
                self._keep_spares()
        except Exception as exc:  # whatever it was, it must not end the thread
            self._failed("could not settle", exc)

    def carried_out(self, placement: Placement) -> None:
        """An order was: what failed may have room now, what was before may go, and others may hold something alone."""
        self._retry.changed(time.monotonic())
        self._begin(placement)
        self._spare_at = time.monotonic() + SPARE_S

    def failed(self, placement: Placement) -> None:
        """An order was not. It is tried again if it is the one that counts."""
        known = self._book.known().get(placement.name)
        if known is not None and known.same(placement):
            self._retry.failed(time.monotonic())

    def close(self) -> None:
        for readiness in self._readiness.values():
            readiness.close()

    # --- what was held before, or could not be had -----------------------------------------------------------------

    def _reload(self) -> None:
        """Load what is wanted and not held, part by part: what cannot be had keeps nothing else from being served."""
        self._loader.forget_unwanted()
        whole = [self._reload_one(kept) for kept in self._book.kept().values()]
        if all(whole):
            self._retry.worked()
        self._spare_at = time.monotonic() + SPARE_S

    def _reload_one(self, kept: Kept) -> bool:
        """Whether all of a deployment that is to be here is."""
        whole = True
        for order in kept.orders:
            try:
                whole = self._obtain(order, kept) and whole
            except Exception as exc:  # nobody who is trusted signed it, or nobody has its record
                self._failed("not loaded", exc, deployment=order.name)
                whole = False
        self._begin(kept.newest)
        return whole

    def _obtain(self, order: Placement, kept: Kept) -> bool:
        loader, whole = self._loader, True
        self._book.check(order)
        release = loader.release(order)
        loader.pin(kept)
        loader.fits(order, release)
        for part in loader.lacking(order):
            try:
                loader.make_room(order, release, [part])
                loader.obtain(order, release, [part], lambda _: None)
            except Exception as exc:  # an engine may raise anything while it opens a file
                loader.failed(order, release, [part], sentence(exc))
                self._failed("not loaded", exc, deployment=order.name, part=part)
                whole = False
        return whole

    def _failed(self, event: str, exc: Exception, **about: str) -> None:
        wait_s = self._retry.failed(time.monotonic())
        self._station.log.warning(event, **about, reason=sentence(exc), again_s=round(wait_s))

    # --- letting go of what was replaced -----------------------------------------------------------------------------

    def _begin(self, placement: Placement) -> None:
        """Look out for the moment when all of it answers, if something that was before runs here until then."""
        kept = self._book.kept().get(placement.name)
        old = self._readiness.pop(placement.name, None)
        if old is not None:
            old.close()
        if kept is None or kept.newest != placement or kept.before is None:
            return
        if kept.before.nodes.get(self._station.node):
            self._readiness[placement.name] = Readiness(self._station.bus, self._station.names, placement)
        else:
            self._let_go(placement)

    def _settle(self) -> None:
        """Let go of what was replaced where all of the newest order answers."""
        for name, readiness in list(self._readiness.items()):
            mine = {part for revision, part in self._loader.loaded() if revision == readiness.placement.revision}
            if readiness.whole(self._station.node, mine):
                del self._readiness[name]
                readiness.close()
                self._let_go(readiness.placement)

    def _let_go(self, placement: Placement) -> None:
        """Of what was before it."""
        try:
            self._loader.keep(Kept(newest=placement))
            self._loader.forget_unwanted()
        except OSError as exc:  # the disk takes no record of it: it is begun again with the next try
            self._failed("not settled", exc, deployment=placement.name)

    # --- spare copies ------------------------------------------------------------------------------------------------

    def _keep_spares(self) -> None:
        """Have the files of parts that others hold alone, as far as there is room."""
        try:
            for order in self._book.known().values():
                mine = placing.spares(order.nodes, self._station.node)
                if not order.withdrawn and mine:
                    self._loader.fetch(self._loader.release(order).sizes(mine))
        except (EdgeVitError, OSError) as exc:
            self._spare_at = time.monotonic() + RETRY_S
            self._station.log.info("no spare copy yet", reason=sentence(exc))
