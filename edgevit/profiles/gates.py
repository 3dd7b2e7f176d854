"""``--fail-if "p90>20ms"``: conditions on a measured row that must not hold. What cannot be judged does not pass."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.amounts import BYTES, amount, number_and_unit
from edgevit.artifact.goodness import Quality, how_good
from edgevit.errors import UnknownName, UsageError
from edgevit.profiles.record import PercentileMs, ProfileRecord
from edgevit.profiles.verdict import SEVERITY
from edgevit.proof.accuracy import TopShares

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
TIME = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
SHARE = {"%": 0.01, "": 1.0}
RATE = {"/s": 1.0, "": 1.0}
NUMBER = {"": 1.0}
UNITS: Mapping[str, Mapping[str, float]] = {
    **dict.fromkeys(("p50", "p90", "p95", "p99", "load", "first"), TIME),
    **dict.fromkeys(("size", "memory"), BYTES),
    **dict.fromkeys(("accuracy", "top5"), SHARE),
    "quality": {**SHARE, "dB": 1.0},
    "throughput": RATE,
    "max_rel": NUMBER,
}
WORDS: Mapping[str, tuple[str, ...]] = {"verdict": SEVERITY, "parity": ("verified", "unverified", "failed")}
FIGURES = (*UNITS, *WORDS)
EXAMPLE = 'for example --fail-if "p90>20ms"'


@dataclass(frozen=True, slots=True)
class Figure:
    """What one figure of a row is, or why there is none. ms, bytes, a share, rows per second, or a word."""

    value: float | str | None
    reason: str = "it was not measured"


@dataclass(frozen=True, slots=True)
class Gate:
    """``figure sign bound`` is the failure. ``bound`` is in the unit of ``Figure``; ``text`` is as it was given."""

    text: str
    figure: str
    sign: str
    bound: float | str

    def missed(self, figures: Mapping[str, Figure]) -> str | None:
        """Why the row does not pass, or None when it does."""
        found = figures.get(self.figure, Figure(None))
        if found.value is None or (isinstance(found.value, float) and found.value != found.value):
            return f"{self.text} cannot be judged: {found.reason}"
        return f"{self.figure} is {self._shown(found.value)}: {self.text}" if self._holds(found.value) else None

    def _holds(self, value: float | str) -> bool:
        if self.figure == "verdict":  # by severity, so that verdict>UNSTABLE is anything worse
            ranks: list[str] = list(SEVERITY)
            return OPERATORS[self.sign](ranks.index(str(value)), ranks.index(str(self.bound)))
        return OPERATORS[self.sign](value, self.bound)

    def _shown(self, value: float | str) -> str:
        if isinstance(value, str):
            return value
        units = UNITS[self.figure]
        if units is SHARE:
            return f"{value:.2%}"
        if units is BYTES:
            return f"{value / 1e6:,.3g} MB"
        return f"{value:,.4g} ms" if units is TIME else f"{value:,.4g}/s" if units is RATE else f"{value:.4g}"


def parse(text: str) -> Gate:
    """A condition such as ``p90>20ms``, ``memory >= 300 MiB``, ``accuracy<97%`` or ``verdict!=STEADY``.

    UnknownName for a figure, unit or word that there is not, with the nearest one; UsageError for anything else that is
    no condition.
    """
    found = re.fullmatch(r"\s*([\w.]+)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", text)
    if not found:
        raise UsageError(f"--fail-if {text!r} is not FIGURE>VALUE", hint=EXAMPLE)
    name, sign, bound = found.groups()
    figure = name.lower()
    if figure in WORDS:
        return Gate(text.strip(), figure, sign, _word(figure, sign, bound))
    if figure not in UNITS:
        raise UnknownName("figure", name, FIGURES)
    return Gate(text.strip(), figure, sign, _number(figure, bound, text))


def parse_all(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Every condition, checked before anything is run."""
    return tuple(parse(text) for text in texts)


def _word(figure: str, sign: str, bound: str) -> str:
    known = {word.lower(): word for word in WORDS[figure]}
    if bound.lower() not in known:
        raise UnknownName(figure, bound, WORDS[figure])
    if figure != "verdict" and sign not in ("==", "!="):
        raise UsageError(f"{figure} is a word, so {sign} says nothing about it", hint="use == or !=")
    return known[bound.lower()]


def _number(figure: str, bound: str, text: str) -> float:
    units, found = UNITS[figure], number_and_unit(bound)
    if not found:
        raise UsageError(f"--fail-if {text!r}: {bound!r} is no number", hint=EXAMPLE)
    if (value := amount(bound, units)) is not None:
        return value
    unit = found[1]
    known = [one for one in units if one]
    if not unit:
        raise UsageError(f"--fail-if {text!r} has no unit", hint=f"add one of {', '.join(known)}")
    if not known:
        raise UsageError(f"--fail-if {text!r}: {figure} has no unit", hint=f"leave {unit} out")
    raise UnknownName(f"unit of {figure}", unit, known)


def figures_of(profile: ProfileRecord) -> dict[str, Figure]:
    """Everything of a profile that a gate can ask for, with the reason where it is missing."""
    failed = "; ".join(profile.reasons) if profile.verdict == "FAILED" else None
    found = {
        name: Figure(it.estimate_ms, failed or _too_few(profile, it))
        for name, it in profile.percentiles.items()
        if name in UNITS
    }
    unknown = failed or Figure(None).reason
    return (
        found
        | goodness(profile.accuracy, profile.quality)
        | {
            "p50": Figure(profile.p50_ms, unknown),
            "load": Figure(profile.load_ms, unknown),
            "first": Figure(profile.first_ms, unknown),
            "throughput": Figure(profile.throughput, unknown),
            "memory": Figure(profile.peak_rss_bytes, "this system does not tell a process's memory"),
            "verdict": Figure(profile.verdict),
        }
    )


def goodness(accuracy: TopShares | None, quality: Quality | None) -> dict[str, Figure]:
    """How good answers are: the top-1 and top-5 of a classifier, and of every task what it is judged by."""
    unlabelled = "there were no labelled images: add --data"
    good = how_good(accuracy, quality)
    return {
        "accuracy": Figure(accuracy.top1 if accuracy else None, _other_task(good) or unlabelled),
        "top5": Figure(accuracy.top5 if accuracy else None, _other_task(good) or unlabelled),
        "quality": Figure(good.value if good else None, "nothing said what is true of the images: add --data"),
    }


def _other_task(good: Quality | None) -> str | None:
    """Why something has no accuracy, or no top-5, though it was judged."""
    return f"it is judged by {good.figures()}, which quality is" if good else None


def _too_few(profile: ProfileRecord, it: PercentileMs) -> str:
    return f"needs ≥ {it.needs} samples, there are {profile.samples}; use --tier standard"
