"""A real bundle of two tiny sub-models, built once: run, proved, and asked with parts missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from typer.testing import CliRunner

from edgevit import cli
from edgevit.artifact.files import sha256_of
from edgevit.artifact.manifest import MANIFEST, Parity, WeightsInfo
from edgevit.artifact.opened import Artifact
from edgevit.artifact.staging import staged
from edgevit.build import export
from edgevit.bundle import embedded
from edgevit.bundle.embedded import BundleSession
from edgevit.bundle.manifest import BUNDLE, BundleAccuracy, Lineage, Partition, Trunk
from edgevit.bundle.opened import Bundle, BundleFacts, PartFacts, content_sha256, golden_features, write_bundle
from edgevit.bundle.proof import prove_in_worker, verify_bundle
from edgevit.data.source import open_data
from edgevit.errors import BadArtifact, EdgeVitError, MissingDependency, ParityFailed, Unsupported, UsageError
from edgevit.images import Preprocess
from edgevit.models.families.edvit import FusionHead, SubModel
from edgevit.models.families.vit import BlockConfig, VisionTransformer, ViTConfig
from edgevit.models.spec import ModelSpec, attach_spec
from edgevit.prediction.predictor import predict
from edgevit.prediction.results import Failure

LABELS = tuple("0123456789")
CLASSES = (("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9"))
IMAGES = Preprocess(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop="squash")
WEIGHTS = WeightsInfo(origin="random (seed 0)", state_sha256="0" * 64)


def spec(name: str, labels: tuple[str, ...], preprocess: Preprocess | None = None) -> ModelSpec:
    size = preprocess.size if preprocess else None
    return ModelSpec(name, "module", size, preprocess, len(labels), labels, data="digits" if preprocess else None)


@cache
def networks() -> tuple[list[SubModel], FusionHead]:
    """Two sub-models of random weights, and a head that learnt from 512 digits to read them, with each missing too."""
    torch.manual_seed(0)
    config = ViTConfig((16, 16), 4, 24, (BlockConfig(3, 8, 48),) * 2, 6)
    subs = [SubModel(VisionTransformer(config)).eval() for _ in CLASSES]
    head = FusionHead((24, 24), 10)
    data = open_data("digits", split="train").take(range(512))
    images, labels = torch.from_numpy(IMAGES.batch(list(data.images))), torch.from_numpy(data.labels)
    with torch.no_grad():
        features = [sub(images)["features"] for sub in subs]
    head.fit_statistics(features)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    masks = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    for step in range(60):
        loss = torch.nn.functional.cross_entropy(head(*features, masks[step % 3].expand(512, 2)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return subs, head.eval()


def eager(image: np.ndarray, present: tuple[int, int] = (1, 1)) -> np.ndarray:
    """What the two sub-models and the head compute in torch."""
    subs, head = networks()
    pixels = torch.from_numpy(image)
    with torch.no_grad():
        features: list[Tensor] = [sub(pixels)["features"] for sub in subs]
        return head(*features, torch.tensor([present], dtype=torch.float32).expand(len(image), 2)).numpy()


def held_out() -> tuple[np.ndarray, np.ndarray]:
    data = open_data("digits", split="held-out")
    return IMAGES.batch(list(data.images)), data.labels


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subs, head = networks()
    out = tmp_path_factory.mktemp("split") / "bundle"
    rows = torch.from_numpy(held_out()[0][:12])
    images, labels = held_out()
    fused = float((eager(images).argmax(1) == labels).mean())
    with staged(out) as staging:
        parts = []
        for index, (sub, mine) in enumerate(zip(subs, CLASSES, strict=True)):
            attach_spec(sub, spec(f"tiny part {index}", ("none of mine", *mine), IMAGES))
            parts.append(export(sub, "onnx", out=staging / f"part-{index}", threads=1))
        with torch.no_grad():
            more = {f"features_{index}": sub(rows)["features"].numpy() for index, sub in enumerate(subs)}
        more["present"] = np.tile(np.asarray([[1, 0], [0, 1]], np.float32), (6, 1))
        inputs = {name: np.concatenate([first, more[name]]) for name, first in golden_features(parts).items()}
        attach_spec(head, spec("tiny fusion", LABELS))
        export(head, "onnx", out=staging / "fusion", inputs=inputs, threads=1)
        facts = BundleFacts(
            classes=LABELS,
            trunk=Trunk(name="tiny", params=50_000, macs=900_000, bytes=200_000, weights=WEIGHTS),
            parts=[PartFacts(mine, heads_pruned=1) for mine in CLASSES],
            partition=Partition(method="balanced", seed=0),
            accuracy=BundleAccuracy(data="digits", images=len(labels), trunk=0.9, fused=fused),
            lineage=Lineage(data="digits", seed=0, commands=("edgevit split tiny --parts 2",)),
        )
        write_bundle(staging, out, facts)
    return out


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def reseal(bundle: Path, folder: str) -> None:
    """Give a member whose model was changed the hashes of what it is now: the change is then not an alteration."""
    path = bundle / folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["model.onnx"] = sha256_of(bundle / folder / "model.onnx")
    path.write_text(json.dumps(manifest))
    record = json.loads((bundle / BUNDLE).read_text())
    record["members"][folder] = content_sha256(bundle / folder)
    (bundle / BUNDLE).write_text(json.dumps(record))


def spoil(bundle: Path, folder: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change every constant of a member's model and reseal it."""
    model = onnx.load(bundle / folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, bundle / folder / "model.onnx")
    reseal(bundle, folder)


