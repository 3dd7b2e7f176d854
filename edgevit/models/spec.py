"""What a model says about itself: attached to the module, carried into the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgevit.errors import Unsupported
from edgevit.images import Preprocess
from edgevit.steps import OF_CHANNELS

_ATTRIBUTE = "edgevit_spec"


@dataclass(frozen=True)
class ModelSpec:
    """Facts about a loaded model.

    source   "zoo", "file", "module", or the prefix of the library that it is of: "timm"
    channels of an image that the model takes
    origin   where the weights came from: a path (with "#ema" behind it where the file held others too), "digits",
             "timm pretrained", "random (seed 0)"
    data     the labelled data source the weights were trained on, e.g. "digits", or None
    accuracy held-out top-1 recorded in the checkpoint, as a fraction, or None
    task     what the outputs mean, where the model says so
    integers the checkpoint that holds integers of its weights, and what it says of them (``edgevit.quantize.stored``)
    notes    sentences on what was assumed or chosen while it was loaded
    """

    name: str
    source: str
    image_size: tuple[int, int] | None
    preprocess: Preprocess | None
    num_classes: int | None
    labels: tuple[str, ...] | None = None
    origin: str = "random (seed 0)"
    data: str | None = None
    accuracy: float | None = None
    channels: int = 3
    task: str | None = None
    notes: tuple[str, ...] = ()
    integers: tuple[str, str] | None = None

    def require_pictures(self) -> None:
        """Unsupported unless pictures can have as many channels as the model takes."""
        if self.channels not in OF_CHANNELS:
            raise Unsupported(
                f"{self.name} takes images of {self.channels} channels; pictures have 1, 3 or 4",
                hint="let it begin with a layer that takes 3; or give rows of its own inputs: --inputs rows.npz, "
                "from Python edgevit.export(…, inputs={…}), arrays by the names of forward's arguments",
            )

    def require_rgb(self) -> None:
        """Unsupported unless the model takes the three channels that pictures have in training."""
        if self.channels != 3:
            raise Unsupported(
                f"{self.name} takes images of {self.channels} channel{'s' if self.channels > 1 else ''}; "
                "in training images have 3",
                hint="let it begin with a layer that takes 3, for grey x.mean(1, keepdim=True)",
            )


def attach_spec(module: nn.Module, spec: ModelSpec) -> nn.Module:
    """Remember ``spec`` on ``module`` (a plain attribute: it survives deepcopy, and is not in the state dict)."""
    setattr(module, _ATTRIBUTE, spec)
    return module


def spec_of(module: nn.Module) -> ModelSpec | None:
    """The spec attached by ``create_model``, or None for a module that came from elsewhere."""
    spec = getattr(module, _ATTRIBUTE, None)
    return spec if isinstance(spec, ModelSpec) else None
