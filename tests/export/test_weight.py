"""Artifacts far larger than their weights are told from those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import Unsupported
from edgevit.export.weight import bytes_in, check_weight, notes_on_weight


def test_tables_written_out_are_said_and_weights_or_code_are_not() -> None:
    (note,) = notes_on_weight(384_000_000, 425_000)
    assert note.startswith("the artifact has 384 MB, 226 times the 1.7 MB of its weights")
    assert notes_on_weight(400_000_000, 90_000_000) == ()
    assert notes_on_weight(9_000_000, 425_000) == ()
    (bare,) = notes_on_weight(40_000_000, 0)
    assert "times" not in bare


def test_a_build_may_have_as_much_as_was_allowed(tmp_path: Path) -> None:
    (tmp_path / "model.mlpackage").mkdir()
    (tmp_path / "model.mlpackage" / "weight.bin").write_bytes(bytes(700))
    (tmp_path / "layers.json").write_bytes(bytes(300))
    assert bytes_in(tmp_path) == 1000
    check_weight("coreml", 1000, 1000)
    check_weight("coreml", 1000, None)
    with pytest.raises(Unsupported, match="coreml artifact has 1 kB, --max-size allows 999 B"):
        check_weight("coreml", 1000, 999)
