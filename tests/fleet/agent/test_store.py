"""The blobs a node keeps, the release record that lists them, and pulling them from whoever has them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fleet import tiny_fleet
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from waiting import wait_for

from edgevit.artifact.files import write_durably
from edgevit.bundle.opened import Bundle
from edgevit.errors import BadArtifact, FleetError
from edgevit.fleet.agent.release import MODEL, Release, ReleaseFile, ReleasePart, pack, read_release
from edgevit.fleet.agent.store import Store, lay_out
from edgevit.fleet.bus.messages import Placement


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(store: Store, data: bytes) -> str:
    store.part(sha(data)).write_bytes(data)
    store.commit(sha(data))
    return sha(data)


def test_a_blob_gets_its_name_only_if_its_content_fits(tmp_path):
    store = Store(tmp_path)
    wrong = sha(b"right")
    store.part(wrong).write_bytes(b"wrong")
    with pytest.raises(BadArtifact, match="another SHA-256"):
        store.commit(wrong)
    assert store.path(wrong) is None
    assert store.begun(wrong) == 0
    assert store.path(put(store, b"right")).read_bytes() == b"right"


def test_the_least_recently_used_blobs_make_room_and_pinned_ones_stay(tmp_path):
    store = Store(tmp_path, limit_bytes=300)
    old, pinned, new = (put(store, bytes([row]) * 100) for row in range(3))
    for age, blob in enumerate((new, pinned, old)):
        os.utime(tmp_path / blob, (1000 - age, 1000 - age))
    store.pin("here", [pinned])
    store.make_room({sha(b"x" * 100): 100})
    assert [store.path(blob) is not None for blob in (old, pinned, new)] == [False, True, True]


def test_what_cannot_fit_is_refused_before_anything_is_removed(tmp_path):
    store = Store(tmp_path, limit_bytes=300)
    loose, pinned = put(store, b"a" * 100), put(store, b"b" * 100)
    store.pin("here", [pinned])
    with pytest.raises(FleetError, match="250 bytes are needed, and 100 of 300 are in use"):
        store.make_room({sha(b"x"): 250})
    assert store.path(loose) is not None
    with pytest.raises(FleetError, match="its disk has no room"):
        Store(tmp_path, limit_bytes=1 << 60).make_room({sha(b"x"): 1 << 50})


def test_what_is_here_already_needs_no_room(tmp_path):
    store = Store(tmp_path, limit_bytes=300)
    here = put(store, b"a" * 200)
    store.part(sha(b"c" * 100)).write_bytes(b"c" * 60)
    store.make_room({here: 200, sha(b"c" * 100): 100})
    assert store.path(here) is not None
    assert store.begun(sha(b"c" * 100)) == 60


def test_on_a_full_disk_what_is_here_needs_no_room_and_nothing_that_is_pinned_goes(tmp_path, monkeypatch):
    store = Store(tmp_path)
    here, loose = put(store, b"a" * 200), put(store, b"b" * 200)
    store.pin("here", [here])
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    store.make_room({here: 200})
    assert store.path(here) is not None
    assert store.path(loose) is None, "the disk needs its room"
    with pytest.raises(FleetError, match="1 bytes are needed, and 0 of 1,000 free ones are to be had"):
        store.make_room({here: 200, sha(b"c"): 1})


def test_a_disk_that_cannot_be_written_gives_what_it_holds(tmp_path, monkeypatch):
    store = Store(tmp_path)
    here = put(store, b"a")

    def read_only(*_):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "utime", read_only)
    assert store.path(here) == tmp_path / here
    assert store.path(sha(b"b")) is None


@given(sizes=st.lists(st.integers(1, 50), max_size=12), pins=st.sets(st.integers(0, 11)), needed=st.integers(0, 200))
@settings(max_examples=40)
def test_making_room_keeps_the_bound_and_the_pins(tmp_path_factory, sizes, pins, needed):
    store = Store(tmp_path_factory.mktemp("blobs"), limit_bytes=200)
    blobs = {put(store, os.urandom(4) + bytes(size)): size + 4 for size in sizes}
    pinned = {blob for row, blob in enumerate(blobs) if row in pins}
    store.pin("here", pinned)
    try:
        store.make_room({sha(b"new"): needed})
    except FleetError:
        assert sum(blobs[blob] for blob in pinned) + needed > 200
        assert all(store.path(blob) for blob in blobs)
        return
    left = {blob for blob in blobs if store.path(blob)}
    assert pinned <= left
    assert sum(blobs[blob] for blob in left) + needed <= 200


def test_a_folder_is_laid_out_of_blobs_and_repaired_when_damaged(tmp_path):
    store = Store(tmp_path / "blobs")
    files = {"edgevit.json": put(store, b"manifest"), "deep/model.onnx": put(store, b"model")}
    folder = tmp_path / "parts" / "part-0"
    for _ in range(2):
        lay_out(store, files, folder)
        assert (folder / "deep/model.onnx").read_bytes() == b"model"
    (folder / "deep/model.onnx").unlink()
    (folder / "deep/model.onnx").write_bytes(b"other")
    (folder / "stray").write_bytes(b"")
    lay_out(store, files, folder)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"edgevit.json", "model.onnx"}
    assert (folder / "deep/model.onnx").read_bytes() == b"model"


def test_a_blob_that_was_damaged_on_the_disk_is_dropped_and_not_used(tmp_path):
    store = Store(tmp_path / "blobs")
    files = {"edgevit.json": put(store, b"manifest")}
    (tmp_path / "blobs" / files["edgevit.json"]).write_bytes(b"damaged!")
    with pytest.raises(BadArtifact, match="damaged on this disk"):
        lay_out(store, files, tmp_path / "part-0")
    assert not (tmp_path / "part-0").exists()
    assert store.path(files["edgevit.json"]) is None


def test_a_small_file_is_the_old_or_the_new_one_whenever_its_writer_is_killed(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from edgevit.artifact.files import write_durably
        for number in range(10**6):
            write_durably(Path(sys.argv[1]), (b"%d" % number) * 5000)
    """
    paths = [tmp_path / f"kept-{index}.json" for index in range(3)]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    writers = [subprocess.Popen([*command, str(path)]) for path in paths]
    try:
        for path in paths:
            wait_for(path.exists)
        time.sleep(0.05)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    for path in paths:
        text = path.read_bytes()
        digits = len(text) // 5000
        assert text
        assert text == text[:digits] * 5000
    write_durably(paths[0], b"after")
    assert paths[0].read_bytes() == b"after"


