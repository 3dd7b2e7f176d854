from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.artifact.manifest import Parity
from edgevit.errors import ParityFailed, Unsupported, UsageError
from edgevit.prediction.labels import read_labels
from edgevit.prediction.predictor import predict
from edgevit.prediction.results import Failure, Prediction
from edgevit.tasks.classify import best


def test_predictions_are_the_golden_top_classes_with_labels(make_artifact) -> None:
    folder = make_artifact()
    logits = np.load(folder / "golden.npz")["logits"]
    images = [folder / f"golden/{row}.png" for row in range(4)]
    for result, expected in zip(predict(folder, images, threads=1), logits, strict=True):
        assert result.top[0].index == expected.argmax()
        assert result.top[0].label == ("ant", "bee", "cat", "dog")[expected.argmax()]
        assert len(result.top) == 4


def test_probabilities_are_the_softmax_and_sum_to_one() -> None:
    guesses = best(np.array([1.0, 3.0, 2.0], np.float32), None, 3)
    assert [guess.index for guess in guesses] == [1, 2, 0]
    assert [guess.label for guess in guesses] == ["1", "2", "0"]
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    assert guesses[0].probability == pytest.approx(np.exp(3) / (np.exp(1) + np.exp(2) + np.exp(3)))


def test_huge_logits_do_not_overflow() -> None:
    assert best(np.array([1e4, -1e4], np.float32), None, 1)[0].probability == 1.0


def test_a_bad_image_is_a_line_and_the_others_go_on(make_artifact, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    Image.new("L", (30, 30)).save(tmp_path / "good.png")
    bad, good = predict(make_artifact(), [tmp_path / "bad.png", tmp_path / "good.png"], threads=1)
    assert isinstance(bad, Failure)
    assert "bad.png" in bad.line()
    assert isinstance(good, Prediction)
    assert set(good.record()) == {"image", "top"}


def test_own_labels_must_be_as_many_as_the_classes(make_artifact) -> None:
    folder = make_artifact()
    (guess,) = predict(folder, [folder / "golden/0.png"], labels=["a", "b", "c", "d"], top=1, threads=1)
    assert guess.top[0].label in "abcd"
    with pytest.raises(UsageError, match="3 labels for 4 classes"):
        list(predict(folder, [], labels=["a", "b", "c"]))


def test_a_model_without_logits_is_no_classifier(make_artifact) -> None:
    folder = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["outputs"][0]["role"] = "features"
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    with pytest.raises(Unsupported, match="classify needs logits"):
        predict(folder, [folder / "golden/0.png"])


def test_labels_are_read_from_lines_or_json(tmp_path: Path) -> None:
    for name, text in (("a.txt", "cat\ndog\n"), ("a.json", '["cat", "dog"]'), ("b.json", '{"1": "dog", "0": "cat"}')):
        (tmp_path / name).write_text(text)
        assert read_labels(tmp_path / name) == ("cat", "dog")
    for name, text in (
        ("bad.json", "{"),
        ("gap.json", '{"0": "a", "2": "b"}'),
        ("empty.txt", ""),
        ("hole.txt", "a\n\nb"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError):
            read_labels(tmp_path / name)
    assert read_labels(None) is None


def test_an_artifact_that_failed_its_proof_is_refused_before_any_image(make_artifact) -> None:
    folder = make_artifact(parity=Parity(status="failed", reason="logits differs", tolerance=1e-5))
    with pytest.raises(ParityFailed, match="logits differs"):
        predict(folder, [folder / "golden/0.png"])


def test_a_fixed_batch_of_several_still_takes_one_image(make_artifact) -> None:
    folder = make_artifact(batch=(3, 3))
    expected = np.load(folder / "golden.npz")["logits"][2].argmax()
    (found,) = predict(folder, [folder / "golden/2.png"], threads=1)
    assert found.top[0].index == expected


def test_more_classes_than_there_are_are_not_made_up_and_none_is_refused(make_artifact) -> None:
    folder = make_artifact()
    (found,) = predict(folder, [folder / "golden/0.png"], top=99, threads=1)
    assert len(found.top) == 4
    with pytest.raises(UsageError, match="top must be 1 or more"):
        predict(folder, [], top=0)


def test_an_output_that_is_not_a_number_is_a_failure_line(make_artifact, monkeypatch) -> None:
    folder = make_artifact()
    monkeypatch.setattr("edgevit.prediction.answering.run_rows", lambda *_: {"logits": np.full((1, 4), np.nan)})
    (found,) = predict(folder, [folder / "golden/0.png"], threads=1)
    assert isinstance(found, Failure)
    assert "NaN" in found.error


def test_a_strip_of_an_image_is_a_failure_line_with_its_name(make_artifact, tmp_path: Path) -> None:
    Image.new("L", (1, 60_000)).save(tmp_path / "strip.png")
    folder = make_artifact()
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["preprocess"]["crop"] = "center"
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    (found,) = predict(folder, [tmp_path / "strip.png"], threads=1)
    assert isinstance(found, Prediction)  # 8 × 480,000 pixels are fine
    Image.new("L", (1, 900_000)).save(tmp_path / "strip.png")
    (found,) = predict(folder, [tmp_path / "strip.png"], threads=1)
    assert isinstance(found, Failure)
    assert found.error.startswith(str(tmp_path / "strip.png"))
