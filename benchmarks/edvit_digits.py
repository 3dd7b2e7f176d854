"""ED-ViT on real handwritten digits: accuracy and size against the number of parts, and against other ways to split.

    python benchmarks/edvit_digits.py --processes 2     # all rows that are not there yet, about 6 hours of a core
    python benchmarks/edvit_digits.py --table           # only print what is there
    python benchmarks/edvit_digits.py --only ours       # rows of one variant

One row per (variant, N, seed) in results/edvit_digits.json, written as soon as it is measured; a row that is there is
not measured again. The trunk is the same for all rows (``--trunk``; it is trained if there is none), a seed decides the
partition, the order and augmentation of images, and the fusion head. One thread per process.

    ours                 the defaults of ``edgevit split``
    negatives            sub-models that learn from the labels alone, without the trunk
    similar, balanced    other partitions
    random, magnitude    pruned without class-wise importance
    cnn                  the same classes, data, epochs and fusion, but each part a plain CNN of at most the MACs and
                         parameters of our sub-model, trained from scratch (Split-CNN's idea, without a trunk)
    artifacts            ``edgevit split`` as a whole (seed 0): sizes and MACs of the exported artifacts, and seconds
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.models.edvit import SubModel
from edgevit.models.macs import count_macs, count_params
from edgevit.profiles import environment
from edgevit.registry import version_of
from edgevit.split.accuracy import degradation
from edgevit.split.features import Features, answers_of, features_of, gather, tokens_of
from edgevit.split.fuse import train_fusion
from edgevit.split.job import choose_partition, run_split
from edgevit.split.options import FusionOptions, SplitJob, SplitOptions
from edgevit.split.parts import Source, load_source, part_seed, score
from edgevit.split.prune import Size, prune, size_of, smallest_hp
from edgevit.split.retrain import IMAGES_SHOWN, TOKEN_SEED, TOKEN_VIEWS, Lesson, retrain
from edgevit.train import TrainOptions, fit
from edgevit.train.loop import evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "edvit_digits.json"
TRUNK = ROOT / "artifacts" / "edvit" / "trunk.safetensors"
_TRUNK = ""  # of this process
CPU = torch.device("cpu")
SEEDS = range(5)
PACKAGES = ("edgevit", "torch", "numpy")
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "random": {"importance": "random"},
    "magnitude": {"importance": "magnitude"},
    "negatives": {"mode": "negatives"},
    "balanced": {"partition": "balanced"},
    "similar": {"partition": "similar"},
    "cnn": {},
}
Key = tuple[str, int, int]
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided, n - 1 degrees of freedom, by n


def plan() -> list[Key]:
    """All rows, those that matter most first."""
    ours: list[Key] = [("ours", parts, seed) for seed in SEEDS for parts in (5, 10, 3, 2, 1)]
    whole: list[Key] = [("artifacts", parts, 0) for parts in (5, 10)]
    others: list[Key] = []
    for seed in range(3):
        others += [(name, parts, seed) for parts in (10, 5) for name in ("cnn", "random", "magnitude", "negatives")]
        others += [(name, 5, seed) for name in ("balanced", "similar")]
    return [*ours, *whole, *others]


# --- one row -----------------------------------------------------------------------------------------------------


@cache
def source(trunk: str) -> Source:
    return load_source(SplitJob("vit_edvit", "digits", Path(), SplitOptions(parts=1), weights=trunk))


@cache
def tokens(trunk: str) -> Tensor:
    """The trunk's class tokens of augmented images: the same for all rows of a process."""
    given = source(trunk)
    return tokens_of(given.trunk, given.train, CPU, views=TOKEN_VIEWS, seed=TOKEN_SEED)


@cache
def answers(trunk: str, views: int, seed: int) -> Tensor:
    """What the trunk says of the fusion head's images: the same for all rows of a seed."""
    given = source(trunk)
    return answers_of(given.trunk, given.train, CPU, views=views, seed=seed)


def options_of(key: Key) -> SplitOptions:
    return SplitOptions(parts=key[1], seed=key[2], **VARIANTS.get(key[0], {}))


def mode_of(variant: str, options: SplitOptions) -> str:
    """A CNN has no trunk to learn from, nor has its fusion head."""
    return "negatives" if variant == "cnn" else options.mode


def recipe_of(key: Key) -> str:
    """A row of another recipe is measured again."""
    options = options_of(key)
    distilled = {"token_views": TOKEN_VIEWS} if mode_of(key[0], options) == "distil" else {}
    return fingerprint({**options.recipe(), **distilled, "images_shown": IMAGES_SHOWN})


