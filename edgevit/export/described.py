"""What an artifact says of itself: its manifest, its golden rows, and how far its outputs may lie from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone

from edgevit import registry
from edgevit.artifact.golden import GOLDEN_ROWS, kept_rows
from edgevit.artifact.manifest import Array, Manifest, OutputBound, Parity, Sample
from edgevit.export.prepared import Levels, Noise, Prepared
from edgevit.export.targets import Target
from edgevit.export.written import Written
from edgevit.precisions import median_tolerance, tolerance_for

_OVERFLOW = 1e30  # stands for a noise that is no number, which JSON has no word for


def bounds_of(levels: Mapping[str, Noise], precision: str) -> dict[str, OutputBound]:
    """How far each output may lie from the reference."""
    found = {}
    for name, level in levels.items():
        noise = level.error if math.isfinite(level.error) else _OVERFLOW
        tolerance = tolerance_for(noise, precision)
        hanging = None if level.free is None else tolerance_for(max(level.free, level.error), precision)
        median = None if level.median is None else min(median_tolerance(level.median), tolerance)
        found[name] = OutputBound(
            tolerance=tolerance, noise=noise, decided=level.margin is not None, hanging=hanging, median=median
        )
    return found


def pending(bounds: Mapping[str, OutputBound]) -> Parity:
    """The proof that is still to come."""
    return Parity(
        status="unverified",
        reason="not verified yet",
        tolerance=max(bound.tolerance for bound in bounds.values()),
        noise=max(bound.noise or 0.0 for bound in bounds.values()),
        bounds=dict(bounds),
    )


def golden_arrays(prepared: Prepared, levels: Levels, samples: Mapping[str, Sample]) -> dict[str, Array]:
    """The first rows of every input and of the reference outputs, in the types of the specs, or samples of them, and
    which values of those that decisions had a part in are clear of noise."""
    arrays = {name: array[:GOLDEN_ROWS] for name, array in prepared.rows.inputs.items()}
    golden = prepared.reference.golden
    clear = levels.clear(golden)
    for spec in prepared.capture.outputs:
        rows = golden.outputs[spec.name]
        arrays |= kept_rows(spec, rows, clear.get(spec.name), samples.get(spec.name))
    return arrays


def make_manifest(
    done: Written, target: Target, files: dict[str, str], parity: Parity, samples: Mapping[str, Sample]
) -> Manifest:
    """edgevit.json of one built target."""
    prepared, built = done.prepared, done.built
    captured = prepared.capture
    return Manifest(
        edgevit=registry.own_version(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        target=target.name,
        precision=target.precision,
        options=target.options.model_dump(),
        entry=built.entry,
        model=prepared.info,
        labels=prepared.labels,
        batch=captured.batch,
        inputs=captured.inputs,
        outputs=captured.outputs,
        image_sizes=prepared.sizes,
        preprocess=prepared.preprocess,
        parity=parity,
        precision_report=built.precision,
        reparam=prepared.reparam,
        accuracy=prepared.accuracy,
        quality=prepared.quality,
        integers=done.integers,
        sampled=dict(samples),
        versions={"python": _python_version(), **built.versions},
        lock=dict(built.lock),
        notes=(*prepared.notes, *built.notes),
        files=files,
    )


def _python_version() -> str:
    import platform

    return platform.python_version()
