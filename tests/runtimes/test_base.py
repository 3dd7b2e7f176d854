"""The checks that all sessions share, and what open_session refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgevit.artifact.manifest import Array, BatchRange, TensorSpec
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, Unsupported, UsageError
from edgevit.runtimes import base
from edgevit.runtimes.base import Session, default_runtime, open_session


class Echo(Session):
    """Gives its inputs back: a real session but for the engine."""

    runtime, provider = "echo", "cpu"

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(feeds)


@pytest.fixture
def pair(make_artifact) -> Echo:
    """A session with two inputs of a dynamic batch, one of them integers."""
    artifact = Artifact.open(make_artifact(batch=(1, 4)))
    inputs = (
        TensorSpec(name="tokens", dtype="int64", shape=("batch", 5), role="tensor"),
        TensorSpec(name="scale", dtype="float32", shape=("batch",), role="tensor"),
    )
    fields = {"inputs": inputs, "batch": BatchRange(min=1, max=4)}
    return Echo(Artifact(artifact.path, artifact.manifest.model_copy(update=fields)), 1)


def test_feeds_that_fit_pass(pair: Echo) -> None:
    feeds = {"tokens": np.zeros((3, 5), np.int64), "scale": np.ones(3, np.float32)}
    assert set(pair.infer(feeds)) == {"tokens", "scale"}


@pytest.mark.parametrize(
    ("feeds", "sentence"),
    [
        ({"tokens": np.zeros((3, 5), np.int64)}, "takes tokens, scale; got tokens"),
        (
            {"tokens": np.zeros((3, 5), np.int64), "scale": np.ones(2, np.float32)},
            "all inputs must have the same number of rows",
        ),
        ({"tokens": np.zeros((3, 5), np.int64), "scale": [1.0, 2.0, 3.0]}, "scale must be a numpy array, got list"),
        ({"tokens": np.zeros((3, 5), np.int32), "scale": np.ones(3, np.float32)}, "tokens must be int64, got int32"),
        ({"tokens": np.zeros((5, 5), np.int64), "scale": np.ones(5, np.float32)}, "tokens must be 1-4×5, got 5×5"),
        ({"tokens": np.array(1), "scale": np.ones(1, np.float32)}, "got a scalar"),
    ],
    ids=["missing", "rows", "list", "dtype", "batch", "scalar"],
)
def test_feeds_that_do_not_fit_are_refused_in_words(pair: Echo, feeds, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        pair.infer(feeds)


def test_a_target_without_a_runtime_is_unsupported_and_not_given_to_torch(make_artifact) -> None:
    folder = make_artifact(target="abacus")
    with pytest.raises(Unsupported, match="no runtime here opens abacus"):
        default_runtime(Artifact.open(folder))
    with pytest.raises(Unsupported, match="onnxruntime cannot open a abacus artifact"):
        open_session(folder, "onnxruntime")


def test_an_altered_file_is_refused_before_any_engine_is_loaded(make_artifact, monkeypatch) -> None:
    folder: Path = make_artifact()
    (folder / "model.onnx").write_bytes(b"evil")
    monkeypatch.setattr(base, "load_runtime", lambda name: pytest.fail("the engine was loaded"))
    with pytest.raises(BadArtifact, match="was altered"):
        open_session(folder)


def test_a_model_file_that_has_no_hash_is_refused(make_artifact) -> None:
    folder: Path = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match=r"no hash of model\.onnx"):
        open_session(folder)


def test_a_session_closes_with_its_block(make_artifact) -> None:
    with open_session(make_artifact(), threads=1) as session:
        pass
    with pytest.raises(Exception, match="was closed"):
        session.infer({"image": np.zeros((1, 3, 8, 8), np.float32)})
