"""What a user says of how pictures become a model's input: ``--mean``, ``--std``, ``--crop``, ``--interpolation`` and
``--range``. Free of torch: what cannot be right is refused before it is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_args

from edgevit.errors import UnknownName, UsageError
from edgevit.images import Interpolation, Preprocess, Triple

CENTER = 0.875  # the share of most published models


class Range(NamedTuple):
    """A pixel x of 0 to 1 as the range has it: ``scale * x + offset``. mean and std are said in it."""

    scale: float
    offset: float


RANGES: Mapping[str, Range] = {"0-1": Range(1, 0), "0-255": Range(255, 0), "-1-1": Range(2, -1)}


@dataclass(frozen=True)
class Steps:
    """What was said; None is what the model itself says, or what is assumed.

    mean, std      one number for all channels, or one for each of red, green and blue; of pixels of ``range``
    crop           "squash"; "center"; or the share that is cut out of the middle, "0.95"
    interpolation  one of Pillow's that ``Preprocess`` knows
    range          of a pixel before mean and std: without those the model takes such pixels as they are
    Raises UsageError for what contradicts itself.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: str | None = None
    interpolation: str | None = None
    range: str | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _numbers(name, values))
        if self.range is not None and self.range not in RANGES:
            raise UnknownName("range of pixels", self.range, RANGES)
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"--std must be more than 0, not {_shown(self.std)}", hint="it divides the pixels")
        if self.interpolation is not None and self.interpolation not in get_args(Interpolation):
            raise UnknownName("interpolation", self.interpolation, get_args(Interpolation))
        if self.crop is not None:
            _share(self.crop)
        _require_its_range(self.mean, self.range or "0-1")

    def said(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]

    def onto(self, own: Preprocess | None, size: tuple[int, int]) -> tuple[Preprocess, tuple[str, ...]]:
        """The preprocessing at ``size``, and sentences on what was assumed, or said otherwise than by the model.

        ``own`` is what the model says; None means that it says nothing, and ImageNet's is assumed.
        """
        before = (own or Preprocess(size=size)).model_copy(update={"size": size})
        found = before.model_copy(update=self._changes(before))
        if own is None:
            return found, _assumed(found, self)
        if found != before:
            return found, (f"{', '.join(self.said())} instead of its own: {described(before)}",)
        return found, ()

    def _changes(self, before: Preprocess) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if self.crop is not None:
            squash, share = _share(self.crop)
            kept = before.crop_pct if before.crop == "center" else CENTER
            changes |= {"crop": "squash", "crop_pct": 1.0} if squash else {"crop": "center", "crop_pct": share or kept}
        if self.interpolation is not None:
            changes["interpolation"] = self.interpolation
        scale, offset = RANGES[self.range or "0-1"]
        plain = self.range is not None  # then nothing but what was said is done to its pixels
        if self.mean is not None or plain:
            changes["mean"] = tuple((value - offset) / scale for value in _three(self.mean or (0.0,)))
        if self.std is not None or plain:
            changes["std"] = tuple(value / scale for value in _three(self.std or (1.0,)))
        return changes


def steps_of(given: Any) -> Steps:
    """What the Python API's ``preprocess=`` says: ``Steps``, a mapping of their names, a whole ``Preprocess``, None."""
    if given is None:
        return Steps()
    if isinstance(given, Steps):
        return given
    if isinstance(given, Preprocess):
        crop = "squash" if given.crop == "squash" else repr(given.crop_pct)
        return Steps(given.mean, given.std, crop, given.interpolation)
    if not isinstance(given, Mapping):
        raise UsageError(f"preprocess= is a {type(given).__name__}", hint='give a dict: {"mean": 0.5, "std": 0.5}')
    known = [field.name for field in fields(Steps)]
    for name in given:
        if name not in known:
            raise UnknownName("step of preprocess=", str(name), known)
    return Steps(**given)


def numbers(text: str) -> tuple[float, ...]:
    """ "0.5" or "0.485,0.456,0.406", as the command line has them."""
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"{text!r} is not a number, or three", hint="for example 0.5, or 0.485,0.456,0.406") from None


def described(steps: Preprocess) -> str:
    """In a sentence's words."""
    cut = "squashed" if steps.crop == "squash" else f"centre crop {steps.crop_pct:g}"
    return f"mean {_shown(steps.mean)}, std {_shown(steps.std)}, {cut}, {steps.interpolation}"


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
    try:
        found = tuple(float(value) for value in listed)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in (1, 3) or not all(map(math.isfinite, found)):
        raise UsageError(
            f"--{name} is one number, or one for each of red, green and blue, not {_shown(listed)}",
            hint=f"for example --{name} 0.5, or --{name} 0.485,0.456,0.406",
        )
    return found


def _share(crop: str) -> tuple[bool, float | None]:
    """Whether it squashes, and the share that is cut out, where one is said."""
    if crop in ("squash", "center"):
        return crop == "squash", None
    try:
        share = float(crop)
    except ValueError:
        raise UnknownName("crop", crop, ("center", "squash", "0.875")) from None
    if not 0 < share <= 1:
        raise UsageError(f"--crop {crop} is no share of a picture", hint="more than 0 and at most 1, such as 0.875")
    return False, share


def _require_its_range(mean: tuple[float, ...] | None, name: str) -> None:
    """UsageError for a mean that no picture of such pixels has."""
    if mean is None:
        return
    scale, offset = RANGES[name]
    if not all(offset <= value <= scale + offset for value in mean):
        meant = next((other for other, (high, low) in RANGES.items() if all(low <= v <= high + low for v in mean)), "")
        hint = f"add --range={meant}" if meant else "check the numbers"
        raise UsageError(f"--mean {_shown(mean)} is no mean of pixels of {name}", hint=hint)
    if name == "0-255" and all(0 < value < 1 for value in mean):
        raise UsageError(f"--mean {_shown(mean)} is of pixels of 0-1", hint="drop --range, or say the mean in it")


def _three(values: tuple[float, ...]) -> Triple:
    return (values[0], values[0], values[0]) if len(values) == 1 else (values[0], values[1], values[2])


def _assumed(found: Preprocess, said: Steps) -> tuple[str, ...]:
    """What nobody said, and the options that say it."""
    cut = "squash" if found.crop == "squash" else f"centre crop {found.crop_pct:g}"
    words = {
        "mean": f"ImageNet's mean {_shown(found.mean)}",
        "std": f"std {_shown(found.std)}",
        "crop": cut,
        "interpolation": found.interpolation,
    }
    known = {"mean", "std"} if said.range else set()
    left = [name for name in words if getattr(said, name) is None and name not in known]
    if not left:
        return ()
    options = ", ".join(f"--{name}" for name in left)
    return (f"assumed of its pictures: {', '.join(words[name] for name in left)}; say {options} otherwise",)


def _shown(values: Sequence[Any]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value)[:20] for value in values)
