"""The vision transformer that is split: one of ours, or timm's plain ViT or DeiT as ours, proved equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgevit.errors import Unsupported, UsageError
from edgevit.models.families.vit import (
    LAYER_NORM_EPS,
    Attention,
    Block,
    BlockConfig,
    VisionTransformer,
    ViTConfig,
    from_timm,
)
from edgevit.models.loading.fitting import load_state
from edgevit.models.loading.source import load
from edgevit.models.spec import attach_spec, spec_of
from edgevit.request import ModelChoice

SPLIT_HINT = "split one of our ViTs (vit_edvit, vit_tiny, vit_small, vit_base, vit_large) or timm's plain ViT or DeiT"
AGREEMENT = 1e-4  # float32 of the two implementations, relative to the largest logit


def load_trunk(model: ModelChoice) -> VisionTransformer:
    """The model as our ``VisionTransformer`` in train form and eval mode, with its ``ModelSpec`` attached.

    A timm model is converted, and must then compute what it did. Raises Unsupported, with the reason, for a model that
    is not a plain ViT; UsageError for a checkpoint that does not fit, and for a trunk of fewer than two classes.
    """
    found, name = load(model), str(model.source)
    trunk = found if isinstance(found, VisionTransformer) else _converted(found, name)
    if trunk.config.num_classes < 2:
        raise UsageError(f"{name} has {trunk.config.num_classes} classes; a split needs two or more")
    return trunk


def blocks_of(vit: VisionTransformer) -> list[Block]:
    """The blocks of a train-form ViT, typed."""
    return [block for block in vit.blocks if isinstance(block, Block)]


def attention_of(block: Block) -> Attention:
    """The attention of a train-form block. TypeError for the deploy form."""
    if not isinstance(block.attn, Attention):
        raise TypeError("this is the deploy form: only the train form can be scored and pruned")
    return block.attn


# --- timm --------------------------------------------------------------------------------------------------------


def _converted(model: nn.Module, name: str) -> VisionTransformer:
    spec = spec_of(model)
    if spec is None or spec.source != "timm":
        raise Unsupported(f"{name} is a {type(model).__name__}, not a plain vision transformer", hint=SPLIT_HINT)
    reason = _why_not(model)
    if reason is not None:
        raise Unsupported(f"{name} cannot be split: {reason}", hint=SPLIT_HINT)
    trunk = VisionTransformer(_config(model))
    try:
        load_state(trunk, from_timm(model.state_dict()), name)
    except UsageError as exc:
        raise Unsupported(f"{name} cannot be split: it is not a plain ViT ({exc})", hint=SPLIT_HINT) from exc
    _require_equal(model, trunk.eval(), name)
    attach_spec(trunk, spec)
    return trunk


def _why_not(model: Any) -> str | None:
    """What keeps a timm model from being our ViT, or None; in the order that helps most."""
    family = type(model).__name__
    if family == "VisionTransformerDistilled":
        return "it is distilled, with a second token and classifier"
    if family != "VisionTransformer":
        return f"it is a {family}"
    return next((reason for reason, true in _extras(model).items() if true), None)


def _extras(model: Any) -> dict[str, bool]:
    """What a timm VisionTransformer may have that ours has not, and whether this one does."""
    block = model.blocks[0]
    attention = getattr(block, "attn", None)
    return {
        "its blocks have LayerScale": not isinstance(getattr(block, "ls1", nn.Identity()), nn.Identity),
        "its tokens are pooled, not read from a class token": model.global_pool != "token" or model.cls_token is None,
        "it has register tokens": bool(getattr(model, "num_reg_tokens", 0)),
        "its class token has no position of its own": bool(getattr(model, "no_embed_class", False)),
        "its queries and keys are normalised": not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity),
        "it normalises before its first block": not isinstance(model.norm_pre, nn.Identity),
        "it has a LayerNorm before the classifier": not isinstance(model.fc_norm, nn.Identity),
        "its norms are not LayerNorm with an epsilon of 1e-6": not _our_norm(model.norm),
        "its patches are not square and side by side": not _plain_patches(model.patch_embed),
        "its blocks are of another kind": not (
            hasattr(attention, "qkv") and hasattr(getattr(block, "mlp", None), "fc1")
        ),
    }


def _our_norm(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.eps == LAYER_NORM_EPS


def _plain_patches(embed: Any) -> bool:
    conv = getattr(embed, "proj", None)
    return (
        isinstance(conv, nn.Conv2d)
        and conv.kernel_size == conv.stride
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.bias is not None
    )


def _config(model: Any) -> ViTConfig:
    conv: nn.Conv2d = model.patch_embed.proj
    height, width = model.patch_embed.img_size
    blocks = tuple(
        BlockConfig(block.attn.num_heads, block.attn.head_dim, block.mlp.fc1.out_features, float(block.attn.scale))
        for block in model.blocks
    )
    return ViTConfig(
        (int(height), int(width)),
        int(conv.kernel_size[0]),
        conv.out_channels,
        blocks,
        int(model.num_classes),
        conv.in_channels,
    )


def _require_equal(model: nn.Module, trunk: VisionTransformer, name: str) -> None:
    """Unsupported unless both give the same logits for one random image: whatever ``_why_not`` does not know."""
    image = torch.randn(1, trunk.config.in_chans, *trunk.config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model.eval()(image), trunk(image)
    error = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= AGREEMENT:
        raise Unsupported(
            f"{name} cannot be split: converted to a plain ViT it differs by {error:.1e} of its largest logit",
            hint=SPLIT_HINT,
        )
