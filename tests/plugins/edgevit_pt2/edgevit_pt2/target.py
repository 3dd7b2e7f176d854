"""Exporter and runtime of the pt2 target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgevit.artifact.manifest import Array, PrecisionReport
from edgevit.artifact.opened import Artifact
from edgevit.export.base import Built, Capture, Context, Options
from edgevit.runtimes.base import Session


class Pt2Options(Options):
    """``note`` is written into the manifest."""

    note: str = ""


class Pt2Exporter:
    name = "pt2"
    precisions = ("fp32",)
    options = Pt2Options

    def write(self, capture: Capture, folder: Path, *, precision: str, options: Pt2Options, context: Context) -> Built:
        torch.export.save(capture.program, folder / "model.pt2")
        weights = sum(1 for _ in capture.module.parameters())
        notes = (options.note,) if options.note else ()
        report = PrecisionReport(requested=precision, layers={"float32": weights})
        return Built("model.pt2", report, {"torch": torch.__version__}, notes)


class Pt2Session(Session):
    runtime, provider = "pt2", "cpu"

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        self.module = torch.export.load(artifact.entry).module()

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            output = self.module(*(torch.from_numpy(np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs))
        return {self.outputs[0].name: output.numpy()}


class Pt2Runtime:
    name = "pt2"

    def open(self, artifact: Artifact, *, threads: int, provider: str | None, options: Mapping[str, Any]) -> Session:
        torch.set_num_threads(threads)
        return Pt2Session(artifact, threads)
