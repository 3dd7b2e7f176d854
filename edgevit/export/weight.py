"""How large what was built is: no more than asked for, and far above its weights only with a word about it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgevit import render
from edgevit.errors import Unsupported
from edgevit.module_paths import Place

_TIMES, _BEYOND = 4, 32_000_000  # of the float32 weights, and bytes: code and tables of small models are no surprise
_OPENING = "the artifact has "
_NAMED = 3  # places whose constants are told
_WORTH = 0.02  # of all bytes: constants that hold less explain nothing


class Constant(NamedTuple):
    """What a built graph holds as numbers, weights among them: ``size`` in bytes, and who computes with it."""

    size: int
    place: Place


def largest(found: Iterable[Constant]) -> tuple[Constant, ...]:
    """The places with the most bytes, all of a place as one."""
    sizes: Counter[Place] = Counter()
    for constant in found:
        sizes[constant.place] += constant.size
    return tuple(Constant(size, place) for place, size in heapq.nlargest(_NAMED, sizes.items(), lambda pair: pair[1]))


def bytes_in(folder: Path) -> int:
    """Of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_weight(target: str, found: int, most: int | None, constants: Sequence[Constant] = ()) -> None:
    """Unsupported where a build of ``found`` bytes is larger than ``most``, which is what ``--max-size`` allows."""
    if most is not None and found > most:
        raise Unsupported(
            f"the {target} artifact has {render.si(found, 'B')}, --max-size allows {render.si(most, 'B')}"
            + _told(found, constants),
            hint="try --precision fp16, a smaller model, or another target; or raise --max-size",
        )


def notes_on_weight(found: int, params: int, constants: Sequence[Constant] = ()) -> tuple[str, ...]:
    """A sentence where a build of ``found`` bytes holds far more than the model's ``params``."""
    weights = 4 * params
    if found <= _TIMES * weights or found - weights <= _BEYOND:
        return ()
    times = f"{found / weights:.0f} times " if weights else ""
    return (
        f"{_OPENING}{render.si(found, 'B')}, {times}the {render.si(weights, 'B')} of its weights: tables that "
        f"the converter wrote out, or buffers{_told(found, constants)}; --max-size refuses such a build",
    )


def said_of_weight(notes: Iterable[str]) -> tuple[str, ...]:
    """Those of an artifact's ``notes`` that ``notes_on_weight`` made."""
    return tuple(note for note in notes if note.startswith(_OPENING))


def _told(found: int, constants: Sequence[Constant]) -> str:
    """ " (most of it: 382 MB in ocab.unfold, hat.py:88; …)"."""
    worth = [f"{render.si(one.size, 'B')} {one.place}" for one in constants if one.size >= _WORTH * found]
    return f" (most of it: {'; '.join(worth)})" if worth else ""