# --- the release record --------------------------------------------------------------------------------------------


def test_a_bundles_release_lists_every_file_of_every_part(tmp_path):
    bundle = Bundle.open(tiny_fleet.make_bundle(tmp_path / "bundle", parts=2))
    packed = pack(bundle.path)
    assert packed.release.revision == bundle.sha256
    assert list(packed.release.parts) == ["part-0", "part-1"]
    for name, part in packed.release.parts.items():
        there = {
            path.relative_to(bundle.path / name).as_posix()
            for path in (bundle.path / name).rglob("*")
            if path.is_file()
        }
        assert {file.path for file in part.files} == there
        assert all(packed.find(file.sha256).stat().st_size == file.bytes for file in part.files)
        assert part.model_bytes == (bundle.path / name / "model.onnx").stat().st_size
    assert packed.find(packed.sha256) == packed.data


def test_an_artifact_is_released_as_one_part(tmp_path):
    bundle = tiny_fleet.make_bundle(tmp_path / "bundle", parts=1)
    release = pack(bundle / "part-0").release
    assert (release.kind, list(release.parts)) == ("artifact", [MODEL])


def test_an_altered_file_is_not_released(tmp_path):
    bundle = tiny_fleet.make_bundle(tmp_path / "bundle", parts=1)
    with (bundle / "part-0" / "model.onnx").open("ab") as model:
        model.write(b"more")
    with pytest.raises(BadArtifact, match="altered"):
        pack(bundle)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "",
        ".",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "a./b",
        "a" * 241,
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(path):
    with pytest.raises(ValidationError):
        ReleaseFile(path=path, sha256="0" * 64, bytes=1)


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "A"), ("a", "a/b")])
def test_two_files_of_one_place_are_refused(paths):
    files = tuple(ReleaseFile(path=path, sha256="0" * 64, bytes=1) for path in ("edgevit.json", *paths))
    with pytest.raises(ValidationError, match="same place"):
        ReleasePart(macs=1, feature_bytes=1, files=files)


@given(st.text("ab./\\\\:~ \0", max_size=12))
def test_every_path_that_is_taken_stays_inside(path):
    try:
        ReleaseFile(path=path, sha256="0" * 64, bytes=1)
    except ValidationError:
        return
    root = Path("/somewhere/part-0")
    assert Path(os.path.normpath(root / path)).is_relative_to(root)
    assert Path(os.path.normpath(root / path)) != root


def test_a_record_other_than_the_signed_one_is_refused(tmp_path):
    packed = pack(tiny_fleet.make_bundle(tmp_path / "bundle", parts=1))
    fields = {
        "name": "b", "kind": "bundle", "revision": packed.release.revision, "release": packed.sha256, "epoch": 1,
        "nodes": {}, "key": "0" * 64, "signature": "0" * 128,
    }  # fmt: skip
    assert read_release(packed.data, Placement(**fields)) == packed.release
    other = Release(**{**packed.release.__dict__, "target": "other"}).encode()
    with pytest.raises(BadArtifact, match="not the one that was signed"):
        read_release(other, Placement(**fields))
    with pytest.raises(BadArtifact, match="another revision"):
        read_release(packed.data, Placement(**{**fields, "revision": "1" * 64}))
    with pytest.raises(BadArtifact, match="cannot be read"):
        read_release(b"{}", Placement(**fields))
