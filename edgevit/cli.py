"""The command line: parse, call one function, render. Heavy modules are imported inside the verbs.

Data goes to stdout, progress and advice to stderr, and ``--json`` works everywhere. ``main`` is the only place that
catches edgevit's errors; each ends with its own exit code (``edgevit.errors``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import render
from edgevit.amounts import parse_bytes
from edgevit.errors import EdgeVitError, UsageError
from edgevit.fleet import cli as fleet
from edgevit.split.options import SplitJob, SplitOptions
from edgevit.train.options import TrainOptions

RECIPE = TrainOptions()  # the defaults of `edgevit train`
SPLIT = SplitOptions(parts=1)  # the defaults of `edgevit split`

app = typer.Typer(
    name="edgevit",
    help="Take vision transformers from PyTorch to the devices that run them: re-parameterise, export, prove, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the boxes would cost 100 ms at every start, for markdown that no help text has
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelName = Annotated[
    str, typer.Argument(help="A zoo name (fmvit_s), timm:NAME, or path/to/file.py:factory.", show_default=False)
]
ArtifactDir = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.", show_default=False)]
ArtifactOrBundle = Annotated[
    Path, typer.Argument(metavar="ARTIFACT|BUNDLE", help="An artifact's folder, or a bundle's.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to run the model with. Default: all usable cores.")
]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime", help="Which runtime opens it. Default: the target's preferred one.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="Repeat for several. Default: the target's preferred one."),
]
Provider = Annotated[
    str | None,
    typer.Option("--provider", help="The runtime's device back end, e.g. cpu, cuda. Never replaced silently."),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Open an engine or compiled library that no known key signed. It runs code."),
]
RuntimeOptions = Annotated[
    list[str] | None,
    typer.Option("--runtime-option", metavar="KEY=VALUE", help="Repeat for several; OpenVINO has precision=bf16."),
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="A .safetensors or .pth file, or 'digits' for the shipped checkpoint.")
]
Classes = Annotated[int | None, typer.Option("--classes", min=1, help="Number of classes. Default: the model's own.")]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", min=1, help="Input side in pixels. Default: the model's own.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SRC", help="digits, samples, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH."),
]


@app.command(short_help="List the model zoo with parameters and MACs.")
def models(json: Json = False) -> None:
    """List the model zoo: parameters, MACs (train and deploy form), image size, shipped weights."""
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
                *(render.si(row[key]) for key in numbers),
                f"{row['image_size']}²",
                ", ".join(row["weights"]) or "—",
                row["source"],
            )
            for row in rows
        ],
    )
    render.say(
        "Figures are of the deploy form at the default size unless they say train. Also: timm:NAME, file.py:factory."
    )


@app.command(short_help="Show what can be built and run here.")
def targets(json: Json = False) -> None:
    """List export targets and runtimes: what can build and run here, and the pip line for what cannot."""
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


@app.command(short_help="Train a small model on labelled images.")
def train(
    model: Annotated[
        str, typer.Argument(help="A zoo name, timm:NAME, or path/to/file.py:factory.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint to write (.safetensors).", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", metavar="SRC", help="digits, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH.")
    ] = "digits",
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: fitted to the data's size.")] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = RECIPE.batch_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = RECIPE.lr,
    weight_decay: Annotated[float, typer.Option()] = RECIPE.weight_decay,
    warmup: Annotated[float, typer.Option(help="Share of the steps before the peak.")] = RECIPE.warmup,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.")] = RECIPE.smoothing,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights, which are saved.")] = RECIPE.ema,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = RECIPE.clip,
    mixup: Annotated[float, typer.Option(help="Largest share of a second image.")] = RECIPE.mixup,
    hflip: Annotated[bool, typer.Option("--hflip", help="Mirror half of the images.")] = False,
    augment: Annotated[bool, typer.Option("--augment/--no-augment")] = True,
    seed: Annotated[int, typer.Option(help="Of order and augmentation; initial weights are always seed 0.")] = 0,
    image_size: ImageSize = None,
    weights: Weights = None,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from an interrupted run of the same command.")
    ] = False,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a small model honestly: fixed split, held-out accuracy in the checkpoint.

    Example: edgevit train fmvit_nano --data digits -o digits.safetensors
    """
    asked = {field: value for field, value in locals().items() if field in RECIPE.__dataclass_fields__}
    _need_torch("training")
    from edgevit import train as training

    options = TrainOptions(**asked)
    with render.progress(f"training {model}") as shown:
        result = training.fit(model, data, out, options=options, progress=render.Epochs(shown, model))
    if json:
        render.emit_json(result.record())
        return
    render.facts(result.facts())


