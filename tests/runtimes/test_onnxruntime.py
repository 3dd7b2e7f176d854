from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from edgevit.errors import MissingDependency, UnknownName, Unsupported, UsageError
from edgevit.runtimes.base import open_session, usable_cores
from edgevit.runtimes.onnxruntime import provider_name, session_options

IMAGE = np.zeros((1, 3, 8, 8), np.float32)


def test_a_session_gives_what_plain_onnxruntime_gives(make_artifact) -> None:
    folder = make_artifact()
    plain = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=IMAGE.shape).astype(np.float32)
    with open_session(folder) as session:
        assert session.provider == "CPUExecutionProvider"
        assert session.threads == usable_cores()
        assert (session.infer({"image": image})["logits"] == plain.run(None, {"image": image})[0]).all()


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider", None])
def test_the_cpu_has_several_names(name) -> None:
    assert provider_name(name) == "CPUExecutionProvider"


def test_a_provider_with_a_wheel_of_its_own_gets_the_pip_line() -> None:
    with pytest.raises(MissingDependency, match="CUDAExecutionProvider") as caught:
        provider_name("cuda")
    assert "onnxruntime-gpu" in caught.value.hint


def test_a_known_provider_without_a_wheel_is_unsupported_here() -> None:
    with pytest.raises(Unsupported, match="CoreMLExecutionProvider"):
        provider_name("coreml")


def test_an_unknown_provider_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="provider 'cdua'") as caught:
        provider_name("cdua")
    assert "cuda" in caught.value.hint


@pytest.mark.parametrize(
    ("feeds", "sentence"),
    [
        ({}, "takes image; got nothing"),
        ({"picture": IMAGE}, "takes image; got picture"),
        ({"image": IMAGE.astype(np.float64)}, "image must be float32, got float64"),
        ({"image": IMAGE[0]}, "image must be 1×3×8×8, got 3×8×8"),
        ({"image": IMAGE.repeat(2, axis=0)}, "image must be 1×3×8×8, got 2×3×8×8"),
    ],
)
def test_wrong_feeds_are_refused_in_words(make_artifact, feeds, sentence) -> None:
    with open_session(make_artifact()) as session, pytest.raises(UsageError, match=sentence):
        session.infer(feeds)


def test_a_dynamic_batch_is_held_to_its_range(make_artifact) -> None:
    with open_session(make_artifact(batch=(1, 4))) as session:
        assert session.infer({"image": IMAGE.repeat(4, axis=0)})["logits"].shape == (4, 4)
        with pytest.raises(UsageError, match="got 5×3×8×8"):
            session.infer({"image": IMAGE.repeat(5, axis=0)})


def test_an_unknown_runtime_or_thread_count_is_refused(make_artifact) -> None:
    folder = make_artifact()
    with pytest.raises(UnknownName, match="runtime 'onnxruntim'"):
        open_session(folder, "onnxruntim")
    with pytest.raises(UsageError, match="threads must be 1 or more"):
        open_session(folder, threads=0)


def test_session_options_are_checked() -> None:
    assert session_options(3, {}).intra_op_num_threads == 3
    with pytest.raises(UsageError, match="graph_optimization must be one of"):
        session_options(1, {"graph_optimization": "fast"})
    with pytest.raises(UnknownName, match="graph_optimisation"):
        session_options(1, {"graph_optimisation": "all"})
