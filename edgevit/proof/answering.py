"""What an artifact answers to any rows, by its own runtime in a process of its own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import worker
from edgevit.artifact.golden import write_arrays
from edgevit.artifact.manifest import Array
from edgevit.artifact.opened import Artifact
from edgevit.runtimes.base import open_session
from edgevit.runtimes.rows import run_rows

Answering = Callable[[Mapping[str, Array]], dict[str, Array]]  # inputs by name -> outputs


@contextlib.contextmanager
def answering(artifact: Path, threads: int | None, timeout_s: float) -> Iterator[Answering]:
    """A function that asks the artifact; the process is gone after the block. Raises as ``worker.talk`` does."""
    payload = {"artifact": str(artifact), "threads": threads}
    with (
        tempfile.TemporaryDirectory(prefix="edgevit-answers-") as folder,
        worker.talk("edgevit.proof.answering:answer", payload) as talk,
    ):
        rows, to = Path(folder) / "rows.npz", Path(folder) / "to.npz"
        talk.hear(timeout=timeout_s)

        def ask(given: Mapping[str, Array]) -> dict[str, Array]:
            write_arrays(rows, given)
            talk.ask({"rows": str(rows), "to": str(to)}, timeout=timeout_s)
            return _read(to)

        yield ask


def answer(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target of a talk. ``payload``: artifact, threads. Each question has two files: ``rows``, inputs by name,
    and ``to``, where the outputs go."""
    artifact = Artifact.open(payload["artifact"])
    with open_session(artifact, threads=payload["threads"]) as session:
        worker.answer({})
        for question in worker.questions():
            found = run_rows(session, _read(Path(question["rows"])), artifact.manifest.batch.max)
            write_arrays(Path(question["to"]), found)
            worker.answer({})
    return {}


def _read(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)
