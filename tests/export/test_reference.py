from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.artifact.manifest import BatchRange
from edgevit.errors import ExportFailed, ParityFailed, UnknownName, Unsupported
from edgevit.export.noise import noise as levels
from edgevit.export.prepared import Answers
from edgevit.export.reference import answers
from edgevit.precisions import error_of

ONE, RANGE = BatchRange(min=1, max=1), BatchRange(min=1, max=4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8)).eval()


class Net(nn.Module):
    """A small net whose tokens go through ``change`` on the way; ``change`` gets the module too."""

    def __init__(self, change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head, self.change = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 8), change
        self.table = torch.linspace(-1, 1, 32)  # neither parameter nor buffer
        self.seen: dict[int, Tensor] = {}
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor):
        return self.head(self.change(self, self.body(x)))


def rows(count: int = 19) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 32)).astype(np.float32)}


def expected(module: nn.Module, inputs: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """The model in float32, as the user runs it."""
    with torch.no_grad():
        return module.eval()(torch.from_numpy((inputs or rows())["x"].copy())).numpy()


def noise(*asked) -> float:
    """Of the worst output."""
    return max(level.error for level in levels(*asked).outputs.values())


def test_the_reference_is_the_model_in_float64_on_every_row() -> None:
    module = net()
    found = answers(module, rows(), ONE)
    exact = module.double()(torch.from_numpy(rows()["x"]).double()).detach().numpy()
    assert found.whole.outputs["output"].dtype == np.float64
    np.testing.assert_allclose(found.whole.outputs["output"], exact, rtol=1e-12)
    np.testing.assert_array_equal(found.golden.outputs["output"], found.whole.outputs["output"][:4])
    assert (found.computed, found.notes) == ("float64", ())


def test_the_module_is_never_edited() -> None:
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    noise(module, rows(), answers(module, rows(), ONE), "fp16")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module._forward_hooks
    assert not module[0]._forward_pre_hooks


# --- precision named in forward ---------------------------------------------------------------------------------------


def attend(x: Tensor, **options) -> Tensor:
    return F.scaled_dot_product_attention(*(x.reshape(len(x), 1, 4, 8),) * 3, **options).reshape(x.shape)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.sigmoid(x.float()) * torch.ones(32, dtype=torch.float32)


class Single(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.float().exp()


def cached(self: Net, x: Tensor) -> Tensor:
    if 0 not in self.seen:
        self.seen[0] = torch.linspace(-1, 1, 32, dtype=x.dtype)
    return x + self.seen[0]


def kept_in_a_table(self: Net, x: Tensor) -> Tensor:
    self.table[:4] = 0.5
    return x * self.table


def automatic(self: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return self.norm(x.float())


PROMOTED = {
    "a float32 mask": lambda self, x: attend(x, attn_mask=torch.linspace(-3, 0, 16).reshape(4, 4)),
    "a mask from numpy": lambda self, x: attend(x, attn_mask=torch.from_numpy(np.tri(4, dtype=np.float32))),
    "a constant matrix": lambda self, x: x @ torch.eye(32, dtype=torch.float32),
    "a norm in float32": lambda self, x: F.layer_norm(x.to(torch.float32), (32,), self.norm.weight.float()).to(x.dtype),
    "softmax in float32": lambda self, x: F.softmax(x, -1, dtype=torch.float32),
    "type by name": lambda self, x: self.norm(x.type("torch.FloatTensor")),
    "type_as": lambda self, x: self.norm(x).type_as(torch.ones(1)),
    "torch script": lambda self, x: scripted(x),
    "an autograd function": lambda self, x: Single.apply(x),
    "a plain attribute": lambda self, x: x * self.table,
    "an attribute written to": kept_in_a_table,
    "a table kept by forward": cached,
    "complex numbers": lambda self, x: torch.view_as_real(torch.fft.fft(x.float()).to(torch.complex64))[..., 0],
    "autocast off": automatic,
}


@pytest.mark.parametrize("change", PROMOTED.values(), ids=PROMOTED)
def test_a_model_that_names_float32_has_a_float64_reference_all_the_same(change) -> None:
    module = Net(change)
    found = answers(module, rows(), ONE)
    assert (found.computed, found.notes) == ("float64", ())
    assert error_of(expected(Net(change)), found.whole.outputs["output"]) < 1e-6
    # Had any operator rounded to float32, the reference would not tell two inputs apart that differ by less.
    moved = {"x": np.nextafter(rows()["x"], np.float32(9))}
    assert 0 < error_of(answers(module, moved, ONE).whole.outputs["output"], found.whole.outputs["output"]) < 1e-5
    assert module.seen == {}


def in_bfloat16(self: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.norm(self.body(x))


HALVES = {
    "autocast": in_bfloat16,
    "half and back": lambda self, x: self.norm(x.half().float()),
    "bfloat16": lambda self, x: self.norm(x).to(torch.bfloat16),
    "a half matrix": lambda self, x: (x.half() @ torch.eye(32, dtype=torch.float16)).float(),
}


@pytest.mark.parametrize("change", HALVES.values(), ids=HALVES)
def test_half_precision_in_forward_is_not_the_reference_s_and_that_is_said(change) -> None:
    found = answers(Net(change), rows(), ONE)
    assert found.computed == "float64"
    assert found.notes == (
        "forward asks for half precision in places; the artifact computes those in its own precision",
    )
    assert noise(Net(change), rows(), found, "fp32") < 1e-6
    assert 1e-4 < noise(Net(change), rows(), found, "fp16") < 1e-2


def only_float32(self: Net, x: Tensor) -> Tensor:
    assert x.dtype is torch.float32, "float32 only"
    return self.norm(x)


def another_way(self: Net, x: Tensor) -> Tensor:
    return self.norm(x) if x.dtype is torch.float32 else self.norm(x) * 1.5


@pytest.mark.parametrize(
    ("change", "why"), [(only_float32, "float32 only"), (another_way, "what it computes there is something else")]
)
def test_where_float64_is_not_the_model_float32_is_the_reference_with_its_own_rounding_as_noise(change, why) -> None:
    module = Net(change)
    found = answers(module, rows(), ONE)
    assert found.computed == "float32"
    assert why in found.notes[0]
    np.testing.assert_allclose(found.whole.outputs["output"], expected(module), rtol=1e-5, atol=1e-6)
    assert 1e-9 < noise(module, rows(), found, "fp32") < 1e-5
    assert 1e-4 < noise(module, rows(), found, "fp16") < 1e-2


# --- rows, batches, calls ---------------------------------------------------------------------------------------------


class Edits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0).sub_(0.5).sum(1, keepdim=True)


def test_a_forward_that_edits_its_input_leaves_the_rows_as_they_are() -> None:
    inputs = rows()
    found = answers(Edits(), inputs, ONE)
    noise(Edits(), inputs, found, "fp16")
    np.testing.assert_array_equal(inputs["x"], rows()["x"])
    np.testing.assert_allclose(found.whole.outputs["output"], expected(Edits()), rtol=1e-5)


class Mixes(nn.Module):
    """Normalises with the statistics of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("size", [3, 4, 8, 16])
def test_an_answer_that_depends_on_the_other_rows_is_taken_at_the_batch_that_is_built(size: int) -> None:
    found = answers(Mixes(), rows(), BatchRange(min=size, max=size))
    first = rows()["x"][:size]
    np.testing.assert_allclose(found.whole.outputs["output"][: len(first)], first - first.mean(0), atol=1e-6)
    assert "depends on the other rows" in found.notes[0]
    alone = rows()["x"][np.arange(size) % 4]  # how verify fills a batch from the four golden rows
    np.testing.assert_allclose(found.golden.outputs["output"][:size], (alone - alone.mean(0))[:4], atol=1e-6)


def test_a_dynamic_batch_is_refused_where_answers_depend_on_it() -> None:
    with pytest.raises(Unsupported, match="depends on the other rows of the batch") as caught:
        answers(Mixes(), rows(), RANGE)
    assert "--batch 1" in str(caught.value.hint)
    assert answers(net(), rows(), RANGE).notes == ()


def counting(self: Net, x: Tensor) -> Tensor:
    self.calls += 1
    return x * self.calls


def harmless_counting(self: Net, x: Tensor) -> Tensor:
    self.calls += 1
    return x


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda self, x: F.dropout(x, 0.1), "draws random numbers"),
        (lambda self, x: x + 1e-3 * torch.randn_like(x), "draws random numbers"),
        (lambda self, x: x * torch.bernoulli(torch.full((len(x), 1), 0.9999)), "draws random numbers"),
        (lambda self, x: x * float(np.random.default_rng().random()), "draws random numbers"),
        (counting, "changes what it computes with"),
    ],
    ids=["dropout", "noise", "seldom", "numpy", "counter"],
)
def test_answers_that_change_from_call_to_call_are_called_that(change, said: str) -> None:
    with pytest.raises(Unsupported, match=f"answers change from call to call.*{said}") as caught:
        answers(Net(change), rows(), ONE)
    assert "self.training" in str(caught.value.hint)


def test_a_counter_that_no_answer_depends_on_is_no_fault() -> None:
    assert answers(Net(harmless_counting), rows(), ONE).computed == "float64"


def test_broken_weights_are_named() -> None:
    module = net()
    module[0].weight.data[0, 0] = float("nan")
    module[3].bias.data[0] = float("inf")
    with pytest.raises(ParityFailed, match=r"^the weights hold NaN: 0\.weight$"):
        answers(module, rows(), ONE)


def test_infinity_in_an_answer_is_the_model_s_own() -> None:
    module = Net(lambda self, x: x.masked_fill(x > 1.5, float("-inf")).exp())
    module.head = nn.Identity()
    assert np.isfinite(answers(module, rows(), ONE).whole.outputs["output"]).all()  # a mask with -inf in it is no fault
    module.change = lambda self, x: x.masked_fill(torch.arange(32) == 3, float("-inf"))
    with pytest.raises(ParityFailed, match="the model itself answers NaN or infinity: output output"):
        answers(module, rows(), ONE)


def test_infinity_in_a_late_row_is_noticed_too() -> None:
    inputs = rows()
    inputs["x"][17, 0] = 1e3
    module = Net(lambda self, x: x)
    module.forward = lambda x: x.masked_fill(x > 100, float("inf"))
    with pytest.raises(ParityFailed, match="the model itself answers NaN or infinity"):
        answers(module, inputs, ONE)


def test_a_model_that_does_not_take_the_rows_says_so_once() -> None:
    with pytest.raises(ExportFailed, match=r"does not run on inputs of shape \(1, 5\)"):
        answers(net(), {"x": np.zeros((16, 5), np.float32)}, ONE)


def test_integers_and_booleans_are_answers_too() -> None:
    module = Net(lambda self, x: x)
    module.head = nn.Identity()
    module.forward = lambda x: {"label": x.argmax(1), "on": x > 0}
    found = answers(module, rows(), ONE)
    assert [value.dtype for value in found.whole.outputs.values()] == [np.int64, np.bool_]
    assert noise(module, rows(), found, "fp32") < 1e-7


def test_a_decision_is_clear_where_its_margin_exceeds_what_the_precision_moves() -> None:
    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            scores = self.body(x).reshape(-1, 4, 8)
            return {"logits": scores, "labels": scores.argmax(1), "whole": (scores > 0).float()}

    found = answers(Segments(), rows(), ONE)
    assert set(found.whole.margins) == {"labels", "whole"}
    shares = {}
    for precision in ("fp32", "fp16"):
        level = levels(Segments(), rows(), found, precision)
        assert level.outputs["labels"].error == level.outputs["labels"].margin
        assert level.outputs["logits"].margin is None
        shares[precision] = level.clear(found.whole)["labels"].mean()
    assert 0.9 < shares["fp16"] < shares["fp32"] <= 1.0


def test_what_was_picked_by_a_decision_is_measured_where_the_decision_is_clear() -> None:
    module = Net(lambda self, x: x)

    def forward(x: Tensor) -> dict[str, Tensor]:
        scores = torch.cat([x[:, :4], x[:, :1] + 1e-9 * x[:, 4:5].double().to(x.dtype)], 1)  # the last ties the first
        best = scores.topk(3).indices
        return {
            "scores": scores.topk(3).values,
            "picked": (torch.arange(5.0)[None].to(x) * 10 + x[:, :1]).gather(1, best),
        }

    module.forward = forward
    found = answers(module, rows(), ONE)
    assert found.computed == "float64"
    level = levels(module, rows(), found, "fp32")
    assert 1e-9 < level.outputs["picked"].error < 1e-6
    assert 0.5 < level.clear(found.whole)["picked"].mean() < 1.0


class Keeps(nn.Module):
    """Decides a mask in its first call, and keeps it, as detectors keep their anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.kept is None:
            self.kept = torch.linspace(-1, 1, 32, dtype=x.dtype) > 0.5 / 15.5  # decided by the last bit
        return {"picked": torch.where(self.kept, x, 0.0), "mask": self.kept.expand(len(x), 32)}


def test_a_decision_that_forward_keeps_has_its_margin_in_every_row() -> None:
    found = answers(Keeps(), rows(), ONE)
    assert found.computed == "float64"
    assert set(found.whole.margins) == {"picked", "mask"}
    assert np.isfinite(found.whole.margins["mask"]).all()
    clear = levels(Keeps(), rows(), found, "fp32").clear(found.whole)["mask"]
    assert not clear[:, 16].any()
    assert clear[:, :16].all()


def test_of_what_was_decided_before_the_noise_is_what_turned() -> None:
    found, warm = answers(Keeps(), rows(), ONE), Keeps()
    warm(torch.zeros(1, 32))
    turned = found.whole.outputs["mask"][0] != warm.kept.numpy()
    moved = 2 * found.whole.margins["mask"][0][turned].max(initial=0.0)
    assert levels(warm, rows(), found, "fp32").outputs["mask"].margin == pytest.approx(moved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[0, x[0] > 0], r"output output has shape \(\d+,\) for 1 row: its first axis is not the batch"),
        (lambda x: x[:, x[0] > 0], r"output output is \(\d+,\) for some rows and \(\d+,\) for others"),
        (lambda x: [x] * (1 + int(x[0, 0] > 0)), "the model returns .* for some rows and .* for others"),
        (lambda x: {"a" if x[0, 0] > 0 else "b": x}, "the model returns [ab] for some rows and [ab] for others"),
    ],
    ids=["rows", "columns", "a list", "names"],
)
def test_what_is_as_long_as_its_input_makes_it_is_said_in_one_sentence(change, said: str) -> None:
    module = Net(lambda self, x: x)
    module.forward = change
    with pytest.raises(Unsupported, match=said):
        answers(module, rows(), ONE)


def test_a_pixel_that_changes_with_the_order_of_sums_makes_no_random_model() -> None:
    module = Net(lambda self, x: x)
    calls = []

    def forward(x: Tensor) -> Tensor:
        calls.append(0)
        scores = torch.stack([x, x * (1 + 1e-7 * (len(calls) % 2))], 1)
        return scores.argmax(1)

    module.forward = forward
    assert answers(module, rows(), ONE).whole.outputs["output"].dtype == np.int64


# --- noise ------------------------------------------------------------------------------------------------------------


def taken(module: nn.Module) -> Answers:
    return answers(module, rows(), ONE)


def test_float32_noise_is_about_its_epsilon_and_fp16_noise_about_its_own() -> None:
    assert 1e-9 < noise(net(), rows(), taken(net()), "fp32") < 1e-6
    assert 1e-4 < noise(net(), rows(), taken(net()), "fp16") < 5e-3


def test_emulated_half_is_as_noisy_as_torch_half() -> None:
    module = net()
    found = taken(module)
    emulated = noise(module, rows(), found, "fp16")
    half = module.half()(torch.from_numpy(rows()["x"]).half()).float().detach().numpy()
    real = error_of(half, found.whole.outputs["output"])
    assert real / 4 < emulated < real * 4


def test_keeping_every_module_leaves_only_float32_noise() -> None:
    module = net()
    everything = [path for path, _ in module.named_modules()]
    assert noise(module, rows(), taken(module), "fp16", everything) < 1e-6


def test_in_place_operators_are_rounded_too() -> None:
    module = nn.Sequential(nn.Linear(32, 16), nn.ReLU(inplace=True))
    assert noise(module, rows(), taken(module), "fp16") > 1e-5


def test_an_unknown_precision_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="fp61") as caught:
        noise(net(), rows(), taken(net()), "fp61")
    assert "fp16" in str(caught.value.hint)
