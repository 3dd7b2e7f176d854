"""How a node's parts get there: pulled, checked, laid out, loaded; and how they go.

<node home>/blobs    the files that it has, for itself and as spare copies of what others hold alone
<node home>/parts    a folder of them for every part that is loaded
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

from edgevit.errors import BadArtifact, FleetError
from edgevit.fleet.agent.orders import Kept, Key, Orders
from edgevit.fleet.agent.readiness import Traffic
from edgevit.fleet.agent.release import Release, read_release
from edgevit.fleet.agent.shipping import PATIENCE_S, Puller
from edgevit.fleet.agent.station import Station, sentence
from edgevit.fleet.agent.store import Store, lay_out, node_home
from edgevit.fleet.bus.messages import Held, PartFigures, Placement, Progress

RECORD_S = 5.0  # without a byte of a release record
STEP = 0.01  # of a pull, that is worth a message

Say = Callable[[Progress], None]


class Parts(Protocol):
    """What loads and unloads: the node's engine."""

    def load(self, placement_name: str, revision: str, part: str, folder: Path, memory_bytes: int) -> None: ...

    def unload(self, revision: str, part: str) -> None: ...

    def held(self) -> tuple[Held, ...]: ...

    def figures(self) -> tuple[PartFigures, ...]: ...


