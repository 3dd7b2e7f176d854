"""How fast: profile, compare, benchmark, report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import render
from edgevit.errors import UsageError
from edgevit.verbs.help import of_data, of_fleet, of_measuring, of_output, of_running, of_target
from edgevit.verbs.links import linked
from edgevit.verbs.options import (
    Batch,
    Cache,
    Classes,
    Data,
    ExporterOptions,
    ImageSizes,
    Json,
    Precision,
    Pretrained,
    Provider,
    RuntimeName,
    RuntimeOptions,
    Runtimes,
    Task,
    Threads,
    ThreadsThere,
    Timeout,
    Trust,
    Weights,
    prepares,
    target_names,
)
from edgevit.verbs.outcome import finish

if TYPE_CHECKING:
    from edgevit.benchmark import Answer
    from edgevit.profiles.outcomes import Outcome
    from edgevit.profiles.ranking.answer import Ranking


ProfileArtifacts = Annotated[
    list[Path],
    typer.Argument(metavar="ARTIFACT", help="One or more artifact folders.", show_default=False, readable=False),
]
Tier = Annotated[
    str, of_measuring("--tier", help="quick (≥ 6 s), standard (≥ 60 s) or publish (5 processes, ≥ 600 s).")
]
Scenario = Annotated[
    str | None,
    of_measuring("--scenario", help="single-stream, multi-stream, server, offline, paced, cool or sustained."),
]
Qps = Annotated[float | None, of_measuring("--qps", help="server: mean arrivals a second.")]
BoundMs = Annotated[float | None, of_measuring("--bound-ms", help="server: latency that 99 % must keep.")]
Fps = Annotated[float | None, of_measuring("--fps", help="paced: frames a second.")]
Minutes = Annotated[float | None, of_measuring("--minutes", help="sustained: how long.")]
RowsPerCall = Annotated[int | None, of_target("--batch", min=1, help="Rows per call. Default: its smallest.")]
InputRows = Annotated[
    Path | None, of_data("--inputs", metavar="FILE", help="Rows of the model's own inputs to feed: an .npz.")
]
SizeFed = Annotated[
    str | None,
    of_target("--image-size", metavar="N|HxW", help="One of the sizes that it takes. Default: its model's own."),
]
Layers = Annotated[bool, of_measuring("--layers", help="Time every layer as well: where did the ms go.")]
Require = Annotated[
    list[str] | None,
    of_measuring("--require", metavar="PROVIDER>=SHARE", help='Exit 10 below this share, e.g. "cuda>=95%".'),
]
FailIf = Annotated[
    list[str] | None, of_measuring("--fail-if", metavar="GATE", help='Exit 10 if it holds, e.g. "p90>20ms".')
]
On = Annotated[
    list[str] | None,
    of_fleet("--on", metavar="NODE[,NODE]", help="Measure on these nodes of the fleet instead of here."),
]
Out = Annotated[
    Path | None,
    of_output("-o", "--out", metavar="DIR", help="With --on: results go to DIR/NODE, which a fleet.toml can name."),
]


@linked
def profile(
    link: Any,
    artifacts: ProfileArtifacts,
    runtime: RuntimeName = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    tier: Tier = "quick",
    scenario: Scenario = None,
    qps: Qps = None,
    bound_ms: BoundMs = None,
    fps: Fps = None,
    minutes: Minutes = None,
    batch: RowsPerCall = None,
    image_size: SizeFed = None,
    layers: Layers = False,
    require: Require = None,
    fail_if: FailIf = None,
    data: Data = None,
    inputs: InputRows = None,
    threads: ThreadsThere = None,
    trust: Trust = False,
    on: On = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Measure latency in a fresh process, with percentile bounds and a verdict; raw samples are kept in profiles/.

    Example: edgevit profile artifacts/vit_tiny-onnx-fp32 --fps 30 --layers --fail-if "p90>20ms"
    """
    from edgevit.profiles import outcomes
    from edgevit.profiles.scenarios import parse_scenario
    from edgevit.runtimes.base import parse_options

    nodes = [name for text in on or () for name in text.split(",") if name]
    if on and not nodes:
        raise UsageError("--on names no node", hint="edgevit fleet nodes lists them")
    if out and not nodes:
        raise UsageError("--out is for results of --on", hint="here they are kept in the artifact's profiles folder")
    demands = outcomes.demands(require or (), fail_if or ())
    asked = {
        "runtime": runtime,
        "provider": provider,
        "tier": tier,
        "scenario": parse_scenario(scenario, qps=qps, bound_ms=bound_ms, fps=fps, minutes=minutes),
        "batch": batch,
        "layers": layers or bool(demands.shares),
        "data": data,
        "threads": threads,
        "trust": trust,
        "options": parse_options(runtime_option or ()),
        "image_size": image_size,
    }
    if inputs and nodes:
        raise UsageError("--inputs are of a measurement here", hint="run edgevit profile --inputs on the node itself")
    if minutes:
        render.say(f"measuring for {minutes:g} minutes, each of {render.counted(len(artifacts), 'artifact')}")
    with render.progress("profiling") as shown:
        if nodes:
            measured = _profiled_on(nodes, artifacts, render.Rows(shown), link=link, out=out, **asked)
        else:
            measured = outcomes.profile_each(artifacts, partial(render.Stages, shown), {**asked, "inputs": inputs})
    results = [demands.judged(one) for one in measured]
    done = [result for result in results if result.profile]
    if json:
        render.emit_json([result.record() for result in done])
    elif done:
        _tables(done)
    finish(results)


