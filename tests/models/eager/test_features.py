"""Which models give features, and which outputs look like them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgevit.models.eager.features import are_features
from edgevit.models.eager.outputs import named_outputs
from edgevit.models.loading.source import import_timm


def timm(name: str, **options) -> nn.Module:
    return import_timm().create_model(name, **options)


def layers() -> nn.Module:
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    return IntermediateLayerGetter(resnet18(weights=None), {"layer4": "deep"})


def traced() -> nn.Module:
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(resnet18(weights=None), ["layer4"])


def backbone(kind: str) -> nn.Module:
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    return getattr(transformers, kind)(config)


EXTRACTORS: dict[str, Callable[[], nn.Module]] = {
    "timm's features of a CNN": lambda: timm("test_resnet", features_only=True),
    "timm's features of a ViT": lambda: timm("test_vit", features_only=True, img_size=32),
    "one map of timm's": lambda: timm("test_resnet", features_only=True, out_indices=(4,)),
    "timm without a head": lambda: timm("test_resnet", num_classes=0),
    "timm without head and pooling": lambda: timm("test_vit", num_classes=0, global_pool="", img_size=32),
    "torchvision's layers": layers,
    "torchvision's traced layers": traced,
    "transformers' backbone": lambda: backbone("Dinov2Backbone"),
    "transformers' encoder": lambda: backbone("Dinov2Model"),
}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_model_that_a_library_made_to_give_features_is_known(name: str) -> None:
    model = EXTRACTORS[name]().eval()
    with torch.no_grad():
        assert are_features(model, named_outputs(model(torch.zeros(1, 3, 32, 32))))


def maps(*shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"output_{index}": torch.zeros(1, *shape) for index, shape in enumerate(shapes)}


def test_maps_that_get_smaller_and_deeper_are_the_stages_of_a_backbone() -> None:
    assert are_features(nn.Identity(), maps((8, 16, 16), (8, 8, 8), (16, 4, 4)))


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 16, 16), (8, 8, 8), (8, 4, 4)],
        [(8, 4, 4), (16, 8, 8)],
        [(8, 8, 8), (16, 8, 8)],
        [(8, 16, 16), (16,)],
        [(8, 16, 16)],
    ],
    ids=["as deep as each other", "larger", "as large", "a vector", "alone"],
)
def test_other_maps_are_not(shapes: list[tuple[int, ...]]) -> None:
    assert not are_features(nn.Identity(), maps(*shapes))


def test_labels_are_no_features_whoever_gives_them() -> None:
    model = timm("test_resnet", num_classes=0)
    assert not are_features(model, {"features": torch.zeros(1, 8), "which": torch.zeros(1, 8, dtype=torch.int64)})