# --- what is exported -------------------------------------------------------------------------------------------------


def test_a_sub_model_and_a_fusion_head_are_artifacts_whose_roles_say_what_they_are(built: Path) -> None:
    part, fusion = (Artifact.open(built / name).manifest for name in ("part-0", "fusion"))
    assert [(one.name, one.role) for one in part.inputs] == [("image", "image")]
    assert [(one.name, one.role, one.shape) for one in part.outputs] == [
        ("features", "features", (1, 24)),
        ("logits", "logits", (1, 6)),
    ]
    assert [(one.name, one.role) for one in fusion.inputs] == [
        ("features_0", "features"),
        ("features_1", "features"),
        ("present", "mask"),
    ]
    assert [(one.name, one.role, one.shape) for one in fusion.outputs] == [("logits", "logits", (1, 10))]
    assert {part.parity.status, fusion.parity.status} == {"verified"}
    assert (part.model.task, part.model.classes) == ("classify", 6)
    assert (fusion.model.task, fusion.model.classes) == ("classify", 10)
    assert part.labels == ("none of mine", *CLASSES[0])
    assert fusion.labels == LABELS


def test_a_sub_model_claims_no_accuracy_on_classes_that_are_not_its_own(built: Path) -> None:
    assert Artifact.open(built / "part-0").manifest.accuracy is None


# --- running ----------------------------------------------------------------------------------------------------------


def test_the_fused_logits_are_those_of_the_networks(built: Path) -> None:
    images = held_out()[0][:5]
    with BundleSession(built, threads=1) as session:
        for count in (1, 5):
            answer = session.answer({"image": images[:count]})
            np.testing.assert_allclose(answer.logits, eager(images[:count]), atol=1e-4)
        assert not answer.degraded
        assert answer.sentence() == "2/2 sub-models"
        assert set(answer.ms) == {"part-0", "part-1", "fusion"}
        found = session.infer({"image": images})
        assert found["present"].tolist() == [True, True]
        np.testing.assert_array_equal(found["logits"], answer.logits)


