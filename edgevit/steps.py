"""What a user says of how pictures become a model's input: ``--mean``, ``--std``, ``--crop``, ``--interpolation``,
``--range``, ``--color``, ``--pad-value`` and ``--place``. Free of torch: what cannot be right is refused before it is
imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from edgevit.errors import UnknownName, UsageError
from edgevit.framing import PADDING, Place
from edgevit.images import CHANNELS, Color, Interpolation, Preprocess

CENTER = 0.875  # the share of most published models


class Range(NamedTuple):
    """A pixel x of 0 to 1 as the range has it: ``scale * x + offset``. mean and std are said in it."""

    scale: float
    offset: float


OF_CHANNELS: Mapping[int, Color] = {1: "GRAY", 3: "RGB", 4: "RGBA"}  # where nobody says otherwise
RANGES: Mapping[str, Range] = {"0-1": Range(1, 0), "0-255": Range(255, 0), "-1-1": Range(2, -1)}


@dataclass(frozen=True)
class Steps:
    """What was said; None is what the model itself says, or what is assumed.

    mean, std      one number for all channels, or one for each, in the order of ``color``; of pixels of ``range``
    crop           "squash"; "letterbox"; "pad"; "center"; or the share that is cut out of the middle, "0.95"
    interpolation  one of Pillow's that ``Preprocess`` knows
    range          of a pixel before mean and std: without those the model takes such pixels as they are
    color          which channels, in which order: one of ``CHANNELS``
    pad_value      what a letterbox or a pad is filled with: "0" to "255", "mean" or "reflect"
    place          where the picture lies in it: "center" or "top-left"
    Raises UsageError for what contradicts itself.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: str | None = None
    interpolation: str | None = None
    range: str | None = None
    color: str | None = None
    pad_value: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _numbers(name, values))
        known = {"range": RANGES, "interpolation": get_args(Interpolation), "color": CHANNELS, "place": get_args(Place)}
        for name, names in known.items():
            if (value := getattr(self, name)) is not None and value not in names:
                raise UnknownName("range of pixels" if name == "range" else name, str(value), names)
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"--std must be more than 0, not {_shown(self.std)}", hint="it divides the pixels")
        if self.crop is not None:
            _framed(self.crop)
        if self.pad_value is not None:
            _filled(self.pad_value)
        _require_its_range(self.mean, self.range or "0-1")
        self._require_its_channels()
        if self.crop is not None:
            self._require_padding(self.crop)

    def said(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{field.name.replace('_', '-')}" for field in fields(self) if getattr(self, field.name) is not None]

    @property
    def channels(self) -> int | None:
        """How many a picture of the colours that were said has."""
        return None if self.color is None else CHANNELS[cast("Color", self.color)]

    def onto(
        self, own: Preprocess | None, size: tuple[int, int], channels: int = 3
    ) -> tuple[Preprocess, tuple[str, ...]]:
        """The preprocessing at ``size`` for a model that takes so many ``channels``, and sentences on what was assumed,
        or said otherwise than by the model.

        ``own`` is what the model says; None means that it says nothing, and ImageNet's is assumed. UsageError for
        colours of another number of channels.
        """
        before = self._in_colour(own or Preprocess(size=size), channels).model_copy(update={"size": size})
        found = before.model_copy(update=self._changes(before))
        self._require_padding(found.crop)
        if own is None:
            return found, _assumed(found, self)
        if found != own.model_copy(update={"size": size}):
            return found, (f"{', '.join(self.said())} instead of its own: {described(own)}",) if self.said() else ()
        return found, ()

    def _in_colour(self, before: Preprocess, channels: int) -> Preprocess:
        """``before`` with the colours that were said, else those that the number of channels means."""
        if self.channels not in (None, channels):
            raise UsageError(
                f"--color {self.color} makes {_counted(self.channels or 0)}; the model takes {channels}",
                hint=f"say --color {OF_CHANNELS.get(channels, 'of as many')}, or leave it out",
            )
        assumed = before.color if before.channels == channels else OF_CHANNELS[channels]
        after = cast("Color", self.color or assumed)
        mean, std = turned(before.mean, before.color, after, 0.0), turned(before.std, before.color, after, 1.0)
        return before.model_copy(update={"color": after, "mean": mean, "std": std})

    def _changes(self, before: Preprocess) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if self.crop is not None:
            changes |= _cut(*_framed(self.crop), before)
        if self.pad_value is not None:
            changes["pad_value"] = _filled(self.pad_value)
        changes |= {name: value for name in ("interpolation", "place") if (value := getattr(self, name)) is not None}
        scale, offset = RANGES[self.range or "0-1"]
        plain = self.range is not None  # then nothing but what was said is done to its pixels
        if self.mean is not None or plain:
            mean = _each("mean", self.mean or (0.0,), before.color)
            changes["mean"] = tuple((value - offset) / scale for value in mean)
        if self.std is not None or plain:
            changes["std"] = tuple(value / scale for value in _each("std", self.std or (1.0,), before.color))
        return changes

    def _require_its_channels(self) -> None:
        """UsageError for numbers of more or fewer channels than the colours that were said, or than one another."""
        counts = {len(values) for values in (self.mean, self.std) if values is not None} - {1}
        if len(counts) > 1:
            raise UsageError("--mean and --std have other numbers of channels", hint="give as many of each, or one")
        for name in ("mean", "std"):
            if self.color is not None and (values := getattr(self, name)) is not None:
                _each(name, values, cast("Color", self.color))

    def _require_padding(self, crop: str) -> None:
        """UsageError for words on padding where there is none."""
        said = [f"--{name.replace('_', '-')}" for name in ("pad_value", "place") if getattr(self, name) is not None]
        if said and crop not in PADDING:
            raise UsageError(f"{' and '.join(said)}: of --crop {crop} nothing is padded", hint="add --crop letterbox")


def range_of(steps: Preprocess) -> Range:
    """The range of a model's pixels, where its steps do nothing else to them; "0-1" for any others."""
    for scale, offset in RANGES.values():
        wanted = (-offset / scale, 1 / scale)
        pairs = zip(steps.mean, steps.std, strict=True)
        if all(np.allclose(pair, wanted, rtol=1e-9, atol=1e-12) for pair in pairs):
            return Range(scale, offset)
    return RANGES["0-1"]


def steps_of(given: Any) -> Steps:
    """What the Python API's ``preprocess=`` says: ``Steps``, a mapping of their names, a whole ``Preprocess``, None."""
    if given is None:
        return Steps()
    if isinstance(given, Steps):
        return given
    if isinstance(given, Preprocess):
        crop = repr(given.crop_pct) if given.crop == "center" else given.crop
        padding = (str(given.pad_value), given.place) if given.crop in PADDING else (None, None)
        return Steps(given.mean, given.std, crop, given.interpolation, None, given.color, *padding)
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
    colour = "" if steps.color == "RGB" else f"{steps.color}, "
    return f"{colour}mean {_shown(steps.mean)}, std {_shown(steps.std)}, {cut_in_words(steps)}, {steps.interpolation}"


def cut_in_words(steps: Preprocess) -> str:
    """How a picture of any size gets the model's."""
    if steps.crop == "center":
        return f"centre crop {steps.crop_pct:g}"
    if steps.crop == "squash":
        return "squashed"
    how = "letterboxed" if steps.crop == "letterbox" else "padded"
    return f"{how} with {steps.pad_value}, picture at {steps.place}"


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    listed = values if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
    try:
        found = tuple(float(value) for value in listed)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in OF_CHANNELS or not all(map(math.isfinite, found)):
        raise UsageError(
            f"--{name} is one number, or one for each of red, green and blue (and alpha), not {_shown(listed)}",
            hint=f"for example --{name} 0.5, or --{name} 0.485,0.456,0.406",
        )
    return found


def _framed(crop: str) -> tuple[str, float | None]:
    """How a picture is framed, and the share that is cut out, where one is said."""
    if crop in ("squash", "center", *PADDING):
        return crop, None
    try:
        share = float(crop)
    except ValueError:
        raise UnknownName("crop", crop, ("center", "squash", *PADDING, "0.875")) from None
    if not 0 < share <= 1:
        raise UsageError(f"--crop {crop} is no share of a picture", hint="more than 0 and at most 1, such as 0.875")
    return "center", share


def _cut(crop: str, share: float | None, before: Preprocess) -> dict[str, Any]:
    if crop == "center":
        return {"crop": crop, "crop_pct": share or (before.crop_pct if before.crop == "center" else CENTER)}
    if crop not in PADDING or crop == before.crop:
        return {"crop": crop, "crop_pct": 1.0}
    # A letterbox is centred in grey (YOLO's); what keeps its pixels is continued to the right and below.
    value, place = (114, "center") if crop == "letterbox" else ("reflect", "top-left")
    return {"crop": crop, "crop_pct": 1.0, "pad_value": value, "place": place}


def _filled(value: Any) -> Any:
    """0 to 255, "mean" or "reflect"."""
    if value in ("mean", "reflect"):
        return value
    if str(value).isascii() and str(value).isdigit() and int(value) <= 255:
        return int(value)
    raise UsageError(
        f"--pad-value {str(value)[:20]} is no grey of 0 to 255", hint="or mean, or reflect: the picture, mirrored"
    )


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


def _each(name: str, values: tuple[float, ...], color: Color) -> tuple[float, ...]:
    """One number for each channel."""
    if len(values) not in (1, CHANNELS[color]):
        raise UsageError(
            f"--{name} has {len(values)} numbers; {color} pictures have {_counted(CHANNELS[color])}",
            hint="give one for each channel, or one for all",
        )
    return values * CHANNELS[color] if len(values) == 1 else values


def turned(values: tuple[float, ...], before: Color, after: Color, alpha: float) -> tuple[float, ...]:
    """mean or std of the same pictures with other channels; ``alpha`` is that of a channel of alpha."""
    if before == after:
        return values
    colours = values * 3 if before == "GRAY" else values[:3]
    if "BGR" in (before, after):
        colours = colours[::-1]
    if after == "GRAY":
        return (sum(colours) / 3,)
    return (*colours, alpha) if after == "RGBA" else colours


def _counted(channels: int) -> str:
    return f"{channels} channel{'s' if channels != 1 else ''}"


def _assumed(found: Preprocess, said: Steps) -> tuple[str, ...]:
    """What nobody said, and the options that say it."""
    words = {
        **({} if found.color == "RGB" else {"color": found.color}),
        "mean": f"ImageNet's mean {_shown(found.mean)}",
        "std": f"std {_shown(found.std)}",
        "crop": cut_in_words(found),
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
