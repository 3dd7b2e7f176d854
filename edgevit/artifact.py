"""The artifact: a directory that holds a model, everything needed to run it, and the proof that it is right.

    edgevit.json    the manifest (below)
    model.onnx      the model file or files of the target
    edgevit.sig     the builder's signature, for formats that run code when they are opened (see signing.py)
    golden.npz      4 rows of every input and output, under their names
    golden/N.png    the images those input rows were made from
    profiles/       measurements, added later; not part of the hashed content

It is the only thing that crosses from the build host to a device, so nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgevit.errors import BadArtifact, UsageError
from edgevit.images import Preprocess

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "edgevit.json"
SIGNATURE = "edgevit.sig"
GOLDEN = "golden.npz"
GOLDEN_ROWS = 4

Array = np.ndarray[Any, Any]
Checked = TypeVar("Checked", bound=BaseModel)
Role = Literal["image", "logits", "features", "mask", "tensor"]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or not pure.parts:
        raise ValueError(f"{path!r} is not a relative path inside the artifact")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TensorSpec(_Model):
    """One input or output. ``shape`` holds "batch" where the first axis is dynamic."""

    name: str
    dtype: Literal["float32", "float16", "uint8", "int32", "int64", "bool"]
    shape: tuple[int | Literal["batch"], ...]
    role: Role


class BatchRange(_Model):
    """Rows per call that the artifact takes, both ends included."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    def __str__(self) -> str:
        return f"{self.min}-{self.max}" if self.dynamic else str(self.min)


class WeightsInfo(_Model):
    """Where the weights came from. ``state_sha256`` is of the loaded state dict: a rebuilt source can be checked."""

    origin: str = Field(description="a path, 'digits', 'timm pretrained', or 'random (seed 0)'")
    state_sha256: Sha256


class ModelInfo(_Model):
    name: str
    source: Literal["zoo", "timm", "file", "module"]
    form: Literal["train", "deploy"]
    task: Literal["classifier", "tensors"]
    image_size: tuple[int, int] | None
    classes: int | None
    params: int
    macs: int = Field(description="multiply-accumulates of one row")
    weights: WeightsInfo


class OutputParity(_Model):
    """Differences of one output from the float64 reference, over all compared rows."""

    max_abs: float
    max_rel: float = Field(description="max abs error / max abs reference")
    cosine: float = Field(description="the lowest cosine similarity of any row")


class Parity(_Model):
    """The proof. ``unverified`` always carries a reason; ``failed`` carries the likeliest cause in ``reason``."""

    status: Literal["verified", "unverified", "failed"]
    reason: str | None = None
    max_abs: float | None = None
    max_rel: float | None = Field(default=None, description="the worst output's max abs error / max abs reference")
    cosine: float | None = None
    top1_agreement: float | None = Field(default=None, description="share of rows with the reference's top-1")
    tolerance: float = Field(description="bound on max_rel, 10 × noise, within the precision's limits")
    noise: float | None = Field(
        default=None, description="max_rel of the eager model in this precision against float64"
    )
    images: int = Field(default=0, description="rows compared")
    batches: tuple[int, ...] = Field(default=(), description="batch sizes that were proved")
    runtime: str | None = None
    outputs: dict[str, OutputParity] = {}


class PrecisionReport(_Model):
    """What the built graph really holds, counted after the build."""

    requested: str
    layers: dict[str, int] = Field(
        description="number of compute nodes (conv, matmul, …) by the type of their weights or inputs"
    )
    kept_fp32: dict[str, str] = Field(default={}, description="module kept in fp32 -> why")


class ReparamSummary(_Model):
    folded: dict[str, int] = Field(description="kind of fold -> how many")
    left: dict[str, str] = Field(description="module still there -> why")
    max_rel_error: float = Field(description="float64, random inputs, randomised statistics")


class Accuracy(_Model):
    """Top-1 of the float32 source model at export, on labelled held-out data."""

    data: str
    top1: float
    images: int


