"""Solve FMViT's widths and depths for the sizes that the paper publishes, and print the table frozen in fmvit.py.

    python benchmarks/fmvit_calibrate.py            # all five variants, a few seconds; prints Markdown
    python benchmarks/fmvit_calibrate.py s m        # some of them

The paper (arXiv 2311.05707) gives parameters and multiply-accumulates at 224² but no widths or depths. Candidates
are counted in closed form, and the winner is recounted on the real module. Of those whose deploy form lies within
the target intervals the solver takes the one of least ``shape_cost``: squared distance, in octaves, of the widths
from doubling at each stage and (at a quarter of the weight) of the depths from Next-ViT's 3:4:10:3, plus 0.02 a
block, because few wide layers run faster than many narrow ones.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgevit.models.families.fmvit import CONFIGS, PATH_GROUP_WIDTH, FMViT, FMViTConfig
from edgevit.models.macs import count_macs, count_params

TOLERANCE = 0.01  # half of the 2 % that the test allows
CLASSES, SIDE = 1000, 224
BASE = CONFIGS["fmvit_l"]
ATTENTION, POOLS, EXPANSION = BASE.attention, BASE.pools, BASE.expansion  # the same in all variants
DEPTH_SHAPE = np.array([3, 4, 10, 3])

Four = tuple[int, int, int, int]
Counts = NDArray[np.int64]  # [parameters, multiply-accumulates]


@dataclass(frozen=True)
class Target:
    """Intervals for one variant's parameters and multiply-accumulates, and what its search runs over."""

    params: tuple[float, float]
    macs: tuple[float, float]
    group_width: int
    stem_widths: tuple[int, ...]


def near(value: float) -> tuple[float, float]:
    return value * (1 - TOLERANCE), value * (1 + TOLERANCE)


# The paper rounds the multiply-accumulates of T and S to one digit, so anything that rounds to it is as good; S keeps
# to the low end, because its latency is compared with that of MobileOne-S1 (0.83 G).
TARGETS = {
    "t": Target(near(2.0e6), (0.25e9, 0.34e9), 16, (32, 48)),
    "s": Target(near(6.4e6), (0.752e9, 0.78e9), 16, (48, 64)),
    "m": Target(near(12.8e6), near(2.0e9), 32, (64, 96)),
    "b": Target(near(24.3e6), near(4.2e9), 32, (64, 96, 128)),
    "l": Target(near(35.3e6), near(7.1e9), 32, (64, 96, 128)),
}


def conv(inputs: int, outputs: int, pixels: int, kernel: int = 1, groups: int = 1) -> Counts:
    weights = inputs // groups * outputs * kernel**2
    return np.array([weights + outputs, weights * pixels])


def mlp(width: int, expansion: int, pixels: int) -> Counts:
    return conv(width, width * expansion, pixels) + conv(width * expansion, width, pixels)


