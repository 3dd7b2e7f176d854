"""EfficientFormer (V1) against timm's, the deploy form against the train form, and what the weights promise."""

from __future__ import annotations

import copy

import pytest
import torch
from model_oracle import deploy, randomised, relative
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.errors import UsageError
from edgevit.models.families import efficientformer
from edgevit.models.layers.attention_bias import AttentionBias, distance_index, resample_table
from edgevit.models.loading.fitting import load_state
from edgevit.models.loading.source import create_model, import_timm
from edgevit.models.macs import count_macs, count_params
from edgevit.models.reparam import reparameterize, report_of
from edgevit.models.spec import spec_of

torch.set_num_threads(1)

PUBLISHED = {"l1": (12.29, 1.30), "l3": (31.41, 3.93), "l7": (82.23, 10.17)}  # M parameters, GMACs


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_l1_computes_what_timm_computes_in_both_forms_and_precisions():
    timm = randomised(import_timm().create_model("efficientformer_l1"))
    model = efficientformer.efficientformer_l1().eval()
    load_state(model, timm.state_dict(), "timm", efficientformer.from_timm)
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = timm(image)
        assert expected[0].std() > 0.1
        assert not torch.allclose(expected[0], expected[1], rtol=1e-2)
        assert relative(model(image), expected) <= 1e-5
        assert relative(deploy(model)(image), expected) <= 1e-5
        exact, rows = model.double(), image[:1].double()
        assert relative(deploy(exact)(rows), exact(rows)) <= 1e-10


@pytest.mark.parametrize("size", ["l1", "l3", "l7"])
def test_state_dicts_are_timms_by_name_and_shape_both_ways(size):
    timm = import_timm()
    with torch.device("meta"):
        theirs = timm.create_model(f"efficientformer_{size}").state_dict()
        ours = getattr(efficientformer, f"efficientformer_{size}")().state_dict()
    assert shapes(efficientformer.from_timm(theirs)) == shapes(ours)
    assert shapes(efficientformer.to_timm(ours)) == shapes(theirs)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def test_from_timm_and_to_timm_are_inverse_and_touch_no_value():
    state = randomised(efficientformer.efficientformer_nano()).state_dict()
    there = efficientformer.to_timm(state)
    back = efficientformer.from_timm(there)
    assert any(name.endswith("attention_bias_idxs") for name in there)
    assert any(name.endswith("num_batches_tracked") for name in there)
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


@pytest.mark.parametrize("size", ["l1", "l3", "l7"])
def test_sizes_are_the_published_ones(size):
    with torch.device("meta"):
        model = getattr(efficientformer, f"efficientformer_{size}")()
    params, macs = PUBLISHED[size]
    assert round(count_params(model) / 1e6, 2) == params
    assert count_macs(model, 224) / 1e9 == pytest.approx(macs, rel=0.01)
    assert sum(isinstance(module, efficientformer.MB3D) for module in model.modules()) == model.config.attention


def test_the_deploy_form_has_no_batch_norm_and_is_never_more_work():
    with torch.device("meta"):
        model = efficientformer.efficientformer_l1()
        twin = deploy(model)
    assert not any(isinstance(module, _BatchNorm) for module in twin.modules())
    assert count_params(twin) < count_params(model)
    assert count_macs(twin, 224) < count_macs(model, 224)


@pytest.mark.parametrize("size", [32, (24, 40), (8, 16)])
def test_the_deploy_form_equals_the_train_form_at_other_sizes_in_float64(size):
    model = randomised(efficientformer.efficientformer_nano(7, size, in_chans=1).double())
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(3, 1, height, width, dtype=torch.float64)
    with torch.no_grad():
        assert model(image).shape == (3, 7)
        assert relative(deploy(model)(image), model(image)) <= 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "stages.0.blocks.0.ls1.gamma",
        "stages.2.blocks.3.token_mixer.bias.table",
        "stages.2.blocks.3.ls1.gamma",
        "stages.2.blocks.3.ls2.gamma",
        "head_dist.weight",
    ],
)
def test_a_change_of_any_folded_tensor_reaches_the_deploy_form(name):
    model = randomised(efficientformer.efficientformer_nano().double())
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = deploy(model)(image)
        tensor = model.get_parameter(name)
        tensor.add_(torch.randn_like(tensor))
        assert relative(deploy(model)(image), before) > 1e-6
        assert relative(deploy(model)(image), model(image)) <= 1e-12


