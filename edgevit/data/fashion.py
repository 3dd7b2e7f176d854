"""A sample of Fashion-MNIST that the package carries: 260 pictures to train on and 500 held out, of 28×28 pixels.

For exports from a clean clone: rows to prove, calibrate and judge on of what ``--weights fashion`` was trained on. The
whole set, 70,000 pictures, is ``idx:PATH``. Xiao, Rasul, Vollgraf, arXiv:1708.07747; MIT licence.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgevit.data import idx
from edgevit.data.labelled import LabelledData, Split

FOLDER = Path(str(resources.files("edgevit.data") / "fashion_sample"))


def fashion(split: Split, seed: int) -> LabelledData:
    """The sample; its own split is that of the whole set."""
    return idx.read(FOLDER, "fashion", split, seed)
