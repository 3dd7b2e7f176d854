"""ED-ViT on real handwritten digits: accuracy and size against the number of parts, and against other ways to split.

    python benchmarks/edvit_digits.py --processes 2     # all rows that are not there yet, about 2 hours of two cores
    python benchmarks/edvit_digits.py --table           # only print what is there
    python benchmarks/edvit_digits.py --only ours       # rows of one variant
    python benchmarks/edvit_digits.py --inner           # what recipes are chosen by: the 360 held-out digits unseen

One row per (variant, N, seed) in results/edvit_digits.json, written as soon as it is measured; a row that is there is
not measured again. The trunk is the same for all rows (``--trunk``; it is trained if there is none, and rows of another
are measured again), a seed decides the partition, the order and augmentation of images, and the fusion head. One thread
per process. "Augmented" are the held-out digits with ten augmented copies of each: more pictures, though not more
digits. ``--inner`` holds a fifth of the 1,437 training images out from a trunk and from splits of their own
(results/edvit_inner.json).

    ours                 the defaults of ``edgevit split``
    negatives            sub-models that learn from the labels alone, without the trunk
    few, half, many      images of other classes in an epoch of a sub-model: EC-SNN's count, at least half as many as
                         of its own, at least as many
    similar, balanced    other partitions
    random, magnitude    pruned without class-wise importance
    scratch              not pruned from the trunk at all: sub-models of the same sizes that start from random weights
    cnn                  the same classes, data, epochs and fusion, but each part a plain CNN of at most the MACs and
                         parameters of our sub-model, trained from scratch (Split-CNN's idea, without a trunk)
    brief-…              the same with three epochs of retraining instead of all
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
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.data.source import open_data
from edgevit.models.families.edvit import SubModel
from edgevit.models.families.vit import VisionTransformer
from edgevit.models.macs import count_macs, count_params
from edgevit.profiles import environment
from edgevit.registry import version_of
from edgevit.request import ModelChoice
from edgevit.split.accuracy import degradation
from edgevit.split.features import Features, answers_of, features_of, gather, tokens_of
from edgevit.split.fuse import train_fusion
from edgevit.split.job import choose_partition, run_split
from edgevit.split.options import SplitJob, SplitOptions
from edgevit.split.parts import Source, load_source, part_seed, score
from edgevit.split.prune import Size, prune, size_of, smallest_hp
from edgevit.split.retrain import IMAGES_SHOWN, TOKEN_SEED, TOKEN_VIEWS, Lesson, retrain
from edgevit.train import TrainOptions, fit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "artifacts" / "edvit"
COPIES, COPIES_SEED = 10, 360  # of every held-out image
CPU = torch.device("cpu")
SEEDS, CLASSES = range(5), 10
TRUNK_EPOCHS = 60  # with the 20 of edgevit train's default, which --inner has, it has not learnt all it can
PACKAGES = ("edgevit", "torch", "numpy")
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "random": {"importance": "random"},
    "magnitude": {"importance": "magnitude"},
    "negatives": {"mode": "negatives"},
    "few": {"negatives": 0.0},
    "half": {"negatives": 0.5},
    "many": {"negatives": 1.0},
    "balanced": {"partition": "balanced"},
    "similar": {"partition": "similar"},
    "scratch": {"importance": "random"},
    "cnn": {},
}
BRIEF = "brief-"
BRIEFLY = [BRIEF + way for way in ("ours", "random", "magnitude", "scratch", "cnn")]
VARIANTS |= {name: {**VARIANTS[name.removeprefix(BRIEF)], "retraining": TrainOptions(epochs=3)} for name in BRIEFLY}
Key = tuple[str, int, int]
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided, n - 1 degrees of freedom, by n


@dataclass(frozen=True)
class Experiment:
    """What the rows of one results file share."""

    results: Path
    trunk: str
    data: str

    def plan(self) -> list[Key]:
        """All rows, those that matter most first."""
        if self.data != "digits":
            ways = ("few", "half", "many")
            return [(name, parts, seed) for seed in range(2) for parts in (3, 5, 2, 10) for name in ways]
        ours: list[Key] = [("ours", parts, seed) for seed in SEEDS for parts in (5, 10, 3, 2, 1)]
        whole: list[Key] = [("artifacts", parts, 0) for parts in (5, 10)]
        others: list[Key] = []
        for seed in range(3):
            others += [(name, parts, seed) for parts in (10, 5) for name in ("cnn", "random", "magnitude", "scratch")]
            others += [(name, 5, seed) for name in ("balanced", "similar")]
            others += [("negatives", parts, seed) for parts in (10, 5)]
            others += [(name, parts, seed) for parts in (10, 5) for name in BRIEFLY]
        return [*ours, *whole, *others]

    def trunk_sha256(self) -> str:
        return hashlib.sha256(Path(self.trunk).read_bytes()).hexdigest()


def inner_data() -> str:
    """The training digits as a source of their own, so that a fifth of them is held out."""
    path = WORK / "inner.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    train = open_data("digits", split="train")
    np.savez(path, images=np.stack(list(train.images)), labels=train.labels, classes=np.array(train.classes))
    return f"npz:{path}"


# --- one row -----------------------------------------------------------------------------------------------------


@cache
def source(of: Experiment) -> Source:
    return load_source(SplitJob(ModelChoice("vit_edvit", weights=of.trunk), of.data, Path(), SplitOptions(parts=1)))


@cache
def tokens(of: Experiment) -> Tensor:
    """The trunk's class tokens of augmented images: the same for all rows of a process."""
    given = source(of)
    return tokens_of(given.trunk, given.train, CPU, views=TOKEN_VIEWS, seed=TOKEN_SEED)


