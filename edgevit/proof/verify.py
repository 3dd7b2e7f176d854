"""``edgevit.verify``: hashes, golden pair, preprocessing, then labelled data or another artifact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgevit import render, worker
from edgevit.artifact.manifest import MANIFEST, QUANT, Array, Parity
from edgevit.artifact.opened import Artifact
from edgevit.artifact.shelf import gathered
from edgevit.data.classes import taken_in_order
from edgevit.data.labelled import LabelledData
from edgevit.data.split import spread
from edgevit.errors import BadArtifact, ParityFailed, Unsupported, UsageError
from edgevit.proof.accuracy import AccuracyCheck, too_far
from edgevit.proof.answers import farthest, golden_answers, golden_outputs
from edgevit.proof.claims import undecided, unsupported, who_vouches, words_differ
from edgevit.proof.diagnosis import preprocessing_differs
from edgevit.proof.golden import golden_reference, require_believable
from edgevit.proof.labelled import MAX_IMAGES, held_out, preprocessed, shares_on
from edgevit.proof.layerwise import kernels_of, operators_of
from edgevit.proof.parity import batches_to_prove, compare
from edgevit.proof.quality import QualityCheck, judge, quality_on
from edgevit.proof.reference import Reference
from edgevit.proof.sameness import sameness
from edgevit.proof.sizes import compare_sizes, golden_references
from edgevit.runtimes.base import Session, open_session
from edgevit.runtimes.rows import rows_in_turn

MAX_COMPARED = 64  # images for --against
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Verification:
    """What was checked. ``parity`` is of the golden pair, ``against`` of the comparison with another artifact.

    unchecked  what is as the manifest claims, for all that is known here
    altered    nothing is wrong but that the manifest is not as it was written
    """

    artifact: str
    runtime: str
    parity: Parity
    accuracy: AccuracyCheck | None
    quality: QualityCheck | None
    against: Parity | None
    checks: tuple[str, ...]
    problems: tuple[str, ...]
    unchecked: tuple[str, ...] = ()
    altered: bool = False

    def record(self) -> dict[str, Any]:
        """The object of ``edgevit verify --json``."""
        return {
            "artifact": self.artifact,
            "runtime": self.runtime,
            "parity": self.parity.record(),
            "accuracy": self.accuracy.model_dump(mode="json") if self.accuracy else None,
            "quality": self.quality.model_dump(mode="json") if self.quality else None,
            "against": self.against.record() if self.against else None,
            "checks": list(self.checks),
            "problems": list(self.problems),
            "unchecked": list(self.unchecked),
        }

    def facts(self) -> list[tuple[str, str]]:
        """(topic, sentence) pairs for people."""
        doubts = [("not checked" if not index else "", doubt) for index, doubt in enumerate(self.unchecked)]
        headline = "FAILED" if self.problems else self.parity.status
        return [(headline, self.artifact), *(("", check) for check in self.checks), *doubts]


def verify(
    path: Path | str,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    data: str | None = None,
    against: Path | str | None = None,
    provider: str | None = None,
    trust: bool = False,
    options: Mapping[str, str] | None = None,
) -> Verification:
    """Check an artifact in a worker process and return what was found.

    ``data`` adds real images: with labels their accuracy, beside the recorded one. ``against`` is another artifact,
    or "source" for the torch model it came from; both run on the same images, each with its own preprocessing.
    Success turns an ``unverified`` manifest into a verified one, but not with the torch runtime, which runs the source
    and not the artifact; a manifest that says ``failed`` stays so, because its export compared more rows than are kept.
    ``trust`` and ``options`` are those of ``open_session``. Raises ParityFailed (its ``verification`` attribute has
    the details), BadArtifact, Unsupported, MissingDependency, WorkerFailed, UsageError.
    """
    artifact = Artifact.open(path)
    payload = {
        "artifact": str(path),
        "runtime": runtime,
        "threads": threads,
        "data": data,
        "against": str(against) if against else None,
        "provider": provider,
        "trust": trust,
        "options": dict(options or {}),
    }
    found = _revived(worker.call("edgevit.proof.verify:verify_in_worker", payload, timeout=TIMEOUT_S))
    if found.problems:
        kind: type[BadArtifact | ParityFailed] = BadArtifact if found.altered else ParityFailed
        error = kind("; ".join(found.problems), hint=f"edgevit info {path} shows how it was made; export it anew")
        error.verification = found  # type: ignore[union-attr]
        raise error
    before = artifact.manifest.parity
    # a few golden rows that agree do not decide what more rows, compared at export, left undecided
    if before.status == "unverified" and not before.images and found.runtime != "torch":
        with contextlib.suppress(OSError):  # a read-only folder keeps its old record
            artifact.update_parity(found.parity)
    return found


def _revived(answer: dict[str, Any]) -> Verification:
    return Verification(
        artifact=answer["artifact"],
        runtime=answer["runtime"],
        parity=Parity.model_validate(answer["parity"], strict=False),
        accuracy=AccuracyCheck.model_validate(answer["accuracy"]) if answer["accuracy"] else None,
        quality=QualityCheck.model_validate(answer["quality"]) if answer["quality"] else None,
        against=Parity.model_validate(answer["against"], strict=False) if answer["against"] else None,
        checks=tuple(answer["checks"]),
        problems=tuple(answer["problems"]),
        unchecked=tuple(answer["unchecked"]),
        altered=answer["altered"],
    )


def verify_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: the arguments of ``verify`` in, what ``_revived`` takes out."""
    artifact = Artifact.open(payload["artifact"])
    checks = _Checks(artifact, payload)
    checks.claims()
    opening = {key: payload[key] for key in ("threads", "provider", "trust", "options")}
    with open_session(artifact, payload["runtime"], **opening) as session:
        checks.say(f"{len(artifact.manifest.files)} files have the manifest's hashes")
        checks.golden(session)
        checks.integers(session)
        checks.preprocessing()
        checks.answers(session)
        checks.vouched(session)
        if payload["data"]:
            checks.data(session)
        if payload["against"]:
            checks.against(session)
        checks.remembered()
        return _crossing(checks.result(session))


