from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgevit.errors import BadArtifact, UsageError
from edgevit.foreign import opened, read_bounded, read_json, read_text


def refused(path: Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        read_bounded(path, 100, "a plan", **options)
    return str(caught.value)


def test_a_file_within_its_bound_is_read_also_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "x", tmp_path / "link"
    file.write_bytes(b"a" * 100)
    link.symlink_to(file)
    assert read_bounded(file, 100, "a plan") == read_bounded(link, 100, "a plan") == b"a" * 100


def test_a_file_over_its_bound_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", 6 << 30)
    assert refused(tmp_path / "x") == f"{tmp_path}/x: 6,442,450,944 bytes, more than the 100 that a plan may have"


def test_a_file_that_does_not_know_its_size_is_read_no_further_than_its_bound() -> None:
    assert Path("/proc/self/smaps").stat().st_size == 0
    assert refused(Path("/proc/self/smaps")) == "/proc/self/smaps: more than the 100 bytes that a plan may have"


def test_a_pipe_a_device_a_socket_and_a_folder_are_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    kinds = {"pipe": "a named pipe", "zero": "a device", "socket": "a socket", ".": "a folder"}
    for name, kind in kinds.items():
        assert refused(tmp_path / name) == f"{tmp_path / name}: {kind}, not a plan"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "no such file or directory"),
        ("file/below", "not a directory"),
        ("n" * 300, "file name too long"),
        ("loop", "too many levels of symbolic links"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / name) == f"{tmp_path / name}: {said}"


def test_the_error_and_the_next_step_are_the_caller_s(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact) as caught, opened(tmp_path, "a manifest", error=BadArtifact, hint="export anew"):
        pass
    assert caught.value.hint == "export anew"


def test_text_has_no_byte_order_mark_and_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfcat\n")
    (tmp_path / "latin").write_bytes("Bär".encode("latin1"))
    assert read_text(tmp_path / "marked", "a list of labels") == "cat\n"
    with pytest.raises(UsageError, match="latin: not a list of labels: byte 1 is no UTF-8 text"):
        read_text(tmp_path / "latin", "a list of labels")


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "1" * 5000, '{"a": 1}}'])
def test_what_is_no_json_is_one_sentence_however_deep_or_long(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="not a plan: "):
        read_json(tmp_path / "x.json", "a plan")
