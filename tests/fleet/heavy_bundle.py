"""A bundle of one part that is as large as is wanted, or whose model is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
from fleet import tiny_fleet
from onnx import numpy_helper

from edgevit.artifact.files import hash_tree
from edgevit.artifact.manifest import MANIFEST
from edgevit.artifact.opened import Artifact
from edgevit.bundle.opened import content_sha256


def heavy_bundle(folder: Path, size: int | None) -> Path:
    """A bundle with ``size`` random bytes in its part's model, which nobody reads; None: the model is noise itself."""
    light = tiny_fleet.make_bundle(folder, parts=1, seed=size or 99)
    path = light / "part-0" / "model.onnx"
    if size is None:
        path.write_bytes(os.urandom(1000))
    else:
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.frombuffer(os.urandom(size), np.uint8), "extra"))
        onnx.save(model, path)
    manifest = Artifact.open(light / "part-0").manifest.model_copy(update={"files": hash_tree(light / "part-0")})
    (light / "part-0" / MANIFEST).write_text(manifest.model_dump_json())
    record = json.loads((light / "bundle.json").read_text())
    record["members"]["part-0"] = content_sha256(light / "part-0")
    (light / "bundle.json").write_text(json.dumps(record))
    return light
