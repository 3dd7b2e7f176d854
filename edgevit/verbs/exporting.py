"""From a model to an artifact that is proved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from edgevit import render
from edgevit.errors import EdgeVitError, UsageError
from edgevit.verbs.help import of_data, of_model, of_output, of_running, of_target
from edgevit.verbs.options import (
    ArtifactOrBundle,
    Batch,
    Cache,
    Classes,
    Data,
    ExporterOptions,
    Force,
    ImageSizes,
    Json,
    MaxSize,
    ModelName,
    Precision,
    Pretrained,
    Provider,
    RuntimeName,
    RuntimeOptions,
    Task,
    Threads,
    Timeout,
    Trust,
    Verify,
    Weights,
    prepares,
    quantizes,
    target_names,
)
from edgevit.verbs.outcome import finish

if TYPE_CHECKING:
    from edgevit.request import ExportRequest


Target = Annotated[
    list[str],
    of_target(
        "-t", "--target", help="Repeat for several; 'all' is every target buildable here.", autocompletion=target_names
    ),
]
Out = Annotated[
    Path | None,
    of_output(
        "-o",
        "--out",
        help="Artifact folder (its parent for several targets). Default: artifacts/MODEL-TARGET-PRECISION.",
    ),
]
Labels = Annotated[Path | None, of_model("--labels", help="Class names: one a line, or JSON.")]
Form = Annotated[str, of_model("--form", help="deploy (re-parameterised) or train.")]
BakePreprocess = Annotated[
    bool, of_model("--bake-preprocess", help="Take uint8 NHWC pixels and normalise inside the graph.")
]
InputRows = Annotated[
    Path | None,
    of_data("--inputs", metavar="FILE", help="Rows of other inputs than images: an .npz, 16 or more by argument name."),
]
RequireVerified = Annotated[bool, of_data("--require-verified", help="Exit 7 unless the proof ran here.")]
DryRun = Annotated[
    bool, of_running("--dry-run", help="Say what would be built, where, and how long it took last time.")
]


@prepares
@quantizes
def export(
    steps: Any,
    quantizing: Any,
    model: ModelName,
    target: Target,
    out: Out = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    precision: Precision = None,
    batch: Batch = "1",
    image_size: ImageSizes = None,
    classes: Classes = None,
    labels: Labels = None,
    task: Task = None,
    option: ExporterOptions = None,
    form: Form = "deploy",
    bake_preprocess: BakePreprocess = False,
    data: Data = None,
    inputs: InputRows = None,
    verify: Verify = True,
    require_verified: RequireVerified = False,
    threads: Threads = None,
    timeout: Timeout = None,
    max_size: MaxSize = None,
    cache: Cache = True,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a model to one or more targets and prove each artifact equal to it.

    Example: edgevit export fmvit_nano --weights digits -t onnx
    """
    from edgevit.amounts import parse_bytes
    from edgevit.data.npz import read_rows
    from edgevit.prediction.labels import read_labels
    from edgevit.request import (
        MIN_ROWS,
        ExportRequest,
        ModelChoice,
        chosen_size,
        parse_batch,
        resolve_targets,
        split_options,
    )

    size, sizes = chosen_size(image_size)
    chosen = ModelChoice(model, weights, pretrained, classes, size, steps, sizes)
    names = resolve_targets(target, chosen.format)
    rows = read_rows(inputs, MIN_ROWS) if inputs else None
    request = ExportRequest(
        chosen, names, precision, parse_batch(batch), split_options(option or (), names), form=cast("Any", form),
        bake_preprocess=bake_preprocess, labels=read_labels(labels), task=task, inputs=rows, data=data, out=out,
        parent="all" in target, force=force, verify=verify, require_verified=require_verified, threads=threads,
        timeout_s=timeout, max_size=None if max_size is None else parse_bytes(max_size), cache=cache,
        quantizing=quantizing,
    )  # fmt: skip
    (_rehearsed if dry_run else _exported)(request, json)


def _exported(request: ExportRequest, json: bool) -> None:
    from edgevit import build

    model, outcomes, said = request.model.source, [], set()
    with render.progress(f"export {model}") as shown, render.overheard():
        for outcome in build.exports(request, lambda name: render.Stages(shown, f"{model} → {name}")):
            outcomes.append(outcome)
            for note in outcome.notes:
                if note not in said:
                    render.say(note)
                said.add(note)
            for sentence in outcome.details() if outcome.artifact else ():
                render.detail(sentence)
    _shown(build.COLUMNS, [outcome for outcome in outcomes if outcome.artifact], json)
    finish(outcomes)


def _rehearsed(request: ExportRequest, json: bool) -> None:
    from edgevit import build

    intents = list(build.rehearse(request))
    _shown(build.REHEARSED, [intent for intent in intents if intent.build], json)
    finish(intents)


def _shown(columns: Sequence[str], done: Sequence[Any], json: bool) -> None:
    if json:
        render.emit_json([one.record() for one in done])
    elif done:
        render.table(columns, [one.row() for one in done])


Against = Annotated[
    str | None,
    of_data("--against", help="Another artifact, or 'source' (needs torch): compare on the same images."),
]


def verify(
    artifact: ArtifactOrBundle,
    runtime: RuntimeName = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    data: Data = None,
    against: Against = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Prove an artifact: hashes, golden pair, then real data. Exit 7 when it is not what it says.

    Of a bundle, every member is proved, then all together; --data gives the accuracy of the fused answers.

    Example: edgevit verify artifacts/vit_nano-onnx-fp32 --data digits
    """
    from edgevit.bundle.opened import is_bundle
    from edgevit.bundle.proof import verify_bundle
    from edgevit.proof.verify import verify as run
    from edgevit.runtimes.base import parse_options

    opening: dict[str, Any] = {
        "runtime": runtime, "threads": threads, "data": data, "provider": provider, "trust": trust
    }  # fmt: skip
    together = is_bundle(artifact)
    if together and against:
        raise UsageError("--against compares artifacts, not bundles", hint="give a member's folder, such as part-0")
    options = parse_options(runtime_option or ())
    if together and options:
        raise UsageError("--runtime-option is of artifacts, not bundles", hint="give a member's folder, such as part-0")
    result: Any  # of an artifact or a bundle: both have record() and facts()
    try:
        if together:
            result = verify_bundle(artifact, **opening)
        else:
            with render.overheard():  # with --against source the model's own code runs
                result = run(artifact, against=against, options=options, **opening)
    except EdgeVitError as exc:
        if failed := getattr(exc, "verification", None):
            if json:
                render.emit_json(failed.record())
            elif together:
                render.facts(failed.facts())
        raise
    if json:
        render.emit_json(result.record())
        return
    render.facts(result.facts())


VERBS = (
    (export, "Export a model; prove the artifact equal to it."),
    (verify, "Prove an artifact or a bundle on this machine."),
)