@cache
def answers(of: Experiment, views: int, seed: int) -> Tensor:
    """What the trunk says of the fusion head's images: the same for all rows of a seed."""
    given = source(of)
    return answers_of(given.trunk, given.train, CPU, views=views, seed=seed)


@cache
def trunk_accuracy(of: Experiment) -> dict[str, float]:
    """On the held-out images, and with their copies."""
    given = source(of)
    logits = answers_of(given.trunk, given.held_out, CPU, views=COPIES, seed=COPIES_SEED)
    right = logits.argmax(1) == given.held_out.labels.repeat(1 + COPIES)
    return {
        "trunk": float(right[: len(given.held_out)].double().mean()),
        "trunk_augmented": float(right.double().mean()),
    }


def options_of(key: Key) -> SplitOptions:
    return SplitOptions(parts=key[1], seed=key[2], **VARIANTS.get(key[0], {}))


def way_of(variant: str) -> str:
    """How its parts are made, however long they are retrained."""
    return variant.removeprefix(BRIEF)


def mode_of(way: str, options: SplitOptions) -> str:
    """A CNN has no trunk to learn from, nor has its fusion head."""
    return "negatives" if way == "cnn" else options.mode


def recipe_of(key: Key) -> str:
    """A row of another recipe is measured again."""
    options = options_of(key)
    distilled = {"token_views": TOKEN_VIEWS} if mode_of(way_of(key[0]), options) == "distil" else {}
    return fingerprint({**options.recipe(), **distilled, "images_shown": IMAGES_SHOWN})


def measure(key: Key, of: Experiment) -> dict[str, Any]:
    """Measure one row. Its seconds leave out what the trunk says of all images, once for all rows."""
    torch.set_num_threads(1)
    if key[0] == "artifacts":
        return artifacts(key, of)
    variant, parts, seed = key
    way, options = way_of(variant), options_of(key)
    given, views = source(of), options.fusion.views_for(len(source(of).train))
    said = None if way == "cnn" else answers(of, views, seed)
    whole = trunk_accuracy(of)
    if mode_of(way, options) == "distil":
        tokens(of)
    groups = choose_partition(options, given, CPU)
    made = [make(way, options, index, classes, of) for index, classes in enumerate(groups)]
    subs = [sub for sub, *_ in made]
    seconds = {name: sum(row[3][name] for row in made) for name in ("importance", "retraining")}
    trained = time.process_time()
    train = gather(
        [features_of(sub, given.train, CPU, views=views, seed=seed) for sub in subs], given.train.labels, said
    )
    seconds["features"] = time.process_time() - trained
    seen = [features_of(sub, given.held_out, CPU, views=COPIES, seed=COPIES_SEED) for sub in subs]
    augmented = gather(seen, given.held_out.labels)
    held_out = gather([one[: len(given.held_out)] for one in seen], given.held_out.labels)
    heading, fusing = time.process_time(), replace(options.fusion, seed=seed)
    head = train_fusion(train, CLASSES, fusing)
    seconds["fusion"] = time.process_time() - heading
    fused = measured(head, held_out, augmented)
    if variant == "ours":
        fused["fusion_from_labels_alone"] = measured(
            train_fusion(replace(train, trunk=None), CLASSES, fusing), held_out, augmented
        )
    never = train_fusion(train, CLASSES, replace(fusing, missing=0.0))
    return {
        "recipe": recipe_of(key), "trunk_sha256": of.trunk_sha256(),
        "variant": variant, "parts": parts, "seed": seed, "partition": [list(group) for group in groups],
        "heads_pruned": None if way == "cnn" else pruned(options), **whole,
        **fused,
        "without_degradation_training": measured(never, held_out, augmented),
        "own": [row[1] for row in made], "sizes": [asdict(row[2]) for row in made],
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }  # fmt: skip


