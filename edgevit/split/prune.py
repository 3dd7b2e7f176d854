"""From a trunk and scores of its units to a dense, smaller transformer: every matrix is cut, nothing is masked.

Source: ED-ViT (arXiv 2410.11650), as far as known: one number hp, "heads pruned", cuts all widths by the keep ratio
s = (h - hp) / h. The residual stream becomes s·D wide, attention keeps h - hp heads of the width and the scale that
they have, FFNs keep s·F hidden units. The three steps are taken in the paper's order; they act on different axes, so
that scores taken once from the trunk give the same result in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgevit import render
from edgevit.errors import PlacementImpossible, Unsupported, UsageError
from edgevit.models.families.vit import BlockConfig, VisionTransformer, ViTConfig
from edgevit.split.trunk import attention_of, blocks_of

if TYPE_CHECKING:
    from edgevit.split.importance import Importance

SHARE = 0.55  # of the trunk's bytes, that all sub-models together may take by default
WEIGHT_BYTES = 4  # float32


# --- how much stays ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Widths:
    """Units that stay: channels of the residual stream, and by block heads and hidden units."""

    dim: int
    heads: tuple[int, ...]
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """Of the deploy form, for one image: parameters, multiply-accumulates, and bytes of its float32 weights."""

    params: int
    macs: int
    bytes: int


def kept(config: ViTConfig, hp: int) -> Widths:
    """Widths after removing ``hp`` of the h heads of every block: each times s = (h - hp) / h, rounded half up.

    UsageError unless 0 <= hp < h. Unsupported for a trunk whose blocks differ in their number of heads.
    """
    heads = heads_of(config)
    if not 0 <= hp < heads:
        raise UsageError(
            f"{hp} of {heads} heads cannot be pruned",
            hint=f"a sub-model keeps at least one head: 0 to {heads - 1}",
        )
    hidden = tuple(_scaled(block.hidden, heads - hp, heads) for block in config.blocks)
    return Widths(_scaled(config.dim, heads - hp, heads), (heads - hp,) * len(config.blocks), hidden)


def heads_of(config: ViTConfig) -> int:
    """The heads of every block. Unsupported where they differ: one hp would not mean one ratio."""
    numbers = {block.heads for block in config.blocks}
    if len(numbers) > 1:
        raise Unsupported(
            f"the trunk's blocks have {', '.join(map(str, sorted(numbers)))} heads, so it has no one keep ratio",
            hint="split the model that this one was pruned from",
        )
    return numbers.pop()


def pruned_config(config: ViTConfig, hp: int, outputs: int) -> ViTConfig:
    """Sizes of the pruned model with a classifier of ``outputs``. Heads keep their width and their scale."""
    widths = kept(config, hp)
    blocks = tuple(
        replace(block, heads=heads, hidden=hidden, scale=block.attention_scale)
        for block, heads, hidden in zip(config.blocks, widths.heads, widths.hidden, strict=True)
    )
    return replace(config, dim=widths.dim, blocks=blocks, num_classes=outputs)


def size_of(config: ViTConfig, hp: int, outputs: int | None = None) -> Size:
    """What the model takes once ``hp`` heads are gone, without building it. ``outputs`` of the classifier: the trunk's
    own unless given; a sub-model has one per class and one for "none of mine"."""
    config = pruned_config(config, hp, config.num_classes if outputs is None else outputs)
    dim, patches = config.dim, config.grid[0] * config.grid[1]
    pixels, classes = config.in_chans * config.patch**2, config.num_classes
    *others, last = config.blocks
    params = (pixels + 1) * dim + (patches + 1) * dim + 2 * dim + (dim + 1) * classes
    params += sum(_block_params(block, dim) for block in config.blocks)
    macs = patches * pixels * dim + dim * classes + _class_token_macs(last, dim, patches + 1)
    macs += sum(_block_macs(block, dim, patches + 1) for block in others)
    return Size(params, macs, params * WEIGHT_BYTES)


def smallest_hp(config: ViTConfig, parts: int, share: float = SHARE) -> int:
    """The smallest hp at which all ``parts`` together take at most ``share`` of the trunk's bytes.

    PlacementImpossible when even one head per block is too much.
    """
    return heads_pruned_for(config, parts, int(share * size_of(config, 0).bytes), f"{share:.0%} of the trunk")


def heads_pruned_for(config: ViTConfig, parts: int, bytes_budget: int, budget: str = "the budget") -> int:
    """The smallest hp at which all ``parts`` together take at most ``bytes_budget``; each counted with the classifier
    of the largest part. PlacementImpossible, with needed and free bytes, when even one head per block is too much;
    it calls the limit ``budget``."""
    if not 1 <= parts <= config.num_classes:
        raise UsageError(f"{config.num_classes} classes cannot be split into {parts} parts")
    outputs, needed = -(-config.num_classes // parts) + 1, 0
    for hp in range(heads_of(config)):
        needed = parts * size_of(config, hp, outputs).bytes
        if needed <= bytes_budget:
            return hp
    raise PlacementImpossible(
        f"one head per block in {render.counted(parts, 'sub-model')} still needs {needed:,} bytes, and {budget} is "
        f"{bytes_budget:,}",
        hint="give a larger --memory-budget, or split into fewer parts",
        part=f"{parts} sub-models",
        node=budget,
        needed_bytes=needed,
        free_bytes=bytes_budget,
    )


def _scaled(width: int, kept_heads: int, heads: int) -> int:
    return max(1, (2 * width * kept_heads + heads) // (2 * heads))


def _block_params(block: BlockConfig, dim: int) -> int:
    attention = 4 * dim * block.inner + block.inner + dim  # K and V have no bias
    return 4 * dim + attention + 2 * dim * block.hidden + block.hidden + dim


def _block_macs(block: BlockConfig, dim: int, tokens: int) -> int:
    return tokens * (4 * dim * block.inner + 2 * tokens * block.inner + 2 * dim * block.hidden)


def _class_token_macs(block: BlockConfig, dim: int, tokens: int) -> int:
    return 4 * dim * block.inner + 2 * block.heads * tokens * dim + 2 * dim * block.hidden


# --- which units stay --------------------------------------------------------------------------------------------


def prune(trunk: VisionTransformer, importance: Importance, hp: int, classes: int) -> VisionTransformer:
    """The units of ``trunk`` worth most, as a dense train-form ViT in eval mode; the trunk is not touched.

    Heads are kept or removed whole, by the sum of their dims' scores. The classifier is new, with ``classes`` + 1
    outputs and always the same random weights: the trunk's knows nothing of "none of mine". Equal scores: the unit
    that comes first stays. UsageError when the importance is of another trunk; otherwise as ``kept``.
    """
    widths = kept(trunk.config, hp)
    _check_fits(trunk.config, importance)
    model = keep_residual(trunk, highest(importance.residual, widths.dim))
    model = keep_heads(model, [highest(*each) for each in zip(importance.heads, widths.heads, strict=True)])
    model = keep_hidden(model, [highest(*each) for each in zip(importance.hidden, widths.hidden, strict=True)])
    return with_classes(model, classes + 1)


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest of ``scores`` (units,), ascending; of equal ones, the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def _check_fits(config: ViTConfig, importance: Importance) -> None:
    mine = (config.dim, [(b.heads, b.head_dim) for b in config.blocks], [b.hidden for b in config.blocks])
    scored = (
        len(importance.residual),
        [tuple(scores.shape) for scores in importance.head_dims],
        [len(scores) for scores in importance.hidden],
    )
    if mine != scored:
        raise UsageError("the importance scores are of another trunk", hint="score the trunk that is to be pruned")


# --- cutting -----------------------------------------------------------------------------------------------------


def keep_residual(vit: VisionTransformer, keep: Tensor) -> VisionTransformer:
    """Only the residual channels ``keep`` (indices): cut from the patch embedding, class token, positions, all norms,
    the inputs of Q, K, V, FFN and classifier, and the outputs of both branches. LayerNorm averages over fewer."""
    result = _empty(replace(vit.config, dim=len(keep)), vit)
    with torch.no_grad():
        result.patch_embed.proj.weight.copy_(vit.patch_embed.proj.weight[keep])
        _bias(result.patch_embed.proj).copy_(_bias(vit.patch_embed.proj)[keep])
        result.cls_token.copy_(vit.cls_token[..., keep])
        result.pos_embed.copy_(vit.pos_embed[..., keep])
        for new, old in zip(blocks_of(result), blocks_of(vit), strict=True):
            for name in ("norm1", "norm2"):
                _copy_norm(getattr(new, name), getattr(old, name), keep)
            _copy_linear(attention_of(new).qkv, attention_of(old).qkv, inputs=keep)
            _copy_linear(attention_of(new).proj, attention_of(old).proj, outputs=keep)
            _copy_linear(new.mlp.fc1, old.mlp.fc1, inputs=keep)
            _copy_linear(new.mlp.fc2, old.mlp.fc2, outputs=keep)
        _copy_norm(result.norm, vit.norm, keep)
        if isinstance(result.head, nn.Linear) and isinstance(vit.head, nn.Linear):
            _copy_linear(result.head, vit.head, inputs=keep)
    return result


def keep_heads(vit: VisionTransformer, keeps: Sequence[Tensor]) -> VisionTransformer:
    """By block only the heads ``keeps`` (indices), with the width and the attention scale that they have."""
    blocks = tuple(
        replace(block, heads=len(keep), scale=block.attention_scale)
        for block, keep in zip(vit.config.blocks, keeps, strict=True)
    )
    result = _empty(replace(vit.config, blocks=blocks), vit)
    with torch.no_grad():
        _copy_alike(result, vit)
        for new, old, keep, config in zip(blocks_of(result), blocks_of(vit), keeps, vit.config.blocks, strict=True):
            inner = torch.arange(config.inner).reshape(config.heads, config.head_dim)[keep].flatten()
            rows = torch.cat([inner + part * config.inner for part in range(3)])
            _copy_linear(attention_of(new).qkv, attention_of(old).qkv, outputs=rows)
            _copy_linear(attention_of(new).proj, attention_of(old).proj, inputs=inner)
    return result


def keep_hidden(vit: VisionTransformer, keeps: Sequence[Tensor]) -> VisionTransformer:
    """By block only the FFN's hidden units ``keeps`` (indices)."""
    blocks = tuple(replace(block, hidden=len(keep)) for block, keep in zip(vit.config.blocks, keeps, strict=True))
    result = _empty(replace(vit.config, blocks=blocks), vit)
    with torch.no_grad():
        _copy_alike(result, vit)
        for new, old, keep in zip(blocks_of(result), blocks_of(vit), keeps, strict=True):
            _copy_linear(new.mlp.fc1, old.mlp.fc1, outputs=keep)
            _copy_linear(new.mlp.fc2, old.mlp.fc2, inputs=keep)
    return result


