from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgevit import build
from edgevit.artifact.opened import Artifact
from edgevit.errors import ParityFailed
from edgevit.export.accuracy import measure_accuracy
from edgevit.export.asking import logits_of
from edgevit.export.cache.findings import ACCURACY
from edgevit.export.cache.recall import Recall
from edgevit.export.cache.store import Entry, Store
from edgevit.export.prepare import prepare
from edgevit.models.loading.source import create_model
from edgevit.models.reparam import report_of
from edgevit.models.spec import spec_of
from edgevit.request import ExportRequest, ModelChoice, parse_batch

ALL = (
    "the answers of the reference",
    "the proof of the re-parameterisation",
    "multiply-accumulates",
    "held-out accuracy",
    "the noise of the precision",
)
DIGITS = ModelChoice("vit_nano", weights="digits")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def request_of(out: Path, model: ModelChoice = DIGITS, **more: Any) -> ExportRequest:
    return ExportRequest(model, ("onnx",), out=out, force=True, threads=1, **more)


def exported(request: ExportRequest) -> build.Outcome:
    (outcome,) = build.exports(request)
    if outcome.error:
        raise outcome.error
    return outcome


def told(artifact: Artifact | None) -> dict[str, Any]:
    """edgevit.json without the time, and the seal over it."""
    assert artifact is not None
    found: dict[str, Any] = json.loads((artifact.path / "edgevit.json").read_text())
    return {name: value for name, value in found.items() if name not in ("created", "seal")}


def entries(home: Path) -> list[Path]:
    return sorted((home / "cache").glob("*.found"))


def prepared_again(**more: Any) -> tuple[str, ...]:
    """What a second preparation finds, in which ``more`` is otherwise than in the first."""
    prepare(request_of(Path("unused")))
    return tuple(prepare(replace(request_of(Path("unused")), **more)).reused)


@pytest.mark.parametrize(
    "more",
    [{}, {"precision": "fp16", "batch": parse_batch("1-3"), "bake_preprocess": True}],
    ids=["as it is", "baked and in fp16, with a dynamic batch"],
)
def test_a_second_export_finds_all_again_and_writes_the_same(home: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    first = exported(request_of(tmp_path / "first", **more))
    second = exported(request_of(tmp_path / "second", **more))
    without = exported(request_of(tmp_path / "without", cache=False, **more))
    assert first.reused == without.reused == ()
    assert second.reused == ALL
    assert told(first.artifact) == told(second.artifact) == told(without.artifact)
    assert second.artifact is not None
    assert second.artifact.manifest.parity.status == "verified"
    assert f"onnx: as an earlier export found: {', '.join(second.reused)}" in list(second.details())


def test_a_foldable_model_is_the_same_module_when_its_proof_is_found_again(home: Path) -> None:
    request = request_of(Path("unused"), ModelChoice("fmvit_nano", weights="digits"))
    first, second = prepare(request), prepare(request)
    assert ALL[1] in second.reused
    assert second.reparam == first.reparam
    assert report_of(second.capture.module) == report_of(first.capture.module)
    one, other = first.capture.module.state_dict(), second.capture.module.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_cache_neither_uses_nor_keeps_anything(home: Path) -> None:
    prepare(request_of(Path("unused"), cache=False))
    assert not (home / "cache").exists()


def test_a_model_is_not_kept_in_memory_for_its_hash(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    recall, model = Recall(Store(tmp_path / "cache")), create_model("vit_nano")
    assert recall.content(model) == recall.content(model) is not None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_another_batch_has_answers_of_its_own_and_shares_the_rest(home: Path) -> None:
    assert prepared_again(batch=parse_batch(4)) == ALL[1:4]


def test_the_train_form_has_no_proof_of_a_fold_to_find(home: Path) -> None:
    assert prepared_again(form="train") == (ALL[0], ALL[3])


def test_other_rows_have_answers_of_their_own(home: Path) -> None:
    assert prepared_again(data="samples") == (ALL[1], ALL[2])


def test_one_other_weight_finds_nothing(home: Path, tmp_path: Path) -> None:
    shipped = Path(str(resources.files("edgevit.models"))) / "weights" / "vit_nano-digits.safetensors"
    state = load_file(shipped)
    next(iter(state.values())).reshape(-1)[0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    found = prepared_again(model=ModelChoice("vit_nano", weights=str(tmp_path / "other.safetensors")))
    assert found == ()


def test_modules_and_factories_of_the_user_are_found_out_anew(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from edgevit.models.loading.source import create_model\n\ndef make():\n    return create_model('vit_nano')\n"
    )
    for source in (f"{tmp_path / 'mine.py'}:make", create_model("vit_nano", weights="digits")):
        request = request_of(Path("unused"), ModelChoice(source))
        assert prepare(request).reused == prepare(request).reused == []
    assert entries(home) == []


@pytest.mark.parametrize("harm", ["cut short", "a bit flipped", "of another form"])
def test_damaged_entries_are_found_out_anew_and_written_again(home: Path, harm: str) -> None:
    prepare(request_of(Path("unused")))
    whole = {file: file.read_bytes() for file in entries(home)}
    assert len(whole) == 4
    for file, data in whole.items():
        changed = {"cut short": data[:-9], "a bit flipped": data[:-9] + b"?" + data[-8:], "of another form": b"{}"}
        file.write_bytes(changed[harm])
    assert prepare(request_of(Path("unused"))).reused == []
    assert {file: file.read_bytes() for file in entries(home)} == whole


def test_entries_without_what_they_should_hold_are_found_out_anew(home: Path) -> None:
    prepare(request_of(Path("unused")))
    for file in entries(home):
        Store(home / "cache").put(file.stem, Entry({"value": [], "report": {}}, {}))
    assert prepare(request_of(Path("unused"))).reused == []


def test_a_wrong_answer_in_the_cache_fails_the_proof(home: Path, tmp_path: Path) -> None:
    exported(request_of(tmp_path / "out"))
    store = Store(home / "cache")
    for file in entries(home):
        entry = store.get(file.stem)
        assert entry is not None
        arrays = {name: array + 0.01 * np.abs(array).max() for name, array in entry.arrays.items()}
        store.put(file.stem, Entry(entry.facts, arrays))
    with pytest.raises(ParityFailed):
        exported(request_of(tmp_path / "out"))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=np.arange(40) % 10)
    return tmp_path / "some.npz"


def test_accuracy_is_measured_anew_where_a_picture_or_a_label_changed_in_place(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    store, model = Store(tmp_path / "cache"), create_model("vit_nano", weights="digits")

    def found() -> list[str]:
        spec, recall = spec_of(model), Recall(store)
        assert spec is not None
        assert spec.preprocess is not None
        again = measure_accuracy(
            logits_of(model),
            f"npz:{digits}",
            spec.preprocess,
            10,
            found=lambda decided, made, holds: recall.found(ACCURACY, (model, *decided), made, holds),
        )
        assert again is not None
        return recall.reused

    assert found() == []
    assert found() == ["held-out accuracy"]
    with np.load(digits) as before:
        images, labels = before["images"], before["labels"]
    images[:, 0, 0, 0] ^= 1
    np.savez(digits, images=images, labels=labels)
    assert found() == []
    np.savez(digits, images=images, labels=(labels + 1) % 10)
    assert found() == []
    assert found() == ["held-out accuracy"]