def pruned(options: SplitOptions) -> int:
    return smallest_hp(source_config(), options.parts)


def source_config() -> Any:
    from edgevit.models.families.vit import vit_edvit

    return vit_edvit().config


def make(
    way: str, options: SplitOptions, index: int, classes: Sequence[int], of: Experiment
) -> tuple[nn.Module, float, Size, dict[str, float]]:
    """One retrained sub-model: itself, its balanced accuracy, its size, seconds of CPU."""
    given = source(of)
    begun = time.process_time()
    size = size_of(given.trunk.config, pruned(options), len(classes) + 1)
    if way == "cnn":
        torch.manual_seed(part_seed(options.seed, index))
        sub: nn.Module = PlainCnn.within(size, len(classes) + 1)
        size = PlainCnn.size(sub)
    else:
        scores = score(given, classes, options.importance, options.images, options.seed + index)
        vit = prune(given.trunk, scores, pruned(options), len(classes))
        if way == "scratch":
            torch.manual_seed(part_seed(options.seed, index))
            vit = VisionTransformer(vit.config)
        sub = SubModel(vit)
    scored = time.process_time()
    recipe = replace(options.retraining, seed=part_seed(options.seed, index))
    mode = mode_of(way, options)
    known = tokens(of) if mode == "distil" else None
    lesson = Lesson(
        given.trunk, tuple(classes), given.train, given.held_out, mode, recipe, CPU, options.negatives, known
    )
    with tempfile.TemporaryDirectory() as folder:
        averaged, accuracy = retrain(sub, lesson, state_file=Path(folder) / "state", recipe={})
    return averaged, accuracy, size, {"importance": scored - begun, "retraining": time.process_time() - scored}


def measured(head: nn.Module, held_out: Features, augmented: Features) -> dict[str, Any]:
    """What a fusion head makes of the features."""
    found = degradation(head, held_out)
    row: dict[str, Any] = {"fused": found.fused, **on_copies(head, augmented)}
    for name, count in (("missing_one", 1), ("missing_two", 2)):
        left = found.missing(count)
        row[name] = left and {"mean": left.mean, "worst": left.worst}
    row["most_classes_suffering"] = max(
        (len(hurt) for case, hurt in found.suffering.items() if len(case) == 1), default=0
    )
    return row


@torch.no_grad()
def on_copies(head: nn.Module, augmented: Features) -> dict[str, float]:
    """Accuracy and cross entropy with all parts present, on the held-out images and their copies."""
    logits = head(*augmented.parts, torch.ones(len(augmented), len(augmented.parts)))
    right = logits.argmax(1) == augmented.labels
    entropy = nn.functional.cross_entropy(logits, augmented.labels)
    return {"fused_augmented": float(right.double().mean()), "cross_entropy_augmented": float(entropy)}


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


def artifacts(key: Key, of: Experiment) -> dict[str, Any]:
    """``edgevit split`` from trunk to bundle: what the artifacts themselves say."""
    _, parts, seed = key
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job = SplitJob(
            ModelChoice("vit_edvit", weights=of.trunk),
            of.data,
            Path(folder) / "bundle",
            SplitOptions(parts=parts, seed=seed, jobs=1, threads=1),
        )
        begun = time.perf_counter()
        record = run_split(job, lambda what, share: None).record()
    record.pop("bundle")
    largest = max(record["parts"], key=lambda part: part["macs"])
    whole = record["trunk"]
    ratios = {name: whole[name] / largest[name] for name in ("params", "macs", "bytes")}
    return {
        "recipe": recipe_of(key),
        "trunk_sha256": of.trunk_sha256(),
        "variant": "artifacts",
        "parts": parts,
        "seed": seed,
        "ratios": ratios,
        "split": record,
        "whole_seconds": time.perf_counter() - begun,
    }