def _crossing(found: Verification) -> dict[str, Any]:
    """What the worker found, with all of its proofs: the manifest may be given them."""
    against = found.against.model_dump(mode="json") if found.against else None
    proofs = {"parity": found.parity.model_dump(mode="json"), "against": against}
    return {**found.record(), **proofs, "altered": found.altered}


class _Checks:
    """Collects what each step finds: a sentence for every step, and those that are problems again."""

    def __init__(self, artifact: Artifact, payload: dict[str, Any]) -> None:
        self.artifact, self.payload = artifact, payload
        self.sentences: list[str] = []
        self.unchecked: list[str] = []
        self.altered: str | None = None
        self.problems: list[str] = []
        self.parity: Parity | None = None
        self.accuracy: AccuracyCheck | None = None
        self.quality: QualityCheck | None = None
        self.compared: Parity | None = None

    def say(self, sentence: str, *, problem: bool = False) -> None:
        self.sentences.append(sentence)
        if problem:
            self.problems.append(sentence)

    def doubt(self, sentence: str) -> None:
        """Something that is as the manifest claims, for all that is known here."""
        self.unchecked.append(sentence)

    def claims(self) -> None:
        """What the manifest says of the proof, as far as it can be true."""
        manifest = self.artifact.manifest
        require_believable(self.artifact)
        if manifest.integers is not None and self.payload["runtime"] == "torch":
            raise Unsupported(
                "torch runs the float model, which integers are not held against: their reference is their plan",
                hint="leave --runtime out; --against source says how far the two are apart",
            )
        if manifest.parity.status == "failed":
            self.say(f"the export itself failed its proof: {manifest.parity.reason}", problem=True)
        if manifest.parity.status == "unverified" and manifest.parity.images:
            self.doubt(f"the export itself compared {manifest.parity.images} rows: {manifest.parity.reason}")

    def vouched(self, session: Session) -> None:
        """Who says that the manifest is as it was written, and what nobody says."""
        for sentence in words_differ(self.artifact.manifest, session.words):
            self.say(sentence, problem=True)
        if self.artifact.seal == "broken":
            self.altered = f"{MANIFEST} was altered: its seal does not fit what it says"
            self.say(self.altered, problem=True)
            return
        self.say(who_vouches(self.artifact))
        for sentence in unsupported(self.artifact, session.words):
            self.doubt(sentence)

    def remembered(self) -> None:
        """The recorded accuracy and quality, where they were not measured again."""
        recorded, quality = self.artifact.manifest.accuracy, self.artifact.manifest.quality
        if recorded and (self.accuracy is None or self.accuracy.recorded is None):
            self.doubt(
                f"the accuracy of {recorded.top1:.2%} is what was recorded: --data {recorded.data} measures it again"
            )
        if quality and (self.quality is None or self.quality.recorded is None):
            self.doubt(f"{quality.figures()} is what was recorded: --data {quality.data} measures it again")

    def golden(self, session: Session) -> None:
        """The stored inputs must give the stored outputs, at every batch size that has to be proved."""
        manifest = self.artifact.manifest
        reference = golden_reference(self.artifact)
        batches = batches_to_prove(manifest.batch)
        self.parity = compare(session, reference, batches)
        self.parity = compare_sizes(session, self.parity, golden_references(self.artifact), batches, stored=True)
        if self.parity.status == "failed":
            self.say(f"golden pair: {self.parity.reason}", problem=True)
            return
        if self.parity.status == "unverified":
            self.doubt(f"golden pair: {self.parity.reason}")
        else:
            self.say(
                f"golden pair: error {self.parity.max_rel:.1e} of the largest output, tolerance "
                f"{self.parity.tolerance:.1e}, batch {', '.join(map(str, self.parity.batches))}"
                f"{self.parity.at_sizes()}, on {session.runtime}"
            )
        for sentence in self.parity.decisions():
            self.say(sentence)
        for name, sample in manifest.sampled.items():
            self.say(f"{name}: every {sample.stride:,}th value of its golden rows is kept, and figures of all of them")

    def integers(self, session: Session) -> None:
        """Every operator of integers must be as the plan has it; and how many the engine runs so."""
        if self.artifact.manifest.integers is None:
            return
        try:
            operators, _ = operators_of(session)
            self.say(f"{len(operators)} operators have the scales, zero points and axes of their plan")
        except ParityFailed as exc:
            self.say(str(exc), problem=True)
        except Unsupported as exc:
            self.doubt(str(exc))
        try:
            self.say(kernels_of(session).sentence())
        except Unsupported as exc:
            self.doubt(str(exc))

    def answers(self, session: Session) -> None:
        """What the golden outputs mean, in the words of the task."""
        if self.problems:
            return
        found = golden_answers(self.artifact, golden_outputs(session))
        if (worst := farthest(found)) is not None and worst.apart is not None:
            pictures = render.counted(len(found), "golden picture")
            self.say(f"{self.artifact.manifest.model.task}, the worst of {pictures}: {worst.apart.words}")

    def preprocessing(self) -> None:
        """The golden images, preprocessed here, must be the golden inputs."""
        spec, preprocess = self.artifact.manifest.image_input(), self.artifact.manifest.preprocess
        if spec is None or preprocess is None:
            return
        pictures = self.artifact.golden_pixels()
        made = preprocess.batch(pictures)
        difference = preprocessing_differs(made, self.artifact.golden()[0][spec.name], preprocess)
        self.say(
            difference or f"preprocessing turns {len(pictures)} golden images into the golden input",
            problem=bool(difference),
        )
        for sentence in undecided(preprocess, pictures, made):
            self.doubt(sentence)

    def data(self, session: Session) -> None:
        """Accuracy on labelled images, or the task's metric, judged against the recorded one when the data is the
        same."""
        whole = held_out(self.artifact, self.payload["data"])
        if (judged := quality_on(session, whole)) is not None:
            lost = self._lost(judged.quality.metric)
            widened = replace(judged, allowed=judged.allowed + lost)
            self.quality, sentence, wrong = judge(widened, self.artifact.manifest.quality, self.payload["data"], whole)
            self.say(sentence, problem=wrong)
            return
        found = spread(whole, MAX_IMAGES)
        if found.labels is None or self.artifact.manifest.logits_output() is None:
            if not self.payload["against"]:
                self._unjudged(session, spread(found, MAX_COMPARED))
            return
        names = self.artifact.manifest.labels
        shares = shares_on(session, found)
        if taken_in_order(found, names):
            self.say(f"the classes of {found.name} have other names than the artifact's and are taken in order")
        self._judge_accuracy(shares, found)

    def _judge_accuracy(self, shares: Mapping[str, Any], found: LabelledData) -> None:
        source, recorded = self.payload["data"], self.artifact.manifest.accuracy
        top1, count = shares["top1"], shares["images"]
        same = sameness(found, recorded.data == source, recorded.images, recorded.content) if recorded else None
        judged = recorded if same and same.judged else None
        self.accuracy = AccuracyCheck(data=source, recorded=judged.top1 if judged else None, **shares)
        sentence = f"accuracy {top1:.2%} on {render.counted(count, 'image')} of {source}"
        sentence += same.sentence() if same else ""
        if judged is None or same is None:
            self.say(sentence + (f"; at export {recorded.top1:.2%} on {recorded.data}" if recorded else ""))
            return
        exceeded = too_far(judged, top1, count, same.differing + self._lost("top-1"))
        self.say(
            f"{sentence}; the source model had {judged.top1:.2%}"
            + (f", from which it may be {exceeded:.2%} away" if exceeded else ""),
            problem=exceeded is not None,
        )

    def _lost(self, metric: str) -> float:
        """How far its precision took the artifact from its model at export, either way."""
        loss = self.artifact.manifest.cost()
        return abs(loss.floats - loss.integers) if loss and loss.metric == metric else 0.0

    def _unjudged(self, session: Session, found: LabelledData) -> None:
        """Without a truth of their kind or another artifact, outputs can only be absurd or not."""
        rows = preprocessed(self.artifact, found.images)
        wrong: dict[str, None] = {}
        for _, outputs in rows_in_turn(session, rows, self.artifact.manifest.batch.max):
            wrong |= {name: None for name, values in outputs.items() if not np.isfinite(values).all()}
        for name in wrong:
            self.say(f"{name} holds NaN or infinity on images of {self.payload['data']}", problem=True)
        kind = found.targets.kind if found.targets is not None else "classes" if found.labels is not None else None
        task = self.artifact.manifest.model.task
        lacking = f"their {kind} say nothing that {task} is judged by" if kind else "they have no labels"
        self.say(
            f"{render.counted(len(found), 'image')} of {self.payload['data']} ran; {lacking}, so nothing "
            "says whether the outputs are right: add --against to compare them"
        )

    def against(self, session: Session) -> None:
        """Outputs beside those of another artifact, or of the source model, on the same images."""
        name = self.payload["against"]
        other = self.artifact if name == "source" else Artifact.open(name)
        runtime = "torch" if name == "source" else None
        images = self._images()
        opening = {key: self.payload[key] for key in ("threads", "trust")}
        with open_session(other, runtime, **opening) as second:
            given = images(other)
            parts = (part for _, part in rows_in_turn(second, given, other.manifest.batch.max))
            theirs = gathered(parts, len(next(iter(given.values()))))
        if set(theirs) != {spec.name for spec in self.artifact.manifest.outputs}:
            raise UsageError(
                f"{name} has other outputs than {self.artifact.path}", hint="compare artifacts of one model"
            )
        tolerance = max(self.artifact.manifest.parity.tolerance, other.manifest.parity.tolerance)
        tolerance = max(tolerance, self._rounded_away(other, name))
        clear = self._clear_of_both(other)
        bounds = {
            name: self.artifact.manifest.parity.bounds[name].model_copy(update={"tolerance": tolerance})
            for name in clear
        }
        reference = Reference(images(self.artifact), theirs, tolerance, bounds=bounds, clear=clear)
        self.compared = compare(session, reference, [self.artifact.manifest.batch.max])
        if self.compared.status == "failed":
            ours, theirs_too = (one.manifest.model.weights.state_sha256 for one in (self.artifact, other))
            note = "" if ours == theirs_too else "; the two were made from different weights"
            self.say(f"against {name}: {self.compared.reason}{note}", problem=True)
        elif self.compared.status == "unverified":
            self.doubt(f"against {name}: {self.compared.reason}")
        else:
            self.say(
                f"against {name}: error {self.compared.max_rel:.1e} on {self.compared.images} rows, "
                f"tolerance {tolerance:.1e}"
            )

    def _clear_of_both(self, other: Artifact) -> dict[str, Array]:
        """Which values of the golden rows neither artifact's noise explains away, where it may; nothing is known of
        other rows."""
        if self.payload["data"]:
            return {}
        theirs = other.golden_clear()
        return {
            name: marks & theirs.get(name, np.True_)
            for name, marks in self.artifact.golden_clear().items()
            if name not in self.artifact.manifest.sampled
        }

    def _rounded_away(self, other: Artifact, name: str) -> float:
        """How far integers may lie from floats, or from integers of another plan, and bf16 from either: ten times their
        loss, at most half of the largest output."""
        both = (self.artifact.manifest, other.manifest)
        plans = [one.files.get(QUANT) for one in both]
        if name != "source" and plans[0] is not None and plans[0] == plans[1]:
            return 0.0
        return min(0.5, 10 * max((loss.rms for one in both if (loss := one.cost())), default=0.0))

    def _images(self) -> Callable[[Artifact], dict[str, Array]]:
        """Rows to compare on, preprocessed by the artifact they are for: --data, else the golden pair."""
        golden = self.artifact.golden_pixels()
        if self.payload["data"]:
            pictures: Sequence[Array] = spread(held_out(self.artifact, self.payload["data"]), MAX_COMPARED).images
        elif golden:
            pictures = golden
        else:
            return lambda artifact: self.artifact.golden()[0]
        return lambda artifact: preprocessed(artifact, pictures)

    def result(self, session: Session) -> Verification:
        if self.parity is None:
            raise RuntimeError("the golden pair was not compared")
        return Verification(
            str(self.payload["artifact"]),
            session.runtime,
            self.parity,
            self.accuracy,
            self.quality,
            self.compared,
            (*self.sentences, *self.artifact.manifest.model.weights.doubts()),
            tuple(self.problems),
            tuple(self.unchecked),
            altered=self.problems == [self.altered],
        )
