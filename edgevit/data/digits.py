"""Handwritten digits, bundled with scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np

from edgevit.data.labelled import LabelledData, from_array, installed_at


@cache
def digits() -> LabelledData:
    """1,797 handwritten digits of 8×8 pixels (UCI, bundled with scikit-learn), grey levels 0..16 spread over 0..255."""
    installed_at("sklearn", "scikit-learn", "the digits")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return LabelledData("digits", from_array(grey), labels, tuple(str(digit) for digit in range(10)))
