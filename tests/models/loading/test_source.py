"""From a name to a model: zoo, timm and files, with weights and with the sentences for what cannot work."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from edgevit.errors import EdgeVitError, UnknownName, UsageError
from edgevit.images import Preprocess
from edgevit.models import create_model, zoo
from edgevit.models.families import vit
from edgevit.models.loading import timm_models
from edgevit.models.loading.checkpoint import CheckpointMeta, save_checkpoint
from edgevit.models.loading.source import import_timm, state_sha256
from edgevit.models.spec import spec_of

torch.set_num_threads(1)


# --- zoo ---------------------------------------------------------------------------------------------------------


def test_a_zoo_model_knows_what_it_is():
    model = create_model("vit_nano")
    spec = spec_of(model)
    assert not model.training
    assert (spec.name, spec.source, spec.image_size, spec.num_classes) == ("vit_nano", "zoo", (32, 32), 10)
    assert spec.origin == "random (seed 0)"
    assert spec.preprocess == Preprocess(
        size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop="squash", crop_pct=1.0, interpolation="bilinear"
    )


def test_random_weights_are_the_same_every_time_and_leave_torchs_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = create_model("vit_nano")
    assert torch.equal(torch.rand(1), expected)
    assert state_sha256(first) == state_sha256(create_model("vit_nano"))


def test_the_hash_sees_values_names_and_types():
    model, other = create_model("vit_nano"), create_model("vit_nano")
    with torch.no_grad():
        other.head.bias[3] += 1e-6
    hashes = {state_sha256(model), state_sha256(other), state_sha256(create_model("vit_nano").double())}
    assert len(hashes) == 3
    assert all(len(value) == 64 for value in hashes)


def test_classes_and_a_rectangular_image_size_can_be_chosen():
    model = create_model("vit_nano", num_classes=4, image_size=(16, 24))
    assert model(torch.zeros(1, 3, 16, 24)).shape == (1, 4)
    assert spec_of(model).preprocess.size == (16, 24)


@pytest.mark.parametrize("options", [{"num_classes": -1}, {"image_size": 0}, {"image_size": (32, -4)}])
def test_sizes_that_nothing_has_are_refused(options):
    with pytest.raises(UsageError, match="or more"):
        create_model("vit_nano", **options)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        create_model("vit_tinny")
    assert caught.value.nearest[0] == "vit_tiny"


def test_a_zoo_model_has_nothing_to_download():
    with pytest.raises(UsageError, match="no published weights"):
        create_model("vit_tiny", pretrained=True)
    with pytest.raises(UsageError, match="contradict"):
        create_model("timm:resnet18", pretrained=True, weights="w.pt")


# --- weights -----------------------------------------------------------------------------------------------------


def checkpoint(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "w.safetensors"
    facts = {"model": "vit_nano", "num_classes": 3, "image_size": (16, 16), "labels": ("x", "y", "z")}
    meta = CheckpointMeta(**{**facts, "data": "digits", "accuracy": 0.5, **changes})
    save_checkpoint(path, create_model("vit_nano", num_classes=3, image_size=16).state_dict(), meta)
    return path


def test_a_checkpoint_brings_its_own_classes_size_labels_and_accuracy(tmp_path):
    path = checkpoint(tmp_path, preprocess=Preprocess(size=(16, 16), mean=(0.1, 0.2, 0.3)))
    model = create_model("vit_nano", weights=path)
    spec = spec_of(model)
    assert (spec.num_classes, spec.image_size, spec.labels) == (3, (16, 16), ("x", "y", "z"))
    assert (spec.data, spec.accuracy, spec.origin) == ("digits", 0.5, str(path))
    assert spec.preprocess.mean == (0.1, 0.2, 0.3)
    assert state_sha256(model) == state_sha256(create_model("vit_nano", num_classes=3, image_size=16))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="weights are of vit_edvit, not of vit_nano"):
        create_model("vit_nano", weights=checkpoint(tmp_path, model="vit_edvit"))


def test_a_wrong_number_of_classes_names_the_right_one(tmp_path):
    with pytest.raises(UsageError, match=r"head\.weight is 3×64 in the file and 5×64 in the model") as caught:
        create_model("vit_nano", weights=checkpoint(tmp_path), num_classes=5)
    assert "3 classes" in caught.value.hint


def test_weights_that_the_package_does_not_ship_are_said_to_be_missing():
    with pytest.raises(UsageError) as caught:
        create_model("vit_tiny", weights="digits")
    assert "digits" in str(caught.value)
    with pytest.raises(UsageError, match="no weights at nonsense"):
        create_model("vit_tiny", weights="nonsense")


def test_which_weights_of_a_trainers_file_were_taken_is_in_the_origin_and_said(tmp_path):
    good = create_model("vit_nano", weights="digits").state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in good.items()}
    file = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 1, "args": Namespace(lr=0.1), "state_dict": zeros, "state_dict_ema": good}, file)
    spec = spec_of(create_model("vit_nano", weights=file))
    assert spec.origin == f"{file}#state_dict_ema"
    assert spec.notes == (
        f"took state_dict_ema of {file}, the averaged weights; for others say --weights {file}#state_dict",
    )
    assert state_sha256(create_model("vit_nano", weights=spec.origin)) == state_sha256(
        create_model("vit_nano", weights=file)
    )
    others = create_model("vit_nano", weights=f"{file}#state_dict")
    assert not others.head.weight.any()
    assert (spec_of(others).origin, spec_of(others).notes) == (f"{file}#state_dict", ())


def test_wrapped_and_prefixed_weights_of_another_size_are_resampled_too(tmp_path):
    good = create_model("vit_nano", weights="digits").state_dict()
    torch.save({"model": {f"_orig_mod.module.{name}": value for name, value in good.items()}}, tmp_path / "w.ckpt")
    spec = spec_of(create_model("vit_nano", weights=tmp_path / "w.ckpt", image_size=(48, 32)))
    assert spec.origin.startswith(f"{tmp_path}/w.ckpt (")
    assert "resampled from 8×8 to 12×8 patches" in spec.origin


@pytest.mark.parametrize("name", [name for name in zoo.names() if "digits" in zoo.shipped_weights(name)])
def test_shipped_weights_load_with_their_accuracy(name):
    spec = spec_of(create_model(name, weights="digits"))
    assert spec.origin == "digits"
    assert spec.data == "digits"
    assert spec.accuracy >= 0.975
    assert spec.num_classes == 10


# --- timm --------------------------------------------------------------------------------------------------------


def test_a_timm_model_brings_its_own_preprocessing():
    spec = spec_of(create_model("timm:vit_tiny_patch16_224"))
    assert (spec.source, spec.num_classes, spec.labels) == ("timm", 1000, None)  # random weights mean no class
    assert spec.preprocess == Preprocess(size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9)
    other = spec_of(create_model("timm:test_vit", num_classes=3))
    assert other.preprocess.size == (160, 160)
    assert other.num_classes == 3


def test_timm_weights_from_a_file_come_with_imagenet_names(tmp_path):
    timm = import_timm()
    file = tmp_path / "w.safetensors"
    from safetensors.torch import save_file

    torch.manual_seed(3)
    original = timm.create_model("test_vit").eval()
    save_file(original.state_dict(), file)
    model = create_model("timm:test_vit", weights=file)
    assert state_sha256(model) == state_sha256(original)
    assert spec_of(model).labels[3] == "tiger shark, Galeocerdo cuvieri"


def test_a_local_copy_in_the_hubs_format_loads_like_a_name(tmp_path):
    timm = import_timm()
    torch.manual_seed(3)
    original = timm.create_model("test_vit", num_classes=5).eval()
    timm.models.save_for_hf(original, tmp_path, model_config={"num_classes": 5})
    model = create_model(f"timm:local-dir:{tmp_path}", pretrained=True)
    assert state_sha256(model) == state_sha256(original)
    assert spec_of(model).num_classes == 5
    assert spec_of(model).origin == "timm pretrained"
    assert spec_of(model).notes == ()
    other = create_model(f"timm:local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert spec_of(other).notes == (
        "its classifier of 3 classes is new, with random weights: the pretrained one has 5",
    )


def test_timm_image_sizes_are_tried_before_they_are_believed():
    assert spec_of(create_model("timm:test_vit", image_size=96)).preprocess.size == (96, 96)
    assert spec_of(create_model("timm:test_resnet", image_size=64)).image_size == (64, 64)
    with pytest.raises(UsageError, match="does not take"):
        create_model("timm:test_vit", image_size=97)


def test_unknown_timm_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        create_model("timm:resnet_18")
    assert "timm:resnet18" in caught.value.hint


def test_no_network_is_one_sentence(monkeypatch, tmp_path):
    import_timm()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EdgeVitError, match="the Hugging Face hub cannot be reached") as caught:
        create_model("timm:test_vit", pretrained=True)
    assert "--weights" in caught.value.hint
    assert constants.HF_HUB_OFFLINE is False


def test_torchvision_schemas_are_defined_only_on_the_timm_path():
    code = """
        import sys
        from edgevit.models import create_model
        create_model("vit_nano")
        print("timm" in sys.modules, "torchvision" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_preprocessing_that_edgevit_cannot_follow_is_refused():
    config = {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "input_size": (3, 8, 8),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    assert timm_models._timm_preprocess("m", config, (8, 8)).crop == "center"
    for change in ({"crop_mode": "border"}, {"crop_pct": 1.15}, {"interpolation": "random"}, {"input_size": (1, 8, 8)}):
        with pytest.raises(EdgeVitError) as caught:
            timm_models._timm_preprocess("m", {**config, **change}, (8, 8))
        assert caught.value.exit_code == 4


# --- files -------------------------------------------------------------------------------------------------------

FILE = """
import torch
from sibling import WIDTH
from torch import nn

def build(num_classes=5, image_size=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size * image_size, WIDTH), nn.Linear(WIDTH, num_classes))

def plain():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    model.image_size = 20
    return model

def broken():
    raise RuntimeError("first line\\nsecond line")

def wrong():
    return "a model"

constant = 3
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "sibling.py").write_text("WIDTH = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_factory_in_a_file_makes_a_model(file):
    model = create_model(f"{file}:build", num_classes=6, image_size=12)
    spec = spec_of(model)
    assert (spec.source, spec.name, spec.num_classes, spec.image_size) == ("file", f"{file}:build", 6, (12, 12))
    assert str(file.parent) not in sys.path
    assert state_sha256(model) == state_sha256(create_model(f"{file}:build", num_classes=6, image_size=12))


def test_a_model_may_state_its_own_image_size(file):
    spec = spec_of(create_model(f"{file}:plain"))
    assert (spec.image_size, spec.num_classes) == ((20, 20), 4)


def test_weights_load_into_a_file_model(file, tmp_path):
    torch.manual_seed(1)
    source = create_model(f"{file}:plain")
    with torch.no_grad():
        source[2].weight.normal_()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = create_model(f"{file}:plain", weights=tmp_path / "w.pt")
    assert torch.equal(model[2].weight, source[2].weight)


@pytest.mark.parametrize(
    ("factory", "options", "says", "hint"),
    [
        ("buidl", {}, "unknown factory in .*mine.py 'buidl'", "build"),
        ("broken", {}, r"raised RuntimeError: first line \(mine.py, line 15\)$", "EDGEVIT_DEBUG"),
        ("wrong", {}, "returned a str, not a torch.nn.Module", None),
        ("constant", {}, "is an int, not a function", None),
        ("plain", {"num_classes": 3}, "takes no num_classes", "--classes"),
    ],
)
def test_a_factory_that_gives_no_model_gets_one_sentence(file, factory, options, says, hint):
    with pytest.raises(UsageError, match=says) as caught:
        create_model(f"{file}:{factory}", **options)
    assert hint is None or hint in caught.value.hint


def test_files_that_are_missing_or_broken_get_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        create_model(f"{tmp_path}/none.py:build")
    (tmp_path / "bad.py").write_text("def (\n")
    with pytest.raises(UsageError, match="raised SyntaxError"):
        create_model(f"{tmp_path}/bad.py:build")
    with pytest.raises(UsageError) as caught:
        create_model(f"{tmp_path}/bad.py")
    assert "FUNCTION" in caught.value.hint
    with pytest.raises(UsageError, match="neither a model's name nor"):
        create_model("some:thing")


def test_a_factory_that_uses_the_zoo_keeps_what_the_zoo_knows(tmp_path):
    (tmp_path / "wrap.py").write_text(
        "from edgevit.models import create_model\ndef make(): return create_model('vit_nano')\n"
    )
    spec = spec_of(create_model(f"{tmp_path}/wrap.py:make"))
    assert (spec.source, spec.image_size, spec.preprocess.mean) == ("file", (32, 32), (0.5, 0.5, 0.5))
    assert isinstance(create_model(f"{tmp_path}/wrap.py:make"), vit.VisionTransformer)
