"""``bundle.json``: what a bundle's parts are, how their features are ordered, what was measured, where it came from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgevit.artifact.goodness import Accuracy
from edgevit.artifact.manifest import RelativePath, Sha256, WeightsInfo, parse_versioned
from edgevit.artifact.mistaken import KINDS
from edgevit.data.content import Content

BUNDLE = KINDS["bundle"]
BUNDLE_SCHEMA: Literal[1] = 1

Share = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Trunk(_Model):
    """The model that was split, in deploy form."""

    name: str
    params: int
    macs: int = Field(description="multiply-accumulates of one image")
    bytes: int = Field(description="size of its exported model files, for comparison with the parts")
    weights: WeightsInfo


class Partition(_Model):
    """How the classes were shared out."""

    method: str = Field(description="balanced, similar, confusable, or the file that lists the parts")
    seed: int


class PartInfo(_Model):
    """One sub-model. Its logits are "none of mine" followed by ``classes`` in this order."""

    name: str
    artifact: RelativePath = Field(description="folder of the default target")
    artifacts: dict[str, RelativePath] = Field(description="target-precision -> folder")
    classes: tuple[str, ...]
    heads_pruned: int = Field(ge=0, description="attention heads cut from every block; all widths shrink alike")
    params: int
    macs: int
    bytes: int = Field(description="size of the default target's model files")


class Feature(_Model):
    """One features input of the fusion head: where it comes from and how many numbers an image gives."""

    input: str
    part: str
    size: int


class FusionInfo(_Model):
    """The fusion head."""

    artifact: RelativePath
    artifacts: dict[str, RelativePath]
    params: int
    macs: int
    bytes: int


class Remaining(_Model):
    """Fused top-1 over all ways to lose so many parts."""

    mean: Share
    worst: Share
    worst_parts: tuple[str, ...] = Field(default=(), description="whose loss costs most")


class Loss(_Model):
    """Fused top-1 with exactly these parts missing."""

    missing: tuple[str, ...] = Field(description="names of parts")
    top1: Share
    suffering: tuple[str, ...] = Field(default=(), description="classes that are noticeably worse recognised then")


class BundleAccuracy(_Model):
    """Top-1 as fractions, all on the same held-out images."""

    data: str
    images: int = Field(ge=1)
    trunk: Share
    fused: Share
    missing_one: Remaining | None = Field(default=None, description="null for a single part")
    missing_two: Remaining | None = Field(default=None, description="null for fewer than three parts")
    content: Content | None = Field(default=None, description="of the held-out images; null where older")
    losses: tuple[Loss, ...] = Field(default=(), description="by the parts that are missing: each one, and each two")
    many_missing: dict[str, Share] = Field(
        default_factory=dict,
        description="names of three and more missing parts, sorted, with spaces between -> fused top-1",
    )

    @property
    def of_all_parts(self) -> Accuracy:
        return Accuracy(data=self.data, top1=self.fused, images=self.images)

    def if_lost(self, parts: Collection[str]) -> float | None:
        """Fused top-1 without ``parts`` (names), where it was measured; None where not."""
        if not parts:
            return self.fused
        found = next((loss.top1 for loss in self.losses if set(loss.missing) == set(parts)), None)
        return self.many_missing.get(joined(parts)) if found is None else found


def joined(parts: Collection[str]) -> str:
    """The key of ``many_missing`` for these parts, whatever their order."""
    return " ".join(sorted(parts))


class Lineage(_Model):
    """Where the bundle came from."""

    data: str = Field(description="what the parts and the head were trained on")
    seed: int
    commands: tuple[str, ...] = Field(default=(), description="command lines that made it")
    notes: tuple[str, ...] = ()


class BundleManifest(_Model):
    """bundle.json. Strict: an unknown field is an error, and a newer schema is refused."""

    schema_version: Literal[1] = BUNDLE_SCHEMA
    edgevit: str = Field(description="version that wrote this")
    created: str = Field(description="UTC, ISO 8601")
    classes: tuple[str, ...] = Field(description="labels in the order of the fused logits")
    default_target: str = Field(description="target-precision of the folders named by `artifact`")
    trunk: Trunk
    partition: Partition
    parts: tuple[PartInfo, ...]
    fusion: FusionInfo
    features: tuple[Feature, ...] = Field(description="the fusion head's inputs, in order; `present` follows them")
    accuracy: BundleAccuracy | None
    lineage: Lineage
    members: dict[RelativePath, Sha256] = Field(
        description="member folder -> SHA-256 of what a signature of its manifest covers: all but the parity record"
    )

    seal: Sha256 | None = Field(default=None, description="hash of all the rest, see artifact/seal.py")

    @model_validator(mode="after")
    def _whole(self) -> BundleManifest:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ValueError("a bundle needs parts of different names")
        mine = sorted(label for part in self.parts for label in part.classes)
        if mine != sorted(self.classes) or len(set(mine)) != len(mine) or not all(p.classes for p in self.parts):
            raise ValueError("the parts do not share out the classes, each to one part")
        if [feature.part for feature in self.features] != names:
            raise ValueError("features do not name the parts in their order")
        owners: tuple[PartInfo | FusionInfo, ...] = (*self.parts, self.fusion)
        if any(set(owner.artifacts) != set(self.fusion.artifacts) for owner in owners):
            raise ValueError("not every member has the same targets")
        if any(owner.artifacts.get(self.default_target) != owner.artifact for owner in owners):
            raise ValueError("artifact is not the folder of the default target")
        if set(self.members) != {folder for owner in owners for folder in owner.artifacts.values()}:
            raise ValueError("members are not the folders of the parts and of the fusion head")
        if self.accuracy and any(set(loss.missing) - set(names) for loss in self.accuracy.losses):
            raise ValueError("accuracy.losses names a part that there is not")
        return self


def parse_bundle(text: str, path: Path) -> BundleManifest:
    """The manifest in ``text`` of the bundle at ``path``; BadArtifact names the first field that is wrong."""
    return parse_versioned(text, path / BUNDLE, BundleManifest, BUNDLE_SCHEMA, "bundle", "bundle", "split anew")