@app.command(short_help="Export a model; prove the artifact equal to it.")
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
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a model to one or more targets and prove each artifact equal to it.

    Example: edgevit export fmvit_nano --weights digits -t onnx
    """
    from edgevit import jobs

    request = jobs.ExportJob(
        model=model,
        targets=tuple(target),
        out=out,
        weights=weights,
        pretrained=pretrained,
        precision=precision,
        batch=batch,
        image_size=image_size,
        classes=classes,
        labels=labels,
        options=tuple(option or ()),
        form=form,
        bake_preprocess=bake_preprocess,
        data=data,
        verify=verify,
        require_verified=require_verified,
        threads=threads,
        timeout_s=timeout,
        force=force,
    )
    with render.progress(model) as shown:
        results = jobs.run_export(request, lambda target: render.Stages(shown, f"{model} → {target}"))
    done = [result for result in results if result.artifact]
    if json:
        render.emit_json([result.record() for result in done])
    elif done:
        render.table(jobs.EXPORT_COLUMNS, [result.row() for result in done])
    _finish(results)


@app.command(short_help="Prove an artifact or a bundle on this machine.")
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
    from edgevit.profiles.verify import verify as run
    from edgevit.runtimes.base import parse_options
    from edgevit.split.bundle import is_bundle
    from edgevit.split.proof import verify_bundle

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


@app.command(short_help="Classify images with an artifact or a bundle.")
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
            (render.say if isinstance(result, prediction.Failure) else print)(result.line())
    if json:
        render.emit_json(records)
    if failures:
        raise typer.Exit(1)


@app.command(short_help="Measure latency, with bounds and a verdict.")
@fleet.linked
def profile(
    link: Any,
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT", help="One or more artifact folders.", show_default=False)
    ],
    runtime: RuntimeName = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    tier: Annotated[
        str, typer.Option("--tier", help="quick (≥ 6 s), standard (≥ 60 s) or publish (5 processes, ≥ 600 s).")
    ] = "quick",
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", help="single-stream, multi-stream, server, offline, paced, cool or sustained."),
    ] = None,
    qps: Annotated[float | None, typer.Option("--qps", help="server: mean arrivals a second.")] = None,
    bound_ms: Annotated[float | None, typer.Option("--bound-ms", help="server: latency that 99 % must keep.")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="paced: frames a second.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="sustained: how long.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Rows per call. Default: the artifact's smallest.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Time every layer as well: where did the ms go.")] = False,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="PROVIDER>=SHARE", help='Exit 10 below this share, e.g. "cuda>=95%".'),
    ] = None,
    fail_if: Annotated[
        list[str] | None, typer.Option("--fail-if", metavar="GATE", help='Exit 10 if it holds, e.g. "p90>20ms".')
    ] = None,
    data: Data = None,
    threads: Threads = None,
    trust: Trust = False,
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="NODE[,NODE]", help="Measure on these nodes of the fleet instead of here."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="With --on: results go to DIR/NODE, which a fleet.toml can name."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure latency in a fresh process, with percentile bounds and a verdict; raw samples are kept in profiles/.

    Example: edgevit profile artifacts/vit_tiny-onnx-fp32 --fps 30 --layers --fail-if "p90>20ms"
    """
    from edgevit import jobs
    from edgevit.profiles.scenarios import parse_scenario
    from edgevit.runtimes.base import parse_options

    nodes = [name for text in on or () for name in text.split(",") if name]
    if on and not nodes:
        raise UsageError("--on names no node", hint="edgevit fleet nodes lists them")
    if out and not nodes:
        raise UsageError("--out is for results of --on", hint="here they are kept in the artifact's profiles folder")
    with render.progress("profiling") as shown:
        rows = render.Rows(shown)
        results = jobs.run_profiles(
            artifacts,
            lambda name: partial(rows, name) if nodes else render.Stages(shown, name),
            on=nodes,
            link=link,
            out=out,
            require=tuple(require or ()),
            fail_if=tuple(fail_if or ()),
            runtime=runtime,
            provider=provider,
            tier=tier,
            scenario=parse_scenario(scenario, qps=qps, bound_ms=bound_ms, fps=fps, minutes=minutes),
            batch=batch,
            layers=layers,
            data=data,
            threads=threads,
            trust=trust,
            options=parse_options(runtime_option or ()),
        )
    done = [result for result in results if result.full]
    if json:
        render.emit_json([result.record() for result in done])
    elif done:
        render.table(jobs.PROFILE_COLUMNS, [result.row() for result in done])
        for result in done:
            if result.layers:
                title = f"{result.subject}: where the milliseconds went"
                render.table(jobs.LAYER_COLUMNS, jobs.layer_rows(result.layers), title=title)
            for line in result.lines():
                render.say(line)
    _finish(results)


