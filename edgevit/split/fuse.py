"""Training of the fusion head on features of the frozen sub-models, with whole sub-models left out at random.

The features were computed once, so that this takes seconds. Every image is shown with a random set of parts present,
never none, so that the head learns to answer with what is there: a part that says "none of mine" speaks for the
classes of a part that is missing. Half of the loss is the trunk's answers for the same images, where they are known.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgevit.models.families.edvit import FusionHead
from edgevit.split.distil import softened, taught
from edgevit.split.features import Features, Told, untold
from edgevit.split.options import FusionOptions
from edgevit.train.epochs import adamw
from edgevit.train.optim import Ema, learning_rate, set_learning_rate
from edgevit.train.options import TrainOptions


def train_fusion(
    features: Features, classes: int, options: FusionOptions | None = None, told: Told = untold
) -> FusionHead:
    """A fusion head for these features of training images: averaged weights of one run, in eval mode."""
    options = options or FusionOptions()
    sizes = [part.shape[1] for part in features.parts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = FusionHead(sizes, classes)
        head.fit_statistics(features.parts)
        return _trained(head, features, options, told)


def _trained(head: FusionHead, features: Features, options: FusionOptions, told: Told) -> FusionHead:
    recipe = TrainOptions(lr=options.lr)
    optimizer, ema = adamw(head, recipe), Ema(head, recipe.ema)
    generator = torch.Generator().manual_seed(options.seed)
    parts, rows = len(features.parts), len(features)
    steps, epochs = -(-rows // options.batch_size), options.epochs_for(rows)
    wanted = None if features.trunk is None else softened(features.trunk)
    for epoch in range(epochs):
        for index, chosen in enumerate(torch.tensor_split(torch.randperm(rows, generator=generator), steps)):
            rate = learning_rate(epoch * steps + index, epochs * steps, options.lr, recipe.warmup)
            set_learning_rate(optimizer, rate)
            present = draw_present(len(chosen), parts, options.missing, generator)
            logits = head(*(part[chosen] for part in features.parts), present)
            labels = features.labels[chosen]
            loss = _loss(logits, labels, None if wanted is None else wanted[chosen], recipe.smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            ema.update(head)
        told((epoch + 1) / epochs)
    return ema.module  # type: ignore[return-value]


def _loss(logits: Tensor, labels: Tensor, wanted: Tensor | None, smoothing: float) -> Tensor:
    """Of the labels alone, or of the trunk's softened answers ``wanted`` beside them."""
    if wanted is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return taught(logits, labels, wanted, smoothing)


def draw_present(rows: int, parts: int, missing: float, generator: torch.Generator) -> Tensor:
    """(rows, parts) of 0 and 1: each part is left out with chance ``missing / parts``, but never all of a row."""
    present = (torch.rand(rows, parts, generator=generator) >= missing / parts).float()
    kept = torch.randint(parts, (rows,), generator=generator)
    present[torch.arange(rows), kept] = present[torch.arange(rows), kept].where(present.sum(1) > 0, torch.tensor(1.0))
    return present