def with_classes(vit: VisionTransformer, outputs: int) -> VisionTransformer:
    """The same with a new classifier; its weights are random, the same on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.Linear(vit.config.dim, outputs)
        nn.init.xavier_uniform_(head.weight)
        nn.init.zeros_(head.bias)
    result = _empty(replace(vit.config, num_classes=0), vit)
    with torch.no_grad():
        _copy_alike(result, vit)
    result.config, result.head = replace(vit.config, num_classes=outputs), head.to(vit.cls_token)
    return result


def _empty(config: ViTConfig, like: VisionTransformer) -> VisionTransformer:
    """In eval mode, of ``like``'s dtype and device, its values not set: every caller fills all of them."""
    with torch.device("meta"):
        result = VisionTransformer(config).to(like.cls_token.dtype)
    return result.to_empty(device=like.cls_token.device).eval()


def _copy_alike(new: VisionTransformer, old: VisionTransformer) -> None:
    """All tensors of one name and one shape."""
    source = old.state_dict()
    for name, value in new.state_dict().items():
        if source[name].shape == value.shape:
            value.copy_(source[name])


def _copy_linear(
    new: nn.Linear, old: nn.Linear, *, outputs: Tensor | None = None, inputs: Tensor | None = None
) -> None:
    """``old`` with only its ``outputs`` rows and ``inputs`` columns; None keeps all."""
    rows = torch.arange(old.out_features) if outputs is None else outputs
    columns = torch.arange(old.in_features) if inputs is None else inputs
    new.weight.copy_(old.weight[rows][:, columns])
    new.bias.copy_(old.bias[rows])


def _copy_norm(new: nn.LayerNorm, old: nn.LayerNorm, keep: Tensor) -> None:
    new.weight.copy_(old.weight[keep])
    new.bias.copy_(old.bias[keep])


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise TypeError("the patch embedding has no bias")
    return layer.bias