@pytest.mark.parametrize(("name", "mask"), [("part-0", (0, 1)), ("1", (1, 0))])
def test_a_part_that_is_left_out_is_zeros_for_the_head_and_named_in_the_answer(built: Path, name, mask) -> None:
    images = held_out()[0][:2]
    with BundleSession(built, threads=1, without=[name]) as session:
        answer = session.answer({"image": images})
    with BundleSession(built, threads=1) as session:
        asked = session.answer({"image": images}, present=[bool(one) for one in mask])
    np.testing.assert_allclose(answer.logits, eager(images, mask), atol=1e-4)
    np.testing.assert_array_equal(answer.logits, asked.logits)
    missing = mask.index(0)
    assert answer.missing == asked.missing
    assert (answer.parts, answer.answered, answer.degraded) == (2, 1, True)
    assert answer.sentence() == f"degraded 1/2 (missing: part-{missing}; classes {', '.join(CLASSES[missing])})"
    assert answer.missing[0].left_out


def test_a_part_that_breaks_while_it_runs_degrades_the_answer_and_says_why(built: Path) -> None:
    images = held_out()[0][:1]
    with BundleSession(built, threads=1) as session:
        session._sessions[1].close()
        answer = session.answer({"image": images})
        np.testing.assert_allclose(answer.logits, eager(images, (1, 0)), atol=1e-4)
        assert "was closed" in answer.missing[0].reason
        assert not answer.missing[0].left_out
        session._sessions[0].close()
        with pytest.raises(EdgeVitError, match=r"no sub-model answered: part-0: .*closed"):
            session.answer({"image": images})


def test_features_that_are_no_numbers_never_reach_the_head(bundle: Path) -> None:
    spoil(bundle, "part-0", lambda weights: weights * np.float32("nan"))
    images = held_out()[0][:1]
    with BundleSession(bundle, threads=1) as session:
        answer = session.answer({"image": images})
    assert np.isfinite(answer.logits).all()
    np.testing.assert_allclose(answer.logits, eager(images, (0, 1)), atol=1e-4)
    assert "NaN" in answer.missing[0].reason
    with (
        BundleSession(bundle, threads=1, require_all=True) as session,
        pytest.raises(EdgeVitError, match="not every sub-model answered: part-0"),
    ):
        session.answer({"image": images})


def test_a_part_that_the_engine_refuses_is_missing_and_all_of_them_are_an_error(bundle: Path) -> None:
    def break_graph(folder: str) -> None:
        model = onnx.load(bundle / folder / "model.onnx")
        model.graph.node[0].op_type = "NoSuchOperator"
        onnx.save(model, bundle / folder / "model.onnx")
        reseal(bundle, folder)

    break_graph("part-1")
    with BundleSession(bundle, threads=1) as session:
        answer = session.answer({"image": held_out()[0][:1]})
        assert [one.part for one in answer.missing] == ["part-1"]
        assert "cannot open" in answer.missing[0].reason
    with pytest.raises(BadArtifact, match="part-1"):
        BundleSession(bundle, threads=1, require_all=True)
    break_graph("part-0")
    with pytest.raises(EdgeVitError, match="cannot open"):
        BundleSession(bundle, threads=1)


