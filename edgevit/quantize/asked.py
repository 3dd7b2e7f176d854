"""How integers are to be found, as the command line or a caller asks for it: free of everything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgevit import registry
from edgevit.errors import UnknownName, UsageError

Observer = Literal["minmax", "percentile", "mse"]
OBSERVERS: tuple[Observer, ...] = get_args(Observer)
QUANTIZER = "ridge"  # what benchmarks/quantizers.py says, and it takes seconds
FEWEST = 16  # images or rows that ranges are found on


@dataclass(frozen=True)
class Quantizing:
    """How integers are found, for a precision of them.

    calibrate   source of the images that ranges are found on; None: the data that the model is proved on
    images      how many of them, at most
    max_drop    what integers may cost, in points of the task's metric; the most harmful layers stay float until they
                cost no more. None: whatever they cost
    keep_float  module paths, or weights, whose layers stay float
    observer    how a range follows from what was seen
    quantizer   how weights make up for what integers miss: a row of ``registry.QUANTIZERS``. None: ``QUANTIZER``
    """

    calibrate: str | None = None
    images: int = 128
    max_drop: float | None = None
    keep_float: tuple[str, ...] = ()
    observer: Observer = "minmax"
    quantizer: str | None = None

    def of_activations(self) -> str:
        """Options that weights alone have no use for, "" for none."""
        found = {"--observer": self.observer != "minmax", "--quantizer": self.quantizer is not None}
        return ", ".join(name for name, given in found.items() if given)

    def __post_init__(self) -> None:
        if self.images < FEWEST:
            raise UsageError(
                f"--calibration-images {self.images}: ranges found on so few images are too narrow for others",
                hint=f"give {FEWEST} or more; 128 are usual",
            )
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(f"--max-drop must be 0 or more points, not {self.max_drop}", hint="for example 0.5")
        if self.observer not in OBSERVERS:
            raise UnknownName("observer", self.observer, OBSERVERS)
        if self.quantizer is not None:
            registry.row("quantizer", self.quantizer)


ASKED = Quantizing()


def quantizing_of(given: Quantizing | Mapping[str, Any] | None) -> Quantizing:
    """What a caller gives, as a mapping too: {"calibrate": "digits", "max_drop": 0.5}. UnknownName, UsageError."""
    if given is None or isinstance(given, Quantizing):
        return given or ASKED
    for name in given:
        if name not in vars(ASKED):
            raise UnknownName("option of integers", name, vars(ASKED))
    kept = given.get("keep_float", ())
    return Quantizing(**{**given, "keep_float": (kept,) if isinstance(kept, str) else tuple(kept)})
