"""Why outputs are wrong: experiments with the input, so that the likeliest cause is said and not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edgevit.artifact.manifest import Array, Manifest
from edgevit.images import Preprocess, Triple
from edgevit.steps import turned

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
_Stats = Callable[[Sequence[float]], Array]

_COMMON: dict[str, tuple[Triple, Triple]] = {  # mean and std that pipelines apply by habit
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def likeliest_cause(
    infer: Infer,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    manifest: Manifest,
    tolerance: float,
) -> str | None:
    """A sentence, or None when no experiment explains the difference. ``infer`` runs all rows of its feeds."""
    got = infer(inputs)
    if set(got) < set(expected) or any(got[name].shape != want.shape for name, want in expected.items()):
        return None
    if found := _from_outputs(got, expected, manifest.precision, tolerance):
        return found
    spec, preprocess = manifest.image_input(), manifest.preprocess
    if spec is not None and preprocess is not None and inputs[spec.name].dtype.kind == "f":
        for explanation, image in _experiments(inputs[spec.name], preprocess):
            if _equal(infer({**inputs, spec.name: image.astype(spec.dtype)}), expected, tolerance):
                return explanation
    return _computed_in_half(got) if manifest.precision == "fp32" else None


def _computed_in_half(got: Mapping[str, Array]) -> str | None:
    """Outputs that are all fp16 numbers were computed in fp16; float32 ones hit its grid by chance in 1 of 8,192."""
    values = np.concatenate([value.ravel() for value in got.values() if value.dtype == np.float32] or [np.zeros(0)])
    values = values[values != np.round(values)]  # whole numbers are on every grid
    with np.errstate(over="ignore"):
        on_grid = bool(len(values)) and bool((values.astype(np.float16).astype(np.float32) == values).all())
    return "the outputs are half precision numbers: was the graph built or run in fp16?" if on_grid else None


def _from_outputs(
    got: Mapping[str, Array], expected: Mapping[str, Array], precision: str, tolerance: float
) -> str | None:
    """What the outputs alone betray."""
    for name, want in expected.items():
        have, want = got[name].astype(np.float64), want.astype(np.float64)
        if not np.isfinite(have).all():
            return f"{name} overflows {precision} where the model does not"
        if len(have) > 1 and np.ptp(have, axis=0).max() == 0 and np.ptp(want, axis=0).max() > 0:
            return f"{name} is the same for every input: the graph ignores its input"
        if have.ndim == 2 and (found := _reordered(name, have, want, tolerance)):
            return found
    return None


def _reordered(name: str, have: Array, want: Array, tolerance: float) -> str | None:
    def alike(a: Array, b: Array) -> bool:
        return _equal({name: a}, {name: b}, tolerance)

    if alike(have, want):
        return None
    if alike(have, _softmax(want)):
        return f"{name} are probabilities: the graph ends in a softmax that the model does not have"
    if alike(np.sort(have, axis=1), np.sort(want, axis=1)):
        return f"{name} holds the right values in another order: were the classes permuted?"
    if alike(have[_row_order(have)], want[_row_order(want)]):
        return f"{name} holds the right rows in another order: the graph mixes up its batch"
    return None


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _row_order(rows: Array) -> Array:
    return np.argsort(rows[:, 0], kind="stable")


def _experiments(image: Array, preprocess: Preprocess) -> Iterator[tuple[str, Array]]:
    """(what it would mean if this input gave the right outputs, the input)."""
    axis = _channel_axis(preprocess)
    stats = _along_channels(image, axis)
    unit = image * stats(preprocess.std) + stats(preprocess.mean)
    twice = "the graph normalises its input itself: preprocessing was applied twice"
    yield twice, unit
    yield f"{twice} (it takes pixels of 0 to 255)", unit * 255
    never = "the graph lost its normalisation: mean and std were not applied"
    yield never, (image - stats(preprocess.mean)) / stats(preprocess.std)
    for name, (of_rgb, std_of_rgb) in _COMMON.items():
        mean, std = turned(of_rgb, "RGB", preprocess.color, 0.0), turned(std_of_rgb, "RGB", preprocess.color, 1.0)
        if (mean, std) != (preprocess.mean, preprocess.std):
            yield f"the graph expects mean and std of {name}, not the manifest's", (unit - stats(mean)) / stats(std)
    if preprocess.channels >= 3:
        other = "RGB" if preprocess.color == "BGR" else "BGR"
        yield f"red and blue are swapped: the graph expects {other}", np.take(image, _swapped(image.shape[axis]), axis)
    height, width = (side for side in (1, 2, 3) if side != axis)
    if image.shape[height] == image.shape[width]:
        yield "height and width are swapped", np.swapaxes(image, height, width).copy()
    moved = np.moveaxis(image, axis, 3 if axis == 1 else 1)
    yield "the graph reads its input in the other layout (NCHW or NHWC)", moved.reshape(image.shape)


def _channel_axis(preprocess: Preprocess) -> int:
    return 1 if preprocess.layout == "NCHW" else 3


def _swapped(channels: int) -> list[int]:
    """The order of channels with red and blue in each other's place."""
    return [2, 1, 0, *range(3, channels)] if channels >= 3 else [*range(channels)]