def measure(key: Key, trunk: str) -> dict[str, Any]:
    """Measure one row."""
    torch.set_num_threads(1)
    if key[0] == "artifacts":
        return artifacts(key, trunk)
    variant, parts, seed = key
    options = options_of(key)
    given = source(trunk)
    begun = time.process_time()
    groups = choose_partition(options, given, CPU)
    made = [make(variant, options, index, classes) for index, classes in enumerate(groups)]
    subs = [sub for sub, *_ in made]
    trained = time.process_time()
    views = options.fusion.views_for(len(given.train))
    features = [features_of(sub, given.train, CPU, views=views, seed=seed) for sub in subs]
    train = gather(features, given.train.labels, None if variant == "cnn" else answers(trunk, views, seed))
    held_out = gather([features_of(sub, given.held_out, CPU) for sub in subs], given.held_out.labels)
    seconds = {name: sum(row[3][name] for row in made) for name in ("importance", "retraining")}
    seconds["features"] = time.process_time() - trained
    fusing = replace(options.fusion, seed=seed)
    fused = fusion(train, held_out, fusing)
    seconds["whole"] = time.process_time() - begun
    if variant == "ours":
        fused["fusion_from_labels_alone"] = fusion(replace(train, trunk=None), held_out, fusing)
    return {
        "recipe": recipe_of(key),
        "variant": variant, "parts": parts, "seed": seed, "partition": [list(group) for group in groups],
        "heads_pruned": None if variant == "cnn" else pruned(options), "trunk": evaluate(given.trunk, given.held_out),
        **fused,
        "without_degradation_training": fusion(train, held_out, replace(fusing, missing=0.0)),
        "own": [row[1] for row in made], "sizes": [asdict(row[2]) for row in made],
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }  # fmt: skip


def pruned(options: SplitOptions) -> int:
    return smallest_hp(source_config(), options.parts)


def source_config() -> Any:
    from edgevit.models.vit import vit_edvit

    return vit_edvit().config


def make(
    variant: str, options: SplitOptions, index: int, classes: Sequence[int]
) -> tuple[nn.Module, float, Size, dict[str, float]]:
    """One retrained sub-model: itself, its balanced accuracy, its size, seconds of CPU."""
    given = source(_TRUNK)
    begun = time.process_time()
    size = size_of(given.trunk.config, pruned(options), len(classes) + 1)
    if variant == "cnn":
        torch.manual_seed(part_seed(options.seed, index))
        sub: nn.Module = PlainCnn.within(size, len(classes) + 1)
        size = PlainCnn.size(sub)
    else:
        scores = score(given, classes, options.importance, options.images, options.seed + index)
        sub = SubModel(prune(given.trunk, scores, pruned(options), len(classes)))
    scored = time.process_time()
    recipe = replace(options.retraining, seed=part_seed(options.seed, index))
    mode = mode_of(variant, options)
    lesson = Lesson(given.trunk, tuple(classes), given.train, given.held_out, mode, recipe, CPU)
    if mode == "distil":
        lesson = replace(lesson, tokens=tokens(_TRUNK))
    with tempfile.TemporaryDirectory() as folder:
        averaged, accuracy = retrain(sub, lesson, state_file=Path(folder) / "state", recipe={})
    return averaged, accuracy, size, {"importance": scored - begun, "retraining": time.process_time() - scored}


def fusion(train: Features, held_out: Features, options: FusionOptions) -> dict[str, Any]:
    """Train a head and measure it."""
    found = degradation(train_fusion(train, 10, options), held_out)
    row: dict[str, Any] = {"fused": found.fused}
    for name, count in (("missing_one", 1), ("missing_two", 2)):
        left = found.missing(count)
        row[name] = left and {"mean": left.mean, "worst": left.worst}
    row["most_classes_suffering"] = max(
        (len(hurt) for case, hurt in found.suffering.items() if len(case) == 1), default=0
    )
    return row


