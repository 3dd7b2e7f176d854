"""Our ViT against timm's, the deploy form against the train form, and sizes that differ from block to block."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_oracle import deploy, relative
from torch import nn

from edgevit.errors import UsageError
from edgevit.models.families import vit
from edgevit.models.loading.fitting import load_state
from edgevit.models.loading.source import create_model, import_timm
from edgevit.models.macs import count_macs
from edgevit.models.spec import spec_of

torch.set_num_threads(1)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its default: LayerNorm affines, biases and tokens begin near the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise * (0.3 if "norm" in name or "bias" in name else 0.05))
    return model.eval()


UNEVEN = vit.ViTConfig(
    (8, 12), 4, 20, (vit.BlockConfig(3, 4, 24), vit.BlockConfig(1, 7, 9, scale=0.25), vit.BlockConfig(2, 5, 33)), 6
)


@pytest.fixture(scope="module")
def timm_tiny() -> nn.Module:
    return randomised(import_timm().create_model("vit_tiny_patch16_224"))


def test_vit_tiny_computes_what_timm_computes_in_both_forms(timm_tiny):
    model = create_model("vit_tiny")
    load_state(model, timm_tiny.state_dict(), "timm", vit.from_timm)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = timm_tiny(image)
        assert relative(model(image), expected) <= 1e-5
        assert relative(deploy(model)(image), expected) <= 1e-5


def test_deit_state_dicts_have_our_names():
    timm = import_timm()
    with torch.device("meta"):
        for ours, theirs in (("small", "deit_small_patch16_224"), ("base", "deit_base_patch16_224")):
            mine = getattr(vit, f"vit_{ours}")().state_dict()
            other = timm.create_model(theirs).state_dict()
            assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in other.items()}
        large = timm.create_model("vit_large_patch16_224").state_dict()
        assert {k: v.shape for k, v in vit.vit_large().state_dict().items()} == {k: v.shape for k, v in large.items()}


def test_from_timm_and_to_timm_are_inverse():
    state = create_model("vit_nano").state_dict()
    there = vit.to_timm(state)
    back = vit.from_timm(there)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("key", ["dist_token", "blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight", "fc_norm.weight"])
def test_relatives_that_it_does_not_compute_are_refused_by_name(key):
    with pytest.raises(UsageError, match="weights of a") as caught:
        vit.from_timm({**create_model("vit_nano").state_dict(), key: torch.zeros(1)})
    assert "timm:" in caught.value.hint


@pytest.mark.parametrize("build", [vit.vit_nano, vit.vit_edvit, lambda: vit.VisionTransformer(UNEVEN)])
def test_deploy_form_equals_train_form_in_float64(build):
    model = randomised(build().double())
    image = torch.randn(2, 3, *model.config.image_size, dtype=torch.float64)
    twin = deploy(model)
    with torch.no_grad():
        assert relative(twin(image), model(image)) <= 1e-12
        assert relative(twin.forward_features(image), model.forward_features(image)) <= 1e-12


sizes = st.builds(
    vit.BlockConfig,
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 6),
    hidden=st.integers(1, 9),
    scale=st.none() | st.floats(0.05, 2.0),
)


@settings(max_examples=25, deadline=None)
@given(blocks=st.lists(sizes, min_size=1, max_size=3), dim=st.integers(2, 9), grid=st.tuples(*[st.integers(1, 3)] * 2))
def test_blocks_of_any_sizes_keep_their_function_in_deploy_form(blocks, dim, grid):
    config = vit.ViTConfig((grid[0] * 2, grid[1] * 2), 2, dim, tuple(blocks), 3)
    model = randomised(vit.VisionTransformer(config).double(), seed=dim)
    image = torch.randn(2, 3, *config.image_size, dtype=torch.float64)
    with torch.no_grad():
        assert relative(deploy(model)(image), model(image)) <= 1e-10


def test_making_the_deploy_form_leaves_the_train_form_alone():
    model = randomised(vit.vit_nano())
    before = copy.deepcopy(model.state_dict())
    twin = deploy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_features_without_a_head_are_the_class_token():
    model = vit.vit_nano(num_classes=0).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert model(image).shape == (2, 64)
        assert torch.equal(model(image), model.forward_features(image))


def test_a_pruned_head_keeps_the_scale_it_is_given():
    assert vit.BlockConfig(1, 4, 8).attention_scale == 0.5
    assert vit.BlockConfig(1, 4, 8, scale=0.125).attention_scale == 0.125


def test_macs_of_vit_base_are_the_published_ones_and_fall_in_deploy_form():
    with torch.device("meta"):
        model = vit.vit_base()
        twin = deploy(model)
    assert count_macs(model, 224) == 17_563_828_224  # published: 17.56 G
    assert count_macs(twin, 224) < 0.925 * count_macs(model, 224)  # nearly one block of twelve


def test_images_that_are_not_made_of_whole_patches_are_refused():
    with pytest.raises(UsageError, match=r"vit_nano: an image of 30×30 .* 4×4 patches"):
        create_model("vit_nano", image_size=30)


def test_a_transformer_without_blocks_is_refused():
    with pytest.raises(ValueError, match="at least one block"):
        vit.ViTConfig((4, 4), 4, 8, (), 2)


def test_weights_for_another_image_size_load_only_when_that_size_is_asked_for(tmp_path):
    model = create_model("vit_nano")
    file = tmp_path / "nano.pt"
    torch.save(model.state_dict(), file)
    larger = create_model("vit_nano", weights=file, image_size=(48, 32))
    assert larger(torch.randn(1, 3, 48, 32)).shape == (1, 10)
    assert "resampled from 8×8 to 12×8 patches" in spec_of(larger).origin
    assert torch.equal(larger.pos_embed[:, 0], model.pos_embed[:, 0])
    torch.save(larger.state_dict(), file)
    with pytest.raises(UsageError, match="pos_embed is 1×97×64 in the file and 1×65×64 in the model") as caught:
        create_model("vit_nano", weights=file)
    assert "--image-size" in caught.value.hint


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_it_exports_with_a_static_and_a_dynamic_batch(form):
    model = randomised(vit.VisionTransformer(UNEVEN))
    model = deploy(model) if form == "deploy" else model
    image = torch.randn(2, 3, 8, 12)
    torch.export.export(model, (image,))
    dynamic = torch.export.export(
        model, (image,), dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=8)}}
    )
    many = torch.randn(5, 3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(dynamic.module()(many), model(many))