def test_an_altered_model_file_is_an_error_unless_its_part_is_left_out(bundle: Path) -> None:
    with (bundle / "part-1/model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BadArtifact, match=r"part-1 was altered"):
        BundleSession(bundle, threads=1)
    with BundleSession(bundle, threads=1, without=["part-1"]) as session:
        assert session.answer({"image": held_out()[0][:1]}).answered == 1


def test_a_member_that_failed_its_proof_is_not_run(bundle: Path) -> None:
    Artifact.open(bundle / "part-1").update_parity(Parity(status="failed", reason="logits differs", tolerance=1e-5))
    with pytest.raises(ParityFailed, match="part-1 failed its proof"):
        BundleSession(bundle, threads=1)


def test_requests_that_cannot_be_right_are_refused(built: Path) -> None:
    image = held_out()[0][:1]
    with pytest.raises(UsageError, match="every sub-model is left out"):
        BundleSession(built, without=["part-0", "part-1"])
    with pytest.raises(UsageError, match="part-5"):
        BundleSession(built, without=["part-5"])
    with pytest.raises((Unsupported, MissingDependency)):
        BundleSession(built, "tensorrt")
    with BundleSession(built, threads=1) as session:
        with pytest.raises(UsageError, match="takes image"):
            session.infer({"picture": image})
        with pytest.raises(UsageError, match="image must be float32 batch×3×16×16, got float64 1×3×16×16"):
            session.infer({"image": image.astype(np.float64)})
        with pytest.raises(UsageError, match="2 booleans"):
            session.infer({"image": image}, present=[True])
        with pytest.raises(UsageError, match="features_1 must be 1×24, got 1×7"):
            session.fusion.fuse([None, np.zeros((1, 7), np.float32)], 1)


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; the error of a failed one is raised in ``CliRunner`` as itself."""
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, EdgeVitError):
        return result.exception.exit_code, result.stdout, f"{result.exception}"
    return result.exit_code, result.stdout, result.stderr


def test_predict_prints_the_answer_and_how_many_sub_models_gave_it(built: Path) -> None:
    picture = built / "part-0/golden/2.png"
    expected = int(eager(Artifact.open(built / "part-0").golden()[0]["image"][2:3]).argmax())
    code, out, _ = run("predict", built, picture, "--threads", "1", "--top", "2")
    assert code == 0
    assert out.startswith(f"{picture}: {expected} ")
    assert out.endswith("%; 2/2 sub-models\n")
    code, out, err = run("predict", built, picture, "--threads", "1", "--without", "part-1")
    assert code == 0
    assert out.endswith("degraded 1/2 (missing: part-1; classes 5, 6, 7, 8, 9)\n")
    assert not err


def test_predict_json_has_the_fields_of_infer(built: Path) -> None:
    code, out, _ = run("predict", built, built / "part-0/golden/0.png", "--threads", "1", "--without", "0", "--json")
    (record,) = json.loads(out)
    assert code == 0
    assert {"image", "top", "where", "parts", "answered", "degraded", "missing", "latency_ms"} == set(record)
    assert (record["where"], record["parts"], record["answered"], record["degraded"]) == ("embedded", 2, 1, True)
    assert record["missing"][0]["part"] == "part-0"
    assert record["missing"][0]["classes"] == list(CLASSES[0])
    assert [guess["label"] for guess in record["top"]] == [LABELS[guess["index"]] for guess in record["top"]]


def test_predict_says_why_a_part_is_missing_once_for_all_images(bundle: Path, tmp_path: Path) -> None:
    spoil(bundle, "part-1", lambda weights: weights * np.float32("nan"))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    pictures = [bundle / "part-0/golden/0.png", tmp_path / "broken.png", bundle / "part-0/golden/1.png"]
    code, out, err = run("predict", bundle, *pictures, "--threads", "1")
    assert code == 1  # one picture is broken
    assert out.count("degraded 1/2") == 2
    assert err.count("part-1 did not answer") == 1
    assert isinstance(predict(bundle, pictures[1:2], threads=1)[0], Failure)


def test_only_a_bundle_has_parts_to_leave_out(built: Path) -> None:
    with pytest.raises(UsageError, match="has no parts to leave out"):
        predict(built / "part-0", [], without=["part-1"])
    with pytest.raises(UsageError, match="3 labels for 10 classes"):
        predict(built, [], labels=["a", "b", "c"])


def test_info_says_what_the_bundle_is(built: Path) -> None:
    code, out, _ = run("info", built)
    assert code == 0
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert "classes 5, 6, 7, 8, 9; 1 heads pruned" in lines["part-1"]
    assert "24 features" in lines["part-1"]
    assert "top-1 fused, 90.00% of the trunk, on 360 images of digits" in lines["accuracy"]
    assert json.loads(run("info", built, "--json")[1])["classes"] == list(LABELS)


# --- the proof --------------------------------------------------------------------------------------------------------


def test_verify_proves_every_member_and_then_all_together(built: Path) -> None:
    code, out, _ = run("verify", built, "--data", "digits", "--threads", "1", "--json")
    record = json.loads(out)
    assert code == 0
    assert [member["member"] for member in record["members"]] == ["part-0", "part-1", "fusion"]
    assert {member["parity"]["status"] for member in record["members"]} == {"verified"}
    assert record["parity"]["status"] == "verified"
    assert record["parity"]["max_rel"] <= record["parity"]["tolerance"] <= 1e-3
    images, labels = held_out()
    assert record["accuracy"]["top1"] == pytest.approx((eager(images).argmax(1) == labels).mean())
    assert record["accuracy"]["recorded"] == record["accuracy"]["top1"]
    assert record["accuracy"]["images"] == 360
    assert record["problems"] == []


def test_verify_goes_on_past_what_is_wrong_and_ends_with_the_proof_that_failed(bundle: Path) -> None:
    shutil.rmtree(bundle / "part-1")
    spoil(bundle, "part-0", lambda weights: weights + np.float32(0.1))
    code, out, error = run("verify", bundle, "--threads", "1")
    assert code == 7
    assert "not sound: part-0, part-1 (2 of 3 members)" in error
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["part-0"].startswith("FAILED: golden pair: ")
    assert "lacks its member part-1" in lines["part-1"]
    assert lines["fusion"].startswith("verified, ")
    assert "every member must be sound first" in lines["together"]


def test_verify_of_a_bundle_that_is_not_whole_ends_as_a_bad_artifact(bundle: Path) -> None:
    for folder in ("part-0", "part-1", "fusion"):
        shutil.rmtree(bundle / folder)
    with pytest.raises(BadArtifact, match=r"not sound: part-0, part-1, fusion \(3 of 3 members\)") as caught:
        verify_bundle(bundle, threads=1)
    assert [member["error"] is None for member in caught.value.verification.record()["members"]] == [False] * 3


def proved(bundle: Path, data: str | None = None) -> dict:
    payload = {"bundle": str(bundle), "data": data, "runtime": None, "threads": 1, "provider": None, "trust": False}
    return prove_in_worker(payload)


def test_a_fused_accuracy_below_the_recorded_one_is_a_problem(bundle: Path) -> None:
    record = json.loads((bundle / BUNDLE).read_text())
    record["accuracy"]["fused"] = 1.0
    (bundle / BUNDLE).write_text(json.dumps(record))
    (problem,) = proved(bundle, "digits")["problems"]
    assert "bundle.json says 100.00%" in problem


def test_a_head_that_reads_its_parts_wrongly_fails_although_its_own_golden_pair_is_untouched(bundle: Path) -> None:
    """The head's model is another one than its golden logits were made from."""
    spoil(bundle, "fusion", lambda weights: -weights)
    (problem,) = proved(bundle)["problems"]
    assert "golden images through all parts: logits differs" in problem


def test_a_proof_takes_the_members_that_the_named_runtime_opens(built: Path) -> None:
    assert embedded.target_for(Bundle.open(built), "onnxruntime") == "onnx-fp32"
    with pytest.raises(Unsupported, match="opens none of this bundle's targets"):
        verify_bundle(built, runtime="tensorrt")
    with pytest.raises(UsageError, match="compares artifacts"):
        CliRunner().invoke(cli.app, ["verify", str(built), "--against", str(built)], catch_exceptions=False)


def test_bundles_need_no_torch(built: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfor name in ('torch', 'timm', 'onnx', 'sklearn', 'skimage'): sys.modules[name] = None\n"
        "from edgevit.bundle import proof\nfrom edgevit.prediction.predictor import predict\n"
        f"print(*[one.line() for one in predict({str(built)!r}, [{str(built / 'part-0/golden/0.png')!r}], threads=1)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert ran.stdout.endswith("2/2 sub-models\n")
