"""A manifest is a claim: what it says is held against itself, against the model file's own words and against its seal.

``contradiction`` is what cannot be true whoever wrote it. ``words_differ`` compares with the metadata inside the model
file, whose hash is known. ``who_vouches`` is about seal and signature. What none of them reaches is said to be
unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from edgevit import registry, signing
from edgevit.artifact.golden import GOLDEN, PICTURES
from edgevit.artifact.manifest import MANIFEST, QUANT, SIGNATURE, Array, Manifest
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact
from edgevit.foreign import parse_json
from edgevit.framing import PADDING, Crop, Place
from edgevit.images import Interpolation, Preprocess
from edgevit.precisions import INTEGER_PRECISIONS, precision_row, tolerance_for

UNMEASURED = 10  # where no noise was measured, a tenth of what the precision allows is allowed
_ROUNDING = 1 + 1e-9  # a tolerance is written and read again as a decimal number


def contradiction(manifest: Manifest) -> str | None:
    """What the manifest says that it cannot mean, or None."""
    if manifest.precision_report.requested != manifest.precision:
        return f"says it is in {manifest.precision}, and that {manifest.precision_report.requested} was asked for"
    return _tolerance(manifest) or _classes(manifest) or _golden(manifest) or _integers(manifest)


def _integers(manifest: Manifest) -> str | None:
    integral = manifest.precision in INTEGER_PRECISIONS
    if integral != (manifest.integers is not None) or integral != (QUANT in manifest.files):
        return f"is in {manifest.precision}, which has {'a' if integral else 'no'} plan of integers"
    for name, bound in manifest.parity.bounds.items():
        if bound.median is not None and bound.median > bound.tolerance:
            return f"allows half of the rows of {name} more than any row"
    return None


def _tolerance(manifest: Manifest) -> str | None:
    parity = manifest.parity
    own = {f" of {name}": (bound.tolerance, bound.noise) for name, bound in parity.bounds.items()}
    highest = precision_row(manifest.precision).ceiling
    for name, bound in parity.bounds.items():
        if bound.hanging is not None and bound.hanging > highest * _ROUNDING:
            return f"allows an error of {bound.hanging:.1e} in what hangs in {name}; at most {highest:.0e} is allowed"
    for whose, (tolerance, noise) in {"": (parity.tolerance, parity.noise), **own}.items():
        if said := _too_wide(whose, tolerance, noise, manifest.precision):
            return said
    if parity.status == "verified" and parity.max_rel is not None and parity.max_rel > parity.tolerance:
        return f"is verified with an error of {parity.max_rel:.1e}, which is more than its tolerance"
    return None


def _too_wide(whose: str, tolerance: float, noise: float | None, precision: str) -> str | None:
    highest = precision_row(precision).ceiling
    if tolerance > highest * _ROUNDING:
        return f"allows an error{whose} of {tolerance:.1e}; {precision} allows {highest:.0e} at most"
    due = highest / UNMEASURED if noise is None else tolerance_for(noise, precision)
    if tolerance > due * _ROUNDING:
        measured = "no noise at all" if noise is None else f"a noise of {noise:.1e}"
        return f"allows an error{whose} of {tolerance:.1e}; {measured} allows {due:.1e}"
    return None


def _classes(manifest: Manifest) -> str | None:
    count, said = manifest.class_count(), manifest.model.classes
    if manifest.model.task == "classify" and said is not None and count is not None and said != count:
        return f"says there are {said} classes, and gives {count} logits"
    return None


def _golden(manifest: Manifest) -> str | None:
    if GOLDEN not in manifest.files:
        return f"lists no {GOLDEN}, so nothing says what it should compute"
    missing = [name for name in PICTURES if name not in manifest.files]
    if manifest.preprocess is not None and manifest.image_input() is not None and missing:
        return f"lists no {missing[0]}, without which its preprocessing cannot be checked"
    return None


def words_differ(manifest: Manifest, words: Mapping[str, str]) -> Iterator[str]:
    """Sentences for what the model file says about itself (``words``, empty where it says nothing) and the manifest
    says otherwise."""
    if "edgevit" not in words:  # not written by us
        return
    if _labels(words) != manifest.labels:
        yield f"{MANIFEST} names the classes otherwise than the model file does"
    if _preprocess(words) != manifest.preprocess:
        yield f"{MANIFEST} preprocesses otherwise than the model file says"


def _labels(words: Mapping[str, str]) -> tuple[str, ...] | None:
    try:
        return tuple(str(label) for label in parse_json(words["labels"])) if "labels" in words else None
    except (ValueError, TypeError):
        return ()


def _preprocess(words: Mapping[str, str]) -> Preprocess | None:
    try:
        return Preprocess.model_validate_json(words["preprocess"]) if "preprocess" in words else None
    except ValidationError as exc:
        raise BadArtifact("the model file's own preprocessing cannot be read", hint="export anew") from exc


def who_vouches(artifact: Artifact) -> str:
    """A sentence about seal and signature. BadArtifact for a signature that does not fit."""
    if artifact.seal == "none":
        return "nobody vouches for the manifest: it has no seal"
    if not (artifact.path / SIGNATURE).is_file():
        return "the manifest has its seal; nobody signed it, and whoever can write the folder can seal it anew"
    if registry.absent(("cryptography",)):
        return "the manifest has its seal; its signature was not checked, for want of the package cryptography"
    key, known = signing.signer(artifact), signing.known_keys()
    if key not in known:
        return f"the manifest has its seal; the key that signed it ({key[:16]}…) is not known here"
    return f"the manifest has its seal and the signature of {known[key]}"


def unsupported(artifact: Artifact, words: Mapping[str, str]) -> Iterator[str]:
    """What a manifest without a seal says and nothing bears out."""
    manifest = artifact.manifest
    if artifact.seal != "none":
        return
    measured = {"accuracy": manifest.accuracy, "quality": manifest.quality}
    parts = ["tolerance", *(name for name, recorded in measured.items() if recorded)]
    if manifest.labels is not None and "labels" not in words:
        parts.insert(0, "labels")
    yield f"{MANIFEST} has no seal: its {', '.join(parts)} are what it claims"
    if manifest.labels is not None and len(set(manifest.labels)) < len(manifest.labels):
        twice = next(label for label in manifest.labels if manifest.labels.count(label) > 1)
        yield f"{manifest.labels.count(twice)} classes are called {twice!r}"


def undecided(preprocess: Preprocess, pictures: list[Array], made: Array) -> Iterator[str]:
    """Fields of the preprocessing that could be others and give the very same rows: the golden pictures do not prove
    them."""
    padding: dict[str, tuple[Any, ...]] = {"pad_value": (0, 255, "reflect"), "place": get_args(Place)}
    others = {"crop": get_args(Crop), "interpolation": get_args(Interpolation)}
    for field, values in (others | (padding if preprocess.crop in PADDING else {})).items():
        said = getattr(preprocess, field)
        changed = (preprocess.model_copy(update={field: other}) for other in values if other != said)
        if any(np.array_equal(one.batch(pictures), made) for one in changed):
            yield f"the golden pictures are of a size that tells no {field} from another: {said} is what it claims"
    if preprocess.color in ("RGB", "BGR") and all((one == one[..., :1]).all() for one in pictures):
        yield f"the golden pictures are grey, which tells no RGB from BGR: {preprocess.color} is what it claims"
