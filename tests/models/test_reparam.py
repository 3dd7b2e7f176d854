"""reparameterize on small modules that mimic each case, and on timm models, all with random statistics."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.models.layers import fusion
from edgevit.models.reparam import ReparamReport, reparameterize, report_of
from edgevit.models.reparam.own import batch_norms
from edgevit.models.reparam.proof import TOLERANCE, randomise, relative_error
from edgevit.models.spec import ModelSpec, attach_spec, spec_of

torch.set_num_threads(1)
IMAGES = torch.zeros(2, 3, 16, 16)


def folded(model: nn.Module, example: Tensor = IMAGES) -> tuple[nn.Module, ReparamReport]:
    """The deploy form of a randomised model, compared here once more, in float32."""
    torch.manual_seed(1)
    randomise(model)
    result = reparameterize(model, example_inputs=example)
    report = report_of(result)
    assert report is not None
    assert report.max_rel_error is not None
    assert report.max_rel_error <= TOLERANCE
    x = torch.randn_like(example)
    with torch.no_grad():
        assert relative_error(model.eval()(x), result(x)) < 1e-4
    return result, report


class Branches(nn.Module):
    """One of our blocks: 3×3 + 1×1 + identity, each with BatchNorm; its convolutions are children."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("conv-bn", "branches")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.large, self.large_bn = nn.Conv2d(width, width, 3, padding=1, groups=2), nn.BatchNorm2d(width)
        self.small, self.small_bn = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.large_bn(self.large(x)) + self.small_bn(self.small(x)) + x

    def fused(self) -> nn.Module:
        large = fusion.fuse_conv_bn(self.large, self.large_bn)
        small = fusion.fuse_conv_bn(self.small, self.small_bn)
        same = fusion.identity_conv(self.large.in_channels, 1, 1, like=self.large.weight)
        return fusion.sum_convs([large, small, same])


class Outer(nn.Module):
    """Holds another block, whose fused form its own fused() relies on."""

    fold_kinds: ClassVar[tuple[str, ...]] = ("output scale",)

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gamma = Branches(4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.gamma.view(-1, 1, 1)

    def fused(self) -> nn.Module:
        assert isinstance(self.inner, nn.Conv2d)
        return fusion.scale_output(self.inner, self.gamma.detach())


def test_own_blocks_are_folded_children_first() -> None:
    result, report = folded(nn.Sequential(nn.Conv2d(3, 4, 1), Outer()))
    assert [type(m) for m in result.children()] == [nn.Conv2d, nn.Conv2d]
    assert report.folded == {"conv-bn": 2, "branches": 1, "output scale": 1}
    assert report.left == {}
    assert (report.params_before, report.params_after) == (128, 16 + 148)


def test_a_root_block_is_folded_too() -> None:
    assert isinstance(folded(Branches(4), torch.zeros(2, 4, 8, 8))[0], nn.Conv2d)


def test_a_block_at_two_places_stays_one_block() -> None:
    block = Branches(4)
    result, _ = folded(nn.Sequential(block, nn.GELU(), block), torch.zeros(2, 4, 8, 8))
    assert result[0] is result[2]


def test_a_wrong_fold_raises_parity_failed() -> None:
    class Wrong(Branches):
        def fused(self) -> nn.Module:
            return fusion.sum_convs([self.large, self.small])  # equal at the default statistics but for the identity

    with pytest.raises(ParityFailed, match="randomised statistics"):
        reparameterize(Wrong(4), example_inputs=torch.zeros(2, 4, 8, 8))


def test_a_fold_that_only_holds_for_default_statistics_is_caught() -> None:
    class ForgetsNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x))

        def fused(self) -> nn.Module:
            return self.conv

    with pytest.raises(ParityFailed):
        reparameterize(ForgetsNorm(), example_inputs=IMAGES)


def test_the_argument_is_never_edited() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    rng = torch.get_rng_state()
    result = reparameterize(model, example_inputs=IMAGES)
    assert list(before) == list(model.state_dict())
    assert all(t.numpy().tobytes() == before[n].numpy().tobytes() for n, t in model.state_dict().items())
    assert flags == [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    assert not hasattr(model, "reparam_report")
    assert not any(m.training for m in result.modules())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in result.parameters()}
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_dtypes_and_spec_are_kept() -> None:
    spec = ModelSpec("x", "module", (16, 12), None, 4)
    model = attach_spec(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), spec)
    result = reparameterize(model)
    assert spec_of(result) == spec
    assert {p.dtype for p in result.parameters()} == {torch.float32}


