"""Formats that run code are opened only when a known key signed them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import edgevit
from edgevit import registry, signing
from edgevit.artifact.manifest import MANIFEST, SIGNATURE
from edgevit.artifact.opened import Artifact
from edgevit.errors import BadArtifact, EdgeVitError, UsageError

STRANGER = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"  # RFC 8032, test 2


@pytest.fixture(autouse=True)
def code_carrying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ONNX treated as a format that runs code, so that the real path through sessions is taken; a fresh home."""
    row = replace(registry.RUNTIMES["onnxruntime"], carries_code=True)
    monkeypatch.setattr(registry, "RUNTIMES", {**registry.RUNTIMES, "onnxruntime": row})
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))


@pytest.fixture
def signed(make_artifact: Callable[..., Path]) -> Path:
    path = make_artifact()
    signing.sign(path)
    return path


def moved_to_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "another"))


def test_what_this_user_signed_is_opened(signed: Path) -> None:
    with edgevit.open_session(signed) as session:
        assert session.runtime == "onnxruntime"


def test_an_unsigned_artifact_needs_trust(make_artifact: Callable[..., Path]) -> None:
    path = make_artifact()
    with pytest.raises(BadArtifact, match="runs code when it is opened, and nobody signed it") as caught:
        edgevit.open_session(path)
    assert caught.value.exit_code == 6
    assert "--trust" in (caught.value.hint or "")
    edgevit.open_session(path, trust=True).close()


def test_another_users_artifact_needs_trust_once_or_for_good(
    signed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = signing.own_key()
    moved_to_another_user(monkeypatch, tmp_path)
    with pytest.raises(BadArtifact, match="is not known") as caught:
        edgevit.open_session(signed)
    assert f"edgevit keys trust {key}" in (caught.value.hint or "")
    edgevit.open_session(signed, trust=True).close()
    signing.trust_key(key.upper(), "the build host")
    edgevit.open_session(signed).close()
    assert signing.known_keys()[key] == "the build host"
    signing.forget_key(key)
    with pytest.raises(BadArtifact, match="is not known"):
        edgevit.open_session(signed)


@pytest.mark.parametrize("trust", [False, True])
def test_a_manifest_altered_after_signing_is_refused_even_with_trust(signed: Path, trust: bool) -> None:
    manifest = json.loads((signed / MANIFEST).read_text())
    manifest["target"], manifest["notes"] = "onnx", ["an afterthought"]
    (signed / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadArtifact, match="does not fit its manifest"):
        edgevit.open_session(signed, trust=trust)


def test_a_signature_claimed_for_another_key_is_refused(signed: Path) -> None:
    record = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps({**record, "key": STRANGER}))
    with pytest.raises(BadArtifact, match="does not fit its manifest"):
        signing.signer(Artifact.open(signed))


def test_completing_the_proof_on_a_device_keeps_the_signature(signed: Path) -> None:
    artifact = Artifact.open(signed)
    artifact.update_parity(artifact.manifest.parity.model_copy(update={"reason": "proved on the device"}))
    edgevit.open_session(signed).close()


def test_the_signature_survives_another_spelling_of_the_same_manifest(signed: Path) -> None:
    manifest = json.loads((signed / MANIFEST).read_text())
    (signed / MANIFEST).write_text(json.dumps(manifest, sort_keys=True))
    edgevit.open_session(signed).close()


def test_the_private_key_is_made_once_and_readable_by_nobody_else(tmp_path: Path) -> None:
    first = signing.own_key()
    file = tmp_path / "home" / "keys" / "signing.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["signing.key"]
    assert signing.own_key() == first


def test_a_broken_key_file_is_said_and_not_replaced(tmp_path: Path) -> None:
    signing.own_key()
    file = tmp_path / "home" / "keys" / "signing.key"
    file.write_text("not a key")
    with pytest.raises(EdgeVitError, match=r"signing\.key cannot be read"):
        signing.own_key()
    assert file.read_text() == "not a key"


@pytest.mark.parametrize("key", ["", "zz", "ab" * 31])
def test_a_malformed_public_key_is_a_usage_error(key: str) -> None:
    with pytest.raises(UsageError, match="64 hex digits"):
        signing.trust_key(key, "nobody")


def test_forgetting_an_unknown_key_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a trusted key"):
        signing.forget_key(STRANGER)


def test_an_export_of_a_code_carrying_target_is_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = replace(registry.EXPORTERS["onnx"], carries_code=True)
    monkeypatch.setattr(registry, "EXPORTERS", {**registry.EXPORTERS, "onnx": row})
    model = edgevit.create_model("vit_nano", weights="digits")
    artifact = edgevit.export(model, "onnx", out=tmp_path / "signed", threads=1)
    assert signing.signer(artifact) == signing.own_key()
    assert SIGNATURE not in artifact.manifest.files


def test_content_signed_for_one_purpose_is_good_for_that_alone() -> None:
    key, signature = signing.sign_content("one purpose", b"content")
    assert key == signing.own_key()
    assert signing.content_fits("one purpose", b"content", key, signature)
    assert not signing.content_fits("another", b"content", key, signature)
    assert not signing.content_fits("one purpose", b"other", key, signature)
    assert not signing.content_fits("one purpose", b"content", STRANGER, signature)
    for changed in ("", "zz", "0" * 128, signature[:-2]):
        assert not signing.content_fits("one purpose", b"content", key, changed)
    with pytest.raises(ValueError, match="one line"):
        signing.sign_content("one\npurpose", b"")


def test_a_manifest_signature_is_no_signature_of_content(signed: Path) -> None:
    record = json.loads((signed / SIGNATURE).read_text())
    domain, _, content = signing.signed_content(signed).partition(b"\n")
    assert signing.content_fits(domain.decode(), content, record["key"], record["signature"])
    assert not signing.content_fits(
        "edgevit placement, signature version 1", content, record["key"], record["signature"]
    )
