"""The whole story on real handwritten digits: what ``edgevit quickstart`` runs. Offline, with the shipped weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgevit import render
from edgevit.errors import UsageError
from edgevit.info import reparam_sentence

if TYPE_CHECKING:
    from edgevit.artifact.opened import Artifact
    from edgevit.prediction.results import Failure, Prediction
    from edgevit.profiles.difference import Difference
    from edgevit.profiles.latency import Profile
    from edgevit.proof.verify import Verification

MODEL, DATA, DIGITS = "fmvit_nano", "digits", 5
COMPARE_S = 6.0  # of both rounds: enough for some per cent on a quiet machine
FORMS: tuple[Literal["train"], Literal["deploy"]] = ("train", "deploy")


@dataclass(frozen=True)
class Story:
    """What happened, by form where both forms took part.

    difference  the deploy form's time against the train form's, measured in turns: what else the machine does meanwhile
                hits both alike, so that it holds where no absolute figure is STEADY
    """

    artifacts: dict[str, Artifact]
    verified: dict[str, Verification]
    profiles: dict[str, Profile]
    difference: Difference
    predictions: list[tuple[str, Prediction | Failure]]
    out: Path

    def rows(self) -> list[tuple[str, str, str]]:
        """(step, train form, deploy form)."""

        def row(step: str, show: Callable[[str], str]) -> tuple[str, str, str]:
            return (step, *(show(form) for form in FORMS))  # type: ignore[return-value]

        manifests = {form: artifact.manifest for form, artifact in self.artifacts.items()}
        return [
            row("parameters", lambda form: f"{manifests[form].model.params:,}"),
            row("MACs per image", lambda form: f"{manifests[form].model.macs:,}"),
            row("ONNX file", lambda form: render.si(self.artifacts[form].size_bytes(), "B")),
            row(
                "parity error", lambda form: f"{self._parity(form).max_rel:.1e} (≤ {self._parity(form).tolerance:.0e})"
            ),
            row("accuracy, PyTorch", lambda form: _accuracy(manifests[form].accuracy)),
            row("accuracy, artifact", lambda form: _accuracy(self.verified[form].accuracy)),
            row("p50 latency", lambda form: render.ms(self.profiles[form].p50)),
            row("p90 latency", lambda form: render.ms(self.profiles[form].p90)),
            row("verdict", lambda form: self.profiles[form].verdict),
            ("measured in turns", "1×", self.difference.short()),
        ]

    def _parity(self, form: str) -> Any:
        return self.artifacts[form].manifest.parity

    def lines(self) -> list[str]:
        """What follows the table: the proof, the predictions, where everything is."""
        proof = self.artifacts["deploy"].manifest.reparam
        right = sum(_says(answer, truth) for truth, answer in self.predictions)
        return [
            *([f"re-parameterised: {reparam_sentence(proof)}"] if proof else []),
            *(f"a handwritten {truth} in {answer.line()}" for truth, answer in self.predictions),
            f"{right} of {len(self.predictions)} digits right; everything is in {self.out}",
            f"measured in turns: {self.difference.sentence()}",
            *self._unsteady(),
        ]

    def _unsteady(self) -> Iterator[str]:
        """Why the absolute figures are not to be ranked, in a line."""
        doubts = [
            f"{form} form {measured.verdict}: {next(one.evidence for one in measured.findings if one.verdict == worst)}"
            for form, measured in self.profiles.items()
            if (worst := measured.verdict) != "STEADY"
        ]
        if doubts:
            yield (
                f"p50 and p90 are of this moment on this machine ({'; '.join(doubts)}); "
                "edgevit profile tells all and what to do"
            )

    def record(self) -> dict[str, Any]:
        return {
            "artifacts": {form: str(artifact.path) for form, artifact in self.artifacts.items()},
            "verify": {form: result.record() for form, result in self.verified.items()},
            "profile": {form: measured.record() for form, measured in self.profiles.items()},
            "compare": self.difference.record(),
            "predict": [{"truth": truth, **answer.record()} for truth, answer in self.predictions],
        }


def _accuracy(found: Any) -> str:
    return "—" if found is None else f"{found.top1:.2%} of {found.images}"


def _says(answer: Prediction | Failure, truth: str) -> bool:
    return any(guess["label"] == truth for guess in answer.record().get("top", []))


def run(out: Path, *, threads: int | None, progress: Callable[[str, float | None], None]) -> Story:
    """Do it all in ``out`` (earlier artifacts of a quickstart there are replaced). UsageError where it is a file."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name a folder: -o FOLDER")
    from edgevit import build, models
    from edgevit.prediction.predictor import predict
    from edgevit.profiles.compare import compare
    from edgevit.profiles.latency import profile
    from edgevit.proof.verify import verify

    trained = models.create_model(MODEL, weights=DATA)
    artifacts: dict[str, Artifact] = {}
    for form in FORMS:
        reparameterised = "re-parameterise with proof in float64, " if form == "deploy" else ""
        progress(f"{reparameterised}export the {form} form to ONNX and prove it", None)
        artifacts[form] = build.export(
            trained, "onnx", out=out / f"{MODEL}-{form}", form=form, force=True, threads=threads
        )
    verified: dict[str, Verification] = {}
    profiles: dict[str, Profile] = {}
    for form in FORMS:
        progress(f"verify the {form} form on held-out digits", None)
        verified[form] = verify(artifacts[form].path, data=DATA, threads=threads)
        progress(f"profile the {form} form", None)
        profiles[form] = profile(artifacts[form].path, threads=threads)
    progress("compare both forms in turns", None)
    train, deploy = (artifacts[form].path for form in FORMS)
    difference = compare(train, deploy, threads=threads, seconds=COMPARE_S)
    progress("predict a few digits", None)
    pictures = write_digits(out / "digits")
    answers = predict(artifacts["deploy"].path, [path for path, _ in pictures], top=1, threads=threads)
    predictions = [(truth, answer) for (_, truth), answer in zip(pictures, answers, strict=True)]
    return Story(artifacts, verified, profiles, difference, predictions, out)


def write_digits(folder: Path) -> list[tuple[Path, str]]:
    """A few held-out digits as PNG files, with the class each shows."""
    from PIL import Image

    from edgevit.data.source import open_data

    digits = open_data(DATA, split="held-out")
    labels, classes = digits.labels, digits.classes
    if labels is None or classes is None:
        raise ValueError("the digits have lost their labels")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(DIGITS):
        path = folder / f"{index}-is-{classes[labels[index]]}.png"
        Image.fromarray(digits.images[index]).save(path)
        written.append((path, classes[labels[index]]))
    return written