class Net(nn.Module):
    """Convolutions and norms under names, wired in forward."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def test_pairs_are_found_by_use_not_by_place() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))

    _, report = folded(Wired(head=nn.Linear(4, 2), norm=nn.BatchNorm2d(4), stem=nn.Conv2d(3, 4, 3, padding=1)))
    assert report.folded == {"conv-bn": 1}
    assert report.left == {}


def test_a_convolution_read_twice_keeps_its_norm_and_says_why() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    result, report = folded(Wired(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    assert "also read elsewhere" in report.left["norm"]
    assert list(batch_norms(result)) == ["norm"]


def test_a_norm_or_convolution_called_twice_is_kept() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.norm(self.a(x)).relu()))

    _, report = folded(Wired(a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4)))
    assert report.left == {"norm": "it is used more than once"}


@pytest.mark.parametrize(("conv", "left"), [(nn.Conv2d(3, 4, 1), False), (nn.Conv2d(3, 4, 3, padding=1), True)])
def test_a_norm_before_a_convolution_goes_only_where_no_border_changes(conv: nn.Conv2d, left: bool) -> None:
    _, report = folded(nn.Sequential(nn.BatchNorm2d(3), conv))
    expected = {"0": "BatchNorm before a padded 3×3 convolution: the border would change"} if left else {}
    assert report.left == expected
    assert report.folded == ({} if left else {"bn-conv": 1})


def test_a_norm_passes_through_a_mean_into_every_linear_that_reads_it() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            pooled = self.norm(x.relu()).mean((2, 3))
            return self.a(pooled) + self.b(pooled)

    _, report = folded(Wired(norm=nn.BatchNorm2d(3), a=nn.Linear(3, 2), b=nn.Linear(3, 2)))
    assert report.folded == {"bn-linear": 1}


def test_a_norm_between_nonlinear_layers_is_named() -> None:
    _, report = folded(nn.Sequential(nn.GELU(), nn.BatchNorm2d(3), nn.GELU()))
    assert report.left["1"].startswith("no linear layer beside it: gelu is not")


def test_linear_then_norm_over_flattened_tokens_is_folded() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            return self.norm(y.flatten(0, 1)).reshape_as(y).relu()

    _, report = folded(Wired(linear=nn.Linear(6, 5), norm=nn.BatchNorm1d(5)), torch.zeros(2, 7, 6))
    assert report.folded == {"linear-bn": 1}


def test_norm_over_tokens_instead_of_channels_is_not_folded() -> None:
    # (B, 5, 5): BatchNorm1d normalises axis 1, the linear layer writes axis 2, and only the widths agree.
    _, report = folded(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.GELU()), torch.zeros(2, 5, 6))
    assert report.left == {
        "1": "no linear layer beside it: it does not normalise the output channels of 0, and gelu reads it"
    }


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1e-5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def test_layer_scale_folds_into_the_linear_before_it() -> None:
    result, report = folded(nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1), LayerScale(5)), torch.zeros(2, 7, 6))
    assert report.folded == {"layer scale": 1}
    assert isinstance(result[2], nn.Identity)


def test_layer_scale_over_another_axis_is_kept() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.scale(self.linear(x).transpose(1, 2))

    _, report = folded(Wired(linear=nn.Linear(6, 5), scale=LayerScale(5)), torch.zeros(2, 5, 6))
    assert report.left == {"scale.gamma": "LayerScale is kept: it does not scale the output channels of linear"}


class Returns(nn.Module):
    """Like LeViT's layers: fuse() returns a new module and edits nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def fuse(self) -> nn.Module:
        fused = nn.Conv2d(3, 4, 3, padding=1)  # made in the default dtype, as timm does
        exact = fusion.fuse_conv_bn(self.conv, self.bn)
        fused.weight.data.copy_(exact.weight)
        fused.bias.data.copy_(exact.bias)
        return fused


