"""The segmenter: its forms are equal, its tokens answer themselves, and it begins as what its stem saw."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgevit.models import reparameterize
from edgevit.models.families.segmenter import Segmenter, SegmenterConfig, segmenter_nano
from edgevit.models.families.vit import ViTConfig, uniform_blocks
from edgevit.models.loading.source import create_model


def randomised(model: nn.Module) -> nn.Module:
    """In eval mode and float64, with statistics as after training, and blocks that do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                nn.init.uniform_(tensor, low, high)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


@pytest.mark.parametrize("size", [64, (16, 40)], ids=["square", "wide"])
def test_the_deploy_form_gives_the_same_scores_without_batch_norm_or_deconvolutions(size) -> None:
    model = randomised(create_model("segmenter_nano", num_classes=5, image_size=size))
    deploy = reparameterize(model)
    sides = (size, size) if isinstance(size, int) else size
    image = torch.randn(2, 3, *sides, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = model.scores(image), deploy.scores(image)
    assert wanted.shape == (2, 5, *sides)
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() < 1e-12
    assert not any(isinstance(module, nn.BatchNorm2d | nn.ConvTranspose2d) for module in deploy.modules())


def test_what_the_tokens_say_themselves_is_added_to_the_heads_scores() -> None:
    model = randomised(segmenter_nano(3, 32))
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        both = model.scores(image)
        nn.init.zeros_(model.scores.head.classify.weight)
        nn.init.zeros_(model.scores.head.classify.bias)
        tokens, _ = model.scores.stem(image)
        said = model.scores.coarse(model.scores.norm(model.scores.blocks(tokens + model.scores.pos_embed)))
        own = F.interpolate(said.transpose(1, 2).reshape(1, 3, 4, 4), scale_factor=8.0, mode="bilinear")
        alone = model.scores(image)
    assert torch.allclose(alone, own)
    assert not torch.allclose(both, own)


def test_blocks_begin_as_nothing() -> None:
    scores = segmenter_nano(3, 32).eval().scores
    tokens = torch.randn(1, 16, 96)
    with torch.no_grad():
        assert torch.equal(scores.blocks(tokens), tokens)


def test_deconvolutions_that_do_not_make_a_patch_are_refused() -> None:
    encoder = ViTConfig((32, 32), 8, 96, uniform_blocks(1, 3, 32, 96), 3, 3)
    with pytest.raises(ValueError, match="2 deconvolutions make 4×4 pixels of a token, not patches of 8×8"):
        Segmenter(SegmenterConfig(encoder, (32, 16)))