def cfb(width: int, group_width: int, pixels: int) -> Counts:
    return conv(width, width, pixels, 3, width // group_width) + mlp(width, EXPANSION[0], pixels)


def fmb(width: int, pixels: int, pool: int) -> Counts:
    low, high, pooled = width // 2, width // 4, pixels // pool**2
    projections = conv(width, low, pixels) + conv(width, 2 * low, pooled)
    attention = np.array([0, 2 * pixels * pooled * low])
    paths = 2 * conv(width, high, pixels, 3, high // PATH_GROUP_WIDTH)
    mixed = conv(width, width, pixels) + mlp(width, EXPANSION[1], pixels)
    return np.asarray(projections + attention + paths + mixed)


def fmbs(stage: int, depth: int) -> int:
    every = ATTENTION[stage]
    return 0 if every == 0 else -(-depth // every)


def stage_counts(stage: int, width: int, depth: int, group_width: int) -> Counts:
    pixels = (SIDE // 4 // 2**stage) ** 2
    mixed = fmbs(stage, depth)
    plain = (depth - mixed) * cfb(width, group_width, pixels)
    return np.asarray(plain + mixed * fmb(width, pixels, POOLS[stage]) if mixed else plain)


def edges(widths: Four) -> Counts:
    """Stem, the 1×1 convolutions between stages, and the classifier."""
    stem = stem_width(widths[0])
    total = conv(3, stem, (SIDE // 2) ** 2, 3) + conv(stem, widths[0], (SIDE // 4) ** 2, 3)
    for stage in range(1, 4):
        total = total + conv(widths[stage - 1], widths[stage], (SIDE // 4 // 2**stage) ** 2)
    return total + conv(widths[3], CLASSES, 1)


def stem_width(width: int) -> int:
    return max(16, width // 2 // 16 * 16)


def width_choices(target: Target) -> Iterator[Four]:
    """Stages 2 to 4 in multiples of 64, so that an FMB's half is whole heads of 32 and its quarters whole groups."""
    wide = range(64, 1025, 64)
    for first, second, third, fourth in itertools.product(target.stem_widths, wide, wide, wide):
        if first <= second <= third <= fourth and second <= 4 * first and third <= 4 * second and fourth <= 4 * third:
            yield first, second, third, fourth


def depth_grid() -> NDArray[np.int64]:
    return np.array(list(itertools.product(range(1, 5), range(2, 7), range(3, 26), range(2, 7))))


def shape_cost(widths: Four, depths: NDArray[np.int64]) -> NDArray[np.float64]:
    doubling = (np.diff(np.log2(widths)) - 1.0) ** 2
    octaves = np.log2(depths / DEPTH_SHAPE)
    spread = ((octaves - octaves.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return np.asarray(doubling.sum() + 0.25 * spread + 0.02 * depths.sum(axis=1))


def solve(target: Target) -> tuple[Four, Four, float]:
    """Widths, depths and shape cost of the best candidate; LookupError when nothing fits."""
    grid, (low, high) = depth_grid(), np.array([target.params, target.macs]).T
    best: tuple[Four, Four, float] | None = None
    tables: dict[tuple[int, int], NDArray[np.int64]] = {}
    for widths in width_choices(target):
        for stage, width in enumerate(widths):
            if (stage, width) not in tables:
                rows = [stage_counts(stage, width, d, target.group_width) for d in range(26)]
                tables[stage, width] = np.array(rows)
        totals = edges(widths) + sum(tables[stage, widths[stage]][grid[:, stage]] for stage in range(4))
        fits = ((totals >= low) & (totals < high)).all(axis=1)
        if fits.any():
            costs = shape_cost(widths, grid[fits])
            index = int(costs.argmin())
            if best is None or costs[index] < best[2]:
                first, second, third, fourth = (int(d) for d in grid[fits][index])
                best = widths, (first, second, third, fourth), float(costs[index])
    if best is None:
        raise LookupError(f"no candidate for {target}")
    return best


def main(names: list[str]) -> int:
    """Print a row per variant; 1 where fmvit.py holds other sizes than the solver finds."""
    columns = ("variant", "widths", "depths", "shape cost", "params M", "MACs G", "as in fmvit.py")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    agree = True
    for name in names or list(TARGETS):
        widths, depths, cost = solve(TARGETS[name])
        frozen = CONFIGS[f"fmvit_{name}"]
        solved = replace(frozen, widths=widths, depths=depths, stem=stem_width(widths[0]))
        params, macs = recount(solved)
        agree = agree and solved == frozen
        cells = (name, widths, depths, f"{cost:.2f}", f"{params / 1e6:.3f}", f"{macs / 1e9:.3f}", solved == frozen)
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0 if agree else 1


def recount(config: FMViTConfig) -> tuple[int, int]:
    """Parameters and multiply-accumulates of the deploy form, from the real module."""
    import torch

    from edgevit.models.reparam import reparameterize

    with torch.device("meta"):
        model = reparameterize(FMViT(config, CLASSES).eval(), prove=False)
    return count_params(model), count_macs(model, SIDE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
