"""A profile as it is kept: the one schema that is written, read again, gated, tabled and sent by a node.

``PROFILE_FORMAT`` is its version. What a later edgevit adds has a default, so that files of an earlier one still open;
what a report needs less is left aside, so that files of a later one open too.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, computed_field

from edgevit.artifact.goodness import Quality, how_good
from edgevit.profiles.environment import comparability_key
from edgevit.profiles.layers import Layers
from edgevit.profiles.verdict import Verdict
from edgevit.proof.accuracy import FileAccuracy, FileQuality

PROFILE_FORMAT = 1
LISTED = (
    "artifact", "runtime", "provider", "threads", "precision", "scenario", "tier", "verdict", "unmonitored", "p50_ms",
    "p90_ms", "p99_ms", "throughput", "samples", "load_ms", "first_ms", "peak_rss_bytes", "accuracy", "quality", "key",
    "reasons",
)  # fmt: skip

Plain = str | int | float | bool | None


def _unicode(value: Any) -> Any:
    """A path may hold bytes that are no UTF-8, which Python keeps as lone surrogates and JSON must not: as \\xNN."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if type(value) is str else value


Text = Annotated[str, BeforeValidator(_unicode)]


class _Kept(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class PercentileMs(_Kept):
    """``statistics.Percentile`` in ms. ``needs``: samples that the estimate needs."""

    estimate_ms: FiniteFloat | None = None
    raw_ms: FiniteFloat | None = None
    interval95_ms: tuple[FiniteFloat, FiniteFloat] | None = None
    needs: int = 0


class Process(_Kept):
    """One worker process: its share of the samples, its warm-up and what the monitors saw meanwhile."""

    samples: int = Field(ge=0)
    load_ms: FiniteFloat
    first_ms: FiniteFloat
    warm_steady: bool = True
    warm_ms: tuple[FiniteFloat, ...] = ()
    timer_ms: FiniteFloat = 0.0
    elapsed_ms: FiniteFloat | None = None
    dropped: int = 0
    peak_rss_bytes: int | None = None
    monitors: dict[str, list[dict[str, float | None]]] = {}


class ProfileRecord(_Kept):
    """One profile. Times in ms; what cannot be given is None, and ``reasons`` says why.

    inputs       "golden", or the data whose images were timed
    key_fields   what two profiles must share to be ranked against each other; ``key`` is their hash
    files        hashes of the artifact's files as they were measured
    percentiles  by name: "p50", "p90", …
    minutes      of a sustained scenario, each minute's count, p50 and p90
    samples_ms   every call in order, those of several processes one after another
    """

    format: int = PROFILE_FORMAT
    artifact: Text = ""
    runtime: str
    provider: str | None
    threads: int
    precision: str | None = None
    scenario: str
    tier: str
    verdict: Verdict
    unmonitored: tuple[str, ...] = ()
    p50_ms: FiniteFloat | None
    p90_ms: FiniteFloat | None
    p99_ms: FiniteFloat | None
    throughput: FiniteFloat | None
    load_ms: FiniteFloat | None
    first_ms: FiniteFloat | None
    peak_rss_bytes: int | None = None
    accuracy: FileAccuracy | None = None
    quality: FileQuality | None = None
    reasons: tuple[Text, ...] = ()
    batch: int
    inputs: Text = "golden"
    key_fields: dict[str, Plain]
    environment: dict[str, Any]
    files: dict[str, str] = {}
    details: dict[str, Any] = {}
    energy: dict[str, Plain] | None = None
    working_memory: dict[str, Plain] | None = None
    layers: Layers | None = None
    minutes: list[dict[str, Plain]] | None = None
    percentiles: dict[str, PercentileMs] = {}
    processes: tuple[Process, ...] = ()
    samples_ms: tuple[FiniteFloat, ...] = ()

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above property
    @property
    def samples(self) -> int:
        """How many."""
        return len(self.samples_ms)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def key(self) -> str:
        """Of the key fields, computed anew: nothing in a file can bring two conditions together."""
        return comparability_key(self.key_fields)

    @property
    def p50_interval95_ms(self) -> tuple[float, float] | None:
        """95 % confidence interval of the median, or None."""
        found = self.percentiles.get("p50")
        return found.interval95_ms if found else None

    def how_good(self) -> Quality | None:
        """How good the answers of the very file are that was timed, whatever its task; None where nobody measured."""
        return how_good(self.accuracy, self.quality)

    def lacks(self) -> set[str]:
        """Figures of ``LISTED`` that the file this was read from does not state."""
        return set(LISTED) - self.model_fields_set - {"samples", "key", "quality"}  # which came later

    def record(self) -> dict[str, Any]:
        """The object that ``edgevit profile --json`` lists."""
        found = self.model_dump(mode="json", include=set(LISTED))
        return {name: found[name] for name in LISTED}
