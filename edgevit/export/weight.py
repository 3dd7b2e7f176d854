"""How large what was built is: no more than asked for, and far above its weights only with a word about it."""

from __future__ import annotations

from pathlib import Path

from edgevit import render
from edgevit.errors import Unsupported

_TIMES, _BEYOND = 4, 32_000_000  # of the float32 weights, and bytes: code and tables of small models are no surprise


def bytes_in(folder: Path) -> int:
    """Of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_weight(target: str, found: int, most: int | None) -> None:
    """Unsupported where a build of ``found`` bytes is larger than ``most``, which is what ``--max-size`` allows."""
    if most is not None and found > most:
        raise Unsupported(
            f"the {target} artifact has {render.si(found, 'B')}, --max-size allows {render.si(most, 'B')}",
            hint="try --precision fp16, a smaller model, or another target; or raise --max-size",
        )


def notes_on_weight(found: int, params: int) -> tuple[str, ...]:
    """A sentence where a build of ``found`` bytes holds far more than the model's ``params``."""
    weights = 4 * params
    if found <= _TIMES * weights or found - weights <= _BEYOND:
        return ()
    times = f"{found / weights:.0f} times " if weights else ""
    return (
        f"the artifact has {render.si(found, 'B')}, {times}the {render.si(weights, 'B')} of its weights: tables that "
        "the converter wrote out, or buffers; --max-size refuses such a build",
    )
