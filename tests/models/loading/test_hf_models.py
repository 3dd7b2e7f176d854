"""transformers' models by folder or id: what they compute, how their pictures are prepared, and what is declined."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from edgevit.data.samples import samples
from edgevit.errors import EdgeVitError, Unsupported, UsageError
from edgevit.models import create_model
from edgevit.models.loading.hf_models import import_transformers
from edgevit.models.spec import spec_of

torch.set_num_threads(1)
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PETS = {0: "cat", 1: "dog", 2: "newt"}
SQUARE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def library():
    return import_transformers()


def vit(library, **more):
    return library.ViTConfig(image_size=32, patch_size=8, **{"id2label": PETS, **SMALL, **more})


def saved(model, processor, folder, **how):
    torch.manual_seed(4)
    model.eval().save_pretrained(folder, **how)
    processor.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture
def pets(library, tmp_path):
    """A classifier of transformers', and its name."""
    torch.manual_seed(3)
    model = library.ViTForImageClassification(vit(library)).eval()
    return model, saved(model, library.ViTImageProcessor(size=SQUARE), tmp_path / "pets")


def test_a_folder_gives_its_own_classifier_labels_and_preprocessing(pets):
    original, name = pets
    model = create_model(name, pretrained=True)
    spec = spec_of(model)
    assert (spec.source, spec.origin, spec.labels) == ("hf", "hf pretrained", ("cat", "dog", "newt"))
    assert (spec.image_size, spec.preprocess.crop, spec.preprocess.mean) == ((32, 32), "squash", (0.5,) * 3)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(image), original(image).logits)
    assert spec.notes == ()


def test_without_pretrained_the_weights_are_random_and_mean_no_class(pets):
    original, name = pets
    spec = spec_of(model := create_model(name))
    assert (spec.origin, spec.labels, spec.num_classes) == ("random (seed 0)", None, 3)
    assert torch.equal(model(torch.ones(1, 3, 32, 32)), create_model(name)(torch.ones(1, 3, 32, 32)))
    assert not torch.equal(model(torch.ones(1, 3, 32, 32)), original(torch.ones(1, 3, 32, 32)).logits)


def test_weights_come_from_a_file_too(pets, tmp_path):
    original, name = pets
    model = create_model(name, weights=tmp_path / "pets" / "model.safetensors")
    assert torch.equal(model(torch.ones(1, 3, 32, 32)), original(torch.ones(1, 3, 32, 32)).logits)
    assert spec_of(model).labels == ("cat", "dog", "newt")


def prepared(library):
    """Processors of every shape, each with a model that takes its pictures."""
    return {
        "squashed": (vit(library), library.ViTImageProcessor(size=SQUARE)),
        "shared": (
            library.ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_labels=4),
            library.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
        ),
        "cropped": (
            vit(library),
            library.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        ),
        "plain": (vit(library), library.ViTImageProcessor(size=SQUARE, do_normalize=False)),
        "levels": (vit(library), library.ViTImageProcessor(size=SQUARE, do_normalize=False, do_rescale=False)),
        "centred": (
            vit(library),
            library.EfficientNetImageProcessor(
                size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False, include_top=False
            ),
        ),
    }


@pytest.mark.parametrize("kind", ["squashed", "shared", "cropped", "plain", "levels", "centred"])
def test_a_picture_is_prepared_as_the_librarys_own_processor_does_it(library, tmp_path, kind):
    config, processor = prepared(library)[kind]
    auto = library.AutoModelForImageClassification
    spec = spec_of(create_model(saved(auto.from_config(config), processor, tmp_path)))
    photo = samples().images[1]
    expected = processor(Image.fromarray(photo), return_tensors="np")["pixel_values"][0]
    levels = abs(spec.preprocess(photo) - expected) * spec.preprocess.std[0] * 255
    assert levels.max() < 2.01  # its resize counts in whole levels, Pillow's too, and they round apart
    assert levels.mean() < 0.5


def test_a_model_that_takes_blue_first_is_given_it(library, tmp_path):
    config = library.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], num_attention_heads=2
    )
    original = library.MobileViTForImageClassification(config).eval()
    processor = library.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    model = create_model(saved(original, processor, tmp_path), pretrained=True)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(image), original(image.flip(1)).logits)
    assert spec_of(model).notes == ()


