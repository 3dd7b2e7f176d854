"""Signed manifests: who built an artifact. One that runs code when it is opened (a TensorRT engine, a compiled library)
is opened only where that is known; others are signed where the builder has a key, and ``verify`` says by whom.

The builder's Ed25519 key signs the manifest, which holds the hash of every file; the signature lies beside it in
``edgevit.sig``. Of the parity record only the tolerance and the noise that it comes from are signed, which nobody but
the builder can measure: a device that has no private key completes the rest (``edgevit verify`` of an engine built on a
host without a GPU). Manifests without a seal were signed without these two.

    $EDGEVIT_HOME/keys/signing.key   this user's private key, made on first use, readable by nobody else
    $EDGEVIT_HOME/keys/trusted.json  public keys of other builders: hex -> name
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit import registry
from edgevit.artifact.files import write_atomically, write_durably, write_private_once
from edgevit.artifact.manifest import SIGNATURE
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import canonical
from edgevit.errors import BadArtifact, EdgeVitError, UsageError
from edgevit.foreign import parse_json, read_json, read_text
from edgevit.home import home

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# So that a signature made for this can be used for nothing else; the second is of a manifest that has a seal.
_DOMAINS = ("edgevit manifest, signature version 1", "edgevit manifest, signature version 2")
_SHOWN = 16  # hex digits that stand for a key in sentences


def sign(folder: Path) -> str:
    """Sign the manifest in ``folder`` with this user's key, made now if there is none. The public key, in hex."""
    key, signature = sign_content(*_signed(Artifact.open(folder)))
    record = {"algorithm": "ed25519", "key": key, "signature": signature}
    write_atomically(folder / SIGNATURE, json.dumps(record, indent=2) + "\n")
    return key


def check_signature(artifact: Artifact, *, trust: bool) -> None:
    """BadArtifact unless a known key signed the artifact's manifest, or ``trust`` says that its origin is known.

    A signature that does not fit its manifest is refused in any case. MissingDependency when there is a signature to
    check and no library for it.
    """
    if not (artifact.path / SIGNATURE).is_file():
        if not trust:
            raise BadArtifact(
                f"{artifact.path} runs code when it is opened, and nobody signed it",
                hint="add --trust (trust=True in Python) if you know where it comes from",
            )
        return
    if trust and registry.absent(("cryptography",)):
        return
    key = signer(artifact)
    if key not in known_keys() and not trust:
        raise BadArtifact(
            f"{artifact.path} runs code when it is opened, and the key that signed it ({key[:_SHOWN]}…) is not known",
            hint=f"add --trust to open it this once, or trust its builder: edgevit keys trust {key}",
        )


def signer(artifact: Artifact) -> str:
    """Hex of the public key whose signature fits the artifact's manifest; BadArtifact when it does not fit."""
    record = read_json(artifact.path / SIGNATURE, "a signature", error=BadArtifact, hint="copy the whole folder again")
    try:
        key = bytes.fromhex(record["key"]).hex()
        fits = content_fits(*_signed(artifact), key, record["signature"])
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise BadArtifact(
            f"the signature of {artifact.path} does not fit its manifest: one of the two was altered",
            hint="copy the whole folder again, or export anew",
        )
    return key


def sign_content(domain: str, content: bytes) -> tuple[str, str]:
    """This user's public key and its signature of ``content``, both in hex. ``domain`` says what is signed, in one line
    that nothing else is signed under: a signature made for one purpose is then good for no other."""
    private = _private_key()
    return private.public_key().public_bytes_raw().hex(), private.sign(_under(domain, content)).hex()


def content_fits(domain: str, content: bytes, key: str, signature: str) -> bool:
    """Whether ``signature`` is that of ``key`` (both hex) for ``content``; False for what is no key or signature."""
    from cryptography.exceptions import InvalidSignature

    try:
        _public_key(bytes.fromhex(key)).verify(bytes.fromhex(signature), _under(domain, content))
    except (ValueError, InvalidSignature):
        return False
    return True


def _under(domain: str, content: bytes) -> bytes:
    if "\n" in domain:
        raise ValueError("a signature's domain is one line")
    return domain.encode() + b"\n" + content


def signed_content(artifact: Artifact | Path) -> bytes:
    """What is signed, in one canonical spelling, under its domain: all that holds of the artifact wherever it is."""
    return _under(*_signed(artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)))


def _signed(artifact: Artifact) -> tuple[str, bytes]:
    """(domain, content), from the text that was read and not from a file that may be another by now."""
    manifest = parse_json(artifact.text)
    seal, parity = manifest.pop("seal", None), manifest.pop("parity", {})
    if seal is None:
        return _DOMAINS[0], canonical(manifest)
    return _DOMAINS[1], canonical({**manifest, "parity": {name: parity.get(name) for name in ("tolerance", "noise")}})


def has_key() -> bool:
    """Whether this user has a key already, and the library that signs with it."""
    return _key_file().is_file() and not registry.absent(("cryptography",))


def known_keys() -> dict[str, str]:
    """Public keys that are accepted here, hex -> name; this user's own is called "this user"."""
    own = _key_file()
    found = {_read_private(own).public_key().public_bytes_raw().hex(): "this user"} if own.is_file() else {}
    return {**_trusted(), **found}


def own_key() -> str:
    """Hex of this user's public key; the pair is made if there is none."""
    return _private_key().public_key().public_bytes_raw().hex()


def trust_key(key: str, name: str) -> None:
    """Accept artifacts signed by ``key`` (64 hex digits) from now on. UsageError for anything else."""
    key = checked_key(key)
    _write_trusted({**_trusted(), key: name})


def forget_key(key: str) -> None:
    """Accept ``key`` no longer; UsageError if it was not trusted."""
    key, trusted = checked_key(key), _trusted()
    if key not in trusted:
        raise UsageError(f"{key[:_SHOWN]}… is not a trusted key", hint="edgevit keys show lists them")
    del trusted[key]
    _write_trusted(trusted)


def checked_key(key: str) -> str:
    """A public key in lower-case hex; UsageError for what is none."""
    try:
        _public_key(bytes.fromhex(key))
    except ValueError as exc:
        raise UsageError(
            f"{key!r} is not a public key of 64 hex digits", hint="edgevit keys show prints one on the build host"
        ) from exc
    return key.lower()


def _public_key(raw: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw)


def _key_file() -> Path:
    return home() / "keys" / "signing.key"


def _private_key() -> Ed25519PrivateKey:
    """This user's key from its file, written on first use."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = _key_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        write_private_once(path, Ed25519PrivateKey.generate().private_bytes_raw().hex())
    return _read_private(path)


def _read_private(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    hint = "restore it, or move it away and a new one is made"
    text = read_text(path, "a signing key", error=EdgeVitError, hint=hint)
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.strip()))
    except ValueError as exc:
        raise EdgeVitError(f"{path} cannot be read as a signing key: {exc}", hint=hint) from exc


def _trusted() -> dict[str, str]:
    path = home() / "keys" / "trusted.json"
    hint = "correct it, or move it away and trust the keys again"
    if not path.exists():
        return {}
    found = read_json(path, "a list of trusted keys", error=EdgeVitError, hint=hint)
    if not isinstance(found, dict):
        raise EdgeVitError(f"{path} is no list of trusted keys", hint=hint)
    return {str(key): str(name) for key, name in found.items()}


def _write_trusted(keys: Mapping[str, str]) -> None:
    path = home() / "keys" / "trusted.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, (json.dumps(dict(keys), indent=2) + "\n").encode())  # whatever the umask: this user's alone
