"""The proof, in a process of its own: a freshly built artifact is opened and compared with its reference. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def prove(payload: dict[str, Any]) -> dict[str, Any]:
    """What ``edgevit.worker`` calls. ``payload``: artifact, rows (an .npz of in.NAME and out.NAME), tolerance, noise,
    batches, threads. Returns the Parity as a dict. Raises Unsupported, MissingDependency where nothing here runs it.
    """
    from edgevit.profiles.parity import Reference, compare
    from edgevit.runtimes.base import open_session

    with np.load(Path(payload["rows"]), allow_pickle=False) as stored:
        inputs = {name.removeprefix("in."): stored[name] for name in stored.files if name.startswith("in.")}
        outputs = {name.removeprefix("out."): stored[name] for name in stored.files if name.startswith("out.")}
    reference = Reference(inputs, outputs, payload["tolerance"], payload["noise"])
    with open_session(payload["artifact"], threads=payload["threads"], trust=True) as session:
        return compare(session, reference, batches=tuple(payload["batches"])).model_dump(mode="json")