def test_pixels_that_are_prepared_otherwise_are_said_to_be_by_how_much(library, tmp_path):
    processor = library.EfficientNetImageProcessor(size=SQUARE, include_top=True)  # it normalises twice
    name = saved(library.ViTForImageClassification(vit(library)), processor, tmp_path)
    (note,) = spec_of(create_model(name)).notes
    assert "its own image processor gives other pixels: by " in note


def test_a_folder_without_a_processor_says_what_it_lacks(library, tmp_path):
    library.ViTForImageClassification(vit(library)).save_pretrained(tmp_path)
    spec = spec_of(create_model(f"hf:{tmp_path}"))
    assert spec.image_size == (32, 32)
    assert f"{tmp_path} has no preprocessor_config.json" in spec.notes


def test_a_model_without_a_head_gives_its_tensors(library, tmp_path):
    model = library.ViTModel(vit(library)).eval()
    found = create_model(saved(model, library.ViTImageProcessor(size=SQUARE), tmp_path), pretrained=True)
    assert spec_of(found).num_classes is None
    out = found(torch.ones(1, 3, 32, 32))
    assert set(out) == {"last_hidden_state", "pooler_output"}


def test_other_classes_are_said_to_be_new(pets):
    spec = spec_of(create_model(pets[1], pretrained=True, num_classes=7))
    assert (spec.num_classes, spec.labels) == (7, None)
    assert "of 7 classes is new, with random weights" in spec.notes[0]


def test_another_image_size_stretches_the_positions(pets):
    spec = spec_of(create_model(pets[1], pretrained=True, image_size=48))
    assert (spec.image_size, spec.preprocess.size) == ((48, 48), (48, 48))


class Runs:
    """What no file of weights may do."""

    def __reduce__(self):
        return (print, ("run by a file of weights",))


def test_a_pickle_that_would_run_code_is_refused(pets, tmp_path, capsys):
    (tmp_path / "pets" / "model.safetensors").unlink()
    torch.save({"w": Runs()}, tmp_path / "pets" / "pytorch_model.bin")
    with pytest.raises(UsageError, match="cannot load the weights") as caught:
        create_model(pets[1], pretrained=True)
    assert "safetensors" in caught.value.hint
    assert "run by a file" not in capsys.readouterr().out


def test_files_that_lack_weights_are_refused(library, pets, tmp_path):
    library.ViTModel(vit(library)).save_pretrained(tmp_path / "bare")
    config = tmp_path / "bare" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["ViTForImageClassification"]}))
    with pytest.raises(UsageError, match=r"lack weights of its ViTForImageClassification: classifier\.bias"):
        create_model(f"hf:{tmp_path / 'bare'}", pretrained=True)


def test_code_of_a_repository_is_never_run(pets, tmp_path):
    config = tmp_path / "pets" / "config.json"
    changed = {**json.loads(config.read_text()), "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    config.write_text(json.dumps(changed))
    (tmp_path / "pets" / "mine.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(Unsupported, match="needs code from its repository, which is not run here"):
        create_model(pets[1])


def test_a_model_that_takes_text_is_declined(library, tmp_path):
    library.BertModel(library.BertConfig(vocab_size=50, **SMALL)).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="takes input_ids, not pictures alone"):
        create_model(f"hf:{tmp_path}")


@pytest.mark.parametrize(("name", "said"), [("./nowhere", "no folder ./nowhere"), ("a/b/c", "no folder a/b/c")])
def test_a_folder_that_is_not_there_is_said_to_be(name, said):
    with pytest.raises(UsageError, match=said):
        create_model(f"hf:{name}")


def test_a_folder_without_a_config_is_none_of_transformers(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json"):
        create_model(f"hf:{tmp_path}")


def test_no_network_is_one_sentence(library, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EdgeVitError, match="the Hugging Face hub cannot be reached"):
        create_model("hf:nobody/nothing-at-all")
    assert constants.HF_HUB_OFFLINE is False
