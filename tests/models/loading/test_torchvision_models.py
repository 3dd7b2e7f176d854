"""torchvision's models by name: what they compute, how their images are prepared, and which are declined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from edgevit.data.samples import samples
from edgevit.errors import EdgeVitError, UnknownName, Unsupported, UsageError
from edgevit.models import create_model
from edgevit.models.loading.published import crop_share
from edgevit.models.loading.source import state_sha256
from edgevit.models.loading.torchvision_models import import_torchvision
from edgevit.models.spec import spec_of

torch.set_num_threads(1)
SMALL = "mobilenet_v3_small"


@pytest.fixture
def models():
    return import_torchvision().models


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of downloaded weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_torchvision_model_brings_its_own_preprocessing():
    spec = spec_of(create_model("torchvision:shufflenet_v2_x1_5"))
    assert (spec.name, spec.source, spec.num_classes) == ("torchvision:shufflenet_v2_x1_5", "torchvision", 1000)
    assert (spec.origin, spec.labels) == ("random (seed 0)", None)  # random weights mean no class
    steps = spec.preprocess
    assert (steps.size, steps.interpolation, steps.crop, steps.crop_pct) == (
        (224, 224),
        "bilinear",
        "center",
        224 / 232,
    )


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x1_5", "efficientnet_b0"])
def test_a_picture_is_prepared_as_torchvision_does_it(models, name):
    weights = models.get_model_weights(name).DEFAULT
    photo = samples().images[1]
    expected = weights.transforms()(Image.fromarray(photo)).numpy()
    found = spec_of(create_model(f"torchvision:{name}", num_classes=2)).preprocess(photo)
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize(("crop", "resized"), [(224, 256), (480, 518), (73, 91), (448, 449), (49, 55)])
def test_a_share_gives_the_resized_side_again(crop, resized):
    assert int(crop / crop_share(crop, resized)) == resized


def test_every_share_of_usual_sizes_is_exact():
    pairs = ((crop, crop + more) for crop in range(32, 600) for more in range(80))
    assert all(int(crop / crop_share(crop, resized)) == resized for crop, resized in pairs)


def test_weights_from_a_file_compute_what_torchvision_does(models, tmp_path):
    torch.manual_seed(5)
    original = models.get_model(SMALL, weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    model = create_model(f"torchvision:{SMALL}", weights=tmp_path / "w.pth")
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(image), original(image))
    assert spec_of(model).labels[3] == "tiger shark"


def test_pretrained_weights_are_torchvisions_own_from_its_cache(models, cache):
    torch.manual_seed(6)
    original = models.get_model(SMALL, weights=None).eval()
    torch.save(original.state_dict(), cache / models.get_model_weights(SMALL).DEFAULT.url.rpartition("/")[2])
    model = create_model(f"torchvision:{SMALL}", pretrained=True)
    assert state_sha256(model) == state_sha256(original)
    spec = spec_of(model)
    assert (spec.origin, spec.labels[0]) == ("torchvision pretrained", "tench")
    with pytest.raises(UsageError, match="have 1000 classes, not 7"):
        create_model(f"torchvision:{SMALL}", pretrained=True, num_classes=7)


class Runs:
    """What no file of weights may do."""

    def __reduce__(self):
        return (print, ("run by a file of weights",))


def test_a_cached_file_that_would_run_code_is_refused(models, cache, capsys):
    torch.save({"w": Runs()}, cache / models.get_model_weights(SMALL).DEFAULT.url.rpartition("/")[2])
    with pytest.raises(UsageError, match="cannot load its weights"):
        create_model(f"torchvision:{SMALL}", pretrained=True)
    assert "run by a file" not in capsys.readouterr().out


def test_no_network_is_one_sentence(cache, monkeypatch):
    monkeypatch.setattr("edgevit.models.loading.torchvision_models.reachable", lambda url: False)
    with pytest.raises(EdgeVitError, match=r"download\.pytorch\.org cannot be reached") as caught:
        create_model(f"torchvision:{SMALL}", pretrained=True)
    assert "--weights" in caught.value.hint


def test_a_tag_names_other_weights_and_a_wrong_one_is_answered():
    assert spec_of(create_model("torchvision:mobilenet_v2.IMAGENET1K_V1")).preprocess.crop_pct == 224 / 256
    assert spec_of(create_model("torchvision:mobilenet_v2")).preprocess.crop_pct == crop_share(224, 232)
    with pytest.raises(UnknownName, match="unknown weights of torchvision's mobilenet_v2 'IMAGENET1K_V3'"):
        create_model("torchvision:mobilenet_v2.IMAGENET1K_V3")


def test_a_size_is_given_to_models_that_fix_theirs():
    spec = spec_of(create_model("torchvision:vit_b_32", image_size=64, num_classes=3))
    assert (spec.image_size, spec.num_classes) == ((64, 64), 3)
    with pytest.raises(UsageError, match="cannot build vit_b_32 so"):
        create_model("torchvision:vit_b_32", image_size=65)
    with pytest.raises(UsageError, match="does not take 64×96 images"):
        create_model("torchvision:vit_b_32", image_size=(64, 96))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ssdlite320_mobilenet_v3_large", "finds boxes"),
        ("r3d_18", "clips of video"),
        ("raft_small", "two pictures at once"),
        ("quantized_mobilenet_v2", "quantised"),
    ],
)
def test_what_is_no_function_of_one_picture_is_declined_with_its_reason(name, said):
    with pytest.raises(Unsupported, match=said) as caught:
        create_model(f"torchvision:{name}")
    assert caught.value.hint


def test_a_segmentation_is_no_classifier_and_gives_tensors():
    model = create_model("torchvision:lraspp_mobilenet_v3_large", image_size=64)
    assert spec_of(model).num_classes is None
    assert model(torch.zeros(1, 3, 64, 64))["out"].shape == (1, 21, 64, 64)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        create_model("torchvision:resnet_18")
    assert "torchvision:resnet18" in caught.value.hint
