"""An opened artifact."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from edgevit.artifact.files import sha256_of, write_atomically
from edgevit.artifact.golden import (
    CLEAR_OF,
    FIGURES_OF,
    GOLDEN,
    GOLDEN_BYTES,
    GOLDEN_ROWS,
    PICTURES,
    UNREADABLE,
    is_golden,
    read_golden,
)
from edgevit.artifact.manifest import MANIFEST, QUANT, Array, Manifest, Parity, TensorSpec, parse_manifest
from edgevit.artifact.mistaken import mistaken
from edgevit.artifact.private import private_copy, require_hash
from edgevit.artifact.sampling import FIGURES, STRETCHES, Sampled, spec_of_sample, spec_of_strided
from edgevit.artifact.seal import Seal, seal_of, sealed
from edgevit.errors import BadArtifact
from edgevit.foreign import read_bounded, read_text
from edgevit.images import decode
from edgevit.quantize.plan import QuantPlan

QUANT_BYTES = 1 << 28
_AGAIN = "copy the whole folder again, or export anew"


class Artifact:
    """An opened artifact directory. Opening reads only the manifest; ``check_files`` proves the hashes.

    text      the manifest as it was read: what a seal and a signature are of, whatever happens to the file afterwards
    files_at  where the model files are opened: ``path``, or this user's private copy
    """

    def __init__(self, path: Path, manifest: Manifest, text: str | None = None, files_at: Path | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.text = manifest.model_dump_json() if text is None else text
        self.files_at = files_at or path

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read and validate the manifest. BadArtifact when missing, malformed or from a newer schema."""
        path = Path(path)
        if not os.path.lexists(path / MANIFEST):
            raise mistaken(path, "artifact")
        text = read_text(path / MANIFEST, "a manifest", error=BadArtifact, hint=_AGAIN)
        return cls(path, parse_manifest(text, path), text)

    @property
    def entry(self) -> Path:
        """The file or folder that a runtime opens."""
        return self.files_at / self.manifest.entry

    @property
    def named(self) -> Path:
        """The same as its owner knows it, for sentences."""
        return self.path / self.manifest.entry

    @cached_property
    def seal(self) -> Seal:
        """Whether the manifest still says what it was written with."""
        return seal_of(self.text)

    def check_seal(self) -> None:
        """BadArtifact for a manifest that was altered after it was sealed; one without a seal passes."""
        if self.seal == "broken":
            raise BadArtifact(f"{MANIFEST} in {self.path} was altered: its seal does not fit what it says", hint=_AGAIN)

    @property
    def model_files(self) -> dict[str, str]:
        """Relative path -> SHA-256 of everything listed but the golden pair, and the plan of its integers."""
        return {name: sha for name, sha in self.manifest.files.items() if not is_golden(name) and name != QUANT}

    def plan(self) -> QuantPlan | None:
        """That of its integers, None without; BadArtifact unless it can be read and has its hash."""
        if self.manifest.integers is None:
            return None
        try:
            return QuantPlan.model_validate_json(self.read(QUANT, QUANT_BYTES))
        except ValidationError as exc:
            said = exc.errors()[0]["msg"]
            raise BadArtifact(f"{QUANT} in {self.path} is no plan: {said}", hint="export anew") from exc

    def check_files(self, *, but_model: bool = False) -> None:
        """BadArtifact unless every listed file is there with its hash, the entry and the golden pair among them, and
        an entry that is a folder holds nothing else.

        Call before a model file is opened. ``but_model`` leaves those to ``privately``, which hashes what it copies.
        """
        root = self.path.resolve()
        self._check_listed()
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise BadArtifact(f"{self.path} lacks {name}", hint=_AGAIN)
            if not file.resolve().is_relative_to(root):
                raise BadArtifact(f"{name} in {self.path} points outside the artifact")
            if not (but_model and name in self.model_files):
                require_hash(self.path, name, sha256_of(file), expected)

    def _check_listed(self) -> None:
        entry, listed = self.manifest.entry, self.manifest.files
        if not any(name == entry or name.startswith(f"{entry}/") for name in listed):
            raise BadArtifact(f"the manifest of {self.path} has no hash of {entry}", hint="export anew")
        for folder, folders, files in os.walk(self.path / entry):  # nothing, where the entry is a file
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*links, *files):
                found = (Path(folder) / name).relative_to(self.path).as_posix()
                if found not in listed:
                    raise BadArtifact(
                        f"{found} in {self.path} was added: the manifest does not list it",
                        hint="remove it, or copy the folder again",
                    )

    @contextlib.contextmanager
    def privately(self) -> Iterator[Artifact]:
        """The same artifact with its model files in a folder of this user alone, where nobody exchanges what was
        hashed. Leave the block when the engine has opened them. Raises as ``private_copy``."""
        with private_copy(self.path, self.model_files) as folder:
            yield Artifact(self.path, self.manifest, self.text, folder)

    def read(self, name: str, limit: int) -> bytes:
        """A listed file of at most ``limit`` bytes; BadArtifact unless these very bytes have its hash."""
        data = self._bytes(name, limit)
        self._require(name, data)
        return data

    def _bytes(self, name: str, limit: int) -> bytes:
        return read_bounded(self.path / name, limit, f"{name} of an artifact", error=BadArtifact, hint=_AGAIN)

    def _require(self, name: str, data: bytes) -> None:
        require_hash(self.path, name, hashlib.sha256(data).hexdigest(), self.manifest.files.get(name, ""))

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Inputs and reference outputs of the golden pair, by name; ``GOLDEN_ROWS`` rows each, as the specs say. An
        output that is sampled is not among them: who needs it whole runs the artifact."""
        whole = [spec for spec in self.manifest.outputs if spec.name not in self.manifest.sampled]
        found = self._golden([*self.manifest.inputs, *whole])
        return {spec.name: found[spec.name] for spec in self.manifest.inputs}, {
            spec.name: found[spec.name] for spec in whole
        }

    def golden_samples(self) -> dict[str, Sampled]:
        """What is kept of the outputs whose golden rows are too large to be kept."""
        found: dict[str, Sampled] = {}
        for spec, kept in self._kept():
            if (sample := self.manifest.sampled.get(spec.name)) is None:
                continue
            figures = spec.model_copy(
                update={"name": FIGURES_OF + spec.name, "dtype": "float64", "shape": (GOLDEN_ROWS, STRETCHES, FIGURES)}
            )
            arrays = self._golden([kept] if sample.axes else [kept, figures])
            shape = tuple(int(side) for side in spec.shape[1:])
            found[spec.name] = Sampled(sample, shape, arrays[spec.name], arrays.get(figures.name))
        return found

    def golden_clear(self) -> dict[str, Array]:
        """Of outputs that decisions have a part in: True for the values of golden rows that no noise explains away."""
        bounds = self.manifest.parity.bounds
        decided = [kept for spec, kept in self._kept() if spec.name in bounds and bounds[spec.name].marked]
        if not decided:
            return {}
        found = self._golden(
            [spec.model_copy(update={"name": CLEAR_OF + spec.name, "dtype": "bool"}) for spec in decided]
        )
        return {spec.name: found[CLEAR_OF + spec.name] for spec in decided}

    def golden_of(
        self, file: str, size: tuple[int, int]
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """The inputs, the reference outputs and what is clear of these, in the one row of a ``file`` of another size of
        image, outputs as ``strided`` leaves them. BadArtifact where it is not there."""
        manifest = self.manifest.at(size)
        outputs = [spec_of_strided(spec) for spec in manifest.outputs]
        decided = [
            spec.model_copy(update={"name": CLEAR_OF + spec.name, "dtype": "bool"})
            for spec in outputs
            if (bound := manifest.parity.bounds.get(spec.name)) and bound.marked
        ]
        found = self._golden([*manifest.inputs, *outputs, *decided], file, rows=1)
        inputs, answers = ({spec.name: found[spec.name] for spec in specs} for specs in (manifest.inputs, outputs))
        return inputs, answers, {spec.name.removeprefix(CLEAR_OF): found[spec.name] for spec in decided}

    def _kept(self) -> Iterator[tuple[TensorSpec, TensorSpec]]:
        """Every output, and what golden.npz holds of it."""
        for spec in self.manifest.outputs:
            sample = self.manifest.sampled.get(spec.name)
            yield spec, spec if sample is None else spec_of_sample(spec, sample)

    def _golden(self, specs: Iterable[TensorSpec], file: str = GOLDEN, rows: int = GOLDEN_ROWS) -> dict[str, Array]:
        """Those arrays of the golden pair; BadArtifact unless the file has its hash and they are as the specs say."""
        data = self._bytes(file, GOLDEN_BYTES)
        try:
            found = read_golden(data, specs, rows)
        except UNREADABLE as exc:
            raise BadArtifact(f"{file} in {self.path} cannot be read: {exc}", hint="export anew") from exc
        self._require(file, data)
        return found

    def golden_images(self) -> list[Path]:
        """The pictures the golden input rows were made from, in row order; empty for models that take no image."""
        return [self.path / name for name in PICTURES if name in self.manifest.files]

    def golden_pixels(self) -> list[Array]:
        """The same, decoded from bytes that have their hash: (H, W, 3) uint8 each."""
        channels = self.manifest.preprocess.pixel_channels if self.manifest.preprocess else 3
        found = [name for name in PICTURES if name in self.manifest.files]
        return [decode(self.read(name, GOLDEN_BYTES), name=name, channels=channels) for name in found]

    def size_bytes(self) -> int:
        """Bytes of the model files: everything listed but the golden pair. BadArtifact where one is missing."""
        try:
            return sum((self.path / name).stat().st_size for name in self.model_files)
        except OSError as exc:
            raise BadArtifact(f"{self.path} lacks {Path(exc.filename).name}", hint=_AGAIN) from exc

    def update_parity(self, parity: Parity) -> Artifact:
        """The same artifact with its parity record replaced on disk, in one rename; a seal is renewed. The tolerance
        and the noise that it comes from stay: only the builder can measure them, and a signature covers them."""
        kept = self.manifest.parity
        kept_as = {"tolerance": kept.tolerance, "noise": kept.noise, "bounds": kept.bounds, "layers": kept.layers}
        parity = parity.model_copy(update=kept_as)
        manifest = self.manifest.model_copy(update={"parity": parity})
        if self.seal != "none":
            self.check_seal()
            manifest = sealed(manifest)
        text = manifest.model_dump_json(indent=2) + "\n"
        write_atomically(self.path / MANIFEST, text)
        return Artifact(self.path, manifest, text)
