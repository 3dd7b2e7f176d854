"""Trunks: ours, timm's as ours with equal outputs, and each refusal by its own reason."""

from __future__ import annotations

import pytest
import torch

from edgevit.errors import Unsupported, UsageError
from edgevit.models.families.vit import VisionTransformer
from edgevit.models.loading.source import create_model, import_timm
from edgevit.models.spec import spec_of
from edgevit.request import ModelChoice
from edgevit.split import trunk as trunk_module
from edgevit.split.trunk import attention_of, blocks_of, load_trunk

torch.set_num_threads(1)


def test_a_zoo_vit_is_a_trunk_with_its_spec():
    trunk = load_trunk(ModelChoice("vit_edvit", classes=6))
    assert isinstance(trunk, VisionTransformer)
    assert not trunk.training
    assert (spec_of(trunk).name, spec_of(trunk).num_classes, trunk.config.num_classes) == ("vit_edvit", 6, 6)
    assert len(blocks_of(trunk)) == 12


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:vit_tiny_patch16_224"])
def test_timms_plain_vit_becomes_ours_and_computes_the_same(name, monkeypatch):
    monkeypatch.setattr(trunk_module, "_require_equal", lambda *_: None)  # the oracle below is to find the difference
    trunk, source = load_trunk(ModelChoice(name)), create_model(name)
    image = torch.randn(1, 3, *trunk.config.image_size)
    with torch.no_grad():
        assert torch.allclose(trunk(image), source(image), atol=1e-4)
    assert spec_of(trunk) == spec_of(source)


def test_timms_deit_loads_its_own_weights_and_another_number_of_classes(tmp_path):
    source = create_model("timm:deit_tiny_patch16_224", num_classes=7)
    torch.save(source.state_dict(), tmp_path / "deit.pt")
    trunk = load_trunk(ModelChoice("timm:deit_tiny_patch16_224", str(tmp_path / "deit.pt"), classes=7))
    assert trunk.config.num_classes == 7
    assert torch.equal(trunk.pos_embed, source.pos_embed)
    assert trunk.config.blocks[0].attention_scale == 64**-0.5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:deit_tiny_distilled_patch16_224", "distilled, with a second token"),
        ("timm:deit3_small_patch16_224", "LayerScale"),
        ("timm:vit_small_patch16_rope_224", "Eva"),
        ("timm:test_vit2", "LayerScale"),
        ("timm:mobilenetv3_small_050", "MobileNetV3"),
        ("fmvit_t", "not a plain vision transformer"),
    ],
)
def test_what_is_no_plain_vit_is_refused_with_the_reason(name, reason):
    with pytest.raises(Unsupported, match=reason) as caught:
        load_trunk(ModelChoice(name))
    assert "split one of our ViTs" in caught.value.hint


def test_a_difference_that_no_rule_knows_is_found_by_running_both(monkeypatch):
    timm = import_timm()
    build = timm.create_model

    def odd(name, **options):
        model = build(name, **options)
        model.blocks[0].mlp.act = torch.nn.ReLU()
        return model

    monkeypatch.setattr(timm, "create_model", odd)
    with pytest.raises(Unsupported, match="differs by"):
        load_trunk(ModelChoice("timm:test_vit"))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    torch.save(create_model("vit_nano").state_dict(), tmp_path / "nano.pt")
    with pytest.raises(UsageError, match="does not fit"):
        load_trunk(ModelChoice("vit_edvit", str(tmp_path / "nano.pt")))


def test_one_class_cannot_be_split():
    with pytest.raises(UsageError, match="a split needs two"):
        load_trunk(ModelChoice("vit_nano", classes=1))


def test_only_the_train_form_is_cut():
    from model_oracle import deploy

    with pytest.raises(TypeError, match="deploy form"):
        attention_of(deploy(load_trunk(ModelChoice("vit_nano"))).blocks[0])
