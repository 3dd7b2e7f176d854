"""Files over the bus: whoever holds a blob serves it in pieces, and who needs it pulls them one after another.

The puller sets the pace. While its node answers images it asks for 64 KB at a time, two in flight, so that an image
waits behind little (docs/explanation/fleet.md); else pieces grow to 1 MB, four in flight, as long as they come quickly.
They are written in order, so that the length of what was written says where to go on, also after a kill; the whole is
checked against its SHA-256. A holder that falls silent or gives wrong bytes is left for another.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgevit.errors import BadArtifact, FleetError
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, Count, Message, Name, Sha256, parse
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Answer, Bus, Question, gather, take_or_refuse

SMALL, LARGE = 64 << 10, 1 << 20  # bytes of a piece
SERVING_WINDOW, IDLE_WINDOW = 2, 4  # pieces in flight
QUICK_S, SLOW_S = 0.4, 2.0  # a piece sooner than that: larger ones; later: smaller ones
SOON_S, PIECE_S = 3.0, 15.0  # a piece that takes longer is given up: at first, and on links that prove slow
PATIENCE_S = 30.0  # without a byte from anyone
LOOK_S = 1.0  # between two looks for someone who has it, at most
WAITING = 64  # questions that wait to be served
SHUNNED_S = 300.0  # that who gave wrong bytes is left alone

log = logging.getLogger("edgevit.fleet")

Find = Callable[[str], Path | bytes | None]


class Piece(Message):
    """Beside a question to ``blob/…``; a length of 0 asks only who holds it, and who does not is silent."""

    sha256: Sha256
    off: Count
    len: Annotated[int, Field(ge=0, le=LARGE)]


class Piecemeal(Message):
    """Beside the bytes of an answer: whose they are, and of how many in all."""

    node: Name
    bytes: Count


class Supplier:
    """Serves the blobs that ``find`` knows, as ``who``, on one thread of its own."""

    def __init__(self, bus: Bus, names: Names, who: str, find: Find) -> None:
        self._who, self._find = who, find
        self.sent_bytes = 0
        self._waiting: queue.Queue[Question | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._serve, name="supplier", daemon=True)
        self._thread.start()
        self._served = bus.serve(names.blob("*", who), self._take)

    def _take(self, question: Question) -> None:
        take_or_refuse(self._waiting, question)

    def _serve(self) -> None:
        while (question := self._waiting.get()) is not None:
            try:
                self._answer(question)
            except (BadMessage, OSError) as exc:
                question.refuse(str(exc) if isinstance(exc, BadMessage) else "it cannot be read")

    def _answer(self, question: Question) -> None:
        asked = parse(Piece, question.meta)
        source = self._find(asked.sha256)
        if source is None:
            question.refuse("not here") if asked.len else question.finish()
            return
        data, size = _read(source, asked.off, asked.len)
        self.sent_bytes += len(data)
        question.answer(data, Piecemeal(node=self._who, bytes=size).encode())
        question.finish()

    def close(self) -> None:
        self._served.close()
        self._waiting.put(None)
        self._thread.join(5)


def _read(source: Path | bytes, offset: int, length: int) -> tuple[bytes, int]:
    """A piece, and the size of the whole."""
    if isinstance(source, bytes):
        return source[offset : offset + length], len(source)
    with source.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(offset)
        wanted, found = min(length, max(size - offset, 0)), b""
        while len(found) < wanted and (more := stream.read(wanted - len(found))):
            found += more
        return found, size


@dataclass
class _Asked:
    """A piece in flight."""

    length: int
    sent: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None

    def took(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer
        self.over.set()

    def data(self, timeout_s: float, stopped: Callable[[], bool]) -> bytes | None:
        """The bytes, or None when they did not come, or not as asked."""
        until = time.monotonic() + timeout_s
        while not self.over.wait(0.2) and time.monotonic() < until and not stopped():
            pass
        answer = self.answer
        good = answer is not None and answer.refused is None and len(answer.payload) == self.length
        return answer.payload if good and answer is not None else None


def _never() -> bool:
    return False


class Puller:
    """Brings blobs into a store.

    Args:
        serving: whether this node answers images just now
        stopped: asked between pieces; True ends a pull with a FleetError, and what came is kept
    """

    def __init__(
        self,
        bus: Bus,
        names: Names,
        store: Store,
        *,
        serving: Callable[[], bool] = _never,
        stopped: Callable[[], bool] = _never,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._bus, self._names, self._store = bus, names, store
        self._serving, self._stopped, self._patience_s = serving, stopped, patience_s
        self._liars: dict[str, float] = {}  # who gave wrong bytes -> until when it is left alone
        self._last: str | None = None  # the holder that gave bytes last
        self._piece = SMALL
        self._wait_s = SOON_S

    def record(self, sha256: str) -> bytes:
        """A small blob of unknown size, at most ``MAX_RECORD``, from the store or whoever holds it."""
        path = self._store.path(sha256)
        if path is None:
            path = self.pull(sha256, None)
        return path.read_bytes()

    def pull(self, sha256: str, size: int | None, on_bytes: Callable[[int], None] | None = None) -> Path:
        """The blob ``sha256`` of ``size`` bytes in the store. ``on_bytes`` gets what came since the last call of it.

        FleetError when nobody gave a byte for ``patience_s``; BadArtifact, which names who, when all that came was
        wrong.
        """
        heard = on_bytes or _unheard
        with self._store.filling(sha256):
            if (path := self._store.path(sha256)) is not None:
                return path
            if size is not None:
                gave = self._from_any(sha256, size, heard)
                with suppress(BadArtifact):
                    return self._store.commit(sha256)
                if len(gave) == 1:
                    self._shun(gave.pop(), sha256)
            return self._from_one(sha256, size, heard)

    def _from_any(self, sha256: str, size: int, on_bytes: Callable[[int], None]) -> set[str]:
        """Append until all is there; who gave bytes, "" for what was there before."""
        offset, gave = self._store.begun(sha256), set[str]()
        ahead: deque[str] = deque([self._last] if self._last and not self._shunned(self._last) else [])
        patience, pause = time.monotonic() + self._patience_s, LOOK_S / 4
        with FileIO(self._store.part(sha256), "ab") as stream:
            if offset > size:
                stream.truncate(0)
                offset = 0
            if offset:
                gave.add("")
            on_bytes(offset)
            while offset < size:
                self._go_on(sha256, patience)
                if not ahead:
                    ahead.extend(name for name, has in self._holders(sha256).items() if has == size)
                    if not ahead:
                        time.sleep(pause)
                        pause = min(2 * pause, LOOK_S)
                        continue
                came = self._from(ahead[0], sha256, stream, offset, size, on_bytes)
                offset += came
                if came:
                    self._last = ahead[0]
                    gave.add(ahead[0])
                    patience, pause = time.monotonic() + self._patience_s, LOOK_S / 4
                else:
                    ahead.popleft()
        return gave

    def _from_one(self, sha256: str, size: int | None, on_bytes: Callable[[int], None]) -> Path:
        """The blob, all of it from one holder, whichever gives the right bytes. ``size`` may be unknown."""
        patience, pause = time.monotonic() + self._patience_s, LOOK_S / 4
        while True:
            self._go_on(sha256, patience)
            holders = self._holders(sha256)
            for holder, has in holders.items():
                if has != size if size is not None else has > MAX_RECORD:
                    continue
                with FileIO(self._store.part(sha256), "wb") as stream:
                    came = self._from(holder, sha256, stream, 0, has, on_bytes)
                if came < has:
                    continue
                try:
                    return self._store.commit(sha256)
                except BadArtifact:
                    self._shun(holder, sha256)
            if size is None and holders and min(holders.values()) > MAX_RECORD:
                raise BadArtifact(
                    f"a record {sha256[:12]}… of {min(holders.values()):,} bytes; at most {MAX_RECORD:,} are read"
                )
            time.sleep(pause)
            pause = min(2 * pause, LOOK_S)

    def _shun(self, holder: str, sha256: str) -> None:
        """Name a holder that gave wrong bytes, and leave it alone."""
        if holder:
            self._liars[holder] = time.monotonic() + SHUNNED_S
            log.warning("%s gave other bytes than %s… has: it is asked for nothing for a while", holder, sha256[:12])

    def _shunned(self, holder: str) -> bool:
        return self._liars.get(holder, 0.0) > time.monotonic()

    def _go_on(self, sha256: str, patience: float) -> None:
        if self._stopped():
            raise FleetError("the pull was stopped", hint="it goes on where it was with the next order")
        if time.monotonic() > patience:
            liars = sorted(filter(self._shunned, self._liars))
            if liars:
                raise BadArtifact(
                    f"nobody but {', '.join(liars)} gives {sha256[:12]}…, and the bytes from there are not its",
                    hint="deploy again while the machine with the bundle is reachable",
                )
            raise FleetError(
                f"nobody gave a byte of {sha256[:12]}… for {self._patience_s:.0f} s",
                hint="deploy again while the machine with the bundle is reachable; what came is kept",
            )

    def _holders(self, sha256: str) -> dict[str, int]:
        """Who has it, and how large each says it is, the first to answer first; but not who gave wrong bytes lately."""
        found: dict[str, int] = {}
        asked = Piece(sha256=sha256, off=0, len=0).encode()
        for answer in gather(self._bus, self._names.blob(sha256), meta=asked, timeout_s=2.0, expected=None).good:
            with suppress(BadMessage):
                said = parse(Piecemeal, answer.meta)
                if answer.key.endswith(f"/{said.node}") and not self._shunned(said.node):
                    found.setdefault(said.node, said.bytes)
        return found

    def _from(
        self, holder: str, sha256: str, stream: FileIO, offset: int, size: int, on_bytes: Callable[[int], None]
    ) -> int:
        """Append pieces of one holder until the end, or one that does not come; how many bytes came."""
        flying: deque[_Asked] = deque()
        start = asked = offset
        while not self._stopped():
            serving = self._serving()
            piece, window = (SMALL, SERVING_WINDOW) if serving else (self._piece, IDLE_WINDOW)
            while asked < size and len(flying) < window:
                flying.append(self._ask(holder, sha256, asked, min(piece, size - asked)))
                asked += flying[-1].length
            if not flying:
                break
            one = flying.popleft()
            if (data := one.data(self._wait_s, self._stopped)) is None:
                self._piece, self._wait_s = SMALL, min(2 * self._wait_s, PIECE_S)
                break
            self._wait_s = min(max(4 * (time.monotonic() - one.sent), SOON_S), PIECE_S)
            _write(stream, data)
            offset += len(data)
            on_bytes(len(data))
            if not serving:
                self._pace(time.monotonic() - one.sent)
        return offset - start

    def _pace(self, took_s: float) -> None:
        if took_s < QUICK_S:
            self._piece = min(2 * self._piece, LARGE)
        elif took_s > SLOW_S:
            self._piece = max(self._piece // 2, SMALL)

    def _ask(self, holder: str, sha256: str, offset: int, length: int) -> _Asked:
        one = _Asked(length)
        self._bus.ask(
            self._names.blob(sha256, holder),
            one.took,
            one.over.set,
            meta=Piece(sha256=sha256, off=offset, len=length).encode(),
            timeout_s=PIECE_S,
            bulk=True,
        )
        return one


def _write(stream: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def _unheard(_: int) -> None:
    return None
