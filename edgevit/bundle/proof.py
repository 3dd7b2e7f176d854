"""``edgevit verify BUNDLE``: every member by itself, then all together.

Together: the golden images go through all sub-models and the fusion head, and the fused logits are compared with the
fusion head's golden logits, which were made in float64 from the sub-models' golden features. A part in the wrong place,
or a head that was made for other parts, fails here although every member is sound. With labelled data, the fused top-1
must be the one that ``bundle.json`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit import render, worker
from edgevit.artifact.manifest import Array, Parity
from edgevit.artifact.seal import Seal
from edgevit.bundle.embedded import BundleSession, target_for
from edgevit.bundle.manifest import BUNDLE
from edgevit.bundle.opened import Bundle, wired
from edgevit.data.classes import class_indices
from edgevit.data.labelled import LabelledData
from edgevit.data.split import spread
from edgevit.errors import BadArtifact, EdgeVitError, ParityFailed, UsageError
from edgevit.precisions import precision_row
from edgevit.proof.accuracy import AccuracyCheck, too_far, top_shares
from edgevit.proof.labelled import MAX_IMAGES, held_out_from
from edgevit.proof.parity import judge
from edgevit.proof.reference import Reference
from edgevit.proof.sameness import sameness
from edgevit.proof.verify import TIMEOUT_S, Verification, verify

GAIN = 10.0  # what the fusion head may make of its inputs' errors, relative to the largest logit
_CHUNK = 64  # images at a time


@dataclass(frozen=True)
class MemberCheck:
    """One member: what verifying it found, or the error that it ended with."""

    folder: str
    found: Verification | None
    error: EdgeVitError | None

    @property
    def sentence(self) -> str:
        if self.error is not None:
            return f"FAILED: {self.error}"
        if self.found is None or self.found.parity.max_rel is None:
            return self.found.parity.status if self.found else "verified"
        return f"verified, {self.found.parity.max_rel:.1e} on {self.found.runtime}"

    def record(self) -> dict[str, Any]:
        found = self.found or getattr(self.error, "verification", None)
        record = found.record() if found else {"artifact": self.folder}
        return {**record, "member": self.folder, "error": str(self.error) if self.error else None}


@dataclass(frozen=True)
class Together:
    """All members at once. ``parity`` is of the fused logits on the golden images."""

    target: str
    parity: Parity
    accuracy: AccuracyCheck | None
    checks: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class BundleVerification:
    """What was checked. ``together`` is None, and ``error`` says why, where the members could not be run together."""

    bundle: str
    members: tuple[MemberCheck, ...]
    together: Together | None
    error: EdgeVitError | None
    seal: Seal = "none"

    @property
    def unchecked(self) -> list[str]:
        """What is as the manifests claim, for all that is known here."""
        doubts = [f"{BUNDLE} has no seal: its accuracy and sizes are what it claims"] if self.seal == "none" else []
        found = [(member.folder, doubt) for member in self.members if member.found for doubt in member.found.unchecked]
        return [*doubts, *(f"{folder}: {doubt}" for folder, doubt in found)]

    @property
    def errors(self) -> list[EdgeVitError]:
        """Everything that is wrong, in the order it was found."""
        found = [member.error for member in self.members if member.error]
        if self.together and self.together.problems:
            found.append(ParityFailed("; ".join(self.together.problems)))
        return [*found, *(one for one in (self.error, self.altered) if one)]

    @property
    def altered(self) -> BadArtifact | None:
        """What is wrong with ``bundle.json`` itself."""
        if self.seal != "broken":
            return None
        said = f"{BUNDLE} in {self.bundle} was altered: its seal does not fit what it says"
        return BadArtifact(said, hint="copy the whole bundle again, or split anew")

    def record(self) -> dict[str, Any]:
        """The object of ``edgevit verify BUNDLE --json``: that of an artifact, with ``members``."""
        one = self.together
        return {
            "artifact": self.bundle,
            "target": one.target if one else None,
            "parity": one.parity.record() if one else None,
            "accuracy": one.accuracy.model_dump(mode="json") if one and one.accuracy else None,
            "checks": list(one.checks) if one else [],
            "problems": [str(error) for error in self.errors],
            "unchecked": self.unchecked,
            "members": [member.record() for member in self.members],
        }

    def facts(self) -> list[tuple[str, str]]:
        """(topic, sentence) pairs for people: a line a member, then what holds of all together."""
        lines = [(member.folder, member.sentence) for member in self.members]
        lines += [("together", check) for check in (self.together.checks if self.together else ())]
        if self.error:
            lines.append(("together", f"FAILED: {self.error}"))
        elif self.together is None:
            lines.append(("together", "not run: every member must be sound first"))
        if self.altered:
            lines.append((BUNDLE, f"FAILED: {self.altered}"))
        lines += [("not checked", doubt) for doubt in self.unchecked]
        return [*lines, ("FAILED" if self.errors else "verified", self.bundle)]


def verify_bundle(
    path: Path | str,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    data: str | None = None,
    provider: str | None = None,
    trust: bool = False,
    progress: Callable[[str, float | None], None] | None = None,
) -> BundleVerification:
    """Verify every member, each in its own process and past those that fail, then all together.

    Arguments as those of ``verify``; with ``runtime``, the members that it opens are verified. Raises BadArtifact for a
    ``bundle.json`` that cannot be read. Anything found wrong raises ParityFailed, or where no proof failed the first
    member's own error (BadArtifact for one that is missing or altered); its ``verification`` attribute is the result.
    """
    bundle = Bundle.read(path)
    opening = {"runtime": runtime, "threads": threads, "provider": provider, "trust": trust}
    members = []
    for folder in _members(bundle, runtime):
        if progress:
            progress(f"verify {folder}", None)
        members.append(_checked(bundle, folder, opening))
    together, error = None, None
    if not any(member.error for member in members):
        if progress:
            progress("verify all together", None)
        payload = {"bundle": str(path), "data": data, **opening}
        try:
            together = _revived(worker.call("edgevit.bundle.proof:prove_in_worker", payload, timeout=TIMEOUT_S))
        except EdgeVitError as exc:
            error = exc
    return _judged(BundleVerification(str(path), tuple(members), together, error, bundle.seal))


def _members(bundle: Bundle, runtime: str | None) -> list[str]:
    """Folders to verify: all, or those of the target that ``runtime`` opens."""
    manifest = bundle.manifest
    targets = bundle.targets if runtime is None else (target_for(bundle, runtime),)
    folders = [*(part.artifacts for part in manifest.parts), manifest.fusion.artifacts]
    return [one[target] for target in targets for one in folders]


def _checked(bundle: Bundle, folder: str, opening: dict[str, Any]) -> MemberCheck:
    try:
        artifact = bundle.member(folder)
        return MemberCheck(folder, verify(artifact.path, **opening), None)
    except EdgeVitError as exc:
        return MemberCheck(folder, None, exc)


def _judged(result: BundleVerification) -> BundleVerification:
    """``result``, raised with the error whose exit code says most when something is wrong."""
    errors = result.errors
    if not errors:
        return result
    first = next((error for error in errors if isinstance(error, ParityFailed)), errors[0])
    wrong = [member.folder for member in result.members if member.error]
    what = f"not sound: {', '.join(wrong)} ({len(wrong)} of {len(result.members)} members)" if wrong else str(first)
    raised = type(first)(f"{result.bundle}: {what}", hint=first.hint)
    raised.verification = result  # type: ignore[attr-defined]
    raise raised


def prove_in_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Worker target: the arguments of ``verify_bundle`` in, ``Together`` as JSON out."""
    bundle = Bundle.open(payload["bundle"])
    opening = {key: payload[key] for key in ("runtime", "threads", "provider", "trust")}
    with BundleSession(bundle, require_all=True, **opening) as session:
        checks = _Checks(session)
        checks.golden()
        if payload["data"]:
            checks.data(payload["data"])
        found = Together(
            session.target, checks.parity, checks.accuracy, tuple(checks.sentences), tuple(checks.problems)
        )
    accuracy = found.accuracy.model_dump(mode="json") if found.accuracy else None
    return {**asdict(found), "parity": found.parity.model_dump(mode="json"), "accuracy": accuracy}


