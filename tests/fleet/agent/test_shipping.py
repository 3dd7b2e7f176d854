"""Files over a real bus: pieces, resumption, other holders, liars."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from waiting import wait_for

from edgevit.errors import BadArtifact, FleetError
from edgevit.fleet.agent.shipping import LARGE, SMALL, Piece, Piecemeal, Puller, Supplier
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import gather

NAMES = Names()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """Makes buses that find each other, and closes them."""
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    buses = []

    def join(role="node", name=None):
        buses.append(open_bus(Link(), role, name))
        return buses[-1]

    yield join
    for bus in buses:
        bus.close()


@pytest.fixture
def supply(fleet):
    made = []

    def start(who, find):
        made.append(Supplier(fleet("node", who), NAMES, who, find))
        return made[-1]

    yield start
    for one in made:
        one.close()


class Holder:
    """A holder that answers as ``reply(asked, data)`` says, and notes what it was asked for."""

    def __init__(self, bus, who, data, reply):
        self.who, self.data, self.reply, self.asked = who, data, reply, []
        self.served = bus.serve(NAMES.blob("*", who), self.take)

    def take(self, question):
        asked = Piece.model_validate_json(question.meta)
        self.asked.append(asked)
        data = self.data[asked.off : asked.off + asked.len] if not asked.len else self.reply(asked, self.data)
        if data is None:
            question.refuse("gone")
        else:
            question.answer(data, Piecemeal(node=self.who, bytes=len(self.data)).encode())
            question.finish()


def honest(asked, data):
    return data[asked.off : asked.off + asked.len]


@pytest.mark.parametrize("size", [0, 1, SMALL, 3 * LARGE + 17])
def test_a_file_arrives_as_it_was(fleet, supply, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    supply("laptop", {sha(data): tmp_path / "file"}.get)
    store, told = Store(tmp_path / "blobs"), []
    path = Puller(fleet(), NAMES, store).pull(sha(data), size, told.append)
    assert path.read_bytes() == data
    assert sum(told) == size
    assert not store.begun(sha(data))


def test_pieces_are_small_and_few_while_the_node_serves_and_grow_when_it_is_idle(fleet, tmp_path):
    data = os.urandom(12 * LARGE)
    holder = Holder(fleet("node", "laptop"), "laptop", data, honest)
    bus = fleet()
    Puller(bus, NAMES, Store(tmp_path / "serving"), serving=lambda: True).pull(sha(data), len(data))
    assert {asked.len for asked in holder.asked} == {0, SMALL}
    holder.asked.clear()
    Puller(bus, NAMES, Store(tmp_path / "idle")).pull(sha(data), len(data))
    assert max(asked.len for asked in holder.asked) == LARGE


def test_a_pull_goes_on_where_a_killed_process_left_it(fleet, tmp_path):
    data = os.urandom(8 << 20)
    slow = threading.Semaphore(20)

    def reply(asked, whole):
        slow.acquire(timeout=20)
        return honest(asked, whole)

    holder = Holder(fleet("node", "laptop"), "laptop", data, reply)
    code = """
        import sys
        from pathlib import Path
        from edgevit.fleet.bus.link import Link
        from edgevit.fleet.bus.opening import open_bus
        from edgevit.fleet.bus.names import Names
        from edgevit.fleet.agent.shipping import Puller
        from edgevit.fleet.agent.store import Store
        puller = Puller(open_bus(Link(), "node"), Names(), Store(Path(sys.argv[1])), serving=lambda: True)
        puller.pull(sys.argv[2], int(sys.argv[3]))
    """
    store = Store(tmp_path / "blobs")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(store.root), sha(data), str(len(data))]
    )
    try:
        wait_for(lambda: store.begun(sha(data)) >= 10 * SMALL, 20)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    begun = store.begun(sha(data))
    assert 0 < begun < len(data)
    holder.asked.clear()
    slow.release(10_000)
    told = []
    assert Puller(fleet(), NAMES, store).pull(sha(data), len(data), told.append).read_bytes() == data
    assert min(asked.off for asked in holder.asked if asked.len) == begun
    assert told[0] == begun


def test_another_holder_takes_over_where_one_stops(fleet, supply, tmp_path):
    data = os.urandom(4 << 20)
    (tmp_path / "file").write_bytes(data)
    leaves = Holder(
        fleet("node", "leaves"),
        "leaves",
        data,
        lambda asked, whole: honest(asked, whole) if asked.off < 1 << 20 else None,
    )
    store = Store(tmp_path / "blobs")
    puller = Puller(fleet(), NAMES, store, serving=lambda: True)
    late = threading.Timer(1.0, lambda: supply("stays", {sha(data): tmp_path / "file"}.get))
    late.start()
    try:
        assert puller.pull(sha(data), len(data)).read_bytes() == data
    finally:
        late.join()
    assert leaves.asked


def test_wrong_bytes_are_noticed_and_pulled_from_someone_else(fleet, supply, tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    liar = Holder(fleet("node", "liar"), "liar", data, lambda asked, whole: bytes(asked.len))
    store, puller_bus = Store(tmp_path / "blobs"), fleet()
    puller = Puller(puller_bus, NAMES, store)
    with pytest.raises(BadArtifact, match="nobody but liar gives"):
        Puller(puller_bus, NAMES, store, patience_s=1.0).pull(sha(data), len(data))
    assert store.path(sha(data)) is None
    supply("honest", {sha(data): tmp_path / "file"}.get)
    assert puller.pull(sha(data), len(data)).read_bytes() == data
    assert liar.asked


def test_a_file_that_is_of_two_is_pulled_again_from_one_and_who_was_honest_is_not_named(
    fleet, supply, tmp_path, caplog
):
    data = os.urandom(3 * LARGE)
    Holder(fleet("node", "liar"), "liar", data, lambda asked, _: bytes(asked.len) if asked.off < LARGE else None)
    puller = Puller(fleet(), NAMES, Store(tmp_path / "blobs"), serving=lambda: True)
    late = threading.Timer(0.5, lambda: supply("honest", {sha(data): data}.get))
    late.start()
    try:
        assert puller.pull(sha(data), len(data)).read_bytes() == data
    finally:
        late.join()
    assert not any("gave other bytes" in record.getMessage() for record in caplog.records)


def test_who_gave_wrong_bytes_is_named_and_asked_for_nothing_more(fleet, supply, tmp_path, caplog):
    data, more = os.urandom(300_000), os.urandom(300_000)
    liar = Holder(fleet("node", "liar"), "liar", data, lambda asked, _: bytes(asked.len))
    puller = Puller(fleet(), NAMES, Store(tmp_path / "blobs"))
    late = threading.Timer(0.5, lambda: supply("honest", {sha(data): data, sha(more): more}.get))
    late.start()
    try:
        assert puller.pull(sha(data), len(data)).read_bytes() == data
    finally:
        late.join()
    assert [one.getMessage() for one in caplog.records if "gave other bytes" in one.getMessage()] == [
        f"liar gave other bytes than {sha(data)[:12]}… has: it is asked for nothing for a while"
    ]
    liar.asked.clear()
    assert puller.pull(sha(more), len(more)).read_bytes() == more
    assert not any(one.len for one in liar.asked)


@pytest.mark.parametrize("claims", [5, MAX_RECORD + 1], ids=["short", "too large"])
def test_a_record_comes_from_who_has_it_whatever_another_says_of_its_size(fleet, supply, tmp_path, claims):
    data = os.urandom(1000)
    Holder(fleet("node", "liar"), "liar", bytes(claims), honest)
    bus = fleet()
    puller = Puller(bus, NAMES, Store(tmp_path / "blobs"))
    wait_for(lambda: puller._holders(sha(data)))
    supply("honest", {sha(data): data}.get)
    wait_for(lambda: len(puller._holders(sha(data))) == 2)
    assert puller.record(sha(data)) == data


def test_a_piece_at_an_offset_beyond_all_bounds_is_refused_and_the_next_is_served(fleet, supply):
    data = b"x" * 1000
    supply("laptop", {sha(data): data}.get)
    bus = fleet()
    wait_for(lambda: gather(bus, NAMES.blob(sha(data)), meta=piece(sha(data), 0, 0), timeout_s=1).good)
    for offset in (1 << 53, 1 << 64, 10**4000):
        assert gather(bus, NAMES.blob(sha(data), "laptop"), meta=piece(sha(data), offset, 5), timeout_s=2).refusals
    assert gather(bus, NAMES.blob(sha(data), "laptop"), meta=piece(sha(data), 0, 5), timeout_s=2).good


def test_a_holder_that_says_another_size_is_not_asked(fleet, tmp_path):
    data = os.urandom(1000)
    holder = Holder(fleet("node", "laptop"), "laptop", data, honest)
    with pytest.raises(FleetError, match="nobody gave a byte"):
        Puller(fleet(), NAMES, Store(tmp_path / "blobs"), patience_s=0.5).pull(sha(data), 999)
    assert not any(asked.len for asked in holder.asked)


def test_a_record_larger_than_its_bound_is_not_pulled(fleet, tmp_path):
    data = bytes(MAX_RECORD + 1)
    holder = Holder(fleet("node", "laptop"), "laptop", data, honest)
    with pytest.raises(BadArtifact, match="at most"):
        Puller(fleet(), NAMES, Store(tmp_path / "blobs")).record(sha(data))
    assert not any(asked.len for asked in holder.asked)


def test_what_cannot_be_a_piece_is_refused_and_the_next_is_served(fleet, supply):
    data = b"x" * 1000
    supply("laptop", {sha(data): data}.get)
    bus = fleet()
    wait_for(lambda: gather(bus, NAMES.blob(sha(data)), meta=piece(sha(data), 0, 0), timeout_s=1).good)

    def ask(meta, name=None):
        return gather(bus, NAMES.blob(name or sha(data), "laptop"), meta=meta, timeout_s=2)

    for bad in (
        b"", b"{}", b"[]", b"\xff", piece(sha(data), -1, 5), piece(sha(data), 0, LARGE + 1), piece("../../etc", 0, 5),
        b'{"off": 0, "len": 5, "sha256": null}', b"9" * 5000,
    ):  # fmt: skip
        assert ask(bad).refusals, bad
    assert ask(piece("0" * 64, 0, 5)).refusals == ("not here",)
    (answer,) = ask(piece(sha(data), 990, 100)).good
    assert answer.payload == b"x" * 10


def piece(sha256, off, length):
    return (f'{{"sha256": "{sha256}", "off": {off}, "len": {length}}}').encode()
