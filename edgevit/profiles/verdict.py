"""Can this measurement be believed? Doubt is data: each finding has a verdict, its evidence and the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edgevit.profiles import statistics
from edgevit.profiles.monitors import MONITORS, Monitor, Reading
from edgevit.profiles.monitors.base import QUIET

Verdict = Literal["STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT", "FAILED"]
SEVERITY: tuple[Verdict, ...] = ("STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT", "FAILED")

MAX_SPREAD = 0.10  # 1.4826 MAD of the median
MAX_OUTLIERS = 0.02
MAX_BETWEEN = 0.05  # between the processes of a publish run
MAX_TIMER = 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """One doubt: what it makes of the measurement, the numbers that show it, and what to do."""

    verdict: Verdict
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.evidence}; {self.advice}" if self.verdict != "STEADY" else self.evidence


@dataclass(frozen=True, slots=True)
class Need:
    """What a tier demands of one process."""

    seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one worker process measured. Times in ms, in the order they ran.

    elapsed_ms  from the first query's start to the last one's end, waiting included
    dropped     frames of a paced run that no query took
    energy      joules per query above idle, or why there is none
    working_memory  bytes that one inference works in by the engine's own word, or why they are not known
    """

    samples_ms: tuple[float, ...]
    warm_ms: tuple[float, ...]
    warm_steady: bool
    load_ms: float
    first_ms: float
    timer_ms: float
    peak_rss_bytes: int | None
    series: Mapping[str, Sequence[Reading]]
    unmonitored: tuple[str, ...]
    elapsed_ms: float
    dropped: int = 0
    energy: Mapping[str, float | str] | None = None
    working_memory: Mapping[str, int | str] | None = None


def worst(findings: Sequence[Finding]) -> Verdict:
    """The worst verdict wins; STEADY without findings."""
    return max((finding.verdict for finding in findings), key=SEVERITY.index, default="STEADY")


def judge(run: Run, need: Need, cores: int, monitors: Sequence[type[Monitor]] = MONITORS) -> list[Finding]:
    """Every doubt about one process's samples. ``cores`` are those it may use; ``monitors`` judge their own series."""
    return [
        *_length(run, need),
        *_conditions(run, cores, monitors),
        *doubts_about(run.samples_ms),
        *_warm_up(run),
    ]


def doubts_about(samples_ms: Sequence[float]) -> list[Finding]:
    """What the samples say against themselves: movement, spread, two modes, outliers."""
    return [*_movement(samples_ms), *_scatter(samples_ms)]


def judge_between(runs: Sequence[Run]) -> list[Finding]:
    """Doubt about processes that disagree with each other."""
    medians = [median(run.samples_ms) for run in runs]
    spread = max(medians) / min(medians) - 1
    if spread <= MAX_BETWEEN:
        return []
    return [Finding("UNSTABLE", f"the medians of {len(runs)} processes differ by {spread:.1%}", QUIET)]


def _length(run: Run, need: Need) -> list[Finding]:
    seconds, count = run.elapsed_ms / 1e3, len(run.samples_ms)
    if seconds >= need.seconds and count >= need.count:
        return []
    evidence = f"{count} samples in {seconds:.1f} s; this tier needs ≥ {need.count} and ≥ {need.seconds:g} s"
    return [Finding("TOO_SHORT", evidence, "use a smaller model or batch, or more threads")]


def _conditions(run: Run, cores: int, monitors: Sequence[type[Monitor]]) -> list[Finding]:
    """What the monitors saw, those first that slow the machine down for good."""
    doubts = [doubt for kind in monitors for doubt in kind.doubts(run.series.get(kind.name, ()), cores)]
    findings = [Finding(doubt.verdict, doubt.evidence, doubt.advice) for doubt in doubts]
    return sorted(findings, key=lambda finding: -SEVERITY.index(finding.verdict))


def _movement(samples_ms: Sequence[float]) -> list[Finding]:
    moved = statistics.drift(samples_ms)
    if moved is None or not moved.drifting:
        return []
    evidence = f"the last third's median is {moved.step:+.1%} from the first third's, trend {moved.trend:+.1%}"
    return [Finding("DRIFTING", evidence, "run again with --tier standard")]


def _scatter(samples_ms: Sequence[float]) -> list[Finding]:
    found = []
    spread = statistics.relative_spread(samples_ms)
    if spread >= MAX_SPREAD:
        found.append(Finding("UNSTABLE", f"1.4826·MAD is {spread:.1%} of the median", QUIET))
    if modes := statistics.two_modes(samples_ms):
        evidence = f"two modes, {modes.low:.3g} ms and {modes.high:.3g} ms ({modes.upper_share:.0%} of the samples)"
        found.append(Finding("UNSTABLE", evidence, f"{QUIET}, or try fewer --threads"))
    share = len(statistics.outliers(samples_ms)) / len(samples_ms)
    if share > MAX_OUTLIERS:
        found.append(Finding("UNSTABLE", f"{share:.1%} of the samples are outliers (beyond 14.826 MAD)", QUIET))
    return found


def _warm_up(run: Run) -> list[Finding]:
    if run.warm_steady:
        return []
    evidence = f"warm-up did not settle in {sum(run.warm_ms) / 1e3:.1f} s"
    return [Finding("UNSTABLE", evidence, f"{QUIET}, or use --tier standard")]


def timer_note(run: Run) -> str | None:
    """A sentence when the clock itself is more than 2 % of what it measures."""
    share = run.timer_ms / median(run.samples_ms)
    return f"timing itself takes {share:.1%} of the median" if share > MAX_TIMER else None
