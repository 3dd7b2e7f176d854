"""The bundle: a folder with all sub-models of a split model and the head that fuses their answers.

    bundle.json    what the parts are, how the features are ordered, what was measured (manifest.py)
    part-0/ …      the sub-models, each a normal artifact: image -> features, logits
    fusion/        the fusion head, a normal artifact: features_0, …, present -> logits

With several targets the folders are called part-0-onnx-fp32, part-0-tvm-fp32, …, and every part lists its own.

``bundle.json`` holds a digest of every member's manifest, and that manifest the hash of every file, so that one file
vouches for all. The digest leaves the parity record out, as signatures do: a device completes it (signing.py).
Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from edgevit.artifact.files import write_atomically
from edgevit.artifact.golden import GOLDEN_ROWS
from edgevit.artifact.manifest import MANIFEST, Array, TensorSpec
from edgevit.artifact.mistaken import mistaken
from edgevit.artifact.opened import Artifact
from edgevit.artifact.seal import Seal, seal_of, sealed
from edgevit.artifact.staging import check_vacant, publish
from edgevit.bundle.assign import Part, memory_need
from edgevit.bundle.manifest import (
    BUNDLE,
    BundleAccuracy,
    BundleManifest,
    Feature,
    FusionInfo,
    Lineage,
    PartInfo,
    Partition,
    Trunk,
    parse_bundle,
)
from edgevit.errors import BadArtifact, UnknownName, UsageError
from edgevit.foreign import TEXT_BYTES, read_bounded
from edgevit.images import Preprocess
from edgevit.registry import own_version
from edgevit.signing import signed_content

PRESENT = "present"
_AGAIN = "copy the whole bundle again, or split anew"


def is_bundle(path: Path | str) -> bool:
    """Whether ``path`` is a folder with a ``bundle.json``."""
    return os.path.lexists(Path(path) / BUNDLE)


def folder_of(member: str, target: str, precision: str, *, several: bool) -> str:
    """Name of a member's folder, ``member`` being "part-0" … or "fusion": part-0, or part-0-onnx-fp32 of several."""
    return f"{member}-{target}-{precision}" if several else member


class Bundle:
    """An opened bundle. ``open`` reads manifests only; sessions check the hashes of files before they open them."""

    def __init__(self, path: Path, manifest: BundleManifest, sha256: str, seal: Seal = "none") -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256  # of bundle.json: the bundle's revision
        self.seal = seal  # of bundle.json: whether it still says what it was written with

    @classmethod
    def read(cls, path: Path | str) -> Bundle:
        """``bundle.json`` alone: its members may be missing. BadArtifact when it is malformed or newer."""
        path = Path(path)
        if not is_bundle(path):
            raise mistaken(path, "bundle")
        raw = read_bounded(path / BUNDLE, TEXT_BYTES, "a manifest", error=BadArtifact, hint=_AGAIN)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadArtifact(f"{path / BUNDLE} is no text: {exc.reason} at byte {exc.start}", hint=_AGAIN) from exc
        return cls(path, parse_bundle(text, path), hashlib.sha256(raw).hexdigest(), seal_of(text))

    @classmethod
    def open(cls, path: Path | str, *, without: Collection[str] = ()) -> Bundle:
        """The bundle with the manifests of all its members checked, but for those of the parts in ``without`` (names).

        BadArtifact names the member that is missing, altered, from a newer edgevit, or does not fit the others.
        """
        return cls.read(path).checked(without=without)

    def checked(self, *, without: Collection[str] = ()) -> Bundle:
        """This bundle, once the manifests of its members are checked as ``open`` says."""
        left_out = {self.names[self.index(name)] for name in without}
        for target in self.targets:
            parts = {
                part.name: self.member(part.artifacts[target])
                for part in self.manifest.parts
                if part.name not in left_out
            }
            _fit(self, parts, self.fusion(target))
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that the members were built for, as target-precision, the default first."""
        default = self.manifest.default_target
        return (default, *sorted(set(self.manifest.fusion.artifacts) - {default}))

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names, in the order of features."""
        return tuple(part.name for part in self.manifest.parts)

    def index(self, name: str) -> int:
        """The place of a part in the order of features, by its name or its number; UnknownName for neither."""
        found = f"part-{name}" if name.isdecimal() else name
        if found not in self.names:
            raise UnknownName("part of this bundle", name, self.names)
        return self.names.index(found)

    def member(self, folder: str) -> Artifact:
        """The artifact in a member folder. BadArtifact when it is missing or its manifest is not the recorded one."""
        part = next((p.name for p in self.manifest.parts if folder in p.artifacts.values()), None)
        path = self.path / folder
        if not path.is_dir():
            hint = f"{_AGAIN}; edgevit predict --without {part} answers without it" if part else _AGAIN
            raise BadArtifact(f"{self.path} lacks its member {folder}", hint=hint)
        artifact = Artifact.open(path)
        if content_sha256(artifact) != self.manifest.members[folder]:
            raise BadArtifact(
                f"{folder} in {self.path} was altered: its {MANIFEST} is not the one this bundle was written with",
                hint=_AGAIN,
            )
        return artifact

    def parts(self, target: str | None = None) -> list[Artifact]:
        """The sub-models built for ``target`` ("onnx-fp32"; the default target if None), in the order of features."""
        return [self.member(part.artifacts[self._checked(target)]) for part in self.manifest.parts]

    def fusion(self, target: str | None = None) -> Artifact:
        """The fusion head built for ``target``."""
        return self.member(self.manifest.fusion.artifacts[self._checked(target)])

    def placement_parts(self, target: str | None = None) -> list[Part]:
        """The sub-models as placement sees them: sizes only, no latencies."""
        return [_placed(name, artifact) for name, artifact in zip(self.names, self.parts(target), strict=True)]

    def _checked(self, target: str | None) -> str:
        if target is not None and target not in self.targets:
            raise UnknownName("target of this bundle", target, self.targets)
        return target or self.manifest.default_target


