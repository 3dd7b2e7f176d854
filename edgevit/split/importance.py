"""What each unit of a trunk is worth on given images: how far its logits move when the unit is removed.

The score of a unit is the mean over the images of KL(softmax(trunk's logits) ‖ softmax(logits without the unit)), one
unit at a time and always from the whole trunk (UP-ViTs, arXiv 2111.15127, whose criterion ED-ViT takes, as far as
known). Three kinds of unit, and what "removed" means:

residual    a channel of the residual stream: nothing reads it, and every LayerNorm averages over the others
head_dims   dim i of head h: gone from Q, K, V and the projection's input. A head's score is the sum of its dims'
hidden      a hidden unit of an FFN

``exact_importance`` removes every unit in turn. ``taylor_importance`` puts a gate of 1 on each and looks at the
logits' slopes there. The KL's own first order vanishes at the trunk, where it is smallest, so the score is its second
order with the logits linear in the gate: ½ Var_p(∂z/∂gate), p the trunk's probabilities; that is half the Fisher
information of the gate, the mean square of ∂ log p(y)/∂gate.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgevit.errors import UsageError
from edgevit.models.families.vit import Block, DeployViT, VisionTransformer
from edgevit.models.reparam.own import fold_own_blocks
from edgevit.split.trunk import attention_of, blocks_of

Array = npt.NDArray[np.float64]

ROWS = 128  # copies of an image, or images, in one forward
PROBES = 16  # random directions of the logits' variance, where there are more classes than ALL_CLASSES
ALL_CLASSES = 32


@dataclass(frozen=True)
class Importance:
    """Scores, larger is worth more; float64 on the CPU.

    residual   (D,)
    head_dims  by block (heads, head_dim)
    hidden     by block (F,)
    seconds    they took
    passes     runs of the whole network over all the images that they cost; a backward run counts as two
    """

    residual: Tensor
    head_dims: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    seconds: float
    passes: float
    method: str

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """By block (heads,): the sums over each head's dims."""
        return tuple(scores.sum(dim=1) for scores in self.head_dims)


@dataclass(frozen=True)
class Gates:
    """Factors on the units, 0 for a removed one; the first axis is the image's. None: all 1.

    residual (B, D); head_dims by block (B, heads, head_dim); hidden by block (B, F)
    """

    residual: Tensor | None = None
    head_dims: Sequence[Tensor | None] = field(default=())
    hidden: Sequence[Tensor | None] = field(default=())


def gated_logits(vit: VisionTransformer, image: Tensor, gates: Gates) -> Tensor:
    """(B, C, H, W) -> logits (B, V) with the units' ``gates``. This is what "removed" means, for all of edgevit.split.

    A residual gate of 0 takes the channel out of every LayerNorm's mean and variance, and zeroes what it hands on;
    between 0 and 1 it is a weight in both.
    """
    x = _tokens(vit, image)
    nothing = (None,) * len(vit.blocks)
    for block, head_dims, hidden in zip(
        blocks_of(vit), gates.head_dims or nothing, gates.hidden or nothing, strict=True
    ):
        x = x + _attention(block, _norm(block.norm1, x, gates.residual), head_dims)
        middle = F.gelu(block.mlp.fc1(_norm(block.norm2, x, gates.residual)))
        x = x + block.mlp.fc2(middle if hidden is None else middle * hidden[:, None])
    out: Tensor = vit.head(_norm(vit.norm, x[:, :1], gates.residual)[:, 0])
    return out