class PlainCnn(nn.Module):
    """Three stages of two 3×3 convolutions with BatchNorm and ReLU, widths c, 2c, 4c, a 2×2 pool between; answers as a
    sub-model does, its 4c averaged channels being the features."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for stage in range(3):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(2):
                layers += [
                    nn.Conv2d(last, width << stage, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width << stage),
                    nn.ReLU(),
                ]
                last = width << stage
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(last, outputs)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.layers(image)
        return {"features": features, "logits": self.head(features)}

    @staticmethod
    def size(cnn: nn.Module) -> Size:
        params = count_params(cnn)
        return Size(params, count_macs(cnn, 16), 4 * params)

    @classmethod
    def within(cls, budget: Size, outputs: int) -> PlainCnn:
        """The widest that takes no more than ``budget`` in MACs and in parameters."""
        width = 1
        while True:
            size = cls.size(cls(width + 1, outputs))
            if size.macs > budget.macs or size.params > budget.params:
                return cls(width, outputs)
            width += 1


def artifacts(key: Key, trunk: str) -> dict[str, Any]:
    """``edgevit split`` from trunk to bundle: what the artifacts themselves say."""
    _, parts, seed = key
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job = SplitJob(
            "vit_edvit",
            "digits",
            Path(folder) / "bundle",
            SplitOptions(parts=parts, seed=seed, jobs=1, threads=1),
            weights=trunk,
        )
        begun = time.perf_counter()
        record = run_split(job, lambda what, share: None).record()
    record.pop("bundle")
    largest = max(record["parts"], key=lambda part: part["macs"])
    whole = record["trunk"]
    ratios = {name: whole[name] / largest[name] for name in ("params", "macs", "bytes")}
    return {
        "recipe": recipe_of(key),
        "variant": "artifacts",
        "parts": parts,
        "seed": seed,
        "ratios": ratios,
        "split": record,
        "whole_seconds": time.perf_counter() - begun,
    }


# --- all rows ----------------------------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"about": {}, "rows": []}


def key_of(row: dict[str, Any]) -> Key:
    return row["variant"], row["parts"], row["seed"]


def save(report: dict[str, Any]) -> None:
    order = {key: place for place, key in enumerate(plan())}
    report["rows"].sort(key=lambda row: order.get(key_of(row), len(order)))
    scratch = RESULTS.with_suffix(".half")
    scratch.write_text(json.dumps(report, indent=1) + "\n")
    scratch.replace(RESULTS)


def start(trunk: str) -> None:
    global _TRUNK
    _TRUNK = trunk


def run(keys: Sequence[Key], trunk: str, processes: int) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start, (trunk,)) as pool:
        waiting = {pool.submit(measure, key, trunk): key for key in keys}
        for done in as_completed(waiting):
            row = done.result()
            report = load()
            report["rows"] = [old for old in report["rows"] if key_of(old) != key_of(row)] + [row]
            report["about"] = about()
            save(report)
            print(f"{waiting[done]}: {row.get('fused', row.get('ratios'))} {row.get('cpu_seconds', '')}", flush=True)


def about() -> dict[str, Any]:
    recipe = asdict(SplitOptions(parts=1))
    recipe.pop("parts")
    recipe |= {"token_views": TOKEN_VIEWS, "images_shown": IMAGES_SHOWN}
    return {
        "environment": environment.collect().record(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "threads_per_process": 1,
        "defaults": json.loads(json.dumps(recipe, default=str)),
    }


def fingerprint(recipe: dict[str, Any]) -> str:
    """Short digest of a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def interval(values: Sequence[float]) -> str:
    """Mean in per cent with the half width of the 95 % t interval over seeds."""
    mean = f"{100 * statistics.mean(values):.2f}"
    if len(values) < 2:
        return mean
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {100 * half:.2f}"


Rows = Sequence[dict[str, Any]]
FUSIONS = {
    "as shipped": (),
    "never without a part": ("without_degradation_training",),
    "without the trunk's answers": ("fusion_from_labels_alone",),
}


def table(rows: Rows) -> str:
    """Markdown: a line per (variant, N), then one per way to train the fusion head, then the artifacts."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if "fused" in row:
            groups.setdefault((row["variant"], row["parts"]), []).append(row)
    losses = (("fused",), ("missing_one", "mean"), ("missing_one", "worst"), ("missing_two", "mean"))
    lines = [f"Trunk {100 * group[0]['trunk']:.2f} %.\n" for group in list(groups.values())[:1]]  # one for all rows
    lines += [
        "| variant | N | seeds | fused | 1 missing | worst | 2 missing | params | MACs | CPU s |",
        "|---" * 10 + "|",
    ]
    for (variant, parts), group in groups.items():
        size = max((one for row in group for one in row["sizes"]), key=lambda one: one["params"])
        cells = [variant, str(parts), str(len(group)), *(over(group, *path) for path in losses)]
        cells += [f"{size['params']:,}", f"{size['macs']:,}"]
        cells.append(f"{statistics.mean(row['cpu_seconds']['whole'] for row in group):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["\n| the fusion head | N | fused | 1 missing | worst | 2 missing |", "|---" * 6 + "|"]
    ours = {parts: group for (variant, parts), group in groups.items() if variant == "ours"}
    for parts, group in ours.items():
        for name, path in FUSIONS.items():
            lines.append("| " + " | ".join([name, str(parts), *(over(group, *path, *loss) for loss in losses)]) + " |")
    for row in rows:
        if "ratios" in row:
            found = ", ".join(f"{name} ÷ {value:.1f}" for name, value in row["ratios"].items())
            lines.append(
                f"\nartifacts, N = {row['parts']}: trunk over largest sub-model: {found}; {row['whole_seconds']:.0f} s"
            )
    return "\n".join(lines)


def over(group: Rows, *path: str) -> str:
    """One figure of all seeds; a dash where there is none."""
    values: list[Any] = []
    for row in group:
        value: Any = row
        for step in path:
            value = value and value[step]
        values.append(value)
    return "—" if None in values else interval(values)


def trained_trunk(path: Path) -> str:
    if not path.exists():
        print(f"training the trunk at {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        fit("vit_edvit", "digits", path, options=TrainOptions())
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=TRUNK)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS, "artifacts"])
    parser.add_argument("--rows", type=int, help="at most so many")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        done = {key_of(row) for row in load()["rows"] if row["recipe"] == recipe_of(key_of(row))}
        keys = [key for key in plan() if key not in done and (not asked.only or key[0] in asked.only)][: asked.rows]
        run(keys, trained_trunk(asked.trunk), asked.processes)
    print(table(load()["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
