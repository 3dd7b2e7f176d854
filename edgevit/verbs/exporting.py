"""From a model to an artifact that is proved, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgevit import render
from edgevit.errors import EdgeVitError, UsageError
from edgevit.verbs.options import (
    ArtifactOrBundle,
    Classes,
    Data,
    Force,
    ImageSize,
    Json,
    ModelName,
    Provider,
    RuntimeName,
    RuntimeOptions,
    Threads,
    Trust,
    Weights,
)
from edgevit.verbs.outcome import finish

if TYPE_CHECKING:
    from edgevit.request import ExportRequest


def export(
    model: ModelName,
    target: Annotated[
        list[str], typer.Option("-t", "--target", help="Repeat for several; 'all' is every target buildable here.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Artifact folder (its parent for several targets). Default: artifacts/MODEL-TARGET-PRECISION.",
        ),
    ] = None,
    weights: Weights = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Weights from the hub (timm models).")] = False,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or fp16. Default: the target's own.")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Rows per call: 1, or a range such as 1-8.")] = "1",
    image_size: ImageSize = None,
    classes: Classes = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names: one a line, or JSON.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="Exporter option: TARGET.key=value; plain key=value with a single -t."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--form", help="deploy (re-parameterised) or train.")] = "deploy",
    bake_preprocess: Annotated[
        bool, typer.Option("--bake-preprocess", help="Take uint8 NHWC pixels and normalise inside the graph.")
    ] = False,
    data: Data = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the artifact equal to its model.")] = True,
    require_verified: Annotated[
        bool, typer.Option("--require-verified", help="Exit 7 unless the proof ran here.")
    ] = False,
    threads: Threads = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds that a target's native compiler may take.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, where, and how long it took last time.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a model to one or more targets and prove each artifact equal to it.

    Example: edgevit export fmvit_nano --weights digits -t onnx
    """
    from edgevit.predict import read_labels
    from edgevit.request import ExportRequest, ModelChoice, image_sides, parse_batch, resolve_targets, split_options

    names = resolve_targets(target)
    request = ExportRequest(
        ModelChoice(model, weights, pretrained, classes, image_sides(image_size)),
        names, precision, parse_batch(batch), split_options(option or (), names), form=cast("Any", form),
        bake_preprocess=bake_preprocess, labels=read_labels(labels), data=data, out=out, parent="all" in target,
        force=force, verify=verify, require_verified=require_verified, threads=threads, timeout_s=timeout,
    )  # fmt: skip
    (_rehearsed if dry_run else _exported)(request, json)


def _exported(request: ExportRequest, json: bool) -> None:
    from edgevit import build

    model, outcomes, said = request.model.source, [], set()
    with render.progress(f"export {model}") as shown:
        for outcome in build.exports(request, lambda name: render.Stages(shown, f"{model} → {name}")):
            outcomes.append(outcome)
            for note in outcome.notes:
                if note not in said:
                    render.say(note)
                said.add(note)
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


def verify(
    artifact: ArtifactOrBundle,
    runtime: RuntimeName = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    data: Data = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Another artifact, or 'source' (needs torch): compare on the same images."),
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Prove an artifact: hashes, golden pair, then real data. Exit 7 when it is not what it says.

    Of a bundle, every member is proved, then all together; --data gives the accuracy of the fused answers.
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


def predict(
    artifact: ArtifactOrBundle,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, …", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show.")] = 5,
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names, instead of the artifact's own.")] = None,
    runtime: RuntimeName = None,
    provider: Provider = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="PART", help="Leave this part of a bundle out, e.g. part-2."),
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Classify images: top-5 with labels. A broken image is one line and does not stop the others.

    A bundle also says how many of its sub-models answered; the classes of a missing one suffer.
    """
    from edgevit import predict as prediction

    results = prediction.predict(
        artifact,
        images,
        runtime=runtime,
        threads=threads,
        top=top,
        provider=provider,
        labels=prediction.read_labels(labels),
        trust=trust,
        without=without or (),
    )
    records, failures, said = [], 0, set()
    for result in results:
        failures += isinstance(result, prediction.Failure)
        records.append(result.record())
        for note in result.notes():
            if note not in said:
                render.say(note)
            said.add(note)
        if not json:
            (render.say if isinstance(result, prediction.Failure) else render.line)(result.line())
    if json:
        render.emit_json(records)
    if failures:
        raise typer.Exit(1)


VERBS = (
    (export, "Export a model; prove the artifact equal to it."),
    (verify, "Prove an artifact or a bundle on this machine."),
    (predict, "Classify images with an artifact or a bundle."),
)