def _profiled_on(nodes: Sequence[str], artifacts: Sequence[Path], rows: render.Rows, **asked: Any) -> list[Outcome]:
    from edgevit.fleet.operating.remote_profile import profile_on

    def heard(node: str, path: Path, stage: str, share: float | None) -> None:
        rows(f"{node} {path}", stage, share)

    return profile_on(nodes, artifacts, on_progress=heard, **asked)


def _tables(done: Sequence[Outcome]) -> None:
    from edgevit.profiles import outcomes

    render.table(outcomes.COLUMNS, [result.row() for result in done])
    for result in done:
        if result.measured.layers:
            title = f"{result.subject}: where the milliseconds went"
            render.table(outcomes.LAYER_COLUMNS, outcomes.layer_rows(result.measured.layers), title=title)
        for line in result.lines():
            render.say(line)


CompareArtifacts = Annotated[
    list[Path],
    typer.Argument(
        metavar="ARTIFACT…", help="Two to twelve, or one on several runtimes.", show_default=False, readable=False
    ),
]


def compare(
    artifacts: CompareArtifacts,
    runtime: Runtimes = None,
    provider: Provider = None,
    runtime_option: RuntimeOptions = None,
    batch: Annotated[
        int | None, of_target("--batch", min=1, help="Rows per call. Default: the smallest that all take.")
    ] = None,
    image_size: Annotated[
        str | None,
        of_target("--image-size", metavar="N|HxW", help="A size that all take. Default: what each was made for."),
    ] = None,
    data: Data = None,
    blocks: Annotated[int | None, of_measuring("--blocks", min=9, help="Fewest blocks of turns.")] = None,
    seconds: Annotated[
        float | None, of_measuring("--seconds", min=0, help="How long in all. Default: 15 for each.")
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Say which artifact is fastest, or whether B is faster than A; measured in turns, claimed if it repeats.

    Example: edgevit compare A B C; edgevit compare A --runtime onnxruntime --runtime openvino
    """
    from edgevit.profiles.difference import difference_of
    from edgevit.profiles.ranking import stored
    from edgevit.profiles.ranking.entrants import runners
    from edgevit.profiles.ranking.race import Terms, run
    from edgevit.runtimes.base import parse_options
    from edgevit.sizes import as_size

    options, size = parse_options(runtime_option or ()), as_size(image_size) if image_size else None
    terms = Terms(threads, provider, batch, data, blocks, seconds, trust, options, image_size=size)
    entrants = runners(artifacts, tuple(runtime or ()))
    render.say(f"measuring for about {terms.lasting(len(entrants)):.0f} s, or half of that where no difference shows")
    with render.progress("comparing") as shown:
        found = run(entrants, terms, render.Stages(shown, "compare"))
    for problem in stored.save(found):
        render.say(problem)
    if len(found.labels) == 2:
        two = difference_of(found)
        render.emit_json({**two.record(), "ranking": found.as_record()}) if json else render.facts(two.facts())
    elif json:
        render.emit_json(found.as_record())
    else:
        _ranked(found)


def _ranked(found: Ranking) -> None:
    """The answer as a table and, last, in one sentence."""
    from edgevit.profiles.ranking.answer import COLUMNS as RANKED

    render.table(RANKED, found.rows())
    for line in (found.measured(), *found.notes()):
        render.say(line)
    render.line(found.sentence())


Models = Annotated[
    list[str], typer.Argument(metavar="MODEL", help="Zoo names, timm:, torchvision: or hf:NAME, file.py:factory.")
]
Target = Annotated[
    list[str] | None,
    of_target(
        "-t", "--target", help="Repeat for several. Default: all, runnable here or not.", autocompletion=target_names
    ),
]
Runtime = Annotated[
    list[str] | None, of_running("--runtime", help="Repeat for several; 'all'. Default: each target's own.")
]
BenchmarkOut = Annotated[Path, of_output("-o", "--out", help="Folder of artifacts and results.")]
BenchmarkTier = Annotated[str, of_measuring("--tier", help="quick, standard or publish.")]
BenchmarkFailIf = Annotated[
    list[str] | None, of_measuring("--fail-if", metavar="GATE", help='Exit 10 if it holds, e.g. "p90>20ms".')
]
Force = Annotated[bool, of_output("--force", help="Do everything again.")]
Rank = Annotated[
    bool, of_measuring("--rank/--no-rank", help="Say which artifact of a model is fastest, measured in turns.")
]
RankSeconds = Annotated[
    float | None, of_measuring("--rank-seconds", min=0, help="How long that takes. Default: 15 for each artifact.")
]


@prepares
def benchmark(
    steps: Any,
    models: Models,
    target: Target = None,
    runtime: Runtime = None,
    out: BenchmarkOut = Path("artifacts/benchmark"),
    weights: Weights = None,
    pretrained: Pretrained = False,
    precision: Precision = None,
    batch: Batch = "1",
    image_size: ImageSizes = None,
    classes: Classes = None,
    task: Task = None,
    option: ExporterOptions = None,
    data: Data = None,
    tier: BenchmarkTier = "quick",
    provider: Provider = None,
    fail_if: BenchmarkFailIf = None,
    rank: Rank = True,
    rank_seconds: RankSeconds = None,
    threads: Threads = None,
    timeout: Timeout = None,
    cache: Cache = True,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export, verify and profile every model on every target and runtime. The same command again goes on.

    Example: edgevit benchmark vit_nano --weights digits -t all --fail-if "p90>20ms"
    """
    from edgevit import benchmark as benchmarking
    from edgevit.request import ExportRequest, ModelChoice, chosen_size, parse_batch, split_options

    names = benchmarking.target_names(target or ["all"])
    size, sizes = chosen_size(image_size)
    asked = ExportRequest(
        ModelChoice(models[0], weights, pretrained, classes, size, steps, sizes),
        names, precision, parse_batch(batch), split_options(option or (), names),
        task=task, data=data, out=out, threads=threads, timeout_s=timeout, cache=cache, force=force,
    )  # fmt: skip
    everywhere = not target or "all" in target
    job = benchmarking.BenchmarkJob(
        tuple(models), asked, tuple(runtime or ()), tier, provider, tuple(fail_if or ()), everywhere, rank_seconds
    )
    with render.progress("benchmark") as shown:
        rows = benchmarking.run(job, lambda subject: render.Stages(shown, subject))
        answers = benchmarking.ranked(job, rows, lambda subject: render.Stages(shown, subject)) if rank else []
    by_model = {answer.model: answer for answer in answers}
    if json:
        told = [(row, by_model.get(row.model)) for row in rows]
        render.emit_json([{**row.record(), "ranking": one.of_row(row) if one else None} for row, one in told])
    else:
        render.table(benchmarking.COLUMNS, [row.cells() for row in rows])
        for row in rows:
            for note in (*row.notes, *(row.profile.reasons if row.profile else ())):
                render.say(f"{row.subject}: {note}")
        for answer in answers:
            _answered(answer)
    finish(benchmarking.failures(rows))


def _answered(answer: Answer) -> None:
    """A model's ranking as a table, and last in one sentence."""
    from edgevit.profiles.ranking.answer import COLUMNS as RANKED

    if answer.ranking:
        render.table(RANKED, answer.ranking.rows(), title=f"{answer.model}: which is fastest?")
    for line in answer.notes():
        render.say(line)
    render.line(answer.sentence())


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Artifacts, or parents of them.", show_default=False, readable=False),
    ],
    out: Annotated[
        Path | None,
        of_output("-o", "--out", help="File to write. Default: report.html; stdout for md, csv and json."),
    ] = None,
    format: Annotated[
        str | None, of_output("--format", help="html, md, csv or json. Default: html; json with --json.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the newest measurements of all artifacts as one self-contained page, or as a table.

    Example: edgevit report artifacts -o report.html
    """
    from edgevit.profiles.report import report as write

    if json and not out and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} contradict each other", hint="write that to a file: -o FILE")
    format = format or ("json" if json and not out else "html")
    written = write(folders, out or (Path("report.html") if format == "html" else None), format)
    if not isinstance(written, Path):
        print(written, end="")
    elif json:
        render.emit_json({"written": str(written), "format": format, "bytes": written.stat().st_size})
    else:
        render.say(f"written: {written}")


VERBS = (
    (profile, "Measure latency, with bounds and a verdict."),
    (compare, "Which is fastest? Measured in turns."),
    (benchmark, "Export, verify and profile models on many targets."),
    (report, "One page of all measurements, with plots."),
)
