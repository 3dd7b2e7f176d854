"""Amounts as people write them: "180MB", "64 KiB", "20ms", "6G"."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgevit.errors import UsageError

BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_AMOUNT = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(\D*?)\s*", re.IGNORECASE)


def number_and_unit(text: str) -> tuple[float, str] | None:
    """(180.0, "MB") of "180 MB"; the unit may be empty. None for what does not begin with a number."""
    found = _AMOUNT.fullmatch(text)
    return found and (float(found[1]), found[2])


def amount(text: str, units: Mapping[str, float]) -> float | None:
    """``text`` in the base unit of ``units``; None for no number, or of another unit. All in small letters will do
    ("180mb"), but "Mb" is megabits and not meant."""
    found = number_and_unit(text)
    if found is None:
        return None
    number, unit = found
    factor = units.get(unit) or {known.lower(): factor for known, factor in units.items()}.get(unit)
    return number * factor if factor else None


def parse_bytes(text: str) -> int:
    """ "180MB", "64 KiB" or a plain number of bytes; kB, MB, GB are powers of 1000. UsageError for anything else."""
    found = amount(text, BYTES | {"": 1.0})
    if not found:
        raise UsageError(f"{text!r} is not an amount of memory", hint="for example 180MB, 64KiB, or a number of bytes")
    return int(found)
