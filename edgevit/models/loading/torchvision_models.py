"""torchvision's image models, ``torchvision:NAME[.WEIGHTS]``, with the preprocessing and labels of their weights."""

from __future__ import annotations

import difflib
import inspect
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgevit.errors import UnknownName, Unsupported, UsageError, first_line
from edgevit.images import Preprocess
from edgevit.models.loading.file_models import look
from edgevit.models.loading.published import (
    OWN_FILE,
    Published,
    Wanted,
    crop_share,
    no_network,
    odd_step,
    reachable,
    require_size,
    triple,
)
from edgevit.models.loading.torchvision_ops import declare_torchvision_ops
from edgevit.sizes import Size

# Folders of torchvision.models whose models are no function from one picture to tensors, or none of floats.
_DECLINED = {
    "detection": (
        "finds boxes: it takes a list of pictures, and how many boxes it returns depends on what it sees",
        "export what gives its features: a factory of yours that returns its .backbone",
    ),
    "video": ("takes clips of video, and images are single pictures here", "use an image model"),
    "optical_flow": ("takes two pictures at once", "from Python: edgevit.export(…, inputs={…})"),
    "quantization": ("is quantised, and every artifact is built from floats", "use the model without quantized_"),
}


@cache
def import_torchvision() -> ModuleType:
    """The torchvision package, beside whatever torch there is."""
    declare_torchvision_ops()
    return import_module("torchvision")


def torchvision_model(wanted: Wanted) -> Published:
    """A ``Maker``."""
    models = import_torchvision().models
    name, dot, tag = wanted.name.partition(".")
    if name not in models.list_models():
        raise UnknownName("torchvision model", name, models.list_models(), hint=_near(name, models.list_models()))
    builder = models.get_model_builder(name)
    _require_pictures(name, builder)
    weights = _weights(models, name, tag if dot else None)
    steps = weights.transforms()
    size = wanted.image_size or _crop_of(steps)
    module = _create(builder, name, wanted, weights, size)
    if wanted.image_size is not None:
        require_size(module, f"torchvision's {name}", size)
    _, classes = look(module, size)
    labels = tuple(weights.meta.get("categories") or ())
    preprocess = _preprocess(name, steps, size)
    return Published(module, size, preprocess, classes, labels if len(labels) == classes else None)


def _require_pictures(name: str, builder: Callable[..., nn.Module]) -> None:
    folder = builder.__module__.removeprefix("torchvision.models.").partition(".")[0]
    if folder in _DECLINED:
        why, hint = _DECLINED[folder]
        raise Unsupported(f"torchvision's {name} {why}", hint=hint)


def _weights(models: Any, name: str, tag: str | None) -> Any:
    """Those of the tag, else torchvision's own choice; without ``pretrained`` they only say how images are prepared."""
    known = models.get_model_weights(name)
    if tag is None:
        return known.DEFAULT
    if tag not in known.__members__:
        raise UnknownName(f"weights of torchvision's {name}", tag, known.__members__)
    return known[tag]


def _create(builder: Callable[..., nn.Module], name: str, wanted: Wanted, weights: Any, size: Size) -> nn.Module:
    options: dict[str, Any] = {} if wanted.num_classes is None else {"num_classes": wanted.num_classes}
    if "weights_backbone" in inspect.signature(inspect.unwrap(builder)).parameters:  # it downloads one by default
        options["weights_backbone"] = None
    if wanted.pretrained:
        _require_its_classes(name, weights, wanted.num_classes)
        with _quietly(), _safely(name, weights):
            return builder(weights=weights, **options)
    with _quietly():
        module = builder(**options)
        if sized := _sized(module, size):
            module = _resized(builder, name, {**options, **sized})
    return module


def _sized(module: nn.Module, size: Size) -> dict[str, Any]:
    """The argument of a model that fixes its image size when it is made, where that is another one."""
    taken = inspect.signature(type(module).__init__).parameters
    if "input_size" in taken:
        return {"input_size": size}
    if "image_size" in taken and size[0] == size[1] != getattr(module, "image_size", None):
        return {"image_size": size[0]}
    return {}


def _resized(builder: Callable[..., nn.Module], name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return builder(**options)
    except Exception as exc:  # torch's and the builders' own words for a size that they cannot take
        raise UsageError(f"torchvision cannot build {name} so: {first_line(exc)}", hint="drop --image-size") from exc


def _require_its_classes(name: str, weights: Any, classes: int | None) -> None:
    own = len(weights.meta.get("categories") or ())
    if classes is not None and own and classes != own:
        raise UsageError(
            f"the pretrained weights of torchvision's {name} have {own} classes, not {classes}",
            hint="drop --classes, or train it on yours and use --weights",
        )


@contextmanager
def _safely(name: str, weights: Any) -> Iterator[None]:
    """Pretrained weights are read without running code from their file, and a hub that is away answers soon."""
    home: Any = import_module("torchvision.models._api")
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not kept.exists() and not reachable(weights.url):
        raise no_network(f"torchvision's {name}", "download.pytorch.org")
    before = home.load_state_dict_from_url
    home.load_state_dict_from_url = partial(before, weights_only=True)
    try:
        yield
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as exc:
        raise UsageError(
            f"torchvision cannot load its weights of {name}: {first_line(exc)}", hint=f"remove {kept}, and try again"
        ) from exc
    finally:
        home.load_state_dict_from_url = before


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings about how random weights are made, or a bar for a download."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# --- preprocessing -----------------------------------------------------------------------------------------------


def _crop_of(steps: Any) -> Size:
    """Height and width of what is cut out; of a segmentation, which cuts nothing, a square of the side it resizes."""
    height, *more = getattr(steps, "crop_size", None) or steps.resize_size
    return int(height), int(more[0] if more else height)


def _preprocess(name: str, steps: Any, size: Size) -> Preprocess:
    own, shorter = _crop_of(steps), int(steps.resize_size[0])
    crop_pct, interpolation = crop_share(min(own), shorter), steps.interpolation.value
    odd = odd_step({"crop": "center", "crop_pct": crop_pct, "interpolation": interpolation})
    if odd is not None:
        raise Unsupported(f"torchvision's {name} is preprocessed with {odd}, which edgevit does not do", hint=OWN_FILE)
    mean, std = triple(steps.mean), triple(steps.std)
    return Preprocess(size=size, mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation)


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean torchvision:{' or torchvision:'.join(near)}?" if near else "its documentation lists them"
