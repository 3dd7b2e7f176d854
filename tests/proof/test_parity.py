from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit import worker
from edgevit.artifact.manifest import BatchRange, Parity
from edgevit.artifact.opened import Artifact
from edgevit.errors import UsageError
from edgevit.precisions import tolerance_for
from edgevit.proof.parity import batches_to_prove, compare, judge
from edgevit.proof.reference import Reference, write_reference
from edgevit.runtimes.base import open_session

EXPECTED = np.array([[5.0, 1.0, 0.0], [0.0, 4.0, 1.0]])


def parity_of(got: np.ndarray, tolerance: float = 1e-3, expected: np.ndarray = EXPECTED, logits: str | None = "logits"):
    reference = Reference({"image": np.zeros((len(expected), 1))}, {"logits": expected}, tolerance)
    return judge({1: {"logits": got}}, reference, logits, "fake")


@pytest.mark.parametrize(
    ("noise", "precision", "tolerance"),
    [
        (0.0, "fp32", 1e-5),
        (3e-6, "fp32", 3e-5),
        (1.0, "fp32", 1e-3),
        (1e-3, "fp16", 1e-2),
        (1.0, "fp16", 2e-2),
        (float("nan"), "fp16", 2e-2),
    ],
)
def test_the_tolerance_is_ten_times_the_noise_within_the_precision_s_limits(noise, precision, tolerance) -> None:
    assert tolerance_for(noise, precision) == pytest.approx(tolerance)


def test_equal_outputs_are_verified_with_exact_figures() -> None:
    parity = parity_of(EXPECTED + np.array([[0.0, 0.0, 0.002], [0.0, 0.0, 0.0]]))
    assert parity.status == "verified"
    assert parity.max_abs == pytest.approx(0.002)
    assert parity.max_rel == pytest.approx(0.002 / 5)
    assert parity.top1_agreement == 1.0
    assert parity.images == 2


def test_an_error_just_above_the_tolerance_fails_and_one_just_below_does_not() -> None:
    for factor, status in ((1.01, "failed"), (0.99, "verified")):
        assert parity_of(EXPECTED + np.array([[0, 0, 5 * 1e-3 * factor], [0, 0, 0]])).status == status


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_always_fails(bad: float) -> None:
    got = EXPECTED.copy()
    got[1, 2] = bad
    parity = parity_of(got, tolerance=1e9)
    assert parity.status == "failed"
    assert "NaN or infinity" in parity.reason
    parity.model_dump_json()


def test_another_shape_fails() -> None:
    assert "shape" in parity_of(EXPECTED[:, :2]).reason


def test_a_top_class_may_change_only_where_the_margin_is_within_the_noise() -> None:
    close = np.array([[1.0, 0.9995, 0.0], [1.0, 0.0, 0.0]])  # tolerance 2e-3: noise of 2e-4, clear from 8e-4
    swapped = parity_of(np.array([[0.9995, 1.0, 0.0], [1.0, 0.0, 0.0]]), tolerance=2e-3, expected=close)
    assert swapped.status == "verified"
    assert (swapped.top1_agreement, swapped.top1_rows) == (1.0, 1)


def test_a_changed_top_class_fails_although_every_error_is_within_the_tolerance() -> None:
    clear = np.array([[1.0, 0.999, 0.0], [1.0, 0.0, 0.0]])
    changed = parity_of(np.array([[0.9994, 0.9996, 0.0], [1.0, 0.0, 0.0]]), tolerance=2e-3, expected=clear)
    assert changed.max_rel == pytest.approx(6e-4)
    assert changed.status == "failed"
    assert changed.reason == "the top class changed in 1 of 2 rows whose margin is clear of noise"
    assert (changed.top1_agreement, changed.top1_rows) == (0.5, 2)


def test_a_measured_noise_above_the_tolerance_s_tenth_decides_which_margins_are_clear() -> None:
    expected = {"logits": np.array([[1.0, 0.999, 0.0]])}
    noisy = Reference({"image": np.zeros((1, 1))}, expected, 1e-3, noise=1e-3)  # the ceiling cut the tolerance
    parity = judge({1: {"logits": np.array([[0.9994, 0.9996, 0.0]])}}, noisy, "logits", "fake")
    assert (parity.status, parity.top1_rows) == ("verified", 0)