def test_making_the_deploy_form_leaves_the_train_form_alone():
    model = randomised(efficientformer.efficientformer_nano())
    before = copy.deepcopy(model.state_dict())
    twin = reparameterize(model, example_inputs=torch.empty(1, 3, 32, 32))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_reparameterize_reports_its_folds_and_names_the_scales_that_stay():
    report = report_of(reparameterize(create_model("efficientformer_nano")))
    assert report.folded["conv-bn"] == 16
    assert report.folded["attention-bias table"] == report.folded["parallel heads"] == 1
    assert report.max_rel_error <= 1e-10
    assert len(report.left) == 6  # one per MB4D
    assert all(".gamma" in path and "avg_pool2d" in reason for path, reason in report.left.items())


@pytest.mark.parametrize("form", ["train", "deploy"])
def test_it_exports_with_a_static_and_a_dynamic_batch(form):
    model = randomised(efficientformer.efficientformer_nano(image_size=(16, 24)))
    model = deploy(model) if form == "deploy" else model
    image = torch.randn(2, 3, 16, 24)
    if form == "deploy":
        torch.export.export(model, (image,))
    dynamic = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    for rows in (1, 5):
        images = torch.randn(rows, 3, 16, 24)
        with torch.no_grad():
            torch.testing.assert_close(dynamic.module()(images), model(images))


def test_switching_modes_leaves_nothing_cached():
    model = randomised(efficientformer.efficientformer_nano().double())
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    bias = next(module for module in model.modules() if isinstance(module, AttentionBias))
    with torch.no_grad():
        first = model(image)
        bias.table.add_(torch.randn_like(bias.table))
        assert relative(model(image), first) > 1e-6
    assert model.train() is model


def test_sizes_that_it_cannot_take_are_refused_with_the_nearest_it_can():
    with pytest.raises(UsageError, match=r"efficientformer_l1 .* divisible by 32, not 230×224") as caught:
        efficientformer.efficientformer_l1(image_size=(230, 224))
    assert "--image-size 224" in caught.value.hint


def test_weights_for_another_image_size_load_when_that_size_is_asked_for(tmp_path):
    model = randomised(create_model("efficientformer_nano"))
    file = tmp_path / "nano.pt"
    torch.save(efficientformer.to_timm(model.state_dict()), file)
    larger = create_model("efficientformer_nano", weights=file, image_size=(48, 32))
    assert larger(torch.randn(1, 3, 48, 32)).shape == (1, 10)
    assert "from 4×4 to 6×4 tokens" in spec_of(larger).origin
    with pytest.raises(UsageError):
        create_model("efficientformer_nano", image_size=48, weights=_truncated(file))


def _truncated(file):
    state = torch.load(file, weights_only=True)
    name = next(name for name in state if name.endswith("attention_biases"))
    state[name] = state[name][:, :15]
    torch.save(state, file)
    return file


# --- attention biases --------------------------------------------------------------------------------------------


def test_the_bias_of_two_tokens_depends_on_their_distance_alone():
    index = distance_index((3, 4))
    for query in range(12):
        for key in range(12):
            rows, columns = abs(query // 4 - key // 4), abs(query % 4 - key % 4)
            assert index[query, key] == rows * 4 + columns


def test_queries_of_a_halved_map_stand_on_every_second_place():
    index = distance_index((4, 6), query_stride=2)
    assert index.shape == (6, 24)
    assert index[4].tolist() == [abs(2 - key // 6) * 6 + abs(2 - key % 6) for key in range(24)]


def test_resampling_a_table_keeps_lengths_in_the_picture():
    table = torch.arange(4.0)[:, None] * 10 + torch.arange(4.0)  # 10 per row, 1 per column
    larger = resample_table(table.reshape(1, 16), (4, 4), (8, 4)).reshape(8, 4)
    assert torch.equal(larger[:7:2], table)
    assert larger[1].tolist() == [5.0, 6.0, 7.0, 8.0]
    assert torch.equal(resample_table(table.reshape(1, 16), (4, 4), (4, 4)).reshape(4, 4), table)