def _revived(answer: dict[str, Any]) -> Together:
    return Together(
        target=answer["target"],
        parity=Parity.model_validate(answer["parity"], strict=False),
        accuracy=AccuracyCheck.model_validate(answer["accuracy"]) if answer["accuracy"] else None,
        checks=tuple(answer["checks"]),
        problems=tuple(answer["problems"]),
    )


class _Checks:
    """Collects what each step finds: a sentence for every step, and those that are problems again."""

    def __init__(self, session: BundleSession) -> None:
        self.session, self.bundle = session, session.bundle
        self.parts, self.fusion = self.bundle.parts(session.target), self.bundle.fusion(session.target)
        self.parity = Parity(status="unverified", reason="not compared yet", tolerance=self._tolerance())
        self.accuracy: AccuracyCheck | None = None
        self.sentences: list[str] = []
        self.problems: list[str] = []

    def say(self, sentence: str, *, problem: bool = False) -> None:
        self.sentences.append(f"FAILED: {sentence}" if problem else sentence)
        if problem:
            self.problems.append(sentence)

    def _tolerance(self) -> float:
        members = [artifact.manifest for artifact in (*self.parts, self.fusion)]
        summed = max(member.parity.tolerance for member in members[:-1]) + members[-1].parity.tolerance
        return min(GAIN * summed, max(precision_row(member.precision).ceiling for member in members))

    def golden(self) -> None:
        """The golden images through everything, against the fusion head's golden logits."""
        if not wired(self.parts, self.fusion):
            self.say("the fusion head was not made for these sub-models in this order", problem=True)
            return
        images = self.parts[0].golden()[0][self.session.image.name]
        logits = self.fusion.manifest.logits_output()
        if logits is None:
            raise BadArtifact(f"{self.fusion.path} has no logits", hint="split anew")
        wanted = self.fusion.golden()[1][logits.name]
        found = self.session.infer({self.session.image.name: images})["logits"]
        reference = Reference({"image": images}, {"logits": wanted}, self._tolerance())
        self.parity = judge({len(images): {"logits": found}}, reference, "logits", self.session.fusion.session.runtime)
        if self.parity.status == "failed":
            self.say(f"golden images through all parts: {self.parity.reason}", problem=True)
            return
        self.say(
            f"golden images through all {len(self.parts)} sub-models and the fusion head: error "
            f"{self.parity.max_rel:.1e} of the largest logit, tolerance {self.parity.tolerance:.1e}"
        )

    def data(self, source: str) -> None:
        """Fused top-1 on labelled images, judged against bundle.json's where that is of the same data."""
        recorded = self.bundle.manifest.accuracy
        found = spread(
            held_out_from(source, recorded.data, recorded.content) if recorded else held_out_from(source), MAX_IMAGES
        )
        if found.labels is None or not len(found):
            raise UsageError(f"{source} has no labelled images", hint="put every image into its class's sub-folder")
        labels = class_indices(found, self.bundle.manifest.classes, self.fusion.manifest.class_count())
        self._judge(source, *top_shares(self._logits(found), labels), found)

    def _judge(self, source: str, top1: float, top5: float | None, found: LabelledData) -> None:
        recorded, count = self.bundle.manifest.accuracy, len(found)
        then = min(recorded.images, MAX_IMAGES) if recorded else 0
        same = sameness(found, recorded.data == source, then, recorded.content) if recorded else None
        judged = recorded if same and same.judged else None
        self.accuracy = AccuracyCheck(
            data=source, top1=top1, images=count, recorded=judged.fused if judged else None, top5=top5
        )
        sentence = f"fused accuracy {top1:.2%} on {render.counted(count, 'image')} of {source}"
        sentence += same.sentence() if same else ""
        if judged is None or same is None:
            self.say(sentence + (f"; at the split {recorded.fused:.2%} on {recorded.data}" if recorded else ""))
            return
        exceeded = too_far(judged.of_all_parts, top1, count, same.differing)
        self.say(
            f"{sentence}; bundle.json says {judged.fused:.2%}"
            + (f", from which it may be {exceeded:.2%} away" if exceeded else ""),
            problem=exceeded is not None,
        )

    def _logits(self, found: LabelledData) -> Iterator[Array]:
        chunks = (found.images[start : start + _CHUNK] for start in range(0, len(found), _CHUNK))
        return (self.session.infer(self.session.rows(list(chunk)))["logits"] for chunk in chunks)
