"""Integers in a checkpoint: the plan, and the weights that it is of, beside the float weights that it was found from.

The float weights stay what they were: whatever takes a checkpoint takes this one. An export in integers finds none
anew, so that they are the same on every target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from edgevit.artifact.schema import Strict
from edgevit.errors import UsageError
from edgevit.export.base import Capture
from edgevit.models.loading.weights_file import read_hidden
from edgevit.quantize.asked import ASKED, Quantizing
from edgevit.quantize.calibration import Calibrating, Held, digests
from edgevit.quantize.methods.base import Quantized, with_values
from edgevit.quantize.plan import Array, QuantPlan, Weight
from edgevit.quantize.sites import Sites, sites_of

_VALUES, _BIAS, _FOLDED = "values:", "bias:", "folded:"


class Stored(Strict):
    """What a checkpoint says of its integers, as JSON in its metadata.

    floats  SHA-256 of the float weights that may be integers, as they were captured
    sides   shape of each input, without the batch
    images  of calibration, known by their content
    """

    plan: QuantPlan
    floats: str
    sides: Mapping[str, tuple[int | str | None, ...]]
    images: tuple[str, ...]


def stored(found: Quantized, before: Capture, calibrating: Calibrating) -> tuple[Stored, dict[str, Array]]:
    """What goes into a checkpoint: of ``found``, which was captured as ``before``."""
    tensors = {f"{_FOLDED}{name}": array for name, array in found.folded.items()}
    for name, weight in found.weights.items():
        tensors[f"{_VALUES}{name}"] = weight.values
        if weight.bias is not None:
            tensors[f"{_BIAS}{name}"] = weight.bias
    floats = weights_digest(sites_of(before.program))
    return Stored(plan=found.plan, floats=floats, sides=_sides(before), images=calibrating.images), tensors


def weights_digest(sites: Sites) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(sites.weights.items()):
        digest.update(f"{name} {weight.values.shape}|".encode() + np.ascontiguousarray(weight.values).tobytes())
    return digest.hexdigest()


def _sides(capture: Capture) -> dict[str, tuple[int | str | None, ...]]:
    return {spec.name: tuple(spec.shape[1:]) for spec in capture.inputs}


class Kept:
    """The integers of a checkpoint that was asked for."""

    def __init__(self, path: Path | str, text: str) -> None:
        self.path = path
        try:
            self.said = Stored.model_validate_json(text)
        except ValidationError as exc:
            raise UsageError(
                f"the integers in {path} are not valid: {exc.errors()[0]['msg']}", hint="quantize the model again"
            ) from exc

    def require_unasked(self, asked: Quantizing) -> None:
        """UsageError for options that say how integers are to be found, where they are found already."""
        named = ("calibrate", "images", "observer", "quantizer")
        if any(getattr(asked, name) != getattr(ASKED, name) for name in named):
            raise UsageError(
                f"{self.path} has its integers already, found by {self.said.plan.quantizer}",
                hint="leave --calibrate, --calibration-images, --observer and --quantizer out, or give float weights",
            )

    def require_apart(self, held: Held) -> None:
        """UsageError where integers would be judged on images that they were found on."""
        if both := len({one.hex() for one in digests(held.images)} & set(self.said.images)):
            raise UsageError(
                f"{both} of the images of {held.data} that integers are judged on are those that {self.path} found its "
                f"ranges on",
                hint="give --data another source, or quantize the model on other images",
            )

    def onto(self, capture: Capture) -> Quantized:
        """The integers of a capture. UsageError where they are of another one."""
        sites = sites_of(capture.program)
        if weights_digest(sites) != self.said.floats or _sides(capture) != self.said.sides:
            raise UsageError(
                f"the integers in {self.path} are of another form of the model: its weights or image size differ",
                hint="export it as it was quantized (--image-size, --form, --bake-preprocess), or quantize it again",
            )
        tensors = {name: tensor.numpy() for name, tensor in read_hidden(Path(self.path)).items()}
        folded = {name.removeprefix(_FOLDED): one for name, one in tensors.items() if name.startswith(_FOLDED)}
        if folded:
            capture = replace(capture, program=with_values(capture.program, folded))
            sites = sites_of(capture.program)
        weights = {
            name.removeprefix(_VALUES): Weight(one, tensors.get(f"{_BIAS}{name.removeprefix(_VALUES)}"))
            for name, one in tensors.items()
            if name.startswith(_VALUES)
        }
        return Quantized(capture, sites, self.said.plan, weights, folded)


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