def opened(model: Bundle | Artifact | Path | str) -> Bundle | Artifact:
    """The bundle or artifact at a path, of which the manifest is read; what is opened already stays as it is. Which of
    the two a path is gets decided here, once, and from then on its type says it."""
    if isinstance(model, Bundle | Artifact):
        return model
    return Bundle.read(model) if is_bundle(model) else Artifact.open(model)


def content_sha256(artifact: Artifact | Path) -> str:
    """Digest of what a signature of the artifact's manifest covers: what no device adds to it."""
    return hashlib.sha256(signed_content(artifact)).hexdigest()


def features_output(artifact: Artifact) -> TensorSpec | None:
    """The output that goes to the fusion head, or None."""
    return next((spec for spec in artifact.manifest.outputs if spec.role == "features"), None)


def _placed(name: str, artifact: Artifact) -> Part:
    spec = features_output(artifact)
    size = artifact.size_bytes()
    files = {digest for path, digest in artifact.manifest.files.items() if not path.startswith("golden")}
    return Part(
        name=name,
        bytes=size,
        memory_bytes=memory_need(size),
        macs=artifact.manifest.model.macs,
        feature_bytes=_feature_size(artifact) * np.dtype(spec.dtype if spec else "float32").itemsize,
        model_files=frozenset(files),
    )


def _fit(bundle: Bundle, parts: Mapping[str, Artifact], fusion: Artifact) -> None:
    """BadArtifact unless the members of one target fit each other and what bundle.json says of them."""
    manifest, where = bundle.manifest, bundle.path
    preprocess = {
        info.name: _fit_part(parts[info.name], info, feature, where)
        for info, feature in zip(manifest.parts, manifest.features, strict=True)
        if info.name in parts
    }
    first = next(iter(preprocess), None)
    for name, steps in preprocess.items():
        if first is not None and steps != preprocess[first]:
            raise BadArtifact(f"{name} in {where} preprocesses images unlike {first}", hint="split anew")
    _fit_fusion(bundle, fusion)


