"""The zoo's rows: readable without torch, and true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.build import export
from edgevit.errors import UnknownName
from edgevit.models import counting, list_models, zoo
from edgevit.prediction.predictor import predict

FIELDS = {"name", "params", "macs", "params_train", "macs_train", "image_size", "source", "weights"}


def test_names_can_be_listed_without_torch():
    code = "import sys; from edgevit.models import zoo; zoo.list_models(details=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_promised_model_has_a_row():
    promised = {
        *(f"fmvit_{s}" for s in ("t", "s", "m", "b", "l", "nano")),
        *(f"efficientformer_{s}" for s in ("l1", "l3", "l7", "nano")),
        *(f"efficientformerv2_{s}" for s in ("s0", "s1", "s2", "l")),
        *(f"vit_{s}" for s in ("tiny", "small", "base", "large", "nano", "edvit")),
    }
    assert promised <= set(zoo.names())
    assert list_models() == zoo.names()


def test_deit_names_are_those_of_the_same_architecture():
    assert zoo.row("deit_tiny") is zoo.row("vit_tiny")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        zoo.row("fmvit_nanno")
    assert "fmvit_nano" in caught.value.hint


def test_details_are_complete_and_deploy_form_is_never_more_work():
    for row in list_models(details=True):
        assert set(row) == FIELDS
        assert all(isinstance(row[key], int) and row[key] > 0 for key in FIELDS - {"name", "source", "weights"})
        assert row["macs"] <= row["macs_train"]
        assert row["params"] <= row["params_train"]
        assert not zoo.row(row["name"]).small or row["params_train"] < 600_000


def test_every_family_but_one_is_in_the_contract_suite_by_its_small_model():
    families = {row.path.partition(":")[0] for row in zoo.ZOO.values()}
    small = {row.path.partition(":")[0] for row in zoo.ZOO.values() if row.small}
    assert {family.rpartition(".")[2] for family in families - small} <= {"efficientformer_v2"}


def test_a_model_that_was_not_counted_yet_is_listed_without_figures(monkeypatch):
    new = zoo.ZooRow("convnet_tiny", "edgevit.models.families.vit:vit_nano", "new", "nobody")
    monkeypatch.setattr(zoo, "ZOO", {**zoo.ZOO, new.name: new})
    listed = {row["name"]: row for row in list_models(details=True)}
    assert [listed["convnet_tiny"][key] for key in zoo.COUNTED] == [None] * 4
    assert set(listed["convnet_tiny"]) == FIELDS


def test_make_zoo_counts_what_is_missing_and_nothing_else(monkeypatch, capsys):
    stored = zoo.stored_counts()
    lacking = {name: {"params": -1} for name in stored if name != "vit_nano"} | {"gone": {"params": 1}}
    found = counting.completed(lacking)
    assert list(found) == zoo.names()
    assert found["vit_nano"] == stored["vit_nano"]
    assert all(found[name] == {"params": -1} for name in found if name != "vit_nano")
    assert capsys.readouterr().err == "counting vit_nano …\n"


SAMPLE = (
    "fmvit_nano",
    "efficientformer_nano",
    "efficientformerv2_s0",
    "segmenter_nano",
    "sesr_nano_x2",
    "vit_nano",
    "vit_edvit",
    "vit_tiny",
)


@pytest.mark.parametrize("name", SAMPLE)  # one of each kind: all of them take longer than a test should
def test_the_stored_counts_are_what_is_counted(name):
    (stored,) = [row for row in list_models(details=True) if row["name"] == name]
    found = counting.counts(zoo.row(name))
    assert {key: stored[key] for key in found} == found, "make zoo writes them anew"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_super_resolver_makes_a_picture_of_any_size_larger(scale: int, tmp_path: Path) -> None:
    made = export(f"sesr_nano_x{scale}", "onnx", out=tmp_path / "sesr", threads=1)
    assert made.manifest.parity.status == "verified"
    picture = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    (result,) = predict(made.path, [str(tmp_path / "photo.png")])
    assert result.drawn().shape == (70 * scale, 50 * scale, 3)
