from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.artifact.files import sha256_of
from edgevit.artifact.opened import Artifact
from edgevit.errors import EdgeVitError
from edgevit.runtimes import limit
from edgevit.runtimes.base import open_session
from edgevit.runtimes.limit import limit_of


def endless(folder: Path) -> None:
    """A loop of 10^18 turns between the input and the graph."""
    model = onnx.load(folder / "model.onnx")
    shape = [1, 3, 8, 8]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("turn", TensorProto.INT64), ("go", 9))]
        + [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.int64(10**18), "turns"))
    model.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "start"))
    model.graph.node[0].input[0] = "looped"
    model.graph.node.insert(0, helper.make_node("Loop", ["turns", "start", "image"], ["looped"], body=body))
    onnx.save(model, folder / "model.onnx")
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "edgevit.json").write_text(json.dumps(manifest))


def test_a_graph_that_does_not_end_is_ended_in_one_sentence(make_artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "SHORTEST_S", 1.0)
    folder = make_artifact()
    endless(folder)
    began = time.monotonic()
    with (
        open_session(folder, threads=1) as session,
        pytest.raises(EdgeVitError, match="was stopped: one inference took more than 1 s"),
    ):
        session.infer({"image": np.ones((1, 3, 8, 8), np.float32)})
    assert time.monotonic() - began < 60


def test_a_large_model_has_more_time_and_a_claim_of_any_size_has_ten_minutes(make_artifact) -> None:
    manifest = Artifact.open(make_artifact()).manifest
    for macs, seconds in ((10_000, 60.0), (20_000_000_000, 200.0), (10**18, 600.0)):
        assert (
            limit_of(manifest.model_copy(update={"model": manifest.model.model_copy(update={"macs": macs})})) == seconds
        )