def _fit_part(artifact: Artifact, info: PartInfo, feature: Feature, where: Path) -> Preprocess:
    """How the part preprocesses images. BadArtifact unless it is what bundle.json says of it."""
    spec, labels, steps = features_output(artifact), artifact.manifest.labels, artifact.manifest.preprocess
    if spec is None or spec.shape[1:] != (feature.size,):
        raise BadArtifact(f"{info.name} in {where} does not give {feature.size} features", hint="split anew")
    if steps is None or artifact.manifest.image_input() is None or len(artifact.manifest.inputs) != 1:
        raise BadArtifact(f"{info.name} in {where} does not take one image", hint="split anew")
    if labels is not None and labels[1:] != info.classes:
        raise BadArtifact(f"{info.name} in {where} has other classes than {BUNDLE} says", hint="split anew")
    return steps


def _fit_fusion(bundle: Bundle, fusion: Artifact) -> None:
    manifest, where = bundle.manifest, bundle.path
    expected = {feature.input: (feature.size,) for feature in manifest.features} | {PRESENT: (len(manifest.parts),)}
    found = {spec.name: spec.shape[1:] for spec in fusion.manifest.inputs}
    if list(found.items()) != list(expected.items()):
        raise BadArtifact(f"the fusion head in {where} does not take the parts' features, in order", hint="split anew")
    logits = fusion.manifest.logits_output()
    if logits is None or logits.shape[1:] != (len(manifest.classes),):
        raise BadArtifact(f"the fusion head in {where} does not give {len(manifest.classes)} logits", hint="split anew")
    if fusion.manifest.labels is not None and fusion.manifest.labels != manifest.classes:
        raise BadArtifact(f"the fusion head in {where} has other classes than {BUNDLE} says", hint="split anew")


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartFacts:
    """What a sub-model's own artifact does not say: its classes, as labels, and how much was cut from it."""

    classes: tuple[str, ...]
    heads_pruned: int


def golden_features(parts: Sequence[Artifact]) -> dict[str, Array]:
    """The first rows that a fusion head must be exported with: the parts' reference features of the golden images.

    features_i (4, D_i) in order, and ``present`` (4, N) of ones. Put other rows, with parts missing, after these. The
    fusion head's golden outputs are then the reference of the whole bundle on the golden images.
    """
    rows: dict[str, Array] = {}
    for index, artifact in enumerate(parts):
        spec = features_output(artifact)
        if spec is None:
            raise BadArtifact(f"{artifact.path} has no output called features", hint="split anew")
        rows[f"features_{index}"] = artifact.golden()[1][spec.name].astype(np.float32)
    return {**rows, PRESENT: np.ones((GOLDEN_ROWS, len(parts)), np.float32)}


@dataclass(frozen=True)
class BundleFacts:
    """What ``bundle.json`` says that no member does; ``parts`` in the order of features."""

    classes: Sequence[str]
    trunk: Trunk
    parts: Sequence[PartFacts]
    partition: Partition
    accuracy: BundleAccuracy | None
    lineage: Lineage

    @property
    def names(self) -> list[str]:
        return [f"part-{index}" for index in range(len(self.parts))]


def write_bundle(
    staging: Path, out: Path, facts: BundleFacts, *, default_target: str | None = None, force: bool = False
) -> Bundle:
    """Write ``bundle.json`` beside the finished artifacts in ``staging``, check it all, rename ``staging`` to ``out``.

    ``staging`` lies on the file system of ``out`` (``artifact.staged(out)`` makes such a folder) and holds nothing but
    the members, named by ``folder_of``: part-0 …, fusion. Sizes come from their manifests. A process that is killed
    leaves no ``out``, or the old one. ``default_target`` ("onnx-fp32") is needed where there are several targets.

    Raises BadArtifact when the members do not fit each other, UsageError when one is missing or ``out`` is taken.
    """
    check_vacant(out, force=force, kind="bundle", marker=BUNDLE)
    found = {member: _built(staging, member) for member in (*facts.names, "fusion")}
    manifest = _manifest(facts, found, _default(found, default_target))
    write_atomically(staging / BUNDLE, sealed(manifest).model_dump_json(indent=2) + "\n")
    staged = Bundle.open(staging)
    _check_wired(staged)
    publish(staging, out, force=force)
    return Bundle(out, staged.manifest, staged.sha256, staged.seal)