def _along_channels(image: Array, axis: int) -> _Stats:
    shape = [1] * image.ndim
    shape[axis] = image.shape[axis]
    return lambda values: np.asarray(values, image.dtype).reshape(shape)


def _equal(got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> bool:
    # Undoing a normalisation in float32 costs a few bits, so a match is allowed ten times the tolerance.
    return _error(got, expected) <= 10 * tolerance


def _error(got: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    worst = 0.0
    for name, want in expected.items():
        have = got[name].astype(np.float64)
        if have.shape != want.shape or not np.isfinite(have).all():
            return float("inf")
        worst = max(worst, float(np.abs(have - want).max() / max(np.abs(want).max(), 1e-30)))
    return worst


# --- the golden images -----------------------------------------------------------------------------------------------

_OTHER = "the manifest's preprocessing is not the one the golden pair was made with"
_MAX_LEVELS, _RMS_LEVELS, _BIAS_LEVELS = 3.0, 0.5, 0.1


def preprocessing_differs(made: Array, golden: Array, preprocess: Preprocess) -> str | None:
    """None when ``made`` (the manifest's preprocessing of the golden images) is the golden input; else a sentence.

    Pillow's resampling may round otherwise in another version: single pixels may differ by three grey levels of 255,
    all together by half a level (root mean square), and no channel by a tenth on average, which a wrong mean would.
    """
    if made.shape != golden.shape:
        return f"preprocessing gives {made.shape}, the golden input is {golden.shape}"
    axis = 3 if preprocess.baked else _channel_axis(preprocess)
    ours, theirs = (
        np.moveaxis(array, axis, -1).astype(np.float64).reshape(-1, preprocess.channels) for array in (made, golden)
    )
    if preprocess.baked:
        return None if _alike(ours, theirs) else _OTHER
    std, mean = np.asarray(preprocess.std), np.asarray(preprocess.mean)
    if _alike(ours * std * 255, theirs * std * 255):
        return None
    explained = _explained(ours * std + mean, theirs, mean, std)
    return f"{_OTHER}: {explained}" if explained else _OTHER


def _alike(ours: Array, theirs: Array) -> bool:
    """(pixels, channels) in grey levels."""
    difference = ours - theirs
    return bool(
        np.abs(difference).max() <= _MAX_LEVELS
        and np.sqrt((difference**2).mean()) <= _RMS_LEVELS
        and np.abs(difference.mean(axis=0)).max() <= _BIAS_LEVELS
    )


def _explained(unit: Array, golden: Array, mean: Array, std: Array) -> str | None:
    """How the golden rows come from the same pixels: golden = unit × slope + offset per channel, fitted."""
    for pixels, swapped in ((unit, ""), (unit[:, _swapped(unit.shape[1])], ", with red and blue swapped")):
        spread = pixels.std(axis=0)
        if spread.min() < 1e-3:  # nothing to fit a line to
            continue
        centred = pixels - pixels.mean(axis=0)
        slope = (centred * golden).mean(axis=0) / spread**2
        offset = golden.mean(axis=0) - slope * pixels.mean(axis=0)
        if np.abs(slope).min() < 1e-6 or not _alike(pixels * 255, (golden - offset) / slope * 255):
            continue
        return _named(1 / slope, -offset / slope, mean, std) + swapped
    return None


def _named(their_std: Array, their_mean: Array, mean: Array, std: Array) -> str:
    def close(one: Array, other: Array) -> bool:
        return bool(np.abs(one - other).max() <= 1e-3)

    if close(their_std, np.ones(len(std))) and close(their_mean, np.zeros(len(std))):
        return "the golden input has no mean and std"
    if close(their_std, std**2) and close(their_mean, mean + mean * std):
        return "the golden input was normalised twice"
    shown = (" ".join(f"{value:.4g}" for value in values) for values in (their_mean, their_std))
    return "the golden input was made with mean {} and std {}".format(*shown)
