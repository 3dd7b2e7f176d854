"""ED-ViT: split a model, place its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import registry, render
from edgevit.amounts import parse_bytes
from edgevit.split.options import SplitJob, SplitOptions
from edgevit.verbs.help import of_data, of_fleet, of_output, of_splitting, of_target, of_training
from edgevit.verbs.options import (
    Classes,
    Force,
    ImageSize,
    Json,
    Precision,
    Threads,
    Verify,
    Weights,
    prepares,
    target_names,
)

SPLIT = SplitOptions(parts=1)  # the defaults of `edgevit split`


Model = Annotated[str, typer.Argument(help="A ViT: vit_edvit, vit_base, timm:deit_…, …", show_default=False)]
Parts = Annotated[int, of_splitting("--parts", min=1, help="How many sub-models.", show_default=False)]
Out = Annotated[Path, of_output("-o", "--out", help="Bundle folder to write.", show_default=False)]
Data = Annotated[
    str, of_data("--data", metavar="SRC", help="digits, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH, idx:PATH.")
]
Target = Annotated[
    list[str] | None,
    of_target("-t", "--target", help="Repeat for several. Default: onnx.", autocompletion=target_names),
]
Partition = Annotated[
    str, of_splitting("--partition", help="balanced, similar, confusable, or a JSON file with every part's labels.")
]
HeadsPruned = Annotated[
    int | None, of_splitting("--heads-pruned", min=0, help="Heads cut from every block; all widths shrink alike.")
]
MemoryBudget = Annotated[
    str | None, of_splitting("--memory-budget", help="Of all sub-models' weights together, e.g. 180MB.")
]
Fleet = Annotated[Path | None, of_splitting("--fleet", help="A fleet.toml: prune until every sub-model fits a node.")]
Importance = Annotated[str, of_splitting("--importance", help="exact, taylor, random or magnitude.")]
SplitImages = Annotated[int, of_splitting("--images", min=1, help="Images of a class that scores are taken on.")]
Retrain = Annotated[str, of_training("--retrain", help="negatives, or distil from the trunk.")]
Epochs = Annotated[int | None, of_training(min=1, help="Of every sub-model, and of the fusion head. Default: fitted.")]
BatchSize = Annotated[int, of_training(min=2, help="Images of one step.")]
Lr = Annotated[float, of_training(help="Peak learning rate.")]
Amp = Annotated[str, of_training("--amp", help="Mixed precision: no, bf16 or fp16 (needs edgevit[split]).")]
Seed = Annotated[int, of_training(help="Of the partition, order and augmentation.")]
Jobs = Annotated[
    int | None, of_training("--jobs", min=1, help="Sub-models retrained at a time. Default: one per core or GPU.")
]
Device = Annotated[str, of_training(help="auto (GPUs if there are any), cpu or cuda.")]
Resume = Annotated[bool, of_training("--resume", help="Go on from an interrupted run of the same command.")]


@prepares
def split(
    steps: Any,
    model: Model,
    parts: Parts,
    out: Out,
    data: Data = "digits",
    weights: Weights = None,
    target: Target = None,
    partition: Partition = SPLIT.partition,
    heads_pruned: HeadsPruned = None,
    memory_budget: MemoryBudget = None,
    fleet: Fleet = None,
    importance: Importance = SPLIT.importance,
    images: SplitImages = SPLIT.images,
    retrain: Retrain = SPLIT.mode,
    epochs: Epochs = None,
    batch_size: BatchSize = SPLIT.retraining.batch_size,
    lr: Lr = SPLIT.retraining.lr,
    amp: Amp = SPLIT.amp,
    seed: Seed = SPLIT.seed,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Precision = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    verify: Verify = True,
    resume: Resume = False,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Split a vision transformer (ED-ViT): sub-models, each an expert in some classes, and a head that fuses them.

    Example: edgevit split vit_edvit --weights trunk.safetensors --data digits --parts 5 -o bundle
    """
    registry.need_torch("splitting")
    from dataclasses import replace

    from edgevit.request import ModelChoice, image_sides
    from edgevit.split.refusals import check

    asked: dict[str, Any] = {
        "parts": parts, "partition": partition, "heads_pruned": heads_pruned, "fleet": fleet, "importance": importance,
        "images": images, "mode": retrain, "amp": amp, "seed": seed, "device": device, "threads": threads, "jobs": jobs,
        "memory_budget": None if memory_budget is None else parse_bytes(memory_budget),
        "fusion": replace(SPLIT.fusion, epochs=epochs),
        "retraining": replace(SPLIT.retraining, epochs=epochs, batch_size=batch_size, lr=lr),
    }  # fmt: skip
    request = SplitJob(
        ModelChoice(model, weights, classes=classes, image_size=image_sides(image_size), steps=steps), data, out,
        SplitOptions(**asked), targets=tuple(target or ("onnx",)), precision=precision, verify=verify, resume=resume,
        force=force,
    )  # fmt: skip
    check(request)
    from edgevit.split import job as splitting  # and torch with it

    with render.progress(f"splitting {model}") as shown, render.overheard():
        result = splitting.run_split(request, render.Stages(shown, f"{model} → {parts} parts"))
    if not verify:
        render.say(f"nothing proves that the members compute what they should (--no-verify); edgevit verify {out} does")
    if json:
        render.emit_json(result.record())
        return
    render.table(splitting.COLUMNS, result.rows())
    render.facts(result.facts())
    for step in result.sizing.steps:
        render.say(step)


def assign(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="What edgevit split wrote.", show_default=False, readable=False)
    ],
    fleet: Annotated[Path, of_splitting("--fleet", help="A fleet.toml with the devices.", show_default=False)],
    replicas: Annotated[
        int, of_fleet("--replicas", min=1, help="Copies of every sub-model, each on another device.")
    ] = 1,
    out: Annotated[Path, of_output("-o", "--out", help="The plan to write.")] = Path("plan.json"),
    json: Json = False,
) -> None:
    """Say which device runs which sub-models, how fast and in how much memory, and what the loss of each one costs.

    Example: edgevit assign digits-bundle --fleet examples/fleet.toml
    """
    from edgevit.bundle import plan as planning
    from edgevit.bundle.fleet_file import read_fleet
    from edgevit.bundle.opened import Bundle

    plan = planning.plan_bundle(Bundle.open(bundle), read_fleet(fleet), replicas=replicas)
    planning.write_plan(plan, out)
    if json:
        render.emit_json(plan.model_dump(mode="json"))
        return
    render.table(planning.COLUMNS, plan.rows())
    render.line(plan.summary())
    render.say(f"written: {out}")


VERBS = (
    (split, "Split a vision transformer by classes over small devices."),
    (assign, "Place a bundle's sub-models on a fleet of devices."),
)
