from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgevit.export.cache.store import Entry, Store, own_store

KEY, OTHER = "a" * 64, "b" * 64
FOUND = Entry(
    {"notes": ["half"], "noise": 0.1, "worst": float("inf")},
    {"outputs/logits": np.array([[np.nan, -0.0, 1e-300]]), "golden/mask": np.array([True, False])},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "cache").mkdir(mode=0o700)
    return Store(tmp_path / "cache")


def same(one: Entry | None, other: Entry) -> bool:
    return (
        one is not None
        and one.facts == other.facts
        and [(name, array.dtype, array.tobytes()) for name, array in one.arrays.items()]
        == [(name, array.dtype, array.tobytes()) for name, array in other.arrays.items()]
    )


def file_of(store: Store, key: str = KEY) -> Path:
    return store.folder / f"{key}.found"


def test_what_was_put_is_had_again_bit_by_bit(store: Store) -> None:
    assert store.get(KEY) is None
    store.put(KEY, FOUND)
    assert same(store.get(KEY), FOUND)
    assert store.get(OTHER) is None


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def pickled(file: Path) -> None:
    np.savez(file, facts=np.array([{"code": "that runs"}], object))
    file.with_name(f"{file.name}.npz").replace(file)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


HARM: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flipped,
    "half of it": lambda file: os.truncate(file, file.stat().st_size // 2),
    "nothing": lambda file: os.truncate(file, 0),
    "something behind it": lambda file: file.write_bytes(file.read_bytes() + b"more"),
    "another form": lambda file: file.write_bytes(file.read_bytes().replace(b"cache 1", b"cache 0")),
    "text": lambda file: file.write_text("not an entry"),
    "a pickle": pickled,
    "a pipe": a_pipe,
    "writable by others": lambda file: file.chmod(0o666),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_entry_that_is_not_as_it_was_put_is_none_and_is_written_anew(store: Store, harm: str) -> None:
    store.put(KEY, FOUND)
    HARM[harm](file_of(store))
    assert store.get(KEY) is None
    store.put(KEY, FOUND)
    assert same(store.get(KEY), FOUND)


def test_an_entry_answers_under_its_own_name_alone(store: Store) -> None:
    store.put(KEY, FOUND)
    file_of(store).rename(file_of(store, OTHER))
    assert store.get(OTHER) is None


def test_objects_which_numpy_would_pickle_are_not_kept(store: Store) -> None:
    store.put(KEY, Entry({}, {"outputs/logits": np.array([None], object)}))
    assert list(store.folder.iterdir()) == []


def test_entries_are_readable_by_their_user_alone(store: Store) -> None:
    store.put(KEY, FOUND)
    assert file_of(store).stat().st_mode & 0o777 == 0o600


def test_the_least_recently_used_go_first_and_the_bound_holds(store: Store) -> None:
    thousand = Entry({}, {"outputs/logits": np.zeros(1000, np.uint8)})
    few = Store(store.folder, limit=7000)
    for number, key in enumerate("abcd"):
        few.put(key, thousand)
        os.utime(file_of(few, key), (number, number))
    assert few.get("a") is not None  # now it was used last
    few.put("e", thousand)
    assert [key for key in "abcde" if few.get(key)] == ["a", "c", "d", "e"]
    assert sum(file.stat().st_size for file in few.folder.iterdir()) <= 7000


def test_one_entry_does_not_push_out_all_others(store: Store) -> None:
    few = Store(store.folder, limit=6000)
    few.put(KEY, FOUND)
    few.put(OTHER, Entry({}, {"outputs/logits": np.zeros(1501, np.uint8)}))
    assert few.get(OTHER) is None
    assert same(few.get(KEY), FOUND)


def test_what_a_killed_process_left_goes_too_and_what_is_not_ours_stays(store: Store) -> None:
    for name in ("x.found.part", "photo.png"):
        (store.folder / name).write_bytes(bytes(5900))
        os.utime(store.folder / name, (0, 0))
    Store(store.folder, limit=6000).put(KEY, FOUND)
    assert {file.name for file in store.folder.iterdir()} == {f"{KEY}.found", "photo.png"}


def test_without_a_disk_that_can_be_written_nothing_is_kept_and_nothing_is_said(store: Store, tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from edgevit.export.cache.store import Entry, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # what a full disk does: no byte more
Store(Path(sys.argv[1])).put("a", Entry({}, {"outputs/logits": np.zeros(1000)}))
"""
    subprocess.run([sys.executable, "-c", program, str(store.folder)], check=True)
    assert list(store.folder.iterdir()) == []
    Store(tmp_path / "missing").put(KEY, FOUND)
    assert Store(tmp_path / "missing").get(KEY) is None


def test_two_processes_at_once_leave_whole_entries(store: Store) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np
from edgevit.export.cache.store import Entry, Store
store = Store(Path(sys.argv[1]), limit=60_000)
for turn in range(100):
    store.put(f"{turn % 7}", Entry({"turn": turn % 7}, {"outputs/logits": np.full(1000, turn % 7.0)}))
    found = store.get(f"{(turn + 3) % 7}")
    assert found is None or set(found.arrays["outputs/logits"]) == {found.facts["turn"]}
"""
    both = [subprocess.Popen([sys.executable, "-c", program, str(store.folder)]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert all(file.suffix == ".found" for file in store.folder.iterdir())


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    made = own_store()
    assert made is not None
    assert made.folder == tmp_path / "home" / "cache"
    assert made.folder.stat().st_mode & 0o777 == 0o700
    made.folder.chmod(0o777)
    assert own_store() is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_folder_or_an_entry_of_another_user_is_not_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, FOUND)
    os.chown(file_of(store), 12345, 12345)
    assert store.get(KEY) is None
    monkeypatch.setenv("EDGEVIT_HOME", str(store.folder.parent))
    os.chown(store.folder, 12345, 12345)
    assert own_store() is None


def test_a_home_that_is_no_folder_means_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    assert own_store() is None