@app.command(short_help="Is B faster than A? Measured in turns.")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="An artifact folder.", show_default=False)],
    second: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Another; left out with two --runtime.", show_default=False)
    ] = None,
    runtime: Runtimes = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Rows per call. Default: the smallest that both take.")
    ] = None,
    data: Data = None,
    blocks: Annotated[int | None, typer.Option("--blocks", min=9, help="Fewest blocks of A B B A.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0, help="After these no more blocks are added. Default: 30.")
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Say whether B is faster than A, or one artifact on a second runtime; measured in turns, claimed if it repeats.

    Example: edgevit compare A --runtime onnxruntime --runtime openvino
    """
    from edgevit.profiles.compare import compare as run
    from edgevit.runtimes.base import parse_options

    with render.progress("comparing") as shown:
        found = run(
            first, second, runtimes=tuple(runtime or ()), provider=provider, batch=batch, data=data, blocks=blocks,
            seconds=seconds, threads=threads, trust=trust, options=parse_options(runtime_option or ()),
            progress=render.Stages(shown, "compare"),
        )  # fmt: skip
    if json:
        render.emit_json(found.record())
        return
    render.facts(found.facts())


@app.command(short_help="Export, verify and profile models on many targets.")
def benchmark(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Zoo names, timm:NAME, file.py:factory.")],
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Repeat for several. Default: all, runnable here or not.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="Repeat for several; 'all'. Default: each target's own.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of artifacts and results.")] = Path(
        "artifacts/benchmark"
    ),
    weights: Weights = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Weights from the hub (timm models).")] = False,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or fp16. Default: each target's own.")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Rows per call: 1, or a range such as 1-8.")] = "1",
    image_size: ImageSize = None,
    classes: Classes = None,
    option: Annotated[list[str] | None, typer.Option("--option", metavar="TARGET.KEY=VALUE")] = None,
    data: Data = None,
    tier: Annotated[str, typer.Option("--tier", help="quick, standard or publish.")] = "quick",
    provider: Provider = None,
    fail_if: Annotated[
        list[str] | None, typer.Option("--fail-if", metavar="GATE", help='Exit 10 if it holds, e.g. "p90>20ms".')
    ] = None,
    threads: Threads = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds that a target's native compiler may take.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do everything again.")] = False,
    json: Json = False,
) -> None:
    """Export, verify and profile every model on every target and runtime. The same command again goes on.

    Example: edgevit benchmark vit_nano --weights digits -t all --fail-if "p90>20ms"
    """
    from edgevit import benchmark as benchmarking

    job = benchmarking.BenchmarkJob(
        tuple(models), tuple(target or ("all",)), tuple(runtime or ()), out, weights, pretrained, precision, batch,
        image_size, classes, tuple(option or ()), data, tier, threads, provider, tuple(fail_if or ()), timeout, force,
    )  # fmt: skip
    with render.progress("benchmark") as shown:
        rows = benchmarking.run(job, lambda subject: render.Stages(shown, subject))
    if json:
        render.emit_json([row.record() for row in rows])
    else:
        render.table(benchmarking.COLUMNS, [row.cells() for row in rows])
        for row in rows:
            for note in (*row.notes, *(row.profile or {}).get("reasons", ())):
                render.say(f"{row.subject}: {note}")
    _finish(benchmarking.failures(rows))


@app.command(short_help="Split a vision transformer by classes over small devices.")
def split(
    model: Annotated[str, typer.Argument(help="A ViT: vit_edvit, vit_base, timm:deit_…, …", show_default=False)],
    parts: Annotated[int, typer.Option("--parts", min=1, help="How many sub-models.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Bundle folder to write.", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", metavar="SRC", help="digits, folder:PATH, npz:PATH, cifar10:PATH, cifar100:PATH.")
    ] = "digits",
    weights: Weights = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", help="Repeat for several. Default: onnx.")
    ] = None,
    partition: Annotated[
        str, typer.Option("--partition", help="balanced, similar, confusable, or a JSON file with every part's labels.")
    ] = SPLIT.partition,
    heads_pruned: Annotated[
        int | None, typer.Option("--heads-pruned", min=0, help="Heads cut from every block; all widths shrink alike.")
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option("--memory-budget", help="Of all sub-models' weights together, e.g. 180MB.")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="A fleet.toml: prune until every sub-model fits a node.")
    ] = None,
    importance: Annotated[
        str, typer.Option("--importance", help="exact, taylor, random or magnitude.")
    ] = SPLIT.importance,
    images: Annotated[
        int, typer.Option("--images", min=1, help="Images of a class that scores are taken on.")
    ] = SPLIT.images,
    retrain: Annotated[str, typer.Option("--retrain", help="negatives, or distil from the trunk.")] = SPLIT.mode,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every sub-model. Default: fitted.")] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = SPLIT.retraining.batch_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = SPLIT.retraining.lr,
    amp: Annotated[
        str, typer.Option("--amp", help="Mixed precision: no, bf16 or fp16 (needs edgevit[split]).")
    ] = SPLIT.amp,
    seed: Annotated[int, typer.Option(help="Of the partition, order and augmentation.")] = SPLIT.seed,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Sub-models retrained at a time. Default: one per core or GPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto (GPUs if there are any), cpu or cuda.")] = "auto",
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or fp16. Default: each target's own.")
    ] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove every artifact equal to its model.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from an interrupted run of the same command.")
    ] = False,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Split a vision transformer (ED-ViT): sub-models, each an expert in some classes, and a head that fuses them.

    Example: edgevit split vit_edvit --weights trunk.safetensors --data digits --parts 5 -o bundle
    """
    _need_torch("splitting")
    from dataclasses import replace

    from edgevit.split import job as splitting

    asked: dict[str, Any] = {
        "parts": parts, "partition": partition, "heads_pruned": heads_pruned, "fleet": fleet, "importance": importance,
        "images": images, "mode": retrain, "amp": amp, "seed": seed, "device": device, "threads": threads, "jobs": jobs,
        "memory_budget": None if memory_budget is None else parse_bytes(memory_budget),
        "retraining": replace(SPLIT.retraining, epochs=epochs, batch_size=batch_size, lr=lr),
    }  # fmt: skip
    request = SplitJob(
        model, data, out, SplitOptions(**asked), weights=weights, classes=classes, image_size=image_size,
        targets=tuple(target or ("onnx",)), precision=precision, verify=verify, resume=resume, force=force,
    )  # fmt: skip
    with render.progress(f"splitting {model}") as shown:
        result = splitting.run_split(request, render.Stages(shown, f"{model} → {parts} parts"))
    if json:
        render.emit_json(result.record())
        return
    render.table(splitting.COLUMNS, result.rows())
    render.facts(result.facts())
    for step in result.sizing.steps:
        render.say(step)


@app.command(short_help="Place a bundle's sub-models on a fleet of devices.")
def assign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What edgevit split wrote.", show_default=False)],
    fleet: Annotated[Path, typer.Option("--fleet", help="A fleet.toml with the devices.", show_default=False)],
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="Copies of every sub-model, each on another device.")
    ] = 1,
    out: Annotated[Path, typer.Option("-o", "--out", help="The plan to write.")] = Path("plan.json"),
    json: Json = False,
) -> None:
    """Say which device runs which sub-models, how fast and in how much memory, and what the loss of each one costs.

    Example: edgevit assign digits-bundle --fleet examples/fleet.toml
    """
    from edgevit.split import plan as planning
    from edgevit.split.bundle import Bundle
    from edgevit.split.fleet_file import read_fleet

    plan = planning.plan_bundle(Bundle.open(bundle), read_fleet(fleet), replicas=replicas)
    planning.write_plan(plan, out)
    if json:
        render.emit_json(plan.model_dump(mode="json"))
        return
    render.table(planning.COLUMNS, plan.rows())
    print(plan.summary())
    render.say(f"written: {out}")


