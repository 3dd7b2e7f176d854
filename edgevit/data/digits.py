"""Handwritten digits, bundled with scikit-learn."""

from __future__ import annotations

import gzip
import zlib
from functools import cache

import numpy as np

from edgevit.data.labelled import LabelledData, Pixels, from_array, installed_at
from edgevit.errors import UsageError

SIDE = 8
LEVELS = 16  # the brightest; the darkest is 0


@cache
def digits() -> LabelledData:
    """1,797 handwritten digits of 8×8 pixels (UCI, bundled with scikit-learn), grey levels 0..16 spread over 0..255.

    Read from the package's file: to import scikit-learn for it takes longer than to export a small model.
    """
    file = installed_at("sklearn", "scikit-learn", "the digits") / "datasets" / "data" / "digits.csv.gz"
    try:
        table = _table(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as exc:
        raise UsageError(
            f"the installed scikit-learn has no digits that can be read ({exc})", hint="pip install -U scikit-learn"
        ) from exc
    grey = np.rint(table[:, :-1].reshape(-1, SIDE, SIDE) * (255 / LEVELS)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    return LabelledData("digits", from_array(grey), labels, tuple(str(digit) for digit in range(10)))


def _table(text: bytes) -> Pixels:
    """(N, 65) uint8: a row's pixels, then its label. ValueError for anything else."""
    table = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.float64)
    rows = table.reshape(-1, SIDE * SIDE + 1)
    if not len(rows) or rows.min() < 0 or rows[:, :-1].max() > LEVELS or rows[:, -1].max() > 9:
        raise ValueError("a number is out of range")
    return rows.astype(np.uint8)
