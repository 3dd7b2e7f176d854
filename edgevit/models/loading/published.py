"""What a library of published models is asked for, what it gives, and the words where its hub cannot be reached.

A new source is one module with a ``Maker``, and one row in ``edgevit.registry.SOURCES``.
"""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from edgevit.errors import EdgeVitError, UsageError, first_line
from edgevit.images import Preprocess, Triple
from edgevit.models.macs import dry_run
from edgevit.sizes import Size

OWN_FILE = "build it in a file of yours (path/to/file.py:factory) and attach the preprocessing that you want"


@dataclass(frozen=True)
class Wanted:
    """name behind the prefix; None: the model's own number of classes, and image size."""

    name: str
    num_classes: int | None = None
    image_size: Size | None = None
    pretrained: bool = False


@dataclass(frozen=True)
class Published:
    """A library's model and what its own pretrained config says.

    preprocess     None where it says nothing
    num_classes    None for what is no classifier
    labels         of the pretrained weights' classes, where the model has as many
    from_original  maps an original repository's keys to the model's
    notes          sentences on what was assumed
    """

    module: nn.Module
    image_size: Size
    preprocess: Preprocess | None
    num_classes: int | None
    labels: tuple[str, ...] | None = None
    from_original: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    notes: tuple[str, ...] = ()


# Builds a model, with random weights unless ``pretrained``. Raises UnknownName, UsageError, Unsupported (a model or a
# preprocessing that edgevit cannot follow), EdgeVitError (no network).
Maker = Callable[[Wanted], Published]


def require_size(module: nn.Module, name: str, size: Size) -> None:
    """UsageError unless the model takes images of ``size``; tried without data."""
    error = dry_run(module, size)
    if isinstance(error, Exception):
        raise UsageError(f"{name} does not take {size[0]}×{size[1]} images: {first_line(error)}") from error


def triple(values: Sequence[float]) -> Triple:
    """One number for each of red, green and blue."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def crop_share(crop: int, resized: int) -> float:
    """``Preprocess.crop_pct`` for a crop out of a picture whose shorter side was made ``resized`` pixels long: the
    share, or the next float below it, such that the rounding down there gives that side again."""
    share = crop / resized
    while math.floor(crop / share) < resized:
        share = math.nextafter(share, 0)
    return share


def odd_step(steps: Mapping[str, Any]) -> str | None:
    """The step of a preprocessing (``crop``, ``crop_pct``, ``interpolation``) that edgevit does not do, if any."""
    crop, crop_pct, interpolation = steps["crop"], steps["crop_pct"], steps["interpolation"]
    if crop not in ("center", "squash") or (crop == "squash" and crop_pct != 1.0) or crop_pct > 1.0:
        return f"crop mode {crop!r} at {crop_pct}"
    if interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        return f"{interpolation!r} interpolation"
    return None


# --- hubs --------------------------------------------------------------------------------------------------------


@contextmanager
def hub_patience() -> Iterator[None]:
    """The Hugging Face hub's files from the local cache alone when it cannot be reached; its client would retry for a
    minute."""
    constants: Any = import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reachable(url: str) -> bool:
    """Whether somebody answers there, whatever they say."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def no_network(name: str, hub: str = "the Hugging Face hub") -> EdgeVitError:
    """For weights that are neither here nor to be had."""
    return EdgeVitError(
        f"cannot download the weights of {name}: {hub} cannot be reached",
        hint="use --weights FILE, or run once online so that they are kept in the cache",
    )