@app.command(short_help="One page of all measurements, with plots.")
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Artifacts, or parents of them.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File to write. Default: report.html; stdout for md, csv and json."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="html, md, csv or json.")] = "html",
) -> None:
    """Write the newest measurements of all artifacts as one self-contained page, or as a table.

    Example: edgevit report artifacts -o report.html
    """
    from edgevit.profiles.report import report as write

    written = write(folders, out or (Path("report.html") if format == "html" else None), format)
    if isinstance(written, Path):
        render.say(f"written: {written}")
    else:
        print(written, end="")


@app.command(short_help="Show an artifact's or a bundle's manifest in words.")
def info(artifact: ArtifactOrBundle, json: Json = False) -> None:
    """Show the manifest of an artifact or a bundle in words."""
    from edgevit.artifact import Artifact
    from edgevit.info import describe, describe_bundle
    from edgevit.split.bundle import Bundle, is_bundle

    opened = Bundle.open(artifact) if is_bundle(artifact) else Artifact.open(artifact)
    if json:
        render.emit_json(opened.manifest.model_dump(mode="json"))
        return
    render.facts(describe_bundle(opened) if isinstance(opened, Bundle) else describe(opened))


@app.command(short_help="The whole story on handwritten digits.")
def quickstart(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what it makes.")] = Path("artifacts/quickstart"),
    threads: Threads = None,
    json: Json = False,
) -> None:
    """The whole story on real handwritten digits, offline: re-parameterise, export, verify, profile, predict."""
    _need_torch("quickstart")
    from edgevit.quickstart import run

    with render.progress("quickstart") as shown:
        story = run(out, threads=threads, progress=render.Stages(shown, "quickstart"))
    if json:
        render.emit_json(story.record())
        return
    render.table(("step", "train form", "deploy form"), story.rows(), title="fmvit_nano on handwritten digits")
    for line in story.lines():
        print(line)


