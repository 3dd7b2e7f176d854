"""Can this measurement be believed? Doubt is data: each finding has a verdict, its evidence and the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edgevit.profiles import statistics
from edgevit.profiles.monitors import CpuTime, Frequency, Reading, Thermal, others_share, throttle_evidence

Verdict = Literal["STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT", "FAILED"]
SEVERITY: tuple[Verdict, ...] = ("STEADY", "UNSTABLE", "DRIFTING", "THROTTLED", "TOO_SHORT", "FAILED")

MAX_SPREAD = 0.10  # 1.4826 MAD of the median
MAX_OUTLIERS = 0.02
MAX_OTHERS = 0.10  # of the usable cores
MAX_STEAL = 0.02
MAX_BETWEEN = 0.05  # between the processes of a publish run
MAX_TIMER = 0.02

QUIET = "close other programs and run again"


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
    """What one worker process measured. Times in ms, in the order they ran."""

    samples_ms: tuple[float, ...]
    warm_ms: tuple[float, ...]
    warm_steady: bool
    load_ms: float
    first_ms: float
    timer_ms: float
    peak_rss_bytes: int | None
    series: Mapping[str, Sequence[Reading]]
    unmonitored: tuple[str, ...]


def worst(findings: Sequence[Finding]) -> Verdict:
    """The worst verdict wins; STEADY without findings."""
    return max((finding.verdict for finding in findings), key=SEVERITY.index, default="STEADY")


def judge(run: Run, need: Need, cores: int) -> list[Finding]:
    """Every doubt about one process's samples."""
    return [
        *_length(run, need),
        *_throttling(run),
        *_movement(run),
        *_scatter(run),
        *_neighbours(run, cores),
        *_warm_up(run),
    ]


def judge_between(runs: Sequence[Run]) -> list[Finding]:
    """Doubt about processes that disagree with each other."""
    medians = [median(run.samples_ms) for run in runs]
    spread = max(medians) / min(medians) - 1
    if spread <= MAX_BETWEEN:
        return []
    return [Finding("UNSTABLE", f"the medians of {len(runs)} processes differ by {spread:.1%}", QUIET)]


def _length(run: Run, need: Need) -> list[Finding]:
    seconds, count = sum(run.samples_ms) / 1e3, len(run.samples_ms)
    # the loop's clock starts before the first call and counts its own steps, so it may end within 5 % of the sum
    if seconds >= 0.95 * need.seconds and count >= need.count:
        return []
    evidence = f"{count} samples in {seconds:.1f} s; this tier needs ≥ {need.count} and ≥ {need.seconds:g} s"
    return [Finding("TOO_SHORT", evidence, "use a smaller model or batch, or more threads")]


def _throttling(run: Run) -> list[Finding]:
    evidence = throttle_evidence(run.series.get(Frequency.name, ()), run.series.get(Thermal.name, ()))
    return [
        Finding("THROTTLED", sentence, "let it cool, improve cooling or power, and run again") for sentence in evidence
    ]


def _movement(run: Run) -> list[Finding]:
    moved = statistics.drift(run.samples_ms)
    if moved is None or not moved.drifting:
        return []
    evidence = f"the last third's median is {moved.step:+.1%} from the first third's, trend {moved.trend:+.1%}"
    return [Finding("DRIFTING", evidence, "run again with --tier standard")]


def _scatter(run: Run) -> list[Finding]:
    found = []
    spread = statistics.relative_spread(run.samples_ms)
    if spread >= MAX_SPREAD:
        found.append(Finding("UNSTABLE", f"1.4826·MAD is {spread:.1%} of the median", QUIET))
    if modes := statistics.two_modes(run.samples_ms):
        evidence = f"two modes, {modes.low:.3g} ms and {modes.high:.3g} ms ({modes.upper_share:.0%} of the samples)"
        found.append(Finding("UNSTABLE", evidence, f"{QUIET}, or try fewer --threads"))
    share = len(statistics.outliers(run.samples_ms)) / len(run.samples_ms)
    if share > MAX_OUTLIERS:
        found.append(Finding("UNSTABLE", f"{share:.1%} of the samples are outliers (beyond 14.826 MAD)", QUIET))
    return found


def _neighbours(run: Run, cores: int) -> list[Finding]:
    shares = others_share(run.series.get(CpuTime.name, ()), cores)
    if shares is None:
        return []
    others, steal = shares
    found = []
    if others > MAX_OTHERS * cores:
        found.append(Finding("UNSTABLE", f"other processes took {others:.2f} of {cores} cores meanwhile", QUIET))
    if steal > MAX_STEAL:
        evidence = f"the hypervisor took {steal:.1%} of the CPU time for other guests"
        found.append(Finding("UNSTABLE", evidence, "run again at another hour or on another host"))
    return found


def _warm_up(run: Run) -> list[Finding]:
    if run.warm_steady:
        return []
    evidence = f"warm-up did not settle in {sum(run.warm_ms) / 1e3:.1f} s (3 windows within 1 %)"
    return [Finding("UNSTABLE", evidence, f"{QUIET}, or use --tier standard")]


def timer_note(run: Run) -> str | None:
    """A sentence when the clock itself is more than 2 % of what it measures."""
    share = run.timer_ms / median(run.samples_ms)
    return f"timing itself takes {share:.1%} of the median" if share > MAX_TIMER else None
