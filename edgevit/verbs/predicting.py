"""Answers about pictures, here and by a fleet: what comes in, what goes where."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import render
from edgevit.errors import Interrupted, UsageError
from edgevit.verbs.help import of_data, of_model, of_output, of_running
from edgevit.verbs.options import ArtifactOrBundle, Force, Json, Provider, RuntimeName, Threads, Trust

if TYPE_CHECKING:
    from edgevit.prediction.inputs import Inputs
    from edgevit.prediction.outputs import Wanted
    from edgevit.prediction.results import Result

_NAMED = typer.Argument(
    metavar="INPUT",
    help="Pictures, folders, globs in quotes, videos, camera:0; - for names on stdin.",
    show_default=False,
)
Named = Annotated[list[str], _NAMED]
NamedIfAny = Annotated[list[str] | None, _NAMED]
Rows = Annotated[
    list[Path] | None,
    of_data("--inputs", metavar="FILE", help="Instead of pictures rows of the model's inputs: an .npz; or several."),
]
Every = Annotated[int | None, of_data("--every", metavar="N", min=1, help="Of a video, each N-th frame.")]
Fps = Annotated[float | None, of_data("--fps", help="Of a video, at most so many frames a second of its own time.")]
Frames = Annotated[int | None, of_data("--frames", metavar="N", min=1, help="Of each video or camera, N frames.")]
Top = Annotated[int, of_output("--top", min=1, help="How many classes to show.")]
CsvFile = Annotated[str | None, of_output("--csv", metavar="FILE", help="Write CSV there; - is stdout.")]
JsonLinesFile = Annotated[str | None, of_output("--jsonl", metavar="FILE", help="Write JSON lines there; - is stdout.")]
Out = Annotated[
    str | None,
    of_output("-o", "--out", metavar="PATH", help="The same by its ending; pictures: a folder, or one .png."),
]
Labels = Annotated[Path | None, of_model("--labels", help="Class names, instead of the model's own.")]
Without = Annotated[
    list[str] | None,
    of_running("--without", metavar="PART", help="Leave this part of a bundle out, e.g. part-2."),
]
SHOWN_S = 5.0  # between two words about the progress


def predict(
    artifact: ArtifactOrBundle,
    inputs: NamedIfAny = None,
    rows: Rows = None,
    top: Top = 5,
    labels: Labels = None,
    every: Every = None,
    fps: Fps = None,
    frames: Frames = None,
    runtime: RuntimeName = None,
    provider: Provider = None,
    without: Without = None,
    threads: Threads = None,
    trust: Trust = False,
    csv: CsvFile = None,
    jsonl: JsonLinesFile = None,
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What a model says of pictures and videos, by its task: best classes, a map of classes, objects, depth, a better
    picture, … What is broken is one line and does not stop the others.

    Folders are searched to the bottom, in the order of names. A bundle also says how many of its sub-models answered.
    -o FOLDER draws what can be seen, -o OUT.npz keeps the model's own outputs. --inputs asks about rows of other inputs
    than pictures, such as those.

    Example: edgevit predict artifacts/vit_nano-onnx-fp32 photos clip.mp4 --fps 2 -o answers.csv
    """
    from edgevit.prediction.labels import read_labels
    from edgevit.prediction.predictor import AT_ONCE, open_predictor
    from edgevit.prediction.rows import rows_answered

    if bool(inputs) == bool(rows):
        raise UsageError("predict takes pictures, or rows with --inputs", hint="name pictures, or give --inputs FILE")
    wanted = wanted_of(csv, jsonl, out, json=json, force=force)
    wanted.check([*(inputs or ()), *map(str, rows or ())])
    named = inputs_of(inputs or [], every, fps, frames)
    opening: dict[str, Any] = {"runtime": runtime, "threads": threads, "provider": provider, "trust": trust}
    names = read_labels(labels)
    if rows:
        if without:
            raise UsageError("--without is of bundles, which take pictures", hint="drop it, or --inputs")
        wanted.require_seen(False)
        keep = wanted.npz is not None
        with rows_answered(artifact, rows, top=top, labels=names, keep=keep, **opening) as (answers, columns):
            deliver(answers, wanted, named, columns)
        return
    with open_predictor(artifact, top=top, labels=names, without=without or (), **opening) as predictor:
        wanted.require_seen(predictor.draws)
        results = predictor.answers(named, at_once=1 if named.live else AT_ONCE, keep=wanted.npz is not None)
        deliver(results, wanted, named, predictor.columns)


def inputs_of(named: list[str], every: int | None, fps: float | None, frames: int | None) -> Inputs:
    """What a user named, and which frames of the videos among it are looked at."""
    from edgevit.prediction.inputs import Inputs
    from edgevit.prediction.videos import Sampling

    found = Inputs(named, Sampling(every, fps, frames), listed=getattr(sys.stdin, "buffer", None))
    found.check()
    return found


def wanted_of(csv: str | None, jsonl: str | None, out: str | None, *, json: bool, force: bool) -> Wanted:
    """Where answers are to go; UsageError for a contradiction."""
    from edgevit.prediction.outputs import Wanted

    return Wanted.of(csv, jsonl, out, json=json, force=force)


def deliver(results: Iterable[Result], wanted: Wanted, named: Inputs, columns: Sequence[str]) -> None:
    """Each result to where it is wanted as it comes, a table's columns being these; then what was passed over, and exit
    1 for what failed.

    Interrupted, with what is kept, for Ctrl-C.
    """
    where = " and ".join([*wanted.files, *([str(wanted.album.path)] if wanted.album else [])])
    tally = _Tally(loud=bool(wanted.files))
    try:
        with wanted.outputs(columns) as outputs, tally:
            for result in wanted.drawn(results):
                outputs.write(result)
                tally.count(result)
    except KeyboardInterrupt:
        said = f"stopped after {render.counted(tally.total, 'picture')}"
        raise Interrupted(said, hint=f"what was answered is in {where}" if where else None) from None
    if skips := named.skips():
        render.say(skips)
    if where:
        broken = f"; {tally.failures:,} could not be read" if tally.failures else ""
        render.say(f"{render.counted(tally.total - tally.failures, 'answer')} in {where}{broken}")
    if tally.failures:
        raise typer.Exit(1)


class _Tally:
    """How many there were so far, said on stderr while it takes long; ``loud`` says the failures as well, which nobody
    else does."""

    def __init__(self, *, loud: bool) -> None:
        self.loud = loud
        self.total, self.failures = 0, 0
        self.notes: set[str] = set()
        self.begun = self.last = time.monotonic()
        self.stack = ExitStack()
        self.stages: render.Stages | None = None

    def count(self, result: Result) -> None:
        from edgevit.prediction.results import Failure

        self.total += 1
        if isinstance(result, Failure):
            self.failures += 1
            if self.loud:
                render.fail(result.line())
        for note in result.notes():
            if note not in self.notes:
                render.say(note)
            self.notes.add(note)
        if (now := time.monotonic()) - self.last > SHOWN_S and (self.loud or not sys.stdout.isatty()):
            self.last = now
            self._show(f"{render.counted(self.total, 'picture')}, {self.total / (now - self.begun):.3g} a second")

    def _show(self, sentence: str) -> None:
        if self.stages is None:  # not before there is something to show: rich takes a tenth of a second
            self.stages = render.Stages(self.stack.enter_context(render.progress("predict")), "predict")
        self.stages(sentence)

    def __enter__(self) -> _Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


VERBS = ((predict, "What an artifact or a bundle says of pictures and videos."),)