class Edits(Returns):
    """Like MobileOne's blocks: edits itself, twice is an error, and an outer one expects its children unfused."""

    def reparameterize(self) -> None:
        self.conv = fusion.fuse_conv_bn(self.conv, self.bn)
        del self.bn
        self.forward = lambda x: self.conv(x)  # type: ignore[method-assign]

    fuse = None  # type: ignore[assignment]


class CallsChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Returns()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x).relu()

    def fuse(self) -> None:
        self.child = self.child.fuse()


@pytest.mark.parametrize("block", [Returns, Edits, CallsChild])
def test_both_conventions_of_fusing_are_followed_at_the_root_and_below(block: type[nn.Module]) -> None:
    method = "reparameterize" if block is Edits else "fuse"
    for model in (block(), nn.Sequential(block(), nn.GELU())):
        result, report = folded(model)
        assert report.folded == {f"{block.__name__}.{method}()": 1}
        assert not batch_norms(result)


def test_an_unrelated_or_wrong_fuse_is_undone_with_its_reason() -> None:
    class Wrong(Returns):
        def fuse(self) -> nn.Module:
            return self.conv  # forgets the norm

    class Needs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

        def fuse(self, other: Tensor) -> Tensor:
            return other

    class Raises(Needs):
        def fuse(self) -> None:  # type: ignore[override]
            raise RuntimeError("not now")

    result, report = folded(nn.Sequential(Wrong(), Needs(), Raises(), Net(fuse=nn.ReLU()).fuse))
    assert report.left["0"].startswith("fuse() was undone: the result differs by")
    assert report.left["2"] == "fuse() raised RuntimeError: not now"
    assert report.folded == {"conv-bn": 1}  # the graph could prove what the method got wrong
    assert not batch_norms(result)


def test_models_that_cannot_be_traced_fold_neighbours_and_say_so() -> None:
    class Branchy(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return self.norm(y.relu()) if float(y.sum()) > -1e9 else y

    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU())
    _, report = folded(Branchy(body=body, norm=nn.BatchNorm2d(4)))
    assert report.folded == {"conv-bn": 1}
    assert list(report.left) == ["norm"]
    assert "cannot be traced" in report.left["norm"]


def test_parallel_convolutions_summed_in_a_foreign_forward_are_named() -> None:
    class Wired(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a(x)) + self.b(x)

    _, report = folded(Wired(a=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), b=nn.Conv2d(3, 4, 3, padding=1)))
    assert report.left["b"].startswith("a branch parallel to a")


def test_the_meta_device_folds_own_blocks_without_proof() -> None:
    with torch.device("meta"):
        model = nn.Sequential(Branches(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    result = reparameterize(model, prove=False)
    assert all(p.is_meta for p in result.parameters())
    assert not batch_norms(result)
    with pytest.raises(UsageError, match="meta device"):
        reparameterize(model)


def test_the_report_reads_as_words_and_goes_into_a_manifest() -> None:
    _, report = folded(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))
    assert report.lines()[:2] == [
        "folded 1 × conv-bn",
        "left 0: BatchNorm before a padded 3×3 convolution: the border would change",
    ]
    assert "proved in float64" in report.lines()[-1]
    assert report.summary().folded == {"conv-bn": 1}
    unproved = report_of(reparameterize(nn.Sequential(nn.Conv2d(3, 4, 1)), prove=False, example_inputs=IMAGES))
    assert unproved is not None
    with pytest.raises(UsageError, match="not proved"):
        unproved.summary()


def test_a_model_that_does_not_take_the_inputs_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="does not run on"):
        reparameterize(nn.Linear(7, 2))


@pytest.mark.parametrize(
    ("name", "size", "kinds"),
    [
        ("test_efficientnet", 32, {"conv-bn"}),  # BatchNormAct2d
        ("convnext_atto", 32, {"layer scale"}),  # gamma in the block's own forward
        ("fastvit_t8", 64, {"MobileOneBlock.reparameterize()", "RepMixer.reparameterize()", "conv-bn", "layer scale"}),
        ("repvit_m0_9", 32, {"RepVit.fuse()"}),  # the root
    ],
)
def test_timm_models_are_folded_without_a_rest(name: str, size: int, kinds: set[str]) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    from edgevit.models.loading.timm_models import import_timm

    torch.manual_seed(0)
    model = import_timm().create_model(name)
    result = reparameterize(model, example_inputs=torch.zeros(1, 3, size, size))
    report = report_of(result)
    assert report is not None
    assert kinds <= set(report.folded)
    assert report.left == {}
    assert not batch_norms(result)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert relative_error(model.eval()(x), result(x)) < 1e-4


