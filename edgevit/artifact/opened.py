"""An opened artifact."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from edgevit.artifact.files import sha256_of, write_atomically
from edgevit.artifact.golden import GOLDEN, GOLDEN_ROWS
from edgevit.artifact.manifest import MANIFEST, Array, Manifest, Parity, parse_manifest
from edgevit.errors import BadArtifact


class Artifact:
    """An opened artifact directory. Opening reads only the manifest; ``check_files`` proves the hashes."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read and validate the manifest. BadArtifact when missing, malformed or from a newer schema."""
        path = Path(path)
        try:
            text = (path / MANIFEST).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError) as exc:
            what = "no such folder" if not path.exists() else f"no {MANIFEST} in it"
            raise BadArtifact(f"{path} is not an edgevit artifact: {what}", hint="edgevit export makes one") from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise BadArtifact(f"{path / MANIFEST} cannot be read: {exc}") from exc
        return cls(path, parse_manifest(text, path))

    @property
    def entry(self) -> Path:
        return self.path / self.manifest.entry

    def check_files(self) -> None:
        """BadArtifact unless every listed file is there with its hash, the entry among them.

        Call before a model file is opened.
        """
        root = self.path.resolve()
        entry = self.manifest.entry
        if not any(name == entry or name.startswith(f"{entry}/") for name in self.manifest.files):
            raise BadArtifact(f"the manifest of {self.path} has no hash of {entry}", hint="export anew")
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise BadArtifact(f"{self.path} lacks {name}", hint="copy the whole folder again, or export anew")
            if not file.resolve().is_relative_to(root):
                raise BadArtifact(f"{name} in {self.path} points outside the artifact")
            if sha256_of(file) != expected:
                raise BadArtifact(
                    f"{name} in {self.path} was altered: its SHA-256 is not the manifest's",
                    hint="copy the folder again, or export anew",
                )

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs and reference outputs of the golden pair, by name; ``GOLDEN_ROWS`` rows each."""
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return (
                {spec.name: arrays[spec.name] for spec in self.manifest.inputs},
                {spec.name: arrays[spec.name] for spec in self.manifest.outputs},
            )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
            raise BadArtifact(f"{GOLDEN} in {self.path} cannot be read: {exc}", hint="export anew") from exc

    def golden_images(self) -> list[Path]:
        """The pictures the golden input rows were made from, in row order; empty for models that take no image."""
        found = (self.path / f"golden/{row}.png" for row in range(GOLDEN_ROWS))
        return [path for path in found if path.relative_to(self.path).as_posix() in self.manifest.files]

    def size_bytes(self) -> int:
        """Bytes of the model files: everything listed but the golden pair."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files if not name.startswith("golden"))

    def update_parity(self, parity: Parity) -> Artifact:
        """The same artifact with its parity record replaced on disk, in one rename."""
        manifest = self.manifest.model_copy(update={"parity": parity})
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return Artifact(self.path, manifest)
