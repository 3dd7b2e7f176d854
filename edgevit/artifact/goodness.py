"""How good the answers of a model are, as a manifest says it: on data that tells, and what integers cost of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from edgevit.artifact.schema import Error, Fraction, Strict
from edgevit.data.content import Content

# Metrics where data tells nothing: how often the first class is that of the float model, and of outputs that are no
# classes the root mean square of their difference, as a share of that of the outputs.
AGREEMENT, DIFFERENCE = "agreement", "output difference"


class Accuracy(Strict):
    """The share ``top1`` of ``images`` labelled images of ``data`` that was recognised. By whom says who holds it: in a
    manifest, by the float32 source model at export."""

    data: str
    top1: Fraction
    images: int = Field(ge=1)

    def sentence(self, whose: str) -> str:
        """``whose`` is "artifact", "source model", …"""
        return f"{self.top1:.2%} top-1 of the {whose} on {self.images} images of {self.data}"

    def as_quality(self) -> Quality:
        """The same in the words of every task."""
        return Quality(data=self.data, metric="top-1", value=self.top1, better="higher", images=self.images)


class RecordedAccuracy(Accuracy):
    """That of a manifest, with what its images were: the data is known again at another path."""

    content: Content | None = Field(default=None, description="null where an older edgevit wrote it")


class Quality(Strict):
    """How good answers other than classes are on ``images`` of ``data``, by their task's metric. Whose they are says
    who holds it, as of ``Accuracy``."""

    data: str
    metric: str = Field(description="mIoU, AP, PQ, PSNR, AbsRel, linear probe, …")
    value: float
    better: Literal["higher", "lower"]
    others: dict[str, float] = Field(default={}, description="figures of the same answers that are shown beside it")
    images: int = Field(ge=1)

    def sentence(self, whose: str) -> str:
        """``whose`` is "artifact", "source model", …"""
        return f"{self.figures()} of the {whose} on {self.images} images of {self.data}"

    def figure(self) -> str:
        """The figure alone: "mIoU 0.6123", "top-1 98.33%"."""
        return _figure(self.metric, self.value)

    def figures(self) -> str:
        """The figure, those beside it in brackets."""
        beside = ", ".join(_figure(name, value) for name, value in self.others.items())
        return self.figure() + (f" ({beside})" if beside else "")


def _figure(name: str, value: float) -> str:
    unit = unit_of(name)
    return f"{name} {value:.2%}" if unit == "%" else f"{name} {value:.4g} {unit}".rstrip()


def unit_of(metric: str) -> str:
    """What its figures are written in: "%" of accuracies, of every other metric what its field has, "" for none."""
    return "%" if metric.startswith("top-") or metric in (AGREEMENT, DIFFERENCE) else "dB" if metric == "PSNR" else ""


def how_good(accuracy: Accuracy | None, quality: Quality | None) -> Quality | None:
    """The one of the two that there is, in the words of every task; None where nobody measured."""
    return accuracy.as_quality() if accuracy else quality


class RecordedQuality(Quality):
    """That of the source model at export, with what its images were and what was said of them."""

    content: Content


class Loss(Strict):
    """What integers cost on images that they were not calibrated on: the plan's answers beside the float model's; or
    another precision, of which these are the artifact's own."""

    data: str
    images: int = Field(ge=1)
    metric: str = Field(description="the task's, or agreement with the float model, or output difference")
    floats: float = Field(description="the metric of the float model")
    integers: float = Field(description="the metric of the integers, or of the artifact")
    drop: float = Field(description="how much worse: points of a share, else per cent of the metric")
    rms: Error = Field(description="root mean square of the outputs' difference, as a share of that of the outputs")
    kl: Error | None = Field(default=None, description="mean Kullback-Leibler divergence of the classes, in nats")

    def sentence(self) -> str:
        """``top-1 98.33% → 98.06%, 0.28 points, on 360 images of digits; outputs differ by 1.2% (rms), KL 3e-5``."""
        before, after = (_figure(self.metric, value) for value in (self.floats, self.integers))
        kl = "" if self.kl is None else f", KL {self.kl:.1e}"
        figures = f"{before} → {after.removeprefix(self.metric).strip()}, {self.drop:+.2f} points"
        return f"{figures} on {self.images} images of {self.data}; outputs differ by {self.rms:.2%} (rms){kl}"


class IntegerReport(Strict):
    """Of the plan in ``quant.json``, and what it costs."""

    layers: int = Field(ge=1, description="weights in integers")
    kept: int = Field(ge=0, description="weights that stay float")
    operators: int = Field(ge=1, description="of the graph that multiply by those weights")
    loss: Loss
    restored: dict[str, str] = Field(default={}, description="layer that --max-drop put back -> what that gave")

    def sentences(self) -> Iterator[str]:
        """What became integers and what that costs, then every layer that was put back."""
        whole = self.layers + self.kept
        yield f"{self.layers} of {whole} weights are integers, in {self.operators} operators; {self.loss.sentence()}"
        for name, said in self.restored.items():
            yield f"{name} is back in float: {said}"
