"""What the integers of a plan make of real rows, written for the process that holds a network against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgevit.export.base import Capture
from edgevit.export.rows import take_rows
from edgevit.export.tensorrt.integers import Integers, median_apart
from edgevit.precisions import median_tolerance, whole_numbers
from edgevit.quantize.alone import write_layers
from edgevit.quantize.plan import QuantPlan
from edgevit.quantize.trial import SEEDS, Trial

ROWS = 16  # of which the median is looked at, and as many more as fill a call


def expected(capture: Capture, plan: QuantPlan, folder: Path) -> Integers:
    """Of the first calibration rows, in files of ``folder``. Outputs of whole numbers are left out: decisions."""
    trial = Trial(capture)
    count = -(-ROWS // trial.group) * trial.group
    rows = {name: take_rows(array, count) for name, array in capture.calibration.items()}
    layers, given = folder / "layers.npz", folder / "rows.npz"
    write_layers(layers, trial.layers(plan, rows))
    want, moved = (trial.run(plan, rows, jitter=seed).outputs for seed in (None, SEEDS[0]))
    found = {f"i:{name}": array for name, array in rows.items()}
    for name, values in want.items():
        due, near = np.stack(list(values)), np.stack(list(moved[name]))
        if not whole_numbers(due):
            found |= {f"o:{name}": due, f"b:{name}": np.array(median_tolerance(median_apart(near, due)))}
    np.savez(given, **found)  # type: ignore[arg-type]
    return Integers(plan.text(), str(layers), str(given), trial.group)
