"""transformers' image models, ``hf:ID[@REVISION]`` or ``hf:FOLDER``: the class that their config names, never code of
their repository's. Only this module and ``hf_pictures`` import transformers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import EdgeVitError, Unsupported, UsageError, first_line
from edgevit.models.loading.file_models import look
from edgevit.models.loading.hf_pictures import prepared_by
from edgevit.models.loading.published import OWN_FILE, Published, Wanted, hub_patience, no_network, require_size
from edgevit.models.loading.torchvision_ops import declare_torchvision_ops
from edgevit.request import image_sides
from edgevit.sizes import Size

_SIDE = 224  # of pictures for a model whose files name no size


class Pictures(nn.Module):
    """One of transformers' models as a function of images alone: a classifier gives its logits, another its tensors.

    flipped  the model takes blue first, and images are RGB here
    options  further arguments of each call
    """

    def __init__(self, model: nn.Module, classifier: bool, flipped: bool = False, **options: Any) -> None:
        super().__init__()
        self.model, self.classifier, self.flipped, self.options = model, classifier, flipped, options

    def forward(self, image: Tensor) -> Any:
        given = image.flip(1) if self.flipped else image
        found = self.model(pixel_values=given, return_dict=True, **self.options)
        return found.logits if self.classifier else dict(found)


@cache
def import_transformers() -> Any:
    """The transformers package, beside whatever torch there is; an unreachable hub answers soon."""
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    declare_torchvision_ops()
    return import_module("transformers")


def hf_model(wanted: Wanted) -> Published:
    """A ``Maker``."""
    library, where = import_transformers(), _place(wanted.name)
    with _quietly(library), nullcontext() if where.get("local_files_only") else hub_patience():
        config = _config(library, wanted, where)
        kind = _class_of(library, config, wanted)
        pictures = prepared_by(library, where)
        model, notes = _created(kind, config, wanted, where)
    own = pictures.steps
    size, classifier = wanted.image_size or (own.size if own else _size_of(config)), _classifies(library, config, kind)
    module = Pictures(model.eval(), classifier, pictures.flipped, **_options(model, config, size))
    require_size(module, f"transformers' {wanted.name}", size)
    classes = look(module, size)[1] if classifier else None
    renamed = partial(_renamed, library, kind, config)
    return Published(module, size, own, classes, _labels(config, classes), renamed, (*pictures.notes, *notes))


def _place(name: str) -> dict[str, Any]:
    """The arguments that say where the files are."""
    if Path(name).expanduser().is_dir():
        return {"pretrained_model_name_or_path": str(Path(name).expanduser()), "local_files_only": True}
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"no folder {name}", hint="check the path behind hf:")
    hub_id, at, revision = name.partition("@")
    return {"pretrained_model_name_or_path": hub_id, **({"revision": revision} if at else {})}


def _config(library: Any, wanted: Wanted, where: dict[str, Any]) -> Any:
    name = wanted.name
    if where.get("local_files_only") and not (Path(where["pretrained_model_name_or_path"]) / "config.json").is_file():
        raise UsageError(f"{name} has no config.json", hint="give a folder that save_pretrained wrote")
    try:
        config = library.AutoConfig.from_pretrained(**where, trust_remote_code=False)
    except Exception as exc:  # the hub's client and every config's own checks
        raise _unread(name, exc, where) from exc
    if config.model_type == "timm_wrapper":
        kind = "local-dir" if where.get("local_files_only") else "hf-hub"
        raise Unsupported(f"{name} is one of timm's models", hint=f"write timm:{kind}:{name}")
    if wanted.num_classes is not None and wanted.num_classes != config.num_labels:
        config.num_labels = wanted.num_classes
    return config


def _unread(name: str, exc: Exception, where: dict[str, Any]) -> EdgeVitError:
    if "trust_remote_code" in str(exc):
        return Unsupported(f"{name} needs code from its repository, which is not run here", hint=OWN_FILE)
    if where.get("local_files_only"):
        return UsageError(f"transformers cannot read the config of {name}: {first_line(exc)}")
    if not import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
        return UsageError(f"transformers finds no model {name}: {first_line(exc)}", hint="check the id behind hf:")
    return no_network(name)


def _class_of(library: Any, config: Any, wanted: Wanted) -> Any:
    """The class of the model: the one that its config names, unless a classifier of other classes is asked for."""
    known = library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    classifiers = _listed(known[type(config)]) if type(config) in known else []
    named = (config.architectures or [None])[0]
    kind = getattr(library, named, None) if named else (classifiers or [_bare(library, config)])[0]
    if wanted.num_classes is not None and kind not in classifiers:
        if not classifiers:
            raise UsageError(f"{wanted.name} is no classifier, and transformers has none of its kind")
        kind = classifiers[0]
    if kind is None:
        raise Unsupported(f"{wanted.name} is a {named or config.model_type}, which transformers here does not have")
    if kind.main_input_name != "pixel_values":
        raise Unsupported(
            f"{wanted.name} ({kind.__name__}) takes {kind.main_input_name}, not pictures alone", hint=OWN_FILE
        )
    return kind


def _bare(library: Any, config: Any) -> Any:
    return library.MODEL_MAPPING.get(type(config), None)


def _classifies(library: Any, config: Any, kind: Any) -> bool:
    known = library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return type(config) in known and kind in _listed(known[type(config)])


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple | list) else [found]


def _created(kind: Any, config: Any, wanted: Wanted, where: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model, and what is to be said of its weights."""
    name = wanted.name
    if not wanted.pretrained:
        try:
            return kind(config).float(), ()
        except Exception as exc:  # of a config that contradicts itself
            raise UsageError(f"transformers cannot build {name}: {first_line(exc)}") from exc
    try:
        model, found = kind.from_pretrained(
            **where, config=config, dtype=torch.float32, weights_only=True, output_loading_info=True,
            ignore_mismatched_sizes=wanted.num_classes is not None,
        )  # fmt: skip
    except Exception as exc:  # of safetensors, of pickles that would run code, of the hub's client
        raise _unloaded(name, exc, where) from exc
    new = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    if new and wanted.num_classes is None:
        raise UsageError(f"the files of {name} lack weights of its {kind.__name__}: {', '.join(new[:4])}")
    return model, (
        (f"{', '.join(new[:2])} of {wanted.num_classes} classes is new, with random weights",) if new else ()
    )