class Loader:
    """One node's. Anyone may ask what is held and whether there is room; only the worker's thread changes anything.

    Args:
        memory_bytes: that all parts together may take
        closing: asked while a release record is pulled; True ends that
        stopped: the same while the files of parts are; what came is kept
    """

    def __init__(
        self,
        station: Station,
        engine: Parts,
        book: Orders,
        memory_bytes: int,
        *,
        closing: Callable[[], bool],
        stopped: Callable[[], bool],
    ) -> None:
        self._station, self._engine, self._book = station, engine, book
        self.memory_bytes = memory_bytes
        self._folders = node_home(station.node) / "parts"
        self.store = Store(node_home(station.node) / "blobs")
        serving = Traffic(engine.figures)

        def puller(patience_s: float, stopped: Callable[[], bool]) -> Puller:
            bus, names = station.bus, station.names
            return Puller(bus, names, self.store, serving=serving, stopped=stopped, patience_s=patience_s)

        self._records, self._files = puller(RECORD_S, closing), puller(PATIENCE_S, stopped)
        self._lock = threading.Lock()  # of the states
        self._states: dict[Key, Held] = {}  # of parts that the engine does not have, or not yet
        for kept in book.kept().values():  # before anything makes room
            self.pin(kept)

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def free_bytes(self) -> int:
        return self.memory_bytes - sum(one.memory_bytes for one in self.held() if one.state != "failed")

    def held(self) -> tuple[Held, ...]:
        """Loaded parts, and those that are being pulled or loaded or could not be."""
        loaded = self._engine.held()
        have = {(one.revision, one.part) for one in loaded}
        with self._lock:
            return (*loaded, *(one for key, one in self._states.items() if key not in have))

    def loaded(self) -> set[Key]:
        return {(one.revision, one.part) for one in self._engine.held() if one.state == "ready"}

    def lacking(self, placement: Placement) -> list[str]:
        """The parts that this node is to hold by it and does not."""
        have = {(one.revision, one.part) for one in self._engine.held()}
        mine = dict.fromkeys(placement.nodes.get(self._station.node, ()))
        return [part for part in mine if (placement.revision, part) not in have]

    def laid_out(self, key: Key) -> bool:
        """Whether a part's files lie in a folder of it: it runs, or did before this process began."""
        return self._folder(key).is_dir()

    def release(self, placement: Placement) -> Release:
        """Its record, pulled if need be. FleetError when nobody has it."""
        try:
            return read_release(self._records.record(placement.release), placement)
        except BadArtifact:  # damaged on this disk
            self.store.drop(placement.release)
            return read_release(self._records.record(placement.release), placement)

    # --- whether there is room ---------------------------------------------------------------------------------------

    def check(self, placement: Placement) -> Release:
        """Its release, once there is room for it. FleetError or BadArtifact where it could not be carried out here."""
        release = self.release(placement)
        self.fits(placement, release)
        self.make_room(placement, release, self.lacking(placement))
        return release

    def fits(self, placement: Placement, release: Release) -> None:
        """BadArtifact unless the order is about the parts of its release."""
        if unknown := set(placement.nodes.get(self._station.node, ())) - release.parts.keys():
            raise BadArtifact(f"{placement.name} has no part {min(unknown)}")
        if nowhere := release.parts.keys() - {part for parts in placement.nodes.values() for part in parts}:
            raise BadArtifact(f"the order for {placement.name} leaves {min(nowhere)} nowhere")

    def make_room(self, placement: Placement, release: Release, new: Sequence[str]) -> None:
        """FleetError unless this node can take these parts: it is not drained, and has the memory and the disk."""
        if not new:
            return
        if self._book.drained and not all(self.laid_out((placement.revision, part)) for part in new):
            raise FleetError(f"{self._station.node} is drained", hint="edgevit drain --undo")
        wanted = self._book.wanted_with(self.accepted(placement))
        held = {(one.revision, one.part): one.memory_bytes for one in self._engine.held()}
        needed = sum(release.parts[part].memory_bytes for part in new)
        free = self.memory_bytes - sum(size for key, size in held.items() if key in wanted)
        if needed > free:
            raise FleetError(
                f"{', '.join(new)} need {needed:,} bytes of memory, and {max(free, 0):,} of {self.memory_bytes:,} "
                "are free",
                hint="give the node more memory, or undeploy something",
            )
        self.store.make_room(release.sizes(tuple(new)))

    # --- orders on the disk -----------------------------------------------------------------------------------------

    def accepted(self, placement: Placement) -> Kept:
        """What is kept of its deployment once it is accepted: with the order before it only where that runs here, for
        one that failed has nothing to go on with, and would keep its files from making room."""
        return self._book.accepted(placement, self.laid_out)

    def keep(self, kept: Kept) -> None:
        """From here on this is the order that counts, whatever happens to this process.

        OSError where it cannot be written. On a full disk, what is wanted no longer makes way for it first, so that
        there is always a way out of one: to withdraw something.
        """
        try:
            self._book.keep(kept)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.pin(kept)
            self._forget(self._book.wanted_with(kept))
            self._book.keep(kept)
        self.pin(kept)

    def pin(self, kept: Kept) -> None:
        """Keep the files of its orders on the disk."""
        blobs: set[str] = set()
        for order in kept.orders:
            blobs.add(order.release)
            path = self.store.path(order.release)
            with suppress(BadArtifact, OSError):  # a damaged record is pulled anew, and then they are known
                release = read_release(path.read_bytes() if path else b"", order)
                mine = tuple(part for part in order.nodes.get(self._station.node, ()) if part in release.parts)
                blobs |= release.sizes(mine).keys()
        self.store.pin(kept.newest.name, blobs)

    # --- coming ------------------------------------------------------------------------------------------------------

    def obtain(self, placement: Placement, release: Release, new: Sequence[str], say: Say) -> None:
        """Pull, check and load these parts. Raises what the first one raises; what has failed is then held as such."""
        node = self._station.node
        try:
            for part in new:
                self._state(placement, release, part, "pulling")
            self._pull(release, new, say)
            for number, part in enumerate(new):
                say(Progress(node=node, stage="loading", share=number / len(new), said=part))
                self._load(placement, release, part)
        except Exception as exc:
            self.failed(placement, release, new, sentence(exc))
            raise
        with self._lock:
            for part in new:
                self._states.pop((placement.revision, part), None)

    def failed(self, placement: Placement, release: Release, new: Iterable[str], reason: str) -> None:
        """Say of those of these parts that are not loaded that they could not be."""
        for part in set(new) & set(self.lacking(placement)):
            self._state(placement, release, part, "failed", reason)

    def fetch(self, sizes: dict[str, int]) -> None:
        """Have these blobs on the disk, as far as there is room. FleetError where there is none."""
        self.store.make_room(sizes)
        for sha256, size in sizes.items():
            self._files.pull(sha256, size)

    def _pull(self, release: Release, parts: Sequence[str], say: Say) -> None:
        sizes = release.sizes(tuple(parts))
        total, came, said = max(sum(sizes.values()), 1), 0, 0.0

        def more(count: int) -> None:
            nonlocal came, said
            came += count
            if came / total >= said + STEP:
                said = came / total
                say(Progress(node=self._station.node, stage="pulling", share=min(said, 1.0)))

        if parts:
            say(Progress(node=self._station.node, stage="pulling", share=0.0))
        for sha256, size in sizes.items():
            if self.store.path(sha256) is None:
                self._files.pull(sha256, size, more)
            else:
                more(size)

    def _load(self, placement: Placement, release: Release, part: str) -> None:
        one = release.parts[part]
        folder = self._folder((placement.revision, part))
        self._state(placement, release, part, "loading")
        try:
            lay_out(self.store, one.laid, folder)
        except BadArtifact:  # damaged on this disk, and dropped: once more from others
            self._pull(release, [part], lambda _: None)
            lay_out(self.store, one.laid, folder)
        self._engine.load(placement.name, placement.revision, part, folder, one.memory_bytes)

    def _state(
        self,
        placement: Placement,
        release: Release,
        part: str,
        state: Literal["pulling", "loading", "failed"],
        reason: str | None = None,
    ) -> None:
        held = Held(
            revision=placement.revision,
            part=part,
            deployment=placement.name,
            state=state,
            memory_bytes=release.parts[part].memory_bytes,
            reason=reason,
        )
        with self._lock:
            self._states[placement.revision, part] = held

    # --- going -------------------------------------------------------------------------------------------------------

    def forget_unwanted(self) -> None:
        """Unload what no order that is kept gives this node, and let its files go as far as their room is needed."""
        self._forget(self._book.wanted())

    def _forget(self, wanted: set[Key]) -> None:
        with self._lock:
            for key in set(self._states) - wanted:
                del self._states[key]
        for key in self.loaded() - wanted:
            self._engine.unload(*key)
            self._station.log.info("let go", revision=key[0][:12], part=key[1])
        for folder in list(self._folders.glob("*/*")):
            if (folder.parent.name, folder.name) not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):
                    folder.parent.rmdir()
        self.store.make_room({})

    def _folder(self, key: Key) -> Path:
        return self._folders / key[0] / key[1]