def _default(found: Mapping[str, Mapping[str, Artifact]], asked: str | None) -> str:
    """The target that a device opens when it is not told which: ``asked``, or the only one of all members."""
    targets = sorted(set.intersection(*(set(folders) for folders in found.values())))
    default = asked or (targets[0] if len(targets) == 1 else None)
    if default is None or default not in targets:
        raise UsageError(
            f"{default or 'no target'} cannot be the default; every member is built for {', '.join(targets) or 'none'}",
            hint="name the target that a device opens when it is not told which",
        )
    return default


def _manifest(facts: BundleFacts, found: Mapping[str, Mapping[str, Artifact]], default: str) -> BundleManifest:
    """What ``facts`` and the members ``found`` (by name, then target) make together; UsageError where they cannot."""
    built = [artifact for folders in found.values() for artifact in folders.values()]
    try:
        return BundleManifest(
            edgevit=own_version(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            classes=tuple(facts.classes),
            default_target=default,
            trunk=facts.trunk,
            partition=facts.partition,
            parts=_part_infos(facts, found, default),
            fusion=FusionInfo(**_sizes(found["fusion"], default)),
            features=_features(facts, found, default),
            accuracy=facts.accuracy,
            lineage=facts.lineage,
            members={artifact.path.name: content_sha256(artifact) for artifact in built},
        )
    except ValidationError as exc:
        raise _refused(exc) from exc


def _part_infos(facts: BundleFacts, found: Mapping[str, Mapping[str, Artifact]], default: str) -> tuple[PartInfo, ...]:
    return tuple(
        PartInfo(name=name, classes=part.classes, heads_pruned=part.heads_pruned, **_sizes(found[name], default))
        for name, part in zip(facts.names, facts.parts, strict=True)
    )


def _features(facts: BundleFacts, found: Mapping[str, Mapping[str, Artifact]], default: str) -> tuple[Feature, ...]:
    return tuple(
        Feature(input=f"features_{index}", part=name, size=_feature_size(found[name][default]))
        for index, name in enumerate(facts.names)
    )


def _refused(exc: ValidationError) -> UsageError:
    first = exc.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    return UsageError(f"no bundle can be made of this: {f'{place}: ' if place else ''}{first['msg'].lower()}")


def _check_wired(bundle: Bundle) -> None:
    for target in bundle.targets:
        if not wired(bundle.parts(target), bundle.fusion(target)):
            raise BadArtifact(
                f"the fusion head for {target} was not exported with the parts' golden features as its first rows",
                hint="export all parts on the same data, and start its inputs with golden_features(parts)",
            )


def wired(parts: Sequence[Artifact], fusion: Artifact) -> bool:
    """Whether the fusion head's golden inputs are the parts' features, in order, of golden images that all parts share:
    then its golden logits are the reference of all together."""
    given = fusion.golden()[0]
    images = [next(iter(artifact.golden()[0].values())) for artifact in parts]
    return all(np.array_equal(rows, images[0]) for rows in images) and all(
        np.array_equal(given[name].astype(np.float32), rows) for name, rows in golden_features(parts).items()
    )


def _built(staging: Path, member: str) -> dict[str, Artifact]:
    """The artifacts of one member by target-precision; UsageError when there is none."""
    folders = [path for path in (staging / member, *sorted(staging.glob(f"{member}-*"))) if path.is_dir()]
    if not folders:
        raise UsageError(f"{staging} holds no {member}", hint="export every part and the fusion head into it first")
    artifacts = [Artifact.open(path) for path in folders]
    return {f"{artifact.manifest.target}-{artifact.manifest.precision}": artifact for artifact in artifacts}


def _sizes(built: Mapping[str, Artifact], default: str) -> dict[str, Any]:
    """The fields that PartInfo and FusionInfo share."""
    artifact = built[default]
    return {
        "artifact": artifact.path.name,
        "artifacts": {target: one.path.name for target, one in built.items()},
        "params": artifact.manifest.model.params,
        "macs": artifact.manifest.model.macs,
        "bytes": artifact.size_bytes(),
    }


def _feature_size(artifact: Artifact) -> int:
    spec = features_output(artifact)
    size = spec.shape[-1] if spec else None
    if not isinstance(size, int):
        raise BadArtifact(f"{artifact.path} does not say how many features it gives", hint="split anew")
    return size
