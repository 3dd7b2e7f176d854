"""How many heads every sub-model loses: given, or the fewest that fit a memory budget, or the nodes of a fleet.

Sizes follow from the widths alone, so all of this is known before anything is scored or trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevit.errors import PlacementImpossible
from edgevit.models.vit import ViTConfig
from edgevit.split.assign import Node, Part, assign, memory_need
from edgevit.split.options import SplitOptions
from edgevit.split.prune import heads_of, heads_pruned_for, kept, size_of, smallest_hp

BLOCK_FILE_BYTES = 16_000  # of a model file beside the weights, for each transformer block


@dataclass(frozen=True)
class Sizing:
    """Heads pruned from every part, and what was tried before, a sentence each."""

    heads_pruned: tuple[int, ...]
    steps: tuple[str, ...] = ()


def choose_heads(
    config: ViTConfig, partition: Sequence[Sequence[int]], options: SplitOptions, nodes: Sequence[Node] = ()
) -> Sizing:
    """The heads to prune. ``nodes`` are those of ``options.fleet``.

    UsageError for a number of heads that the trunk does not have; PlacementImpossible, with needed and free bytes, for
    a budget or a fleet that even one head per block is too much for.
    """
    count = len(partition)
    if options.heads_pruned is not None:
        kept(config, options.heads_pruned)
        return Sizing((options.heads_pruned,) * count)
    if options.memory_budget is not None:
        return Sizing((heads_pruned_for(config, count, options.memory_budget),) * count)
    if nodes:
        return fit_fleet(config, [len(classes) for classes in partition], nodes, str(options.fleet))
    return Sizing((smallest_hp(config, count),) * count)


def fit_fleet(config: ViTConfig, classes: Sequence[int], nodes: Sequence[Node], fleet_file: str) -> Sizing:
    """Prune, assign, and prune the part that fits nowhere one head harder, until all fit: at most parts × heads rounds.

    It starts from the default, the fewest heads at which all parts take 55 % of the trunk.
    """
    pruned = [smallest_hp(config, len(classes))] * len(classes)
    steps: list[str] = []
    while True:
        parts = [planned_part(config, index, pruned[index], count) for index, count in enumerate(classes)]
        try:
            assign(parts, nodes, fleet_file=fleet_file)
        except PlacementImpossible as error:
            index = next(place for place, part in enumerate(parts) if part.name == error.part)
            if pruned[index] + 1 >= heads_of(config):
                raise PlacementImpossible(
                    f"even with one head per block {error}",
                    hint="give the fleet larger nodes, or split into more parts",
                    part=error.part,
                    node=error.node,
                    needed_bytes=error.needed_bytes,
                    free_bytes=error.free_bytes,
                ) from None
            pruned[index] += 1
            steps.append(
                f"{error.part} needs {error.needed_bytes:,} bytes and {error.node} has {error.free_bytes:,} free: "
                f"pruned to {heads_of(config) - pruned[index]} of {heads_of(config)} heads"
            )
        else:
            return Sizing(tuple(pruned), tuple(steps))


def planned_part(config: ViTConfig, index: int, heads_pruned: int, classes: int) -> Part:
    """A sub-model that does not exist yet, as placement sees it."""
    size = size_of(config, heads_pruned, classes + 1)
    file_bytes = size.bytes + BLOCK_FILE_BYTES * len(config.blocks)
    feature_bytes = 4 * kept(config, heads_pruned).dim
    return Part(f"part-{index}", file_bytes, memory_need(file_bytes), size.macs, feature_bytes)