fleet.mount(app)

keys = typer.Typer(
    name="keys",
    help="Whose engines and compiled libraries are opened here: this user's key and those of trusted builders.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys, short_help="Keys that sign and open code-carrying artifacts.")
PublicKey = Annotated[str, typer.Argument(metavar="KEY", help="64 hex digits.", show_default=False)]


@keys.command("show", short_help="Show this user's public key and the trusted ones.")
def keys_show(json: Json = False) -> None:
    """Show the public key that signs what is built here, and those whose artifacts are opened here."""
    signing = _signing()
    own = signing.own_key()
    known = {own: "this user", **signing.known_keys()}
    if json:
        render.emit_json([{"key": key, "name": name} for key, name in known.items()])
        return
    render.table(("key", "whose"), list(known.items()))


@keys.command("trust", short_help="Open artifacts signed by this key from now on.")
def keys_trust(
    key: PublicKey, name: Annotated[str, typer.Option("--name", help="Whose key it is.")] = "a trusted builder"
) -> None:
    """Open artifacts signed by this key from now on."""
    _signing().trust_key(key, name)
    render.say(f"artifacts signed by {key[:16]}… ({name}) are opened here from now on")


@keys.command("forget", short_help="Trust this key no longer.")
def keys_forget(key: PublicKey) -> None:
    """Trust this key no longer."""
    _signing().forget_key(key)
    render.say(f"{key[:16]}… is trusted no longer")


def _signing() -> Any:
    from edgevit import registry

    registry.need("signing", ("cryptography",), "edgevit[signing]")
    from edgevit import signing

    return signing


def _need_torch(what: str) -> None:
    from edgevit import registry

    registry.need(what, ("torch", "safetensors"), "edgevit[export]")


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(f"edgevit {version('edgevit')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Nothing happens before a verb."""


def _finish(results: Sequence[Any]) -> None:
    """Show every failed item's error; end with the exit code of the first."""
    failed = [result for result in results if result.error]
    for result in failed:
        show_error(result.error, subject=result.subject if len(results) > 1 else None)
    if failed:
        raise typer.Exit(failed[0].error.exit_code)


def show_error(error: EdgeVitError, *, subject: str | None = None) -> None:
    """``error: one sentence`` and, below it, the next step; on stderr. EDGEVIT_DEBUG=1 adds the traceback."""
    if os.environ.get("EDGEVIT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    render.say(f"error: {f'{subject}: ' if subject else ''}{error}")
    if error.hint:
        render.say(f"  next: {error.hint}")


def main() -> None:
    """Entry point of the ``edgevit`` script."""
    try:
        app()
    except EdgeVitError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away: not worth a word
        sys.stdout = None
        sys.exit(0)
    except Exception as error:
        if os.environ.get("EDGEVIT_DEBUG"):
            raise
        render.say(f"error: internal error: {type(error).__name__}: {error}")
        render.say("  next: run it again with EDGEVIT_DEBUG=1 and report the traceback")
        sys.exit(1)


if __name__ == "__main__":
    main()