class Manifest(_Model):
    """edgevit.json. Strict: an unknown field is an error, and a newer schema is refused."""

    schema_version: Literal[1] = SCHEMA_VERSION
    edgevit: str = Field(description="version that wrote this")
    created: str = Field(description="UTC, ISO 8601")
    target: str
    precision: str
    options: dict[str, str | int | float | bool] = {}
    entry: RelativePath = Field(description="the file or folder a runtime opens")
    model: ModelInfo
    labels: tuple[str, ...] | None = None
    batch: BatchRange
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    parity: Parity
    precision_report: PrecisionReport
    reparam: ReparamSummary | None = None
    accuracy: Accuracy | None = None
    versions: dict[str, str] = Field(default={}, description="packages that took part in the build")
    lock: dict[str, str | int | list[int]] = Field(
        default={}, description="what a target checks before it opens the file"
    )
    notes: tuple[str, ...] = ()
    files: dict[RelativePath, Sha256]

    def image_input(self) -> TensorSpec | None:
        """The input that preprocessed images go to, or None."""
        return next((spec for spec in self.inputs if spec.role == "image"), None)

    def logits_output(self) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.role == "logits"), None)


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


def parse_manifest(text: str, path: Path) -> Manifest:
    """The manifest in ``text``; BadArtifact names the first field that is wrong."""
    return parse_versioned(text, path / MANIFEST, Manifest, SCHEMA_VERSION, "manifest", "folder", "export anew")


def parse_versioned(
    text: str, file: Path, schema: type[Checked], newest: int, kind: str, copied: str, anew: str
) -> Checked:
    """The ``schema`` in ``text``, which is ``file``'s: JSON with a ``schema_version`` up to ``newest``.

    BadArtifact names the first field that is wrong. ``kind`` is what errors call it; they say to copy the ``copied``
    again, or how to make it ``anew``.
    """
    import json

    try:
        raw = json.loads(text)
    except ValueError as exc:
        raise BadArtifact(f"{file} is not JSON: {exc}", hint=f"copy the {copied} again, or {anew}") from exc
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > newest:
        raise BadArtifact(
            f"{file.parent} has {kind} schema {version}; this edgevit reads up to {newest}",
            hint="pip install -U edgevit",
        )
    try:
        return schema.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or f"the {kind}"
        raise BadArtifact(f"{file}: {field}: {first['msg'].lower()}", hint=anew) from exc


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> SHA-256 of every file below ``folder`` but the manifest and its signature."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in found
        if path.relative_to(folder).as_posix() not in (MANIFEST, SIGNATURE)
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(name).chmod(0o644)  # mkstemp's 0600 would hide the file from the other users of a shared folder
    Path(name).replace(path)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file so that it is the old or the new one, whatever kills the process or the power, and is at no
    time readable by others than ``mode`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if mode != 0o600:
            Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_golden(folder: Path, arrays: Mapping[str, Array], pixels: list[Array]) -> None:
    """golden.npz from name -> array, and golden/N.png from the images behind the rows."""
    from PIL import Image

    # Not np.savez: it cannot store an array called "file", and writes the time, so that no two exports would be equal.
    write: Any = np.lib.format.write_array  # numpy before 2.4 has no types for it
    with zipfile.ZipFile(folder / GOLDEN, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                write(stream, np.asarray(array), allow_pickle=False)
    if pixels:
        (folder / "golden").mkdir()
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"golden/{row}.png")


def check_vacant(out: Path, *, force: bool) -> None:
    """UsageError when ``out`` exists, unless ``force`` and it is an artifact (or a failed one) that may be replaced."""
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already", hint="choose another -o, or add --force to replace it")
    if any(out.iterdir() if out.is_dir() else [out]) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out} is not an edgevit artifact, so --force does not replace it", hint="choose another -o")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A scratch folder beside ``out``, removed unless the block moves it away. A killed build leaves no ``out``; the
    scratch folder that it does leave is swept by the next build of the same ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.building-"
    for stale in out.parent.glob(f"{glob.escape(prefix)}*"):
        if not _alive(stale.name.removeprefix(prefix).partition("-")[0]):
            shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f"{prefix}{os.getpid()}-"))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Whether a process of this number runs. Unsure means yes: nothing of a living build may be swept away."""
    if os.name == "nt":  # there, signal 0 is Ctrl-C and not a question
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True


def publish(scratch: Path, out: Path) -> None:
    """Rename a finished scratch folder to ``out``, replacing what is there."""
    if out.exists():
        old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
        out.rename(old / "was")
        scratch.rename(out)
        shutil.rmtree(old)
    else:
        scratch.rename(out)
