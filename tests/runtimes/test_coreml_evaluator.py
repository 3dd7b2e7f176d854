"""The reference evaluator as a runtime: what it opens, what it refuses, and that it proves whole models."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from coreml_oracle import converted, error, evaluated, exported, package, values
from torch import Tensor, nn

import edgevit
from edgevit import registry
from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.runtimes.coreml.evaluator import ReferenceEvaluator
from edgevit.runtimes.coreml.program import load

CLASSES = 4


class Tiny(nn.Module):
    """Conv, GELU, mean, linear: image to logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(self.conv(image)).mean((2, 3)))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in both precisions, saved once."""
    folder, program = tmp_path_factory.mktemp("packages"), exported(Tiny(), torch.zeros(1, 3, 8, 8))
    return {
        precision: package(program, folder / f"{precision}.mlpackage", precision=precision, output="logits")
        for precision in ("fp32", "fp16")
    }


@pytest.fixture
def artifact(make_artifact, packages):
    """A function that makes an artifact of the tiny package; keyword arguments replace fields of its manifest."""

    def make(precision: str = "fp32", **fields) -> Artifact:
        folder = make_artifact(precision)
        (folder / "model.onnx").unlink()
        entry = folder / "model.mlpackage"
        entry.symlink_to(packages[precision])
        record = json.loads((folder / MANIFEST).read_text())
        record |= {"target": "coreml", "precision": precision, "entry": entry.name, "files": hash_tree(folder)} | fields
        (folder / MANIFEST).write_text(json.dumps(record))
        return Artifact.open(folder)

    return make


def opened(artifact: Artifact, **options):
    return ReferenceEvaluator().open(artifact, **({"threads": 1, "provider": None, "options": {}} | options))


def test_a_session_computes_the_package(artifact) -> None:
    image = values(0, 1, 3, 8, 8)
    with opened(artifact()) as session:
        got = session.infer({"image": image})["logits"]
    assert got.dtype == np.float32
    assert error(got, Tiny().double()(torch.from_numpy(image).double()).detach()) <= 1e-6


def test_a_half_package_is_computed_in_halves_and_given_in_the_manifest_s_type(artifact) -> None:
    image = values(0, 1, 3, 8, 8)
    with opened(artifact("fp16")) as session:
        got = session.infer({"image": image})["logits"]
    assert got.dtype == np.float32
    assert (got == got.astype(np.float16)).all()
    assert 1e-6 < error(got, Tiny().double()(torch.from_numpy(image).double()).detach()) <= 5e-3


def test_it_says_that_it_is_no_core_ml_and_has_no_time(artifact) -> None:
    session = opened(artifact())
    assert (session.runtime, session.provider) == ("coreml-reference", "numpy")
    assert session.details["program"] == "iOS17"
    assert session.details["evaluator"].startswith("numpy")
    assert registry.row("runtime", session.runtime).can_profile is False


def test_it_has_one_provider_and_no_options(artifact) -> None:
    with pytest.raises(UnknownName, match="provider 'ane'"):
        opened(artifact(), provider="ane")
    with pytest.raises(UsageError, match="no option units"):
        opened(artifact("fp16"), options={"units": "all"})


def test_a_package_with_other_names_is_not_the_manifest_s(artifact) -> None:
    other = [{"name": "scores", "dtype": "float32", "shape": [1, CLASSES], "role": "logits"}]
    with pytest.raises(BadArtifact, match="has the outputs logits; its manifest lists scores"):
        opened(artifact(outputs=other))


def test_a_damaged_package_is_a_bad_artifact(tmp_path) -> None:
    saved = package(exported(Tiny(), torch.zeros(1, 3, 8, 8)), tmp_path / "model.mlpackage")
    (model,) = saved.rglob("model.mlmodel")
    model.write_bytes(b"not a model")
    with pytest.raises(BadArtifact, match="cannot read"):
        load(saved)
    with pytest.raises(BadArtifact, match="cannot read"):
        load(tmp_path / "nothing.mlpackage")


def test_a_missing_operation_is_named_with_its_layer_and_an_alternative() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(Unsupported, match=r"no MIL op random_uniform, which layer \S*random_uniform\S* uses") as caught:
        converted(exported(Noise(), torch.zeros(2, 5)))
    assert "Mac" in caught.value.hint
    assert caught.value.exit_code == 4


def test_feeds_of_another_shape_than_the_program_s_name_the_layer(packages) -> None:
    program = load(packages["fp32"])
    with pytest.raises(EdgeVitError, match="could not compute conv of layer"):
        program.run({"image": np.zeros((1, 2, 8, 8), np.float32)})


@pytest.mark.parametrize("colors", ["RGB", "BGR"])
def test_an_image_input_takes_the_pixels_of_the_manifest(colors) -> None:
    import coremltools as ct

    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    image = {
        "name": "image",
        "shape": (1, 3, 8, 8),
        "scale": 1 / 64,
        "bias": [-2.0, -1.5, -1.0],
        "color_layout": ct.colorlayout[colors],
    }
    program = converted(exported(Tiny(), torch.zeros(1, 3, 8, 8)), image=image)
    assert program.inputs["image"].colors == colors
    ordered = pixels if colors == "RGB" else pixels[..., ::-1]
    normalised = ordered / 64 + np.array([-2.0, -1.5, -1.0])
    expected = Tiny().double()(torch.from_numpy(normalised.transpose(0, 3, 1, 2))).detach()
    assert error(evaluated(program, pixels), expected) <= 1e-5
    planes = ordered.transpose(0, 3, 1, 2).astype(np.float32)
    assert error(evaluated(program, planes), expected) <= 1e-5


def test_values_are_forgotten_after_their_last_reader(packages) -> None:
    program = load(packages["fp32"])
    alive = {one.slot for one in program.inputs.values()}
    for step in program.steps:
        alive |= set(step.outputs)
        alive -= set(step.released)
    assert alive == set(program.outputs.values())
    assert len([slot for step in program.steps for slot in step.released]) == len(program.steps)


def test_an_overflow_in_half_is_seen_and_fp32_is_not_affected() -> None:
    class Loud(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 300) * 300 / 90_000

    x = torch.ones(1, 4)
    program = exported(Loud(), x)
    assert np.isinf(evaluated(converted(program, precision="fp16"), x.numpy())).all()
    assert error(evaluated(converted(program), x.numpy()), x) <= 1e-6


def test_a_device_without_torch_evaluates(packages) -> None:
    program = f"""
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from pathlib import Path
        from edgevit.runtimes.coreml.program import load
        found = load(Path({str(packages["fp16"])!r})).run({{"image": np.ones((1, 3, 8, 8), np.float32)}})
        print(found["logits"].tolist())
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    expected = load(packages["fp16"]).run({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]
    assert json.loads(ran.stdout) == expected.tolist()


@pytest.mark.parametrize("name", ["vit_nano", "efficientformer_nano", "fmvit_nano"])
def test_the_nanos_are_computed_to_rounding(name) -> None:
    """In fp16, and for a range of batches, the contract proves them."""
    model = edgevit.reparameterize(edgevit.create_model(name, weights="digits")).eval()
    images = torch.from_numpy(values(0, 4, 3, 32, 32))
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.double())
    got = evaluated(converted(exported(model, images)), images.numpy())
    assert error(got.astype(np.float64), exact) <= 2e-6
    assert (got.argmax(1) == exact.argmax(1).numpy()).all()
