"""Closed forms against numpy's own least squares, and what they do to a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from integer_models import captured, mixed, rows_of
from torch import nn

from edgevit.artifact.manifest import BatchRange
from edgevit.quantize.asked import ASKED
from edgevit.quantize.loss import Apart
from edgevit.quantize.methods.base import Plain, Quantized, Start
from edgevit.quantize.methods.columns import Sums, columns, matrices, results, weight_of
from edgevit.quantize.methods.correcting import Fitting, corrected
from edgevit.quantize.methods.ridge import Bias, Ridge, ridge
from edgevit.quantize.plan import Weight
from edgevit.quantize.sites import sites_of
from edgevit.quantize.trial import Trial

CONVOLUTIONS = {
    "plain": nn.Conv2d(6, 8, 3),
    "strided": nn.Conv2d(6, 8, 3, stride=2, padding=1),
    "oblong": nn.Conv2d(6, 8, (3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1)),
    "grouped": nn.Conv2d(6, 9, 3, padding=1, groups=3),
    "depthwise": nn.Conv2d(6, 6, 5, padding=2, groups=6),
    "same": nn.Conv2d(6, 8, 4, padding="same"),
    "valid": nn.Conv2d(6, 8, 3, padding="valid", bias=False),
}


def _start(module: nn.Module, count: int = 32, **rows: np.ndarray) -> Start:
    given = rows or rows_of(count)
    size = len(next(iter(given.values())))
    return Start(captured(module, BatchRange(min=1, max=size), **given), given, "rows")


def _apart(found: Quantized, start: Start, rows: dict[str, np.ndarray]) -> float:
    trial, apart = Trial(found.capture, found.corrected), Apart()
    floats = Trial(start.capture).run(None, rows).outputs
    apart.take(floats, trial.run(found.plan, rows).outputs, None, None)
    return apart.rms


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_a_product_with_its_columns(kind: str) -> None:
    own = CONVOLUTIONS[kind].eval()
    module = nn.Sequential(nn.Conv2d(3, 6, 1), own).eval()
    site = sites_of(captured(module, image=rows_of(16)["image"]).program).taken[0]
    x = torch.randn(2, 6, 9, 11)
    values = own.weight.detach().numpy()
    found = columns(site, values, x).double() @ matrices(site, values)
    want = own(x) if own.bias is None else own(x) - own.bias[:, None, None]
    np.testing.assert_allclose(found, results(site, values, want.detach()), atol=1e-5)
    np.testing.assert_array_equal(weight_of(values, matrices(site, values)), values)


@pytest.mark.parametrize("biased", [True, False], ids=["with a bias", "without"])
def test_a_ridge_is_what_numpy_finds_of_stretched_rows(biased: bool) -> None:
    random = np.random.default_rng(0)
    given, missing = random.normal(size=(200, 7)) + 1, random.normal(size=(200, 3))
    sums = Sums.empty(1, 7, 3)
    sums.take(torch.from_numpy(given)[None].float(), torch.from_numpy(missing)[None].float())
    found = ridge(sums, 0.01, biased=biased)[0].numpy()
    penalty = np.sqrt(0.01 * (given**2).sum(0).mean())
    columns_of = np.hstack([given, np.ones((200, 1))]) if biased else given
    below = np.eye(7, columns_of.shape[1]) * penalty
    want = np.linalg.lstsq(np.vstack([columns_of, below]), np.vstack([missing, np.zeros((7, 3))]), rcond=None)[0]
    np.testing.assert_allclose(found[: len(want)], want, atol=1e-5)
    assert biased or not found[-1].any()


def test_what_is_still_missing_is_known_without_the_rows() -> None:
    random = np.random.default_rng(1)
    given, missing = (random.normal(size=(2, 50, count)).astype(np.float32) for count in (4, 3))
    change = random.normal(size=(2, 5, 3))
    sums = Sums.empty(2, 4, 3)
    sums.take(torch.from_numpy(given), torch.from_numpy(missing))
    left = missing - given @ change[:, :-1] - change[:, -1:]
    np.testing.assert_allclose(sums.error(torch.from_numpy(change)), (left**2).sum(1), rtol=1e-4)


@pytest.mark.parametrize("quantizer", [Bias, Ridge], ids=["bias", "ridge"])
def test_outputs_are_nearer_to_the_floats_on_rows_that_nothing_was_fitted_to(quantizer: type[Bias | Ridge]) -> None:
    start, others = _start(mixed(), 128), rows_of(64, seed=1)
    plain, found = Plain().quantized(start), quantizer().quantized(start)
    assert found.weights
    assert _apart(found, start, others) < _apart(plain, start, others)


def test_sums_are_the_same_however_rows_are_batched() -> None:
    start = _start(mixed(), 64)
    one = Start(captured(mixed()), start.rows, "rows")
    whole, single = (_sums_of_the_first(which) for which in (start, one))
    for ours, theirs in zip(whole, single, strict=True):
        assert ours.count == theirs.count
        np.testing.assert_allclose(ours.gram, theirs.gram, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(ours.cross, theirs.cross, rtol=1e-3, atol=1e-3)


def _sums_of_the_first(start: Start) -> tuple[Sums, Sums]:
    found: list[tuple[Sums, Sums]] = []

    def seen(fitting: Fitting) -> Iterator[Weight]:
        found.append((fitting.fit, fitting.inner))
        yield from ()

    corrected(start, start.plain(), seen)
    return found[0]


def test_a_layer_that_two_operators_share_keeps_its_weight() -> None:
    assert "shared.weight" not in Ridge().quantized(_start(mixed(), 64)).weights


def test_a_layer_that_is_to_stay_float_is_not_corrected_and_the_next_do_not_make_up_for_it() -> None:
    start = _start(mixed(), 64)
    found = Ridge().quantized(replace(start, asked=replace(ASKED, keep_float=("deep",)))).named("ridge")
    assert "deep.weight" not in found.weights
    assert found.plan.kept["deep.weight"] == "--keep-float deep"


def test_exporters_are_given_corrected_weights_of_integers_alone() -> None:
    found = Ridge().quantized(_start(mixed(), 128)).named("ridge")
    first, second = found.plan.corrected[:2]
    less = found.plan.without({second: "asked"})
    state, before = found.planned(less).program.state_dict, found.capture.program.state_dict
    np.testing.assert_array_equal(state[first].numpy(), found.weights[first].values)
    np.testing.assert_array_equal(state[second].detach().numpy(), before[second].detach().numpy())
    assert not np.array_equal(state[first].numpy(), before[first].detach().numpy())
    assert second not in less.corrected
