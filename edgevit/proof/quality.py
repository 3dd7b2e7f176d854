"""The task's metric of an artifact on data that it can be judged by, beside the one recorded at export."""

from __future__ import annotations

from collections.abc import Mapping

from edgevit import render
from edgevit.artifact.goodness import Quality, RecordedQuality
from edgevit.artifact.manifest import Array
from edgevit.data.labelled import LabelledData
from edgevit.data.split import spread
from edgevit.errors import ParityFailed
from edgevit.proof.sameness import Sameness, sameness
from edgevit.runtimes.base import Session
from edgevit.runtimes.feeds import image_steps
from edgevit.runtimes.rows import run_rows
from edgevit.tasks.base import load_task
from edgevit.tasks.metrics.base import meter_for
from edgevit.tasks.metrics.measuring import IMAGES, Bench, Judged


class QualityCheck(Quality):
    """The artifact's own, beside ``recorded``: the source model's on the same images, when known."""

    recorded: float | None


def quality_on(session: Session, whole: LabelledData) -> Judged | None:
    """The metric on at most 500 images; None where the data says nothing that such answers are judged by.

    ParityFailed where the figure is no number.
    """
    artifact = session.artifact
    manifest = artifact.manifest
    task = load_task(manifest.model.task)
    if meter_for(task, whole) is None:
        return None
    spec, steps = image_steps(artifact)

    def answers(rows: Array) -> Mapping[str, Array]:
        return run_rows(session, {spec.name: rows.astype(spec.dtype, copy=False)}, manifest.batch.max)

    bench = Bench(task, manifest.outputs, steps, manifest.labels)
    found = bench.measure(answers, spread(whole, IMAGES), manifest.batch.max)
    if found is None:
        raise ParityFailed(f"{artifact.path} gives NaN or infinity on images of {whole.name}", hint="export it anew")
    return found


def judge(
    found: Judged, recorded: RecordedQuality | None, source: str, whole: LabelledData
) -> tuple[QualityCheck, str, bool]:
    """The check, a sentence, and whether it is a problem.

    On the same images no artifact is worse than its model by more than the metric allows, and none is better by more.
    On others nothing says what the figure should be: an mIoU is no mean over images whose parts could be exchanged.
    """
    own = found.quality
    sentence = f"{own.figures()} on {render.counted(own.images, 'image')} of {source}"
    if recorded is None or recorded.metric != own.metric:
        return QualityCheck(**own.model_dump(), recorded=None), sentence, False
    same = sameness(spread(whole, IMAGES), recorded.data == source, recorded.images, recorded.content)
    if not _judged(same):
        said = f"{sentence}{same.sentence()}; at export {recorded.figure()} on {recorded.data}"
        return QualityCheck(**own.model_dump(), recorded=None), f"{said}, which is not judged on other images", False
    wrong = abs(own.value - recorded.value) > found.allowed
    bound = f", from which it may be {found.allowed:.3g} away" if wrong else ""
    sentence += f"{same.sentence()}; the source model had {recorded.figure()}{bound}"
    return QualityCheck(**own.model_dump(), recorded=recorded.value), sentence, wrong


def _judged(same: Sameness) -> bool:
    return same.common == same.now == same.then
