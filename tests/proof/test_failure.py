"""A failed proof is the artifact's fault, unless the model itself is as far off in that precision."""

from __future__ import annotations

import pytest

from edgevit.artifact.manifest import OutputBound, OutputParity, Parity
from edgevit.proof.failure import beyond


def record(*outputs: tuple[float, float], decided: bool = False) -> Parity:
    """A failed proof in fp32 of outputs with these errors and noises."""
    found, bounds = {}, {}
    for index, (error, noise) in enumerate(outputs):
        found[str(index)] = OutputParity(max_abs=error, max_rel=error, cosine=1.0, changed=0.1 if decided else None)
        bounds[str(index)] = OutputBound(tolerance=1e-3, noise=noise, decided=decided)
    return Parity(status="failed", tolerance=1e-3, outputs=found, bounds=bounds)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([(1.2, 0.5)], "computed in fp32, the model itself is 0.5 off"),
        ([(1.2, 0.5), (1e-5, 1e-7)], "computed in fp32, the model itself is 0.5 off"),
        ([(1.2, 0.5), (0.9, 0.7)], "computed in fp32, the model itself is 0.7 off"),
        ([(1.2, 0.5), (1.2, 1e-7)], None),
        ([(1.2, 1e-7)], None),
        ([(1e-5, 1e-7)], None),
    ],
    ids=["noisy", "another is right", "both noisy", "another is wrong", "wrong", "right"],
)
def test_rounding_explains_an_error_within_ten_times_the_noise_of_every_wrong_output(outputs, said) -> None:
    assert beyond(record(*outputs), "fp32") == said


def test_a_decision_that_is_clear_of_noise_is_never_rounding_s() -> None:
    assert beyond(record((1e-6, 1e-8), decided=True), "fp32") is None
