from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgevit import signing
from edgevit.artifact.manifest import Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import seal_of, sealed
from edgevit.errors import BadArtifact
from edgevit.prediction.predictor import predict

Make = Callable[..., Path]


@pytest.fixture
def folder(make_artifact: Make) -> Path:
    made = make_artifact(
        accuracy=None, parity=Parity(status="verified", tolerance=1e-5, noise=1e-7, max_rel=1e-7, images=16)
    )
    artifact = Artifact.open(made)
    (made / "edgevit.json").write_text(sealed(artifact.manifest).model_dump_json(indent=2))
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in parsed JSON, containers among them."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def test_no_value_of_a_manifest_can_be_changed_or_left_out_without_breaking_its_seal(folder: Path) -> None:
    text = (folder / "edgevit.json").read_text()
    assert seal_of(text) == "kept"
    for path in places(json.loads(text)):
        for change in ("another", "none"):
            if not path or path == ("seal",):
                continue
            edited = json.loads(text)
            inner = edited
            for step in path[:-1]:
                inner = inner[step]
            if change == "none":
                del inner[path[-1]]
            else:
                inner[path[-1]] = "something else"
            assert seal_of(json.dumps(edited)) == "broken", path


def test_another_spelling_of_the_same_manifest_keeps_the_seal(folder: Path) -> None:
    text = (folder / "edgevit.json").read_text()
    assert seal_of(json.dumps(json.loads(text), sort_keys=True)) == "kept"
    assert seal_of(text.replace("\n", "\r\n")) == "kept"


def test_a_manifest_without_a_seal_opens_as_before(make_artifact: Make) -> None:
    artifact = Artifact.open(make_artifact())
    artifact.check_seal()
    assert artifact.seal == "none"


def test_a_manifest_that_was_edited_answers_no_question(folder: Path) -> None:
    manifest = json.loads((folder / "edgevit.json").read_text())
    (folder / "edgevit.json").write_text(json.dumps({**manifest, "labels": ["dog", "cat", "bee", "ant"]}))
    with pytest.raises(BadArtifact, match=r"edgevit\.json in .* was altered") as caught:
        list(predict(folder, [folder / "golden/0.png"], threads=1))
    assert caught.value.exit_code == 6


def test_completing_a_proof_renews_the_seal_and_keeps_the_signature_and_the_tolerance(folder: Path) -> None:
    key = signing.sign(folder)
    Artifact.open(folder).update_parity(Parity(status="verified", tolerance=9e-4, max_rel=0.0, images=4))
    artifact = Artifact.open(folder)
    assert (artifact.seal, artifact.manifest.parity.tolerance) == ("kept", 1e-5)
    assert signing.signer(artifact) == key


@pytest.mark.parametrize("field", ["tolerance", "noise"])
def test_the_tolerance_is_signed_so_that_sealing_anew_does_not_help_to_raise_it(folder: Path, field: str) -> None:
    signing.sign(folder)
    manifest = Artifact.open(folder).manifest
    raised = manifest.model_copy(update={"parity": manifest.parity.model_copy(update={field: 9e-4})})
    (folder / "edgevit.json").write_text(sealed(raised).model_dump_json())
    with pytest.raises(BadArtifact, match="does not fit its manifest"):
        signing.signer(Artifact.open(folder))


def test_what_is_signed_is_what_was_read_and_not_what_the_file_says_by_then(folder: Path) -> None:
    signing.sign(folder)
    honest = (folder / "edgevit.json").read_text()
    manifest = Artifact.open(folder).manifest
    (folder / "edgevit.json").write_text(sealed(manifest.model_copy(update={"notes": ("evil",)})).model_dump_json())
    evil = Artifact.open(folder)
    (folder / "edgevit.json").write_text(honest)
    with pytest.raises(BadArtifact, match="does not fit its manifest"):
        signing.signer(evil)


def test_an_old_signature_of_a_manifest_without_a_seal_still_fits(make_artifact: Make) -> None:
    folder = make_artifact()
    key = signing.sign(folder)
    artifact = Artifact.open(folder)
    assert signing.signed_content(artifact).startswith(b"edgevit manifest, signature version 1\n")
    assert signing.signer(artifact) == key
