"""ED-ViT's modules: the sub-model's deploy form and artifact, and a fusion head that an absent part cannot reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_oracle import randomised, relative

import edgevit
from edgevit.images import Preprocess
from edgevit.models.families.edvit import FusionHead, SubModel
from edgevit.models.families.vit import DeployViT, VisionTransformer, ViTConfig, uniform_blocks
from edgevit.models.reparam import reparameterize, report_of
from edgevit.models.spec import ModelSpec, attach_spec

torch.set_num_threads(1)
SIZE = (16, 16)
SIZES = (6, 4, 5)


@pytest.fixture(scope="module")
def sub_model() -> SubModel:
    model = SubModel(randomised(VisionTransformer(ViTConfig(SIZE, 4, 24, uniform_blocks(2, 3, 8, 40), 5)))).eval()
    attach_spec(model, ModelSpec("part-0", "module", SIZE, Preprocess(size=SIZE), 5))
    return model


@pytest.fixture
def fusion_head() -> FusionHead:
    head = randomised(FusionHead(SIZES, 7))
    head.fit_statistics([torch.randn(50, size) * 3 + 1 for size in SIZES])
    return head


def features(rows: int = 8) -> list[torch.Tensor]:
    return [torch.randn(rows, size) for size in SIZES]


def test_a_sub_model_gives_the_normalised_class_token_and_one_logit_more_than_it_has_classes(sub_model):
    image = torch.randn(2, 3, *SIZE)
    found = sub_model(image)
    assert list(found) == ["features", "logits"]
    assert torch.equal(found["features"], sub_model.vit.forward_features(image))
    assert torch.equal(found["logits"], sub_model.vit(image))
    assert found["features"].shape == (2, sub_model.feature_size)
    assert found["logits"].shape == (2, sub_model.classes + 1)


def test_the_deploy_form_of_a_sub_model_is_that_of_its_vit_and_proved_equal(sub_model):
    deploy = reparameterize(sub_model)
    assert isinstance(deploy.vit, DeployViT)
    assert report_of(deploy).max_rel_error < 1e-12
    image = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        for name, value in sub_model(image).items():
            assert relative(deploy(image)[name], value) < 1e-5


@pytest.mark.parametrize("form", ["deploy", "train"])
def test_both_forms_of_a_sub_model_become_verified_artifacts(sub_model, tmp_path, form):
    artifact = edgevit.export(sub_model, "onnx", out=tmp_path / form, data="digits", form=form)
    assert artifact.manifest.parity.status == "verified"
    assert [spec.name for spec in artifact.manifest.outputs] == ["features", "logits"]


def test_a_fusion_head_becomes_a_verified_artifact_of_named_features_and_a_mask(fusion_head, tmp_path):
    random = np.random.default_rng(0)
    inputs = {f"features_{i}": random.normal(size=(16, size)).astype(np.float32) for i, size in enumerate(SIZES)}
    inputs["present"] = (random.random((16, len(SIZES))) > 0.3).astype(np.float32)
    artifact = edgevit.export(fusion_head, "onnx", out=tmp_path / "fusion", inputs=inputs)
    assert artifact.manifest.parity.status == "verified"
    assert [spec.name for spec in artifact.manifest.inputs] == ["features_0", "features_1", "features_2", "present"]
    assert "standardisation into the first layer" in artifact.manifest.reparam.folded


def test_what_an_absent_part_sends_changes_nothing(fusion_head):
    one, other = features(), features()
    other[0], other[2] = one[0], one[2]
    present = torch.tensor([[1.0, 0.0, 1.0]]).expand(8, -1)
    assert torch.equal(fusion_head(*one, present), fusion_head(*other, present))
    everyone = torch.ones(8, 3)
    assert not torch.allclose(fusion_head(*one, everyone), fusion_head(*other, everyone))


def test_the_head_can_tell_an_absent_part_from_an_average_image(fusion_head):
    average = [mean.expand(1, -1) for mean in torch.split(fusion_head.mean, SIZES)]
    absent = fusion_head(*average, torch.tensor([[1.0, 0.0, 1.0]]))
    assert not torch.allclose(absent, fusion_head(*average, torch.ones(1, 3)))


def test_statistics_standardise_the_features_and_leave_constant_ones_alone():
    head = FusionHead((2,), 3)
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    head.fit_statistics([values])
    assert head.mean.tolist() == [2.0, 5.0]
    assert head.std.tolist() == [1.0, 1.0]


def test_the_deploy_form_of_a_fusion_head_has_no_statistics_and_is_proved_equal(fusion_head):
    inputs = [*features(), (torch.rand(8, 3) > 0.4).float()]
    deploy = reparameterize(fusion_head, example_inputs=inputs)
    assert not list(deploy.buffers())
    with torch.no_grad():
        assert relative(deploy(*inputs), fusion_head(*inputs)) < 1e-5


def test_the_tower_shrinks_twice_but_never_below_the_classes():
    head = FusionHead((20, 18), 4, shrink=0.5)
    assert (head.fc1.in_features, head.fc2.in_features, head.out.in_features) == (40, 20, 10)
    assert FusionHead((4, 4), 100).fc2.in_features == 100
