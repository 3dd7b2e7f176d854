"""How many heads every sub-model loses: given, or the fewest that fit a memory budget, or the nodes of a fleet.

Sizes follow from the widths alone, so all of this is known before anything is scored or trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgevit.bundle.assign import Node, Part, assign, memory_need
from edgevit.errors import PlacementImpossible
from edgevit.models.families.vit import ViTConfig
from edgevit.split.options import SplitOptions
from edgevit.split.prune import heads_of, heads_pruned_for, kept, size_of, smallest_hp

FILE_BYTES, BLOCK_FILE_BYTES = 12_000, 16_000  # of an ONNX file beside the weights, and more for each block


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
    """Prune, assign, and prune all parts a head harder as long as one fits nowhere; then give heads back to single
    parts, in turn, while all still fit. At most heads + parts × heads rounds.

    It starts from the default, the fewest heads at which all parts take 55 % of the trunk. How fast the nodes are does
    not matter here. PlacementImpossible when one head per block is too much.
    """
    heads, steps = heads_of(config), []
    unlimited = [replace(node, macs_per_s=math.inf, link_mbps=None) for node in nodes]

    def place(pruned: Sequence[int]) -> None:
        parts = [planned_part(config, index, pruned[index], count) for index, count in enumerate(classes)]
        assign(parts, unlimited, fleet_file=fleet_file)

    start = hp = _default(config, len(classes))
    while True:
        try:
            place([hp] * len(classes))
            break
        except PlacementImpossible as error:
            if hp + 1 >= heads:
                raise _too_small(error) from None
            hp += 1
            steps.append(
                f"{error.part} needs {error.needed_bytes:,} bytes and {error.node} has {error.free_bytes:,} free: all "
                f"pruned to {heads - hp} of {heads} heads"
            )
    pruned = _given_back([hp] * len(classes), start, place)
    for kept_heads in sorted({heads - one for one in pruned} - {heads - hp}):
        names = ", ".join(f"part-{index}" for index, one in enumerate(pruned) if heads - one == kept_heads)
        steps.append(f"room is left for {kept_heads} heads of {names}")
    return Sizing(tuple(pruned), tuple(steps))


def _default(config: ViTConfig, parts: int) -> int:
    """The default number of heads to prune; all but one where even that takes more than the default share."""
    try:
        return smallest_hp(config, parts)
    except PlacementImpossible:
        return heads_of(config) - 1


def _given_back(pruned: list[int], least: int, place: Callable[[Sequence[int]], None]) -> list[int]:
    """``pruned`` with single heads given back, one part after the other and again, to whichever ``place`` allows."""
    able = [index for index, hp in enumerate(pruned) if hp > least]
    while able:
        for index in tuple(able):
            tried = [*pruned[:index], pruned[index] - 1, *pruned[index + 1 :]]
            try:
                place(tried)
            except PlacementImpossible:
                able.remove(index)
                continue
            pruned = tried
            if pruned[index] == least:
                able.remove(index)
    return pruned


def _too_small(error: PlacementImpossible) -> PlacementImpossible:
    return PlacementImpossible(
        f"even with one head per block {error}",
        hint="give the fleet larger nodes or more of them, or split into fewer parts",
        part=error.part,
        node=error.node,
        needed_bytes=error.needed_bytes,
        free_bytes=error.free_bytes,
    )


def planned_part(config: ViTConfig, index: int, heads_pruned: int, classes: int) -> Part:
    """A sub-model that does not exist yet, as placement sees it."""
    size = size_of(config, heads_pruned, classes + 1)
    file_bytes = size.bytes + FILE_BYTES + BLOCK_FILE_BYTES * len(config.blocks)
    feature_bytes = 4 * kept(config, heads_pruned).dim
    return Part(f"part-{index}", file_bytes, memory_need(file_bytes), size.macs, feature_bytes)
