"""Bundles whose members are real manifests and golden pairs, but hold no model: nothing here runs one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bundle import ACCURACY, FACTS, LABELS, fill, fusion, part

from edgevit.artifact.manifest import MANIFEST, Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import staged
from edgevit.bundle.assign import memory_need
from edgevit.bundle.manifest import BUNDLE, BundleManifest, Partition
from edgevit.bundle.opened import Bundle, PartFacts, folder_of, golden_features, is_bundle, write_bundle
from edgevit.errors import BadArtifact, UnknownName, UsageError
from edgevit.images import Preprocess


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    out = tmp_path / "bundle"
    with staged(out) as staging:
        fill(staging)
        write_bundle(staging, out, FACTS)
    return out


def edit(bundle: Path, change: Callable[[dict], None]) -> None:
    record = json.loads((bundle / BUNDLE).read_text())
    change(record)
    (bundle / BUNDLE).write_text(json.dumps(record))


def test_the_written_file_has_the_fields_that_outside_scripts_read(bundle: Path) -> None:
    record = json.loads((bundle / BUNDLE).read_text())
    assert record["schema_version"] == 1
    assert record["classes"] == list(LABELS)
    assert record["trunk"]["params"] == 1000
    first = record["parts"][0]
    model_bytes = (bundle / "part-0/model.onnx").stat().st_size
    assert {key: first[key] for key in ("artifact", "classes", "heads_pruned", "params", "macs", "bytes")} == {
        "artifact": "part-0", "classes": ["ant", "cat"], "heads_pruned": 1, "params": 100, "macs": 1000,
        "bytes": model_bytes,
    }  # fmt: skip
    assert first["artifacts"] == {"onnx-fp32": "part-0"}
    assert record["fusion"]["artifact"] == "fusion"
    assert record["accuracy"]["missing_one"]["worst"] == 0.7
    assert record["accuracy"]["missing_two"] is None
    assert [(one["input"], one["part"], one["size"]) for one in record["features"]] == [
        ("features_0", "part-0", 5),
        ("features_1", "part-1", 3),
    ]


def test_an_opened_bundle_gives_its_members_in_the_order_of_the_features(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert is_bundle(bundle)
    assert opened.names == ("part-0", "part-1")
    assert opened.targets == ("onnx-fp32",)
    assert [artifact.manifest.model.name for artifact in opened.parts()] == ["part-0", "part-1"]
    assert opened.fusion().path == bundle / "fusion"
    assert (opened.index("part-1"), opened.index("1")) == (1, 1)
    with pytest.raises(UnknownName, match="part-7"):
        opened.index("part-7")
    with pytest.raises(UnknownName, match="tvm-fp32"):
        opened.fusion("tvm-fp32")


def test_placement_sees_the_sizes_of_every_part(bundle: Path) -> None:
    first, second = Bundle.open(bundle).placement_parts()
    assert (first.name, first.macs, first.feature_bytes) == ("part-0", 1000, 20)
    assert first.bytes == (bundle / "part-0/model.onnx").stat().st_size
    assert first.memory_bytes == memory_need(first.bytes)
    assert first.model_files == {Artifact.open(bundle / "part-0").manifest.files["model.onnx"]}
    assert second.feature_bytes == 12


def test_accuracy_without_some_parts_is_known_where_it_was_measured() -> None:
    assert ACCURACY.if_lost(()) == 0.97
    assert ACCURACY.if_lost({"part-1"}) == 0.9
    assert ACCURACY.if_lost({"part-0", "part-1"}) is None


def test_a_completed_proof_does_not_alter_a_member_but_anything_else_does(bundle: Path) -> None:
    artifact = Artifact.open(bundle / "part-1")
    artifact.update_parity(Parity(status="verified", tolerance=1e-5, max_rel=1e-6))
    assert Bundle.open(bundle).parts()[1].manifest.parity.status == "verified"
    changed = artifact.manifest.model_copy(update={"notes": ("kilroy was here",)})
    (bundle / "part-1" / MANIFEST).write_text(changed.model_dump_json())
    with pytest.raises(BadArtifact, match=r"part-1 .* was altered") as caught:
        Bundle.open(bundle)
    assert caught.value.exit_code == 6
    assert "copy the whole bundle again" in str(caught.value.hint)


def test_a_missing_member_is_named_and_can_be_done_without(bundle: Path) -> None:
    shutil.rmtree(bundle / "part-0")
    with pytest.raises(BadArtifact, match="lacks its member part-0") as caught:
        Bundle.open(bundle)
    assert "--without part-0" in str(caught.value.hint)
    assert Bundle.open(bundle, without=["part-0"]).names == ("part-0", "part-1")
    shutil.rmtree(bundle / "fusion")
    with pytest.raises(BadArtifact, match="lacks its member fusion"):
        Bundle.open(bundle, without=["part-0"])
    assert Bundle.read(bundle).manifest.classes == LABELS


def test_newer_schemas_are_refused_by_name(bundle: Path) -> None:
    manifest = json.loads((bundle / "part-1" / MANIFEST).read_text())
    (bundle / "part-1" / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 3}))
    with pytest.raises(BadArtifact, match="part-1 has manifest schema 3"):
        Bundle.open(bundle)
    edit(bundle, lambda record: record.update(schema_version=2))
    with pytest.raises(BadArtifact, match="has bundle schema 2; this edgevit reads up to 1"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.update(colour="red"), "colour is nothing that this edgevit knows"),
        (lambda record: record["parts"][0].pop("classes"), r"parts\.0\.classes: field required"),
        (lambda record: record["parts"][0]["classes"].append("bee"), "share out the classes"),
        (lambda record: record["features"].reverse(), "features do not name the parts"),
        (lambda record: record["members"].popitem(), "members are not the folders"),
        (lambda record: record["accuracy"].update(fused=97), r"accuracy\.fused: input should be less than"),
        (lambda record: record["parts"][1].update(artifact="../part-1"), "not a relative path"),
        (lambda record: record["classes"].reverse(), "fusion head .* has other classes"),
        (lambda record: record["parts"][0]["classes"].reverse(), "part-0 .* has other classes"),
        (lambda record: record["features"][0].update(size=6), "part-0 .* does not give 6 features"),
    ],
)
def test_an_edited_bundle_file_is_refused_with_the_place(bundle: Path, change, said: str) -> None:
    edit(bundle, change)
    with pytest.raises(BadArtifact, match=said):
        Bundle.open(bundle)


def test_what_is_no_bundle_is_said_so(tmp_path: Path, bundle: Path) -> None:
    assert not is_bundle(tmp_path)
    with pytest.raises(BadArtifact, match=f"no {BUNDLE} in it"):
        Bundle.open(tmp_path)
    (bundle / BUNDLE).write_text("{")
    with pytest.raises(BadArtifact, match="is not JSON"):
        Bundle.open(bundle)


def test_several_targets_lie_side_by_side_and_the_default_is_named(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with staged(out) as staging:
        for precision in ("fp32", "fp16"):
            names = [folder_of(f"part-{index}", "onnx", precision, several=True) for index in range(2)]
            parts = [part(staging / name, index, precision=precision) for index, name in enumerate(names)]
            fusion(staging / f"fusion-onnx-{precision}", golden_features(parts), precision=precision)
        with pytest.raises(UsageError, match="built for onnx-fp16, onnx-fp32"):
            write_bundle(staging, out, FACTS)
        written = write_bundle(staging, out, FACTS, default_target="onnx-fp32")
    assert written.manifest.parts[0].artifact == "part-0-onnx-fp32"
    assert written.targets == ("onnx-fp32", "onnx-fp16")
    assert Bundle.open(out).parts("onnx-fp16")[1].path == out / "part-1-onnx-fp16"


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (lambda folder: shutil.rmtree(folder / "part-1"), UsageError, "holds no part-1"),
        (lambda folder: replace(folder, 1, classes=("wasp",)), BadArtifact, "part-1 .* has other classes"),
        (lambda folder: replace(folder, 1, preprocess=Preprocess(size=(8, 8), crop="squash")), BadArtifact, "unlike"),
        (lambda folder: replace(folder, 1, seed=8), BadArtifact, "not exported with the parts' golden features"),
        (lambda folder: swapped(folder), BadArtifact, "not exported with the parts' golden features"),
    ],
    ids=["missing part", "other classes", "other preprocessing", "other golden images", "other features"],
)
def test_members_that_do_not_fit_are_never_published(tmp_path: Path, fault, error, said: str) -> None:
    out = tmp_path / "bundle"
    with staged(out) as staging:
        fill(staging)
        fault(staging)
        with pytest.raises(error, match=said):
            write_bundle(staging, out, FACTS)
    assert not out.exists()


def replace(folder: Path, index: int, **fields) -> None:
    shutil.rmtree(folder / f"part-{index}")
    part(folder / f"part-{index}", index, **fields)


def swapped(folder: Path) -> None:
    """A head whose golden features are not these parts'."""
    rows = golden_features([Artifact.open(folder / f"part-{index}") for index in range(2)])
    shutil.rmtree(folder / "fusion")
    fusion(folder / "fusion", rows | {"features_0": rows["features_0"] + 1})