@pytest.mark.parametrize(("wrong", "status"), [(0, "verified"), (1, "verified"), (3, "failed")])
@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint8])
def test_integers_and_booleans_are_judged_by_the_share_that_differs(dtype, wrong: int, status: str) -> None:
    expected = np.arange(1000).reshape(20, 50).astype(dtype)
    got = expected.copy()
    got[0, 1 : 1 + wrong] = np.logical_not(got[0, 1 : 1 + wrong])
    parity = parity_of(got, tolerance=2e-3, expected=expected)
    assert (parity.status, parity.max_rel) == (status, wrong / 1000)
    assert parity.reason in (None, "logits differs in 0.30% of its values, tolerance 0.20%")


def test_a_two_dimensional_boolean_output_has_no_top_class() -> None:
    parity = parity_of(EXPECTED > 2, expected=EXPECTED > 2)
    assert (parity.status, parity.top1_agreement, parity.top1_rows) == ("verified", 1.0, 0)


def test_the_worst_batch_size_counts() -> None:
    reference = Reference({"image": np.zeros((2, 1))}, {"logits": EXPECTED}, 1e-3)
    parity = judge({1: {"logits": EXPECTED}, 3: {"logits": EXPECTED + 1}}, reference, "logits", "fake")
    assert parity.status == "failed"
    assert parity.max_abs == pytest.approx(1.0)
    assert parity.batches == (1, 3)


def test_every_output_is_judged() -> None:
    reference = Reference({"x": np.zeros((2, 1))}, {"a": EXPECTED, "b": EXPECTED}, 1e-3)
    parity = judge({1: {"a": EXPECTED, "b": EXPECTED * 1.01}}, reference, None, "fake")
    assert parity.status == "failed"
    assert parity.outputs["a"].max_rel == 0.0
    assert parity.outputs["b"].max_rel == pytest.approx(0.01)


@given(low=st.integers(1, 40), extra=st.integers(0, 40))
def test_both_ends_and_an_odd_size_are_proved(low: int, extra: int) -> None:
    batch = BatchRange(min=low, max=low + extra)
    sizes = batches_to_prove(batch)
    assert {batch.min, batch.max} <= set(sizes)
    assert all(batch.min <= size <= batch.max for size in sizes)
    if extra >= 3:
        assert any(size % 2 and batch.min < size < batch.max for size in sizes)
    if not extra:
        assert sizes == (low,)


@given(scale=st.floats(1e-3, 1e3), error=st.floats(0, 1e-2))
def test_the_relative_error_does_not_depend_on_the_scale_of_the_outputs(scale: float, error: float) -> None:
    reference = Reference({"x": np.zeros((2, 1))}, {"a": EXPECTED * scale}, 1.0)
    parity = judge({1: {"a": (EXPECTED + error) * scale}}, reference, None, "fake")
    assert parity.max_rel == pytest.approx(error / 5, abs=1e-9)


@pytest.mark.parametrize("batch", [(1, 1), (3, 3), (1, 8)])
def test_a_session_is_compared_at_its_batch_sizes_whatever_the_number_of_rows(make_artifact, batch) -> None:
    folder = make_artifact(batch=batch)
    with open_session(folder, threads=1) as session:
        inputs, outputs = session.artifact.golden()
        parity = compare(session, Reference(inputs, outputs, 1e-5), batches_to_prove(session.artifact.manifest.batch))
    assert parity.status == "verified"
    assert parity.images == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reference_that_is_not_a_number_proves_nothing(bad: float) -> None:
    expected = EXPECTED.copy()
    expected[0, 0] = bad
    parity = parity_of(expected, expected=expected)
    assert parity.status == "failed"
    assert "reference of logits itself" in parity.reason


def test_figures_that_mean_nothing_are_left_out_and_the_record_survives_json() -> None:
    parity = parity_of(EXPECTED * np.nan)
    assert (parity.max_abs, parity.max_rel, parity.cosine, parity.top1_agreement) == (None, None, None, None)
    assert Parity.model_validate_json(parity.model_dump_json()) == parity


def test_a_missing_output_fails() -> None:
    reference = Reference({"x": np.zeros((2, 1))}, {"a": EXPECTED, "b": EXPECTED}, 1e-3)
    assert judge({1: {"a": EXPECTED}}, reference, None, "fake").reason == "there is no output b"


