"""Integers found once, for every target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from edgevit import registry, render
from edgevit.verbs.help import of_data, of_output
from edgevit.verbs.options import (
    Cache,
    Classes,
    Force,
    ImageSize,
    Json,
    ModelName,
    Pretrained,
    Task,
    Threads,
    Weights,
    prepares,
    quantizes,
)

Out = Annotated[Path, of_output("-o", "--out", help="Checkpoint to write (.safetensors).", show_default=False)]
Data = Annotated[
    str | None,
    of_data("--data", metavar="SRC", help="Images to find ranges and weigh the loss on. Default: the weights' own."),
]


@prepares
@quantizes
def quantize(
    steps: Any,
    quantizing: Any,
    model: ModelName,
    out: Out,
    weights: Weights = None,
    pretrained: Pretrained = False,
    data: Data = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    task: Task = None,
    threads: Threads = None,
    cache: Cache = True,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find the integers of a model once: a checkpoint that export --weights takes, the same on every target.

    Example: edgevit quantize fmvit_nano --weights digits --data digits -o int8.safetensors
    """
    from edgevit.request import ExportRequest, ModelChoice, image_sides

    chosen = ModelChoice(model, weights, pretrained, classes, image_sides(image_size), steps)
    request = ExportRequest(
        chosen, (), "int8", task=task, data=data, threads=threads, cache=cache, quantizing=quantizing
    )  # fmt: skip
    registry.need_torch("quantizing")
    from edgevit.quantize.checkpoint import quantize as found

    with render.progress(f"quantize {model}") as shown, render.overheard():
        result = found(request, out, force=force, progress=render.Stages(shown, f"quantize {model}"))
    if json:
        render.emit_json(result.record())
        return
    render.facts(result.facts())


VERBS = ((quantize, "Find a model's integers once, for every target."),)
