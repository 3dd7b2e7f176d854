"""Weights on disk with their own story: what edgevit writes beside them, and reads again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from edgevit.artifact.files import replaced
from edgevit.errors import UsageError
from edgevit.images import Preprocess
from edgevit.models.loading.choice import existing
from edgevit.models.loading.weights_file import HIDDEN, METADATA_CHARS, METADATA_KEY, State, read_weights

Side = Annotated[int, Field(ge=1, le=1 << 14)]


class CheckpointMeta(BaseModel):
    """What a checkpoint says about itself, as JSON under "edgevit" in the file's metadata."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)  # of later versions, and of earlier ones

    model: str
    num_classes: int | None = Field(default=None, ge=1, le=1 << 20)
    image_size: tuple[Side, Side]
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    data: str | None = Field(default=None, description="the labelled data source it was trained on, e.g. 'digits'")
    split_seed: int | None = None
    task: str | None = Field(default=None, description="what its outputs mean; None in files of earlier versions")
    metric: str | None = Field(default=None, description="what ``figure`` is, of other tasks than classify: 'mIoU'")
    figure: float | None = Field(default=None, description="of the held-out part")
    accuracy: float | None = Field(default=None, description="top-1 on the held-out part, as a fraction")
    epochs: int | None = None
    command: str | None = Field(default=None, description="the command line that made it")
    integers: str | None = Field(default=None, description="JSON of ``edgevit.quantize.stored``, where it has them")
    edgevit: str = Field(default="", description="version that wrote it")


class Checkpoint(NamedTuple):
    """A file's tensors, by where they lie in it ("" for the file itself), and what edgevit wrote of them, or None."""

    sets: Mapping[str, State]
    meta: CheckpointMeta | None


def save_checkpoint(
    path: Path | str, state_dict: Mapping[str, Tensor], meta: CheckpointMeta, hidden: Mapping[str, Tensor] | None = None
) -> None:
    """Write tensors and ``meta`` to ``path`` (.safetensors, or .pt/.pth); a killed write leaves no half file there.
    ``hidden`` are tensors that are no weights of the model (``read_hidden``), of .safetensors alone."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{path} is not a kind of weights file made here", hint="use .safetensors, .pt or .pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or are strided
    state = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    with replaced(path) as scratch:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            aside = {f"{HIDDEN}{name}": value.contiguous() for name, value in (hidden or {}).items()}
            save_file({**state, **aside}, scratch, metadata={"format": "pt", METADATA_KEY: meta.model_dump_json()})
        else:
            torch.save({"state_dict": state, METADATA_KEY: meta.model_dump_json()}, scratch)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """The tensors of a file, on the CPU, whatever it is called and whoever's trainer wrote it.

    Raises UsageError for a file that is missing, broken, of another kind, or that would have to run code to load.
    """
    path = existing(Path(path))
    content = read_weights(path)
    if not content.sets:
        raise UsageError(f"{path} holds no tensors under names", hint="save model.state_dict()")
    return Checkpoint(content.sets, None if content.meta is None else _parse_meta(content.meta, path))


def _parse_meta(text: str, path: Path) -> CheckpointMeta:
    if len(text) > METADATA_CHARS:
        raise UsageError(f"the edgevit metadata of {path} is not valid: {len(text):,} characters are too many")
    try:
        return CheckpointMeta.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        raise UsageError(f"the edgevit metadata of {path} is not valid: {where}: {first['msg'].lower()}") from exc