def test_a_class_of_two_parts_makes_no_bundle(tmp_path: Path) -> None:
    with staged(tmp_path / "bundle") as staging:
        fill(staging)
        facts = dataclasses.replace(FACTS, parts=[PartFacts(("ant", "cat"), 1), PartFacts(("ant",), 1)])
        with pytest.raises(UsageError, match="share out the classes"):
            write_bundle(staging, tmp_path / "bundle", facts)


def test_only_a_bundle_is_replaced_and_only_when_asked(tmp_path: Path, bundle: Path) -> None:
    old = Bundle.open(bundle).sha256
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with staged(bundle) as staging:
        fill(staging)
        with pytest.raises(UsageError, match="exists already"):
            write_bundle(staging, bundle, FACTS)
        with pytest.raises(UsageError, match="is not an edgevit bundle"):
            write_bundle(staging, tmp_path / "thesis", FACTS, force=True)
        new = write_bundle(
            staging, bundle, dataclasses.replace(FACTS, partition=Partition(method="balanced", seed=0)), force=True
        )
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years of work"
    assert Bundle.open(bundle).sha256 == new.sha256 != old


def test_the_published_schema_is_the_bundle_s() -> None:
    published = json.loads((Path(__file__).parents[2] / "docs/reference/bundle.schema.json").read_text())
    assert published == BundleManifest.model_json_schema(), "run: make schema"
