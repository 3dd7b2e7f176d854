"""The Core ML target. What it can be asked for is known without coremltools and torch; ``building`` needs both."""

from __future__ import annotations

from pathlib import Path

from edgevit.export.base import Built, Capture, Context
from edgevit.export.coreml.options import CoreMlOptions


class CoreMlExporter:
    """Captured program -> ``model.mlpackage``: mlprogram packages, fp16 by default."""

    name = "coreml"
    precisions = ("fp16", "fp32", "int8", "w8", "w4")
    options = CoreMlOptions
    one_size = ""

    def write(
        self, capture: Capture, folder: Path, *, precision: str, options: CoreMlOptions, context: Context
    ) -> Built:
        """Convert, save, and count what was saved. Raises Unsupported, ExportFailed."""
        from edgevit.export.coreml.building import build

        return build(capture, folder, precision, options, context)
