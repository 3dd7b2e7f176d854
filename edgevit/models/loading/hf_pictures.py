"""How transformers prepares pictures, in our own terms; and by how much the two differ, tried on a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgevit.errors import Unsupported, first_line
from edgevit.images import Interpolation, Preprocess
from edgevit.models.loading.published import OWN_FILE, crop_share, odd_step, triple
from edgevit.sizes import Size

_FILES = ("preprocessor_config.json", "processor_config.json")
_BY_NUMBER = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's
_SQUASHED_FROM = 384  # ConvNeXt's processor crops below it, and squashes from it on
_LEVELS = 4.0  # of 255: what two ways to resize differ by on edges


@dataclass(frozen=True)
class Prepared:
    """``steps``: None where there is no processor. ``flipped``: the model takes blue first."""

    steps: Preprocess | None
    flipped: bool = False
    notes: tuple[str, ...] = ()


def prepared_by(library: Any, where: dict[str, Any]) -> Prepared:
    """The steps of a model's own image processor."""
    name = where["pretrained_model_name_or_path"]
    if where.get("local_files_only") and not any((Path(name) / file).is_file() for file in _FILES):
        return Prepared(None, notes=(f"{name} has no {_FILES[0]}",))
    try:
        processor = library.AutoImageProcessor.from_pretrained(**where, trust_remote_code=False)
    except Exception as exc:  # of its own checks, the hub's client, and modules that it lacks
        raise Unsupported(
            f"transformers cannot read how the pictures of {name} are prepared: {first_line(exc)}", hint=OWN_FILE
        ) from exc
    steps = _steps(processor, name)
    flipped = bool(getattr(processor, "do_flip_channel_order", False))
    if flipped:
        steps = steps.model_copy(update={"mean": steps.mean[::-1], "std": steps.std[::-1]})
    return Prepared(steps, flipped, tuple(_differs(processor, steps, flipped)))


def _steps(processor: Any, name: str) -> Preprocess:
    crop, crop_pct, size = _geometry(processor, name)
    interpolation = _BY_NUMBER.get(int(getattr(processor, "resample", None) or 0), "unknown")
    odd = odd_step({"crop": crop, "crop_pct": crop_pct, "interpolation": interpolation})
    if odd is not None:
        raise Unsupported(f"the pictures of {name} are prepared with {odd}, which edgevit does not do", hint=OWN_FILE)
    kind: Any = interpolation if interpolation in get_args(Interpolation) else "bicubic"
    how: Any = crop
    mean, std = _normal(processor)
    return Preprocess(size=size, mean=triple(mean), std=triple(std), crop=how, crop_pct=crop_pct, interpolation=kind)


def _geometry(processor: Any, name: str) -> tuple[str, float, Size]:
    """crop, crop_pct and size of ``Preprocess``."""
    if not getattr(processor, "do_resize", True):
        raise Unsupported(f"the pictures of {name} are not resized, but edgevit's are", hint=OWN_FILE)
    size, crop = processor.size, getattr(processor, "crop_size", None)
    cropped = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    shortest = _side(size, "shortest_edge")
    if shortest and (share := getattr(processor, "crop_pct", None)):
        if type(processor).__name__.startswith("ConvNext") and shortest >= _SQUASHED_FROM:
            return "squash", 1.0, (shortest, shortest)
        return "center", float(share), (shortest, shortest)
    if shortest and cropped:
        height, width = _side(crop, "height"), _side(crop, "width")
        if type(processor).__name__.startswith("Levit"):
            shortest = int(256 / 224 * shortest)
        return "center", crop_share(min(height, width), shortest), (height, width)
    height, width = _side(size, "height"), _side(size, "width")
    if cropped and (height, width) != (_side(crop, "height"), _side(crop, "width")):
        return "center", crop_share(_side(crop, "height"), height), (_side(crop, "height"), _side(crop, "width"))
    if not height or not width:
        raise Unsupported(f"the pictures of {name} have no fixed size: {dict(size)}", hint=OWN_FILE)
    return "squash", 1.0, (height, width)


def _side(size: Any, key: str) -> int:
    """0 where the size does not have it; some versions keep sizes as dicts, some as objects."""
    found = size.get(key) if hasattr(size, "get") else getattr(size, key, None)
    return int(found or 0)


def _normal(processor: Any) -> tuple[list[float], list[float]]:
    """mean and std for pixels of 0 to 1: what follows from its factor, offset, mean and std for those of 0 to 255."""
    rescaled, normal = getattr(processor, "do_rescale", False), getattr(processor, "do_normalize", False)
    scale = 255 * float(processor.rescale_factor) if rescaled else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    offset = 1.0 if rescaled and getattr(processor, "rescale_offset", False) else 0.0
    mean, std = (processor.image_mean, processor.image_std) if normal else ((0.0,) * 3, (1.0,) * 3)
    return [(value + offset) / scale for value in mean], [value / scale for value in std]


def _differs(processor: Any, steps: Preprocess, flipped: bool) -> list[str]:
    """A sentence by how many levels of 255 the processor's own picture is another, where it is."""
    rows, columns = np.mgrid[0:301, 0:387]
    waves = [128 + 100 * np.sin(rows / (19 + 7 * channel) + columns / (31 - 5 * channel)) for channel in range(3)]
    picture = np.stack(waves, -1).astype(np.uint8)
    try:
        own = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
    except Exception as exc:
        return [f"its image processor could not be tried: {first_line(exc)}"]
    found = steps(picture)[::-1] if flipped else steps(picture)
    if own.shape != found.shape:
        return [f"its image processor makes pictures of {own.shape[1]}×{own.shape[2]}"]
    std = np.asarray(steps.std[::-1] if flipped else steps.std, np.float32)[:, None, None]
    levels = np.abs(own - found) * std * 255
    if float(levels.max()) <= _LEVELS:
        return []
    return [
        f"its own image processor gives other pixels: by {float(levels.mean()):.1f} levels of 255 on average, "
        f"{float(levels.max()):.0f} at most, on a smooth picture"
    ]
