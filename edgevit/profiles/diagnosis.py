"""Why outputs are wrong: experiments with the input, so that the likeliest cause is said and not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgevit.artifact import Array, Manifest
from edgevit.images import Preprocess

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_COMMON = {  # mean and std that pipelines apply by habit
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
HALF_SIZED = 2e-2


def likeliest_cause(
    infer: Infer,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    manifest: Manifest,
    tolerance: float,
) -> str | None:
    """A sentence, or None when no experiment explains the difference. ``infer`` runs all rows of its feeds."""
    got = infer(inputs)
    if found := _from_outputs(got, expected, tolerance):
        return found
    spec, preprocess = manifest.image_input(), manifest.preprocess
    if spec is not None and preprocess is not None and inputs[spec.name].dtype.kind == "f":
        for explanation, image in _experiments(inputs[spec.name], preprocess):
            if _equal(infer({**inputs, spec.name: image}), expected, tolerance):
                return explanation
    if _error(got, expected) <= HALF_SIZED:
        return "differences of this size are typical of half precision: was a graph of another precision put here?"
    return None


def _from_outputs(got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> str | None:
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            return None
        if not np.isfinite(have).all():
            return f"{name} overflows: export in fp32, or report the module that leaves fp16's range"
        if len(have) > 1 and np.ptp(have, axis=0).max() == 0 and np.ptp(want, axis=0).max() > 0:
            return f"{name} is the same for every input: the graph ignores its input"
        if have.ndim == 2 and _error({name: np.sort(have, axis=1)}, {name: np.sort(want, axis=1)}) <= tolerance:
            return f"{name} holds the right values in another order: were the classes permuted?"
    return None


def _experiments(image: Array, preprocess: Preprocess) -> Iterator[tuple[str, Array]]:
    """(what it would mean if this input gave the right outputs, the input)."""
    axis = 1 if preprocess.layout == "NCHW" else 3
    shape = [1] * image.ndim
    shape[axis] = 3

    def stats(values: tuple[float, float, float]) -> Array:
        return np.asarray(values, image.dtype).reshape(shape)

    unit = image * stats(preprocess.std) + stats(preprocess.mean)
    twice = "the graph normalises its input itself: preprocessing was applied twice"
    yield twice, unit
    yield f"{twice} (it takes pixels of 0 to 255)", unit * 255
    never = "the graph expects normalised input: mean and std were not applied"
    yield never, (image - stats(preprocess.mean)) / stats(preprocess.std)
    for name, (mean, std) in _COMMON.items():
        if (mean, std) != (preprocess.mean, preprocess.std):
            yield f"the graph expects mean and std of {name}, not the manifest's", (unit - stats(mean)) / stats(std)
    yield "red and blue are swapped: the graph expects BGR", np.flip(image, axis).copy()
    yield "height and width are swapped", np.swapaxes(image, *(side for side in (1, 2, 3) if side != axis)).copy()


def _equal(got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> bool:
    # Undoing a normalisation in float32 costs a few bits, so a match is allowed ten times the tolerance.
    return _error(got, expected) <= 10 * tolerance


def _error(got: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    worst = 0.0
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape or not np.isfinite(have).all():
            return float("inf")
        worst = max(worst, float(np.abs(have - want).max() / max(np.abs(want).max(), 1e-30)))
    return worst


def preprocessing_differs(made: Array, golden: Array, preprocess: Preprocess) -> str | None:
    """None when ``made`` (the manifest's preprocessing of the golden images) is the golden input; else a sentence.

    Pillow's resampling may differ by a level or two between versions, so three levels of 255 are allowed.
    """
    if made.shape != golden.shape:
        return f"preprocessing gives {made.shape}, the golden input is {golden.shape}"
    if preprocess.baked:
        return None if np.abs(made.astype(int) - golden.astype(int)).max() <= 3 else _OTHER
    level = 3 / 255 / min(preprocess.std)
    if np.abs(made - golden).max() <= level:
        return None
    for explanation, image in _experiments(made, preprocess):
        if np.abs(image - golden).max() <= level * 255:
            close = np.abs(image - golden).max() <= 3 / 255 / min(preprocess.std) / min(preprocess.std)
            if close:
                return f"{_OTHER}: {_EXPLAINED.get(explanation, explanation)}"
    return _OTHER


_OTHER = "the manifest's preprocessing is not the one the golden pair was made with"
_EXPLAINED = {
    "the graph normalises its input itself: preprocessing was applied twice": "the golden input has no mean and std",
    "the graph expects normalised input: mean and std were not applied": "the golden input was normalised twice",
}
