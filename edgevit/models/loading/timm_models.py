"""timm's models, with the preprocessing and labels of their own pretrained config. Only this module imports timm."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edgevit import registry
from edgevit.errors import EdgeVitError, UnknownName, Unsupported, UsageError, first_line
from edgevit.images import Preprocess
from edgevit.models.loading.published import (
    OWN_FILE,
    Published,
    Wanted,
    hub_patience,
    no_network,
    odd_step,
    require_size,
)
from edgevit.models.loading.torchvision_ops import declare_torchvision_ops
from edgevit.sizes import Size


@cache
def import_timm() -> ModuleType:
    """The timm package. MissingDependency, with the pip line, where it is not installed."""
    row = registry.SOURCES["timm"]
    registry.need("timm:NAME", row.packages, row.install)
    # Read by huggingface_hub when it is imported: an unreachable hub must answer soon.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    declare_torchvision_ops()
    return import_module("timm")


def timm_model(wanted: Wanted) -> Published:
    """A ``Maker``."""
    timm, name = import_timm(), wanted.name
    if not name.partition("/")[0].startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), hint=_near(name, timm.list_models()))
    module = _create(timm, wanted)
    config = import_module("timm.data").resolve_model_data_config(module)
    size = wanted.image_size or (int(config["input_size"][1]), int(config["input_size"][2]))
    if wanted.image_size is not None:
        require_size(module, f"timm's {name}", size)
    classes = int(getattr(module, "num_classes", 0)) or None
    preprocess, labels = _timm_preprocess(name, config, size), _imagenet_names(module, classes)
    renamed = _original_keys(module)
    return Published(module, size, preprocess, classes, labels, renamed, _new_classifier(module, wanted))


def _new_classifier(module: nn.Module, wanted: Wanted) -> tuple[str, ...]:
    """timm replaces the classifier of pretrained weights where other classes are asked for."""
    own = (getattr(module, "pretrained_cfg", None) or {}).get("num_classes")
    if not wanted.pretrained or wanted.num_classes in (None, 0, own):
        return ()
    return (
        f"its classifier of {wanted.num_classes} classes is new, with random weights: the pretrained one has {own}",
    )


def _create(timm: ModuleType, wanted: Wanted) -> nn.Module:
    name, size, pretrained = wanted.name, wanted.image_size, wanted.pretrained
    options: dict[str, Any] = {} if wanted.num_classes is None else {"num_classes": wanted.num_classes}
    config: dict[str, Any] = getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "to_dict", dict)()
    if size is not None and size != tuple(config.get("input_size", ())[1:]) and config.get("fixed_input_size"):
        options["img_size"] = size
    try:
        with hub_patience() if pretrained else nullcontext():
            module: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as exc:
        raise UsageError(f"timm's {name} does not take {' and '.join(options)}: {exc}") from exc
    except Exception as exc:  # the hub client raises from several packages
        raise _not_made(name, exc, pretrained) from exc
    return module


def _not_made(name: str, exc: Exception, pretrained: bool) -> EdgeVitError:
    if not pretrained:
        return UsageError(f"timm cannot build {name}: {first_line(exc)}")
    if "No pretrained weights exist" in str(exc) or "Invalid pretrained tag" in str(exc):
        return UsageError(f"timm has no pretrained weights for {name}", hint="drop --pretrained, or use --weights")
    return no_network(name)


def _timm_preprocess(name: str, config: Mapping[str, Any], size: Size) -> Preprocess:
    mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    crop: Any = config.get("crop_mode") or "center"
    crop_pct = float(config.get("crop_pct") or 1.0)
    if len(mean) != 3 or len(std) != 3 or int(config["input_size"][0]) != 3:
        raise Unsupported(f"timm's {name} does not take RGB images", hint="edgevit's preprocessing makes 3 channels")
    odd = odd_step({"crop": crop, "crop_pct": crop_pct, "interpolation": str(config["interpolation"])})
    if odd is not None:
        raise Unsupported(
            f"timm's {name} is preprocessed with {odd}, which edgevit does not do",
            hint=OWN_FILE,
        )
    return Preprocess(
        size=size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        crop=crop,
        crop_pct=crop_pct,
        interpolation=config["interpolation"],
    )


def _imagenet_names(module: nn.Module, classes: int | None) -> tuple[str, ...] | None:
    """timm's names of the ImageNet variant that the model's own classifier has, or None."""
    data = import_module("timm.data")
    config = getattr(module, "pretrained_cfg", None) or {}
    if classes is None or config.get("num_classes") != classes:
        return None
    subset = data.infer_imagenet_subset(config)
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    names = tuple(str(info.index_to_description(index)) for index in range(info.num_classes()))
    return names if len(names) == classes else None


def _original_keys(module: nn.Module) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return None if convert is None else lambda state: dict(convert(state, module))


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.partition(".")[0], known, n=3, cutoff=0.5)
    return f"did you mean timm:{' or timm:'.join(near)}?" if near else "timm.list_models() lists them"
