"""EfficientFormerV2 against timm's, and the deploy form against the train form."""

from __future__ import annotations

import pytest
import torch
from model_oracle import deploy, randomised, relative
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.errors import UsageError
from edgevit.models.families import efficientformer_v2
from edgevit.models.loading.fitting import load_state
from edgevit.models.loading.source import import_timm
from edgevit.models.macs import count_macs, count_params
from edgevit.models.reparam import reparameterize, report_of

torch.set_num_threads(1)

PUBLISHED = {"s0": (3.60, 0.40), "s1": (6.19, 0.65), "s2": (12.71, 1.25), "l": (26.32, 2.56)}  # M, GMACs
SIZES = tuple(PUBLISHED)

# All kinds of block at little cost: attention with and without stride, the attention downsampling, drop path.
TINY = efficientformer_v2.EfficientFormerV2Config(
    (8, 8, 8, 16), (1, 1, 2, 2), ((2, 3), (3, 2)), attention=1, drop_path=0.1
)


def tiny(size: tuple[int, int] = (64, 32), in_chans: int = 3) -> nn.Module:
    return efficientformer_v2.EfficientFormerV2(TINY, size, num_classes=6, in_chans=in_chans)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("image_size", [224, (64, 128)])
def test_s0_computes_what_timm_computes_in_both_forms_and_precisions(image_size):
    timm = randomised(import_timm().create_model("efficientformerv2_s0", img_size=image_size))
    model = efficientformer_v2.efficientformerv2_s0(image_size=image_size).eval()
    load_state(model, timm.state_dict(), "timm", efficientformer_v2.from_timm)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = timm(image)
        assert expected[0].std() > 0.1
        assert not torch.allclose(expected[0], expected[1], rtol=1e-2)
        assert relative(model(image), expected) <= 1e-5
        assert relative(deploy(model)(image), expected) <= 1e-5
        exact, rows = model.double(), image[:1].double()
        assert relative(deploy(exact)(rows), exact(rows)) <= 1e-10


@pytest.mark.parametrize("size", SIZES)
def test_state_dicts_are_timms_by_name_and_shape_both_ways(size):
    timm = import_timm()
    with torch.device("meta"):
        theirs = timm.create_model(f"efficientformerv2_{size}").state_dict()
        ours = getattr(efficientformer_v2, f"efficientformerv2_{size}")().state_dict()
    assert shapes(efficientformer_v2.from_timm(theirs)) == shapes(ours)
    assert shapes(efficientformer_v2.to_timm(ours)) == shapes(theirs)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def test_from_timm_and_to_timm_are_inverse_and_touch_no_value():
    state = randomised(tiny()).state_dict()
    back = efficientformer_v2.from_timm(efficientformer_v2.to_timm(state))
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size):
    with torch.device("meta"):
        model = getattr(efficientformer_v2, f"efficientformerv2_{size}")()
    params, macs = PUBLISHED[size]
    assert round(count_params(model) / 1e6, 2) == params
    assert count_macs(model, 224) / 1e9 == pytest.approx(macs, rel=0.011)


def test_the_deploy_form_has_no_batch_norm_and_is_never_more_work():
    with torch.device("meta"):
        model = efficientformer_v2.efficientformerv2_s0()
        twin = deploy(model)
    assert count_params(twin) < count_params(model)
    assert count_macs(twin, 224) < count_macs(model, 224)
    assert not any(isinstance(module, _BatchNorm) for module in twin.modules())


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (32, 96)])
def test_the_deploy_form_equals_the_train_form_at_any_size_in_float64(size):
    model = randomised(tiny(size, in_chans=2).double())
    image = torch.randn(3, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        assert model(image).shape == (3, 6)
        assert relative(deploy(model)(image), model(image)) <= 1e-11


@pytest.mark.parametrize(
    "name",
    [
        "stages.2.blocks.1.token_mixer.bias.table",
        "stages.2.blocks.1.token_mixer.stride_conv.bn.running_mean",
        "stages.3.downsample.attn.bias.table",
        "stages.3.downsample.attn.q.local.weight",
        "stages.3.blocks.1.ls1.gamma",
        "stages.3.blocks.1.token_mixer.v_local.bn.running_var",
        "norm.running_mean",
        "head_dist.weight",
    ],
)
def test_a_change_of_any_folded_tensor_reaches_the_deploy_form(name):
    model = randomised(tiny().double())
    image = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        before = deploy(model)(image)
        tensor = dict([*model.named_parameters(), *model.named_buffers()])[name]
        tensor.add_(torch.rand_like(tensor))
        assert relative(deploy(model)(image), before) > 1e-6
        assert relative(deploy(model)(image), model(image)) <= 1e-11


def test_reparameterize_folds_everything():
    report = report_of(reparameterize(tiny(), example_inputs=torch.empty(1, 3, 64, 32)))
    assert report.left == {}
    assert report.max_rel_error <= 1e-10
    assert report.folded["attention-bias table"] == 3
    assert report.folded["parallel branches"] == report.folded["parallel heads"] == report.folded["bn-linear"] == 1


def test_stochastic_depth_grows_with_depth_and_is_off_in_eval_mode():
    with torch.device("meta"):
        model = efficientformer_v2.efficientformerv2_l()
    rates = [module.drop_path.rate for module in model.modules() if isinstance(module, efficientformer_v2.Block)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.1)
    assert rates == sorted(rates)
    small = randomised(tiny())
    image = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(small(image), small(image))


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_it_exports_with_a_static_and_a_dynamic_batch(form):
    model = randomised(tiny())
    model = deploy(model) if form == "deploy" else model
    image = torch.randn(2, 3, 64, 32)
    if form == "deploy":
        torch.export.export(model, (image,))
    dynamic = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    for rows in (1, 5):
        images = torch.randn(rows, 3, 64, 32)
        with torch.no_grad():
            torch.testing.assert_close(dynamic.module()(images), model(images))


def test_sizes_that_it_cannot_take_are_refused():
    with pytest.raises(UsageError, match=r"efficientformerv2_s0 .* divisible by 32, not 240×240"):
        efficientformer_v2.efficientformerv2_s0(image_size=240)


def test_weights_of_another_image_size_are_resampled():
    state = efficientformer_v2.to_timm(randomised(tiny((64, 64))).state_dict())
    larger = tiny((128, 64))
    resized, note = efficientformer_v2.resize_state(state, larger)
    larger.load_state_dict(resized)
    assert "tokens" in note