# --- what a fold would drop, models that cannot be proved -------------------------------------------------------------


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


def own_forward(module: nn.Module) -> None:
    before = module.forward
    module.forward = lambda x: before(x) * 2


HOOKS = {
    "before": lambda module: module.register_forward_pre_hook(lambda module, args: (args[0].abs(),)),
    "after": lambda module: module.register_forward_hook(lambda module, args, output: output.abs()),
    "recording": lambda module: module.register_forward_hook(lambda module, args, output: None),
    "with keywords": lambda module: module.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True
    ),
    "a forward of its own": own_forward,
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_or_norm_with_a_hook_is_not_folded_and_its_neighbours_are(hook, place: int) -> None:
    model = pair()
    hook(model[place])
    result, report = folded(model)
    assert report.folded == {"conv-bn": 1}
    assert list(report.left) == ["1"]
    assert "hook" in report.left["1"] or "is not a convolution" in report.left["1"]
    assert isinstance(result[1], nn.BatchNorm2d)


def test_a_block_with_a_hook_inside_is_not_fused() -> None:
    block = Branches(4)
    block.small_bn.register_forward_hook(lambda module, args, output: output * 2)
    result, report = folded(nn.Sequential(nn.Conv2d(3, 4, 1), block))
    assert isinstance(result[1], Branches)
    assert "branches" not in report.folded


class Insists(nn.Sequential):
    """Only takes float32."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype is torch.float32
        return super().forward(x)


def test_a_model_that_only_runs_in_float32_keeps_its_norms_with_that_reason() -> None:
    result, report = folded(Insists(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert report.folded == {}
    assert "does not run in float64" in report.left["1"]
    assert isinstance(result[1], nn.BatchNorm2d)


class Single(nn.LayerNorm):
    """A norm in float32 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.float32)).to(x.dtype)


def test_a_norm_in_float32_does_not_keep_the_rest_from_being_folded() -> None:
    _, report = folded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Single(16)))
    assert report.folded == {"conv-bn": 1}


class Caches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.tables = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), {}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] not in self.tables:
            self.tables[x.shape[2]] = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)
        return self.bn(self.conv(x)) + self.tables[x.shape[2]]


def test_what_is_handed_out_never_ran() -> None:
    _, report = folded(Caches())
    assert report.folded == {"conv-bn": 1}
    assert reparameterize(Caches(), example_inputs=IMAGES).tables == {}


def test_broken_weights_are_no_fold_s_fault() -> None:
    model = pair()
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ParityFailed, match=r"^the weights hold NaN: 0\.weight$"):
        reparameterize(model, example_inputs=IMAGES)


def test_answers_that_are_no_numbers_prove_no_fold() -> None:
    class Masks(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(torch.arange(16) == 3, float("-inf"))

    report = report_of(reparameterize(Masks(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), example_inputs=IMAGES))
    assert report is not None
    assert report.folded == {}
    assert "are no numbers" in report.left["1"]


def test_answers_that_move_are_no_fold_s_fault() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.bn(self.conv(x)) * self.calls

    with pytest.raises(Unsupported, match="answers change from call to call"):
        reparameterize(Counts(), example_inputs=IMAGES)


@dataclass
class Answer:
    logits: Tensor


def test_an_output_in_a_data_class_is_compared() -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Answer:
            return Answer(self.bn(self.conv(x)))

    assert relative_error(Answer(torch.ones(2)), Answer(torch.ones(2))) == 0
    assert relative_error(Answer(torch.ones(2)), Answer(torch.zeros(2))) == 1
    report = report_of(reparameterize(Returns(), example_inputs=IMAGES))
    assert report is not None
    assert report.folded == {"conv-bn": 1} or "cannot be traced" in report.left["bn"]


def test_a_wrapped_model_is_folded_inside() -> None:
    report = report_of(reparameterize(nn.DataParallel(pair()), example_inputs=IMAGES))
    assert report is not None
    assert report.folded == {"conv-bn": 2}