def _tokens(vit: VisionTransformer, image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, T, D), as they enter the first block."""
    patches = vit.patch_embed(image)
    return torch.cat([vit.cls_token.expand(len(patches), -1, -1), patches], dim=1) + vit.pos_embed


def _norm(layer: nn.LayerNorm, x: Tensor, gate: Tensor | None) -> Tensor:
    """LayerNorm over the gated channels of x (B, T, D)."""
    if gate is None:
        out: Tensor = layer(x)
        return out
    weight = gate[:, None]  # (B, 1, D)
    share = weight / weight.sum(dim=-1, keepdim=True)
    centred = x - (x * share).sum(dim=-1, keepdim=True)
    variance = (centred.square() * share).sum(dim=-1, keepdim=True)
    return (centred * torch.rsqrt(variance + layer.eps) * layer.weight + layer.bias) * weight


def _attention(block: Block, y: Tensor, gate: Tensor | None) -> Tensor:
    if gate is None:
        out: Tensor = block.attn(y)
        return out
    q, k, v = _qkv(block, y)
    return _mixed(block, q * gate[:, :, None], k, v * gate[:, :, None])


def _qkv(block: Block, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, D) -> three of (B, heads, T, head_dim)."""
    config = attention_of(block).config
    q, k, v = (
        attention_of(block).qkv(y).unflatten(-1, (3, config.heads, config.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    )
    return q, k, v


def _mixed(block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed = F.scaled_dot_product_attention(q, k, v, scale=attention_of(block).config.attention_scale)
    out: Tensor = attention_of(block).proj(mixed.transpose(1, 2).flatten(2))
    return out


# --- one unit at a time ------------------------------------------------------------------------------------------


def exact_importance(trunk: VisionTransformer, images: Tensor, *, batch: int = ROWS) -> Importance:
    """Every unit removed in turn, on all ``images`` (B, C, H, W) as the trunk takes them.

    Many copies of an image, each lacking another unit, share a forward of at most ``batch`` rows (never fewer than
    the images themselves). Only what comes after the unit is computed again, in the deploy form. The cost grows with
    units × images: on a machine with little time give fewer images, or use ``taylor_importance``.
    """
    _check_images(images)
    begun = time.monotonic()
    with torch.no_grad():
        run = _ExactRun(trunk, images, max(1, batch // len(images)))
        residual = run.residual()
        head_dims, hidden = zip(*run.branches(), strict=True)
    return Importance(residual, head_dims, hidden, time.monotonic() - begun, run.passes, "exact")


class _ExactRun:
    """One scoring: the trunk's probabilities, and how many whole forwards it has cost so far."""

    def __init__(self, trunk: VisionTransformer, images: Tensor, copies: int) -> None:
        self.trunk, self.images, self.copies = trunk, images, copies
        deploy = fold_own_blocks(copy.deepcopy(trunk), Counter())
        if not isinstance(deploy, DeployViT):
            raise TypeError("the trunk has no deploy form")
        self.deploy = deploy
        self.log_p = trunk(images).double().log_softmax(dim=-1)
        self.passes = 1.0

    def residual(self) -> Tensor:
        def without(units: Tensor) -> Tensor:
            gates = torch.ones(len(units), self.trunk.config.dim).to(self.images)
            gates[torch.arange(len(units)), units] = 0
            many = self.images.repeat(len(units), 1, 1, 1)
            return gated_logits(self.trunk, many, Gates(gates.repeat_interleave(len(self.images), dim=0)))

        return self._scores(self.trunk.config.dim, without, share=1.0)

    def branches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """By block the scores of head dims and of hidden units."""
        x = _tokens(self.trunk, self.images)
        depth = len(self.trunk.blocks)
        for index, block in enumerate(blocks_of(self.trunk)):
            head_dims = self._head_dims(block, x, index, (depth - index) / depth)
            x = x + block.attn(block.norm1(x))
            hidden = self._hidden(block, x, index, (depth - index - 1) / depth)
            x = x + block.mlp(block.norm2(x))
            yield head_dims, hidden

    def _head_dims(self, block: Block, x: Tensor, index: int, share: float) -> Tensor:
        config = attention_of(block).config
        q, k, v = _qkv(block, block.norm1(x))

        def without(units: Tensor) -> Tensor:
            gate = torch.ones(len(units), config.inner).to(x)
            gate[torch.arange(len(units)), units] = 0
            gate = gate.reshape(len(units), 1, config.heads, 1, config.head_dim)
            gated = [(part * gate).flatten(0, 1) for part in (q, v)]
            middle = _tiled(x, len(units)) + _mixed(block, gated[0], _tiled(k, len(units)), gated[1])
            if index + 1 < len(self.trunk.blocks):
                return self._after(middle + block.mlp(block.norm2(middle)), index)
            token = middle[:, 0]
            return self._classified(token + block.mlp(block.norm2(token)))

        return self._scores(config.inner, without, share).reshape(config.heads, config.head_dim)

    def _hidden(self, block: Block, x: Tensor, index: int, share: float) -> Tensor:
        middle = F.gelu(block.mlp.fc1(block.norm2(x)))  # (B, T, F)
        whole = x + block.mlp.fc2(middle)
        if index + 1 == len(self.trunk.blocks):  # nothing but the class token is read
            middle, whole = middle[:, :1], whole[:, :1]

        def without(units: Tensor) -> Tensor:
            lost = middle[..., units].movedim(-1, 0)[..., None] * block.mlp.fc2.weight[:, units].T[:, None, None]
            changed = (whole - lost).flatten(0, 1)
            return (
                self._after(changed, index) if index + 1 < len(self.trunk.blocks) else self._classified(changed[:, 0])
            )

        return self._scores(middle.shape[-1], without, share)

    def _after(self, x: Tensor, index: int) -> Tensor:
        """Tokens that leave block ``index`` -> logits."""
        for block in list(self.deploy.blocks)[index + 1 :]:
            x = block(x)
        return self._classified(self.deploy.last(x))

    def _classified(self, token: Tensor) -> Tensor:
        out: Tensor = self.trunk.head(self.trunk.norm(token))
        return out

    def _scores(self, units: int, without: Callable[[Tensor], Tensor], share: float) -> Tensor:
        """Mean KL of each of ``units``; ``without(indices)`` gives the logits (indices × images, V)."""
        self.passes += units * share
        parts = []
        for some in torch.split(torch.arange(units, device=self.images.device), self.copies):
            log_q = without(some).double().log_softmax(dim=-1).reshape(len(some), *self.log_p.shape)
            parts.append((self.log_p.exp() * (self.log_p - log_q)).sum(dim=-1).mean(dim=1))
        return torch.cat(parts).cpu()


def _tiled(x: Tensor, copies: int) -> Tensor:
    return x.expand(copies, *x.shape).flatten(0, 1)


# --- slopes ------------------------------------------------------------------------------------------------------


def taylor_importance(trunk: VisionTransformer, images: Tensor, *, batch: int = ROWS) -> Importance:
    """All units from the logits' slopes: a forward, and a backward per class (per probe where classes are many).

    ½ Var_p(∂z/∂gate), averaged over ``images`` (B, C, H, W): over all classes where there are at most 32 of them, else
    estimated without bias from 16 random directions, the same on every call.
    """
    _check_images(images)
    begun = time.monotonic()
    frozen = copy.deepcopy(trunk).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    rows = max(1, batch // 8)  # the gates' graph keeps all activations
    sums, passes = None, 0.0
    for some in torch.split(images, rows):
        found = _Slopes.of(frozen, some, generator)
        sums = found.squares if sums is None else [a + b for a, b in zip(sums, found.squares, strict=True)]
        passes += (1 + 2 * found.directions) * len(some) / len(images)
    scores = [(total / (2 * len(images))).cpu() for total in sums or ()]
    depth = len(trunk.blocks)
    return Importance(
        scores[0], tuple(scores[1 : 1 + depth]), tuple(scores[1 + depth :]), time.monotonic() - begun, passes, "taylor"
    )


class _Slopes(NamedTuple):
    squares: list[Tensor]  # ΣVar_p over the images: residual, head_dims by block, hidden by block
    directions: int

    @staticmethod
    def of(vit: VisionTransformer, images: Tensor, generator: torch.Generator) -> _Slopes:
        gates = _open_gates(vit, images)
        logits = gated_logits(vit, images, gates)
        leaves = [one for one in (gates.residual, *gates.head_dims, *gates.hidden) if one is not None]
        directions = _directions(logits.detach(), generator)
        squares = [torch.zeros(leaf.shape[1:], dtype=torch.float64, device=leaf.device) for leaf in leaves]
        for direction in directions:
            slopes = torch.autograd.grad((logits * direction).sum(), leaves, retain_graph=True)
            for total, slope in zip(squares, slopes, strict=True):
                total += slope.double().square().sum(dim=0)
        return _Slopes(squares, len(directions))


def _open_gates(vit: VisionTransformer, images: Tensor) -> Gates:
    def ones(*shape: int) -> Tensor:
        return torch.ones(len(images), *shape, dtype=images.dtype, device=images.device, requires_grad=True)

    blocks = vit.config.blocks
    return Gates(ones(vit.config.dim), [ones(b.heads, b.head_dim) for b in blocks], [ones(b.hidden) for b in blocks])


def _directions(logits: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Rows (B, V) whose outer products sum, or average, to diag(p) - ppᵀ: vᵀ of A ε, A = diag(√p) - p √pᵀ."""
    p, classes = logits.softmax(dim=-1), logits.shape[1]
    if classes <= ALL_CLASSES:
        signs = list(torch.eye(classes, dtype=p.dtype, device=p.device))
        scale = 1.0
    else:
        drawn = torch.randint(0, 2, (PROBES, classes), generator=generator) * 2 - 1
        signs, scale = list(drawn.to(p)), PROBES**-0.5
    root = p.sqrt()
    return [scale * (root * sign - p * (root * sign).sum(dim=-1, keepdim=True)) for sign in signs]


# --- baselines ---------------------------------------------------------------------------------------------------


def magnitude_importance(trunk: VisionTransformer) -> Importance:
    """Without any image: the square sum of all weights that write or read the unit."""
    begun = time.monotonic()
    with torch.no_grad():
        residual = _squares(trunk.patch_embed.proj.weight, 0)
        head_dims, hidden = [], []
        for block, config in zip(blocks_of(trunk), trunk.config.blocks, strict=True):
            attention, mlp = attention_of(block), block.mlp
            residual = residual + _squares(attention.qkv.weight, 1) + _squares(attention.proj.weight, 0)
            residual = residual + _squares(mlp.fc1.weight, 1) + _squares(mlp.fc2.weight, 0)
            inner = _squares(attention.qkv.weight, 0).reshape(3, -1).sum(dim=0) + _squares(attention.proj.weight, 1)
            head_dims.append(inner.reshape(config.heads, config.head_dim))
            hidden.append(_squares(mlp.fc1.weight, 0) + _squares(mlp.fc2.weight, 1))
        if isinstance(trunk.head, nn.Linear):
            residual = residual + _squares(trunk.head.weight, 1)
    return Importance(residual, tuple(head_dims), tuple(hidden), time.monotonic() - begun, 0.0, "magnitude")


def random_importance(trunk: VisionTransformer, seed: int) -> Importance:
    """Scores drawn at random: what pruning is worth without knowing anything."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    blocks = trunk.config.blocks
    head_dims = tuple(draw(block.heads, block.head_dim) for block in blocks)
    return Importance(draw(trunk.config.dim), head_dims, tuple(draw(b.hidden) for b in blocks), 0.0, 0.0, "random")


def _squares(weight: Tensor, axis: int) -> Tensor:
    """Square sums of the slices along ``axis``."""
    other = [each for each in range(weight.ndim) if each != axis]
    return weight.double().square().sum(dim=other).cpu()


# --- agreement ---------------------------------------------------------------------------------------------------


def rank_correlation(a: Importance, b: Importance) -> dict[str, float]:
    """Spearman's ρ by kind of unit: of all residual channels; of heads, head dims and hidden units within each block,
    where they compete, averaged over blocks."""
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {
        "residual": [(a.residual, b.residual)],
        "heads": list(zip(a.heads, b.heads, strict=True)),
        "head_dims": list(zip(a.head_dims, b.head_dims, strict=True)),
        "hidden": list(zip(a.hidden, b.hidden, strict=True)),
    }
    return {kind: float(np.mean([_spearman(x, y) for x, y in each])) for kind, each in pairs.items()}


def _spearman(a: Tensor, b: Tensor) -> float:
    """Of all values of two tensors; 0 where one of them ranks nothing."""
    x, y = (_ranks(scores.flatten().numpy()) for scores in (a, b))
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else 0.0


def _ranks(values: Array) -> Array:
    """Centred ranks; equal values share the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean = np.cumsum(counts) - (counts + 1) / 2
    ranks: Array = mean[place] - (len(values) - 1) / 2
    return ranks


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise UsageError(
            f"importance needs images (B, C, H, W), got {tuple(images.shape)}",
            hint="are there images of the part's classes in the data?",
        )
