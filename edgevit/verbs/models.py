"""What there is: models, targets, manifests; and training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit import registry, render
from edgevit.train.options import TrainOptions
from edgevit.verbs.help import of_data, of_output, of_training
from edgevit.verbs.options import (
    ArtifactOrBundle,
    Force,
    ImageSize,
    Json,
    Threads,
    Weights,
)

RECIPE = TrainOptions()  # the defaults of `edgevit train`


def models(json: Json = False) -> None:
    """List the model zoo: parameters, MACs (train and deploy form), image size, shipped weights.

    Example: edgevit models
    """
    from edgevit.models import list_models

    rows = list_models(details=True)
    if json:
        render.emit_json(rows)
        return
    columns = ("model", "params", "MACs", "train params", "train MACs", "image", "weights", "source")
    numbers = ("params", "macs", "params_train", "macs_train")
    render.table(
        columns,
        [
            (
                row["name"],
                *(render.si(row.get(key)) for key in numbers),
                f"{row['image_size']}²",
                ", ".join(row["weights"]) or "—",
                row["source"],
            )
            for row in rows
        ],
    )
    render.say(
        "Figures are of the deploy form at the default size unless they say train. Also: timm:NAME, torchvision:NAME, "
        "hf:ID, file.py:factory."
    )


def targets(json: Json = False) -> None:
    """List export targets and runtimes: what can build and run here, and the pip line for what cannot.

    Example: edgevit targets
    """
    from edgevit import registry

    rows = registry.describe()
    if json:
        render.emit_json(rows)
        return
    render.table(
        ("name", "kind", "here", "version", "what it can do here, or why not"),
        [
            (
                row["name"],
                row["kind"],
                "yes" if row["can_build"] or row["can_run"] else "no",
                row["version"] or "—",
                row["here"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if not row["available"]:
            render.say(f"{row['name']} ({row['kind']}): {row['install']}")


Model = Annotated[
    str,
    typer.Argument(help="A zoo name, timm:, torchvision: or hf:NAME, or path/to/file.py:factory.", show_default=False),
]
Out = Annotated[Path, of_output("-o", "--out", help="Checkpoint to write (.safetensors).", show_default=False)]
Data = Annotated[
    str,
    of_data("--data", metavar="SRC", help="digits, scenes, pairs:samples×2, folder:, npz:, cifar10:, idx:PATH, …."),
]
TrainTask = Annotated[str | None, of_training("--task", help="classify, segment or restore. Default: by the data.")]
TrainEpochs = Annotated[int | None, of_training(min=1, help="Default: fitted to the data's size.")]
BatchSize = Annotated[int, of_training(min=2, help="Images of one step.")]
Lr = Annotated[float, of_training(help="Peak learning rate.")]
WeightDecay = Annotated[float, of_training(help="Of AdamW, on matrices.")]
Warmup = Annotated[float, of_training(help="Share of the steps before the peak.")]
Smoothing = Annotated[float, of_training(help="Label smoothing.")]
Ema = Annotated[float, of_training(help="Decay of the averaged weights, which are saved.")]
Clip = Annotated[float, of_training(help="Largest norm of the gradient.")]
Mixup = Annotated[float, of_training(help="Largest share of a second image.")]
Hflip = Annotated[bool, of_training("--hflip", help="Mirror half of the images.")]
Augment = Annotated[bool, of_training("--augment/--no-augment", help="Change the images at random.")]
Seed = Annotated[int, of_training(help="Of order and augmentation; initial weights are always seed 0.")]
Device = Annotated[str, of_training(help="auto (a GPU if there is one), cpu or cuda.")]
Resume = Annotated[bool, of_training("--resume", help="Go on from an interrupted run of the same command.")]


def train(
    model: Model,
    out: Out,
    data: Data = "digits",
    task: TrainTask = None,
    epochs: TrainEpochs = None,
    batch_size: BatchSize = RECIPE.batch_size,
    lr: Lr = RECIPE.lr,
    weight_decay: WeightDecay = RECIPE.weight_decay,
    warmup: Warmup = RECIPE.warmup,
    smoothing: Smoothing = RECIPE.smoothing,
    ema: Ema = RECIPE.ema,
    clip: Clip = RECIPE.clip,
    mixup: Mixup = RECIPE.mixup,
    hflip: Hflip = False,
    augment: Augment = True,
    seed: Seed = 0,
    image_size: ImageSize = None,
    weights: Weights = None,
    device: Device = "auto",
    resume: Resume = False,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a small model honestly: fixed split, held-out accuracy, mIoU or PSNR in the checkpoint.

    Example: edgevit train fmvit_nano --data digits -o digits.safetensors
    Example: edgevit train segmenter_nano --data scenes -o scenes.safetensors
    """
    asked = {field: value for field, value in locals().items() if field in RECIPE.__dataclass_fields__}
    registry.need_torch("training")
    from edgevit import train as training
    from edgevit.train.refusals import check as refuse

    options = TrainOptions(**asked)
    refuse(model, data, out, options)
    with render.progress(f"training {model}") as shown, render.overheard():
        result = training.fit(model, data, out, options=options, progress=render.Epochs(shown, model))
    if json:
        render.emit_json(result.record())
        return
    render.facts(result.facts())


def info(artifact: ArtifactOrBundle, json: Json = False) -> None:
    """Show the manifest of an artifact or a bundle in words.

    Example: edgevit info artifacts/vit_nano-onnx-fp32
    """
    from edgevit.artifact.opened import Artifact
    from edgevit.bundle.opened import Bundle, is_bundle
    from edgevit.info import describe, describe_bundle

    opened = Bundle.open(artifact) if is_bundle(artifact) else Artifact.open(artifact)
    if json:
        render.emit_json(opened.manifest.model_dump(mode="json"))
        return
    render.facts(describe_bundle(opened) if isinstance(opened, Bundle) else describe(opened))


def quickstart(
    out: Annotated[Path, of_output("-o", "--out", help="Folder for what it makes.")] = Path("artifacts/quickstart"),
    threads: Threads = None,
    json: Json = False,
) -> None:
    """The whole story on real handwritten digits, offline: re-parameterise, export, verify, profile, predict.

    Example: edgevit quickstart
    """
    registry.need_torch("quickstart")
    from edgevit.quickstart import run

    with render.progress("quickstart") as shown, render.overheard():
        story = run(out, threads=threads, progress=render.Stages(shown, "quickstart"))
    if json:
        render.emit_json(story.record())
        return
    render.table(("step", "train form", "deploy form"), story.rows(), title="fmvit_nano on handwritten digits")
    for line in story.lines():
        render.line(line)


VERBS = (
    (models, "List the model zoo with parameters and MACs."),
    (targets, "Show what can be built and run here."),
    (train, "Train a small model on labelled images."),
    (info, "Show an artifact's or a bundle's manifest in words."),
    (quickstart, "The whole story on handwritten digits."),
)
