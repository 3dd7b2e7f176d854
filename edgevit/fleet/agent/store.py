"""The files of a node, each under its SHA-256: pulled once, kept while they are placed and as long as there is room.

    <root>/<sha256>        whole, and checked before it got this name
    <root>/<sha256>.part   as far as it was pulled; a pull goes on at its end, also after the process was killed

Blobs never change, so that the folders of loaded parts are hard links to them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from edgevit.artifact.files import sha256_of, sha256_of_stream, sync_folder, write_durably
from edgevit.artifact.staging import publish, staged
from edgevit.errors import BadArtifact, FleetError
from edgevit.home import fleet_home

CACHE_BYTES = 4 << 30
SPARE_BYTES = 64 << 20  # of the disk, that no pull takes
PART = ".part"


def node_home(node: str) -> Path:
    """What one node keeps; several can run on a machine."""
    return fleet_home() / "nodes" / node


class Store:
    """Blobs up to ``limit_bytes`` in all. The least recently used ones go first; pinned ones never."""

    def __init__(self, root: Path, limit_bytes: int = CACHE_BYTES) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self._pins: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()
        self._filling: dict[str, threading.Lock] = {}
        root.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path | None:
        """Where a whole blob lies, or None. Asking counts as a use."""
        path = self.root / sha256
        with suppress(OSError):  # a disk that cannot be written serves what it holds
            os.utime(path)
        return path if path.is_file() else None

    def part(self, sha256: str) -> Path:
        """The file that a pull appends to."""
        return self.root / f"{sha256}{PART}"

    def begun(self, sha256: str) -> int:
        """Bytes that an earlier pull left."""
        try:
            return self.part(sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def filling(self, sha256: str) -> threading.Lock:
        """Held by the one that pulls this blob."""
        with self._lock:
            return self._filling.setdefault(sha256, threading.Lock())

    def commit(self, sha256: str) -> Path:
        """Check the pulled file and give it its name; BadArtifact, and it is gone, when its content is another."""
        part, path = self.part(sha256), self.root / sha256
        with part.open("rb+") as stream:
            found = sha256_of_stream(stream)
            os.fsync(stream.fileno())
        if found != sha256:
            part.unlink()
            raise BadArtifact(f"what was pulled as {sha256[:12]}… has another SHA-256 ({found[:12]}…)")
        part.replace(path)
        sync_folder(self.root)
        return path

    def add(self, data: bytes) -> str:
        """Keep a small blob; its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        write_durably(self.root / sha256, data)
        return sha256

    def drop(self, sha256: str) -> None:
        """Forget a blob and what was pulled of it."""
        (self.root / sha256).unlink(missing_ok=True)
        self.part(sha256).unlink(missing_ok=True)

    def pin(self, owner: str, blobs: Iterable[str]) -> None:
        """Keep ``blobs`` for ``owner``, and what it pinned before no longer."""
        with self._lock:
            self._pins[owner] = frozenset(blobs)

    def unpin(self, owner: str) -> None:
        with self._lock:
            self._pins.pop(owner, None)

    def make_room(self, sizes: Mapping[str, int]) -> None:
        """Remove unpinned blobs until those of ``sizes`` (sha256 -> bytes) fit, as far as they are not here.

        FleetError when they cannot, on the disk or within the bound; then nothing was removed.
        """
        with self._lock:
            pinned = frozenset[str]().union(*self._pins.values(), sizes)
            files = self._files()
            needed = sum(size - _here(blob, size, files) for blob, size in sizes.items())
            loose = {name: stat for name, stat in files.items() if name.removesuffix(PART) not in pinned}
            kept, gained = (sum(stat.st_size for stat in some.values()) for some in (files, loose))
            kept -= gained
            disk = shutil.disk_usage(self.root).free
            if needed:  # what is here already needs no room, however full the disk is
                self._refuse_beyond(needed, kept, disk + gained)
            for name, stat in sorted(loose.items(), key=lambda one: (one[1].st_mtime, one[0])):
                if kept + gained + needed <= self.limit_bytes and needed + SPARE_BYTES <= disk:
                    break
                (self.root / name).unlink(missing_ok=True)
                gained, disk = gained - stat.st_size, disk + stat.st_size

    def _refuse_beyond(self, needed: int, kept: int, free: int) -> None:
        if kept + needed > self.limit_bytes:
            raise FleetError(
                f"its disk cache has no room: {needed:,} bytes are needed, and {kept:,} of {self.limit_bytes:,} "
                "are in use",
                hint="undeploy what is not used, or give the node a larger cache",
            )
        if needed + SPARE_BYTES > free:
            raise FleetError(
                f"its disk has no room: {needed:,} bytes are needed, and {max(free - SPARE_BYTES, 0):,} of {free:,} "
                "free ones are to be had",
                hint=f"make room on the node's disk; {SPARE_BYTES >> 20} MB of it are left free",
            )

    def _files(self) -> dict[str, os.stat_result]:
        found = {}
        for file in self.root.iterdir():
            with suppress(FileNotFoundError):  # another thread's pull just gave it its name
                if file.is_file():
                    found[file.name] = file.stat()
        return found


def _here(blob: str, size: int, files: Mapping[str, os.stat_result]) -> int:
    """How many bytes of a blob are here."""
    if blob in files:
        return size
    begun = files.get(f"{blob}{PART}")
    return min(begun.st_size, size) if begun else 0


def lay_out(store: Store, files: Mapping[str, str], folder: Path) -> None:
    """Make ``folder`` of blobs (relative path -> sha256), all at once; one that is there already is checked first.

    The paths must have been checked. BadArtifact for blobs that were damaged on this disk: they are dropped, so that
    the next pull brings them anew.
    """
    if folder.is_dir() and _holds(folder, files):
        return
    damaged = [name for name, sha256 in files.items() if not _sound(store.path(sha256), sha256)]
    for name in damaged:
        store.drop(files[name])
    if damaged:
        raise BadArtifact(f"{', '.join(damaged)} were lost or damaged on this disk", hint="deploy again")
    with staged(folder) as scratch:
        for name, sha256 in files.items():
            blob, path = store.root / sha256, scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(blob, path)
            except OSError:  # a file system without hard links
                shutil.copyfile(blob, path)
        publish(scratch, folder)


def _sound(blob: Path | None, sha256: str) -> bool:
    return blob is not None and sha256_of(blob) == sha256


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether the folder has exactly these files with this content."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found == files.keys() and all(sha256_of(folder / name) == sha256 for name, sha256 in files.items())
