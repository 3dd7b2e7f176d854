"""What a node says of an error."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edgevit.errors import EdgeVitError
from edgevit.fleet.agent.station import sentence


def test_errors_of_the_house_are_told_in_their_own_words() -> None:
    assert sentence(EdgeVitError("one sentence")) == "one sentence"
    assert len(sentence(ValueError("x" * 5000))) == 300


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "its disk is full"), (errno.EROFS, "its disk is read-only")]
)
def test_errors_of_a_disk_are_told_without_the_paths_of_the_node(number: int, said: str) -> None:
    assert sentence(OSError(number, "whatever", "/home/someone/secret")) == said


def test_any_other_error_of_the_system_is_told_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "gone").read_bytes()
    assert sentence(caught.value) == "FileNotFoundError: No such file or directory"
