"""The golden images against the golden input: what may differ, and what a difference is called."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.images import Preprocess
from edgevit.proof.diagnosis import preprocessing_differs

STEPS = Preprocess(size=(24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop="squash")
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), dtype=np.uint8)
MEAN, STD = (np.reshape(values, (1, 3, 1, 1)).astype(np.float32) for values in (STEPS.mean, STEPS.std))


def made(steps: Preprocess = STEPS, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return steps.batch(list(pixels))


def test_the_same_preprocessing_is_accepted() -> None:
    assert preprocessing_differs(made(), made(), STEPS) is None


def test_the_rounding_of_another_pillow_is_accepted() -> None:
    jitter = np.random.default_rng(1).choice([-1, *[0] * 18, 1], PIXELS.shape)
    other = np.clip(PIXELS.astype(int) + jitter, 0, 255).astype(np.uint8)
    assert preprocessing_differs(made(), made(pixels=other), STEPS) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": (0.401, 0.5, 0.6)},
        {"std": (0.2, 0.25, 0.302)},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    ],
)
def test_a_small_change_of_mean_or_std_is_noticed_and_told(changed) -> None:
    theirs = STEPS.model_copy(update=changed)
    said = preprocessing_differs(made(), made(theirs), STEPS)
    assert "not the one the golden pair was made with" in said
    assert " ".join(f"{value:.4g}" for value in theirs.mean) in said
    assert " ".join(f"{value:.4g}" for value in theirs.std) in said


@pytest.mark.parametrize(
    ("golden", "sentence"),
    [
        (lambda rows: rows * STD + MEAN, "has no mean and std"),
        (lambda rows: (rows - MEAN) / STD, "was normalised twice"),
        (lambda rows: (rows * STD + MEAN)[:, ::-1], "has no mean and std, with red and blue swapped"),
    ],
    ids=["none", "twice", "BGR"],
)
def test_a_missing_or_doubled_normalisation_is_named(golden, sentence) -> None:
    assert sentence in preprocessing_differs(made(), golden(made()), STEPS)


def test_unrelated_pixels_are_not_explained() -> None:
    said = preprocessing_differs(made(), made(pixels=PIXELS[::-1]), STEPS)
    assert said == "the manifest's preprocessing is not the one the golden pair was made with"


def test_one_colour_images_are_no_ground_for_an_explanation() -> None:
    flat = np.full_like(PIXELS, 7)
    assert preprocessing_differs(made(pixels=flat), made(pixels=flat) + 1, STEPS).endswith("was made with")


def test_baked_pixels_are_compared_as_grey_levels() -> None:
    steps = STEPS.model_copy(update={"baked": True})
    assert preprocessing_differs(PIXELS, PIXELS, steps) is None
    assert preprocessing_differs(PIXELS, PIXELS[..., ::-1], steps)