# --- all rows ----------------------------------------------------------------------------------------------------


def load(results: Path = RESULTS / "edvit_digits.json") -> dict[str, Any]:
    return json.loads(results.read_text()) if results.exists() else {"about": {}, "rows": []}


def key_of(row: dict[str, Any]) -> Key:
    return row["variant"], row["parts"], row["seed"]


def save(report: dict[str, Any], of: Experiment) -> None:
    order = {key: place for place, key in enumerate(of.plan())}
    report["rows"].sort(key=lambda row: order.get(key_of(row), len(order)))
    scratch = of.results.with_suffix(".half")
    scratch.write_text(json.dumps(report, indent=1) + "\n")
    scratch.replace(of.results)


def missing(of: Experiment) -> list[Key]:
    """Rows of the plan that are not there, or are of another recipe or trunk."""
    trunk = of.trunk_sha256()
    rows = {key_of(row): row for row in load(of.results)["rows"]}
    return [
        key
        for key in of.plan()
        if key not in rows or rows[key]["recipe"] != recipe_of(key) or rows[key].get("trunk_sha256") != trunk
    ]


def run(keys: Sequence[Key], of: Experiment, processes: int) -> None:
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(measure, key, of): key for key in keys}
        for done in as_completed(waiting):
            row = done.result()
            report = load(of.results)
            others = [old for old in report["rows"] if key_of(old) != key_of(row)]
            report["rows"] = [old for old in others if old.get("trunk_sha256") == row["trunk_sha256"]] + [row]
            report["about"] = about()
            save(report, of)
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
    """Markdown: a line per (variant, N), then one per way to train the fusion head, then the artifacts. "Classes hurt"
    is the most that lose ten points or more of their images when any one part is missing."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    variants = list(VARIANTS)
    accuracies = [row for row in rows if "fused" in row]
    for row in sorted(accuracies, key=lambda row: (variants.index(row["variant"]), row["parts"])):
        groups.setdefault((row["variant"], row["parts"]), []).append(row)
    losses = (("fused",), ("missing_one", "mean"), ("missing_one", "worst"), ("missing_two", "mean"))
    trunk = next((f"{100 * row['trunk']:.2f} %, augmented {100 * row['trunk_augmented']:.2f} %" for row in rows), "—")
    lines = [
        f"Trunk {trunk}.\n",  # one for all rows
        "| variant | N | seeds | fused | augmented | 1 missing | worst | 2 missing "
        "| classes hurt | params | MACs | CPU s |",
        "|---" * 12 + "|",
    ]
    for (variant, parts), group in groups.items():
        size = max((one for row in group for one in row["sizes"]), key=lambda one: one["params"])
        cells = [variant, str(parts), str(len(group)), over(group, "fused"), over(group, "fused_augmented")]
        cells += [over(group, *path) for path in losses[1:]]
        cells += ["—" if parts == 1 else str(max(row["most_classes_suffering"] for row in group))]
        cells += [f"{size['params']:,}", f"{size['macs']:,}"]
        cells.append(f"{statistics.mean(sum(row['cpu_seconds'].values()) for row in group):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    ours = {parts: group for (variant, parts), group in groups.items() if variant == "ours"}
    if ours:
        lines += ["\n| the fusion head | N | fused | 1 missing | worst | 2 missing |", "|---" * 6 + "|"]
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


def experiment(inner: bool, trunk: Path | None) -> Experiment:
    """The rows that are asked for; their trunk is trained if there is none."""
    name = "inner" if inner else "digits"
    data = inner_data() if inner else "digits"
    path = trunk or WORK / f"trunk-{name}.safetensors"
    if not path.exists():
        print(f"training the trunk at {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        fit("vit_edvit", data, path, options=TrainOptions(epochs=None if inner else TRUNK_EPOCHS))
    return Experiment(RESULTS / f"edvit_{name}.json", str(path), data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS, "artifacts"])
    parser.add_argument("--parts", type=int, nargs="+", help="rows of these N")
    parser.add_argument("--rows", type=int, help="at most so many")
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    results = RESULTS / f"edvit_{'inner' if asked.inner else 'digits'}.json"
    if not asked.table:
        of = experiment(asked.inner, asked.trunk)
        keys = [key for key in missing(of) if not asked.only or key[0] in asked.only]
        keys = [key for key in keys if not asked.parts or key[1] in asked.parts]
        run(keys[: asked.rows], of, asked.processes)
    print(table(load(results)["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
