"""Artifacts far larger than their weights are told from those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgevit
from edgevit import registry
from edgevit.errors import Unsupported
from edgevit.export.weight import Constant, bytes_in, check_weight, largest, notes_on_weight
from edgevit.module_paths import Place

QUICK = {"tensorrt": {"sm": "89", "optimization_level": "0"}}  # one GPU's engine, not the best one


class Table(nn.Module):
    """(B, 10) -> (B, 10), by way of ``wide`` values."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(10, wide, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.table).sin().unflatten(-1, (10, -1)).mean(-1)


class Wide(nn.Module):
    """(B, 3, 16, 16) -> (B, 10): a few weights, and a table that is none of them."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.projection = nn.Linear(3, 10), Table(wide)

    def forward(self, image: Tensor) -> Tensor:
        return self.projection(self.head(image.mean((2, 3))))


@pytest.mark.parametrize("target", registry.EXPORTERS)
def test_what_is_too_large_is_refused_with_the_module_and_line_that_made_it_so(target: str, tmp_path: Path) -> None:
    line = next(at for at, text in enumerate(Path(__file__).read_text("utf-8").splitlines(), 1) if "x @ self" in text)
    size = "220 kB" if target == "coreml" else "400 kB"  # halves, and a bias of nothing
    with pytest.raises(Unsupported) as caught:
        edgevit.export(
            Wide(10_000), target, out=tmp_path / "out", image_size=16, max_size="50kB", options=QUICK.get(target)
        )
    assert f"(most of it: {size} in projection, test_weight.py:{line})" in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_a_table_beside_few_weights_is_said_with_its_module(tmp_path: Path) -> None:
    artifact = edgevit.export(Wide(1_000_000), "onnx", out=tmp_path / "out", image_size=16, verify=False)
    (note,) = (note for note in artifact.manifest.notes if note.startswith("the artifact has"))
    assert "(most of it: 40 MB in projection, test_weight.py:" in note


def test_all_that_a_place_holds_is_told_as_one_and_crumbs_are_not() -> None:
    rows = Place("a", "model.py:7"), Place("b"), Place()
    found = largest([Constant(30, rows[0]), Constant(50, rows[1]), Constant(30, rows[0]), Constant(1, rows[2])])
    assert found == (Constant(60, rows[0]), Constant(50, rows[1]), Constant(1, rows[2]))
    with pytest.raises(Unsupported, match=r"\(most of it: 60 B in a, model.py:7; 50 B in b\)$"):
        check_weight("onnx", 111, 100, found)


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