def test_an_all_zero_output_is_judged_by_its_absolute_error() -> None:
    zero = np.zeros((2, 3))
    assert parity_of(zero, expected=zero).status == "verified"
    assert parity_of(zero + 0.01, expected=zero).max_rel == pytest.approx(0.01)


def test_what_float32_cannot_tell_from_zero_is_judged_as_zero() -> None:
    tiny = EXPECTED * 1e-50
    assert parity_of(np.zeros((2, 3), np.float32), expected=tiny).status == "verified"
    assert parity_of(EXPECTED.astype(np.float32), expected=tiny).status == "failed"
    assert parity_of(np.zeros((2, 3), np.float32), expected=EXPECTED * 1e-30).status == "failed"


@pytest.mark.parametrize(
    ("inputs", "outputs", "tolerance"),
    [
        ({"x": np.zeros((0, 1))}, {"a": np.zeros((0, 3))}, 1e-3),
        ({"x": np.zeros((2, 1))}, {}, 1e-3),
        ({"x": np.zeros((2, 1))}, {"a": np.zeros((3, 3))}, 1e-3),
        ({"x": np.zeros((2, 1))}, {"a": EXPECTED}, float("nan")),
        ({"x": np.zeros((2, 1))}, {"a": EXPECTED}, float("inf")),
        ({"x": np.zeros((2, 1))}, {"a": EXPECTED}, 0.0),
    ],
    ids=["no rows", "no outputs", "other rows", "nan", "inf", "zero"],
)
def test_a_reference_that_could_prove_anything_is_refused(inputs, outputs, tolerance) -> None:
    with pytest.raises(UsageError):
        Reference(inputs, outputs, tolerance)


def compared(make_artifact, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[np.ndarray], np.ndarray]) -> Parity:
    """Parity of a real session whose logits are spoilt on the way out."""
    with open_session(make_artifact(batch=(1, 8)), threads=1) as session:
        real = session._run
        monkeypatch.setattr(session, "_run", lambda feeds: {"logits": spoil(real(feeds)["logits"])})
        inputs, outputs = session.artifact.golden()
        return compare(session, Reference(inputs, outputs, 1e-5), (1, 3, 8))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda logits: logits if len(logits) == 1 else logits[:1].repeat(len(logits), 0), "fixed batch size"),
        (lambda logits: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), "ends in a softmax"),
        (lambda logits: logits.astype(np.float16).astype(np.float32), "half precision"),
        (lambda logits: np.where(logits > 0, np.inf, logits), "NaN or infinity"),
        (lambda logits: logits[..., :3], "has shape"),
        (lambda logits: logits.sum(), "has shape"),
    ],
    ids=["batch", "softmax", "half", "overflow", "columns", "scalar"],
)
def test_a_fault_is_failed_with_its_cause(make_artifact, monkeypatch, spoil, cause) -> None:
    parity = compared(make_artifact, monkeypatch, spoil)
    assert parity.status == "failed"
    assert cause in parity.reason


def test_an_fp32_graph_that_is_a_little_wrong_is_not_called_half_precision(make_artifact, monkeypatch) -> None:
    parity = compared(make_artifact, monkeypatch, lambda logits: logits * np.float32(1.001))
    assert parity.status == "failed"
    assert "half" not in parity.reason
    assert "fp16" not in parity.reason


def test_a_worker_compares_what_was_written_for_it(make_artifact, tmp_path) -> None:
    folder = make_artifact(batch=(1, 4))
    inputs, outputs = Artifact.open(folder).golden()
    write_reference(tmp_path / "reference.npz", Reference(inputs, outputs, 1e-5))
    payload = {
        "artifact": str(folder),
        "reference": str(tmp_path / "reference.npz"),
        "tolerance": 1e-5,
        "noise": 1e-7,
        "bounds": {"logits": {"tolerance": 1e-5, "noise": 1e-7, "decided": False}},
        "batches": [1, 3, 4],
        "threads": 1,
    }
    answer = worker.call("edgevit.proof.parity:compare_in_worker", payload, timeout=60)
    parity = Parity.model_validate(answer, strict=False)
    assert parity.status == "verified"
    assert parity.batches == (1, 3, 4)
    assert parity.noise == 1e-7
    assert parity.bounds["logits"].tolerance == 1e-5
