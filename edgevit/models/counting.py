"""What ``edgevit models`` shows of the zoo's size and work, counted once and stored: ``make zoo``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from edgevit.artifact.files import write_atomically
from edgevit.models import zoo
from edgevit.models.loading.source import build
from edgevit.models.macs import count_macs, count_params


def counts(row: zoo.ZooRow) -> dict[str, int]:
    """What ``zoo.json`` has of a row: parameters and MACs of the deploy form and of the train form, counted without
    data at the default image size."""
    from edgevit.models.reparam.own import fold_own_blocks

    with torch.device("meta"):
        train = build(row, num_classes=row.num_classes, image_size=row.image_size).eval()
    macs_train, params_train = count_macs(train, row.image_size), count_params(train)
    with torch.no_grad():  # our own blocks fold themselves: the tracing that foreign models need would take a minute
        deploy = fold_own_blocks(_zeros(train), Counter())
    return {
        "params": count_params(deploy),
        "macs": count_macs(deploy, row.image_size),
        "params_train": params_train,
        "macs_train": macs_train,
    }


def _zeros(module: nn.Module) -> nn.Module:
    """The meta model with zeros for data: torch folds real tensors ten times faster than meta ones.

    A model whose zeros would take over 400 MB stays without data.
    """
    if count_params(module) > 100_000_000:
        return module
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.zero_()
    return module


def completed(stored: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """``stored`` in the order of the zoo, with the models that it lacks and without those that are gone."""
    found = {}
    for name, row in zoo.ZOO.items():
        if name not in stored:
            print(f"counting {name} …", file=sys.stderr)
        found[name] = stored.get(name) or counts(row)
    return found


if __name__ == "__main__":
    text = json.dumps(completed(zoo.stored_counts()), indent=1)
    write_atomically(Path(str(resources.files("edgevit.models") / zoo.COUNTS_FILE)), f"{text}\n")
