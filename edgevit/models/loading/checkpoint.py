"""Weights on disk: safetensors with their own story, or ``.pt`` files read without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.images import Preprocess

State = dict[str, Tensor]

_METADATA_KEY = "edgevit"
_WRAPPERS = ("state_dict", "model_ema", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


class CheckpointMeta(BaseModel):
    """What a checkpoint says about itself, as JSON under "edgevit" in the file's metadata."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    num_classes: int
    image_size: tuple[int, int]
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    data: str | None = Field(default=None, description="the labelled data source it was trained on, e.g. 'digits'")
    split_seed: int | None = None
    accuracy: float | None = Field(default=None, description="top-1 on the held-out part, as a fraction")
    epochs: int | None = None
    command: str | None = Field(default=None, description="the command line that made it")
    edgevit: str = Field(default="", description="version that wrote it")
    key_format: Literal["native"] = "native"


def save_checkpoint(path: Path | str, state_dict: Mapping[str, Tensor], meta: CheckpointMeta) -> None:
    """Write tensors and ``meta`` to ``path`` (.safetensors, or .pt/.pth); a killed write leaves no half file there."""
    path = Path(path)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory or are strided
    state = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, scratch, metadata={"format": "pt", _METADATA_KEY: meta.model_dump_json()})
        else:
            torch.save({"state_dict": state, _METADATA_KEY: meta.model_dump_json()}, scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_checkpoint(path: Path | str) -> tuple[State, CheckpointMeta | None]:
    """Tensors by name, on the CPU, and the file's own metadata when edgevit wrote it.

    Wrappers that trainers add (``state_dict``, ``model``, ``model_ema``, a ``module.`` prefix) are taken off.
    Raises UsageError for a file that is missing, broken, of another kind, or that would have to run code to load.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise UsageError(f"no weights at {path}", hint="check the path")
    state, text = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not state:
        raise UsageError(f"{path} holds no tensors")
    return _without_prefix(state), None if text is None else _parse_meta(text, path)


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"{path} is not a kind of weights file known here", hint="use .safetensors, .pt or .pth")


def _read_safetensors(path: Path) -> tuple[State, str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_METADATA_KEY)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as safetensors: {exc}", hint="is the file complete?") from exc


def _read_pickle(path: Path) -> tuple[State, str | None]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise UsageError(
            f"{path} holds more than tensors, and loading it would run code from the file",
            hint="save model.state_dict() alone, best as .safetensors",
        ) from exc
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as exc:
        first = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise UsageError(f"{path} cannot be read as a torch checkpoint: {first}", hint="is the file complete?") from exc
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state dict")
    text = content.get(_METADATA_KEY)
    return _unwrap(content, path), text if isinstance(text, str) else None


def _unwrap(content: Mapping[str, Any], path: Path) -> State:
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key], path)
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise UsageError(
            f"{path} is not a state dict: {', '.join(strange[:3])} {'is' if len(strange) == 1 else 'are'} no tensors",
            hint="save model.state_dict() alone",
        )
    return dict(content)


def _without_prefix(state: State) -> State:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _parse_meta(text: str, path: Path) -> CheckpointMeta:
    try:
        return CheckpointMeta.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        raise UsageError(f"the edgevit metadata of {path} is not valid: {where}: {first['msg'].lower()}") from exc


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], origin: str, convert: Callable[[State], State] | None = None
) -> None:
    """Load all of ``state`` into ``module``: under its own names, else after ``convert``; UsageError if both fail."""
    native = dict(state)
    problems = _mismatch(module, native)
    if problems and convert is not None:
        try:
            converted = convert(dict(state))
        except (KeyError, ValueError, RuntimeError, AttributeError):  # not the layout that convert knows
            converted = native
        other = _mismatch(module, converted)
        if len(other) < len(problems):
            native, problems = converted, other
    if problems:
        raise UsageError(f"{origin} does not fit the model: {_shorten(problems)}", hint=_advice(module, native))
    module.load_state_dict(
        native, strict=False
    )  # checked above; only batch counters, which inference ignores, may lack


def _mismatch(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} is {_shape(state[name])} in the file and {_shape(value)} in the model"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    return shapes + [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in extra]


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a scalar"


def _shorten(problems: list[str], limit: int = 4) -> str:
    rest = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + rest


def _advice(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    own = module.state_dict()
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    if wrong and all(state[name].shape[1:] == own[name].shape[1:] for name in wrong):
        rows = {state[name].shape[0] for name in wrong}
        if len(rows) == 1 and any("head" in name or "fc" in name or "classifier" in name for name in wrong):
            return f"the file's classifier has {rows.pop()} classes: add --classes N with that number"
    if wrong and all("pos" in name or "bias" in name for name in wrong):
        return "the file is for another image size: add --image-size N"
    return "are these weights of this model?"