def _renamed(library: Any, kind: Any, config: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the names of ``Pictures``: its versions name them differently, and read each other's.
    ValueError where they are not all of the model's."""
    with _quietly(library):
        model, found = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    if found["missing_keys"] or found["mismatched_keys"] or found["unexpected_keys"]:
        raise ValueError("these are other tensors")
    return {f"model.{name}": value for name, value in model.state_dict().items()}


def _unloaded(name: str, exc: Exception, where: dict[str, Any]) -> EdgeVitError:
    if where.get("local_files_only") or not import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
        hint = "save it with save_pretrained, which writes safetensors; or use --weights FILE"
        return UsageError(f"transformers cannot load the weights of {name}: {first_line(exc)}", hint=hint)
    return no_network(name)


def _size_of(config: Any) -> Size:
    """The size that the model itself is made for."""
    size = getattr(config, "image_size", None)
    return image_sides(size if size is not None else _SIDE) or (_SIDE, _SIDE)


def _options(model: nn.Module, config: Any, size: Size) -> dict[str, Any]:
    """Positions are stretched to another size than the model's own."""
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if takes and size != _size_of(config) else {}


def _labels(config: Any, classes: int | None) -> tuple[str, ...] | None:
    """Names of the classes, where somebody has named them."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    made_up = names == tuple(f"LABEL_{index}" for index in range(len(names)))
    return None if made_up or len(names) != classes else names


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Without bars, and without advice to its programmers."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
