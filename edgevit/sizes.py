"""Sizes of images, as people, checkpoints and models write them. Readable without torch."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgevit.errors import UsageError

ImageSize = int | tuple[int, int]
Size = tuple[int, int]

MAX_SIDE = 1 << 14  # pixels
_MODULI = (2, 3, 4, 5, 7, 8, 12, 16)  # of windows and strides


class Sides(NamedTuple):
    """A (height, width) that is written as ``--image-size`` takes it: 224, or 224x320."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"


class Span(NamedTuple):
    """Pixels of a side from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class SizeRange:
    """Sizes that an artifact takes: every side between two ends that is a ``multiple``, height and width each of its
    own. Written as ``--image-size`` takes it: 128-512/32, or 128-512x256-1024/32."""

    height: Span
    width: Span
    multiple: int = 1

    def __str__(self) -> str:
        sides = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        return sides if self.multiple == 1 else f"{sides}/{self.multiple}"

    def __contains__(self, size: object) -> bool:
        return isinstance(size, tuple) and size == self.nearest((int(size[0]), int(size[1])))

    @property
    def lowest(self) -> Sides:
        return Sides(self.height.low, self.width.low)

    @property
    def highest(self) -> Sides:
        return Sides(self.height.high, self.width.high)

    @property
    def odd(self) -> Sides:
        """One that is not square, between the ends and an odd number of multiples where there is such a one."""
        heights, widths = self._between(self.height), self._between(self.width)
        height = self._odd(heights, len(heights) // 3)
        others = [side for side in widths if side != height] or [side for side in self.width if side != height]
        return Sides(height, self._odd(others or widths, len(others or widths) * 2 // 3))

    @property
    def crossed(self) -> Sides:
        """One that is high where ``odd`` is wide, or wide where it is high, and whose sides leave other remainders than
        those of the others: what asks whether a picture is upright, or pads to windows, shows there."""
        step = 1 if self.odd.height <= self.odd.width else -1
        known = [*zip(self.lowest, self.odd, self.highest, strict=True)]
        (longer, longs), (shorter, shorts) = [*zip((self.height, self.width), known, strict=True)][::step]
        between = self._between(longer)
        high = _unlike(between[len(between) // 2 :], longs)
        below = [side for side in self._between(shorter) if side < high] or [side for side in shorter if side < high]
        return Sides(*(high, _unlike(below or self._between(shorter), shorts))[::step])

    def nearest(self, size: Size) -> Sides:
        """The size of the range that is most like ``size``."""
        return Sides(*(self._within(round(side / self.multiple), span) for side, span in self._each(size)))

    def holding(self, size: Size) -> Sides:
        """The smallest of the range into which so many pixels fit, on each side; the largest where none is enough."""
        return Sides(*(self._within(-(-side // self.multiple), span) for side, span in self._each(size)))

    def to_prove(self, own: Size) -> tuple[Sides, ...]:
        """Both ends, an odd size and one across, but for the ``own``, on which everything is proved anyway."""
        found = dict.fromkeys((self.lowest, self.odd, self.crossed, self.highest))
        return tuple(size for size in found if size != own)

    def require(self, size: Size, what: str) -> Sides:
        """``size``, if it is in the range; UsageError that names the nearest of ``what`` takes it otherwise."""
        if size not in self:
            raise UsageError(
                f"{what} takes images of {self}, not {Sides(*size)}", hint=f"the nearest is {self.nearest(size)}"
            )
        return Sides(*size)

    def _each(self, size: Size) -> tuple[tuple[int, Span], ...]:
        return (size[0], self.height), (size[1], self.width)

    def _within(self, count: int, span: Span) -> int:
        return min(max(count * self.multiple, span.low), span.high)

    def _between(self, span: Span) -> list[int]:
        """The sides between the ends, the ends where there is nothing between them."""
        return [*range(span.low + self.multiple, span.high, self.multiple)] or [*dict.fromkeys(span)]

    def _odd(self, sides: list[int], index: int) -> int:
        """The first of ``sides`` from ``index`` on that is an odd number of multiples, as far as there is one."""
        return next((side for side in sides[index:] if side // self.multiple % 2), sides[index])


def _unlike(sides: list[int], known: tuple[int, ...]) -> int:
    """The first of ``sides`` that leaves the most remainders that none of the known ones leaves."""
    return max(sides, key=lambda side: sum(all(side % by != one % by for one in known) for by in _MODULI))


def as_sizes(value: Any, what: str = "the image size") -> Sides | SizeRange:
    """The same as ``as_size``, or a range of them: "128-512/32", "128-512x256-1024/32", "384x128-512/32".

    UsageError for a range that holds nothing, or whose ends are no multiples.
    """
    if isinstance(value, SizeRange):
        return value
    if not isinstance(value, str) or not re.search("[-/]", value):
        return as_size(value, what)
    sides, slash, step = value.strip().lower().partition("/")
    spans = [_span(side) for side in re.split("[x×]", sides)]
    multiple = _side(step) if slash else 1
    if not 1 <= len(spans) <= 2 or None in spans or (slash and not re.fullmatch(r"[0-9]+", step)):
        raise UsageError(
            f"{what} {_shown(value)} is no range of sizes",
            hint="write LOW-HIGH/MULTIPLE: 128-512/32, or HEIGHTxWIDTH as 128-512x256-1024/32",
        )
    height, width = spans[0] or Span(0, 0), spans[-1] or Span(0, 0)
    found = SizeRange(height, width, multiple)
    _require_range(found, what)
    return found if found.lowest != found.highest else found.lowest


def _span(text: str) -> Span | None:
    """ "128-512", or "256" alone."""
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", text)
    return Span(int(found[1]), int(found[2] or found[1])) if found else None


def _require_range(found: SizeRange, what: str) -> None:
    multiple, ends = found.multiple, (*found.height, *found.width)
    if multiple < 1:
        raise UsageError(f"{what} cannot go in steps of {multiple} pixels", hint="1 or more, such as 128-512/32")
    if not all(1 <= side <= MAX_SIDE for side in ends):
        raise UsageError(f"{what} must be 1 to {MAX_SIDE} pixels a side, not {found}", hint="for example 128-512/32")
    for low, high in (found.height, found.width):
        if low > high:
            raise UsageError(f"{what} {low}-{high} holds none: its end is below its beginning", hint=f"{high}-{low}?")
    if wrong := [side for side in ends if side % multiple]:
        low, high = -(-min(ends) // multiple) * multiple, max(ends) // multiple * multiple
        hint = f"for example {low}-{high}/{multiple}" if low < high else "use a smaller multiple, or a wider range"
        raise UsageError(f"{what} ends at {wrong[0]}, which is no multiple of {multiple}", hint=hint)


def as_size(value: Any, what: str = "the image size") -> Sides:
    """(height, width) of a number or two, in whatever holds them: int, numpy's, float, list, tensor, "224", "224x320".

    UsageError, with ``what`` it is the size of, for anything else, and for sides that no image has.
    """
    sides = tuple(_side(side) for side in _listed(value))
    if not 1 <= len(sides) <= 2 or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UsageError(
            f"{what} must be 1 or more pixels, or (height, width), not {_shown(value)}",
            hint=f"for example 224, or 224x320; at most {MAX_SIDE}",
        )
    return Sides(sides[0], sides[-1])


def checked_size(name: str, image_size: ImageSize, stride: int) -> Size:
    """``image_size`` as (height, width). UsageError unless both sides are multiples of ``stride``."""
    height, width = as_size(image_size)
    if height % stride or width % stride:
        nearest = Sides(*(max(1, round(side / stride)) * stride for side in (height, width)))
        raise UsageError(
            f"{name} takes images whose sides are divisible by {stride}, not {height}×{width}",
            hint=f"use --image-size {nearest}",
        )
    return height, width


def _listed(value: Any) -> list[Any]:
    """What may be sides, one after the other."""
    if isinstance(value, str):
        return re.split("[x×]", value.strip().lower())
    if hasattr(value, "tolist") and getattr(value, "nbytes", 1 << 30) <= 64:  # of numpy or torch, and no image itself
        with suppress(RuntimeError):  # a tensor without data
            value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def _side(value: Any) -> int:
    """A whole number, or 0 for what is none."""
    if hasattr(value, "item"):
        with suppress(RuntimeError, ValueError):  # more than one number, or none
            value = value.item()
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if isinstance(value, int) or value.is_integer() else 0


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, int | float | str | list | tuple) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"a {type(value).__name__}"
