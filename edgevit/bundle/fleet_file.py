"""``fleet.toml``: the devices that a bundle is placed on, and what was measured on them.

    [[node]]
    name = "pi-kitchen"
    memory = "512MB"            # that the device gives to sub-models, beyond the agent and its runtime
    macs_per_s = "6G"           # how fast it runs a vision transformer; or, or beside it:
    profile = "profiles/pi"     # a profiles/*.json measured on it, or a folder of them (relative to this file)
    energy = "3G"               # optional budget: MACs that it may spend on one image
    link_mbps = 100             # optional; left out, sending features is taken to cost nothing

Sizes take B, kB, MB, GB, KiB, MiB, GiB or a plain number of bytes; MACs take k, M, G, T or a plain number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgevit.amounts import BYTES, amount
from edgevit.bundle.assign import Node, Part
from edgevit.errors import UnknownName, UsageError
from edgevit.foreign import parse_toml, read_text
from edgevit.profiles.stored import Measurement, read

MACS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
RUNTIME_BYTES = {"onnxruntime": 30_000_000}  # of a measured peak, that a node has spent already: the library itself
NOT_A_PROFILE = ("edgevit.json", "bundle.json", "plan.json")
EXAMPLE = 'for example name = "pi-1", memory = "512MB", macs_per_s = "6G"'


def _quantity(value: Any, units: Mapping[str, float], kind: str) -> float:
    """``value`` in its base unit; ValueError with a sentence when it is neither a number nor such a text."""
    if isinstance(value, str) and (found := amount(value, units)) is not None:
        value = found
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} is not {kind}")
    return value


def _size(value: Any) -> int:
    return int(_quantity(value, BYTES, 'a size such as "512MB"'))


def _rate(value: Any) -> float:
    return _quantity(value, _named("MACs/s"), 'a rate in MACs per second such as "6G"')


def parse_rate(text: str) -> float:
    """MACs per second of "6G" or a plain number; UsageError for anything else."""
    try:
        return _rate(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as exc:
        raise UsageError(str(exc), hint='for example "6G"') from exc


def _energy(value: Any) -> float:
    return _quantity(value, _named("MACs"), 'a number of MACs such as "3G"')


def _link(value: Any) -> float:
    return _quantity(value, {"": 1.0}, "a number of Mbit/s above 0")


def _named(unit: str) -> dict[str, float]:
    return MACS | {f"{prefix}{unit}": factor for prefix, factor in MACS.items()}


class _Entry(BaseModel):
    """One ``[[node]]`` as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, strict=True)
    memory: Annotated[int, BeforeValidator(_size)]
    macs_per_s: Annotated[float, BeforeValidator(_rate)] | None = None
    profile: Annotated[str, Field(min_length=1, strict=True)] | None = None
    energy: Annotated[float, BeforeValidator(_energy)] | None = None
    link_mbps: Annotated[float, BeforeValidator(_link)] | None = None


@dataclass(frozen=True)
class Fleet:
    """The nodes of a fleet file, in its order, and the measurements of each by its name, the newest last."""

    file: Path
    nodes: tuple[Node, ...]
    measured: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)

    def parts(self, parts: Sequence[Part]) -> list[Part]:
        """``parts`` with the latency and memory measured on these nodes, recognised by the hashes of the model files.

        The newest single-stream profile of one row counts: its median, and its peak memory less what the runtime's
        own library takes, but never less than the model files.
        """
        by_name: list[Part] = []
        for part in parts:
            found = {name: one for name, all_ in self.measured.items() if (one := _newest(all_, part))}
            latency = {name: one.stored.p50_ms for name, one in found.items() if one.stored.p50_ms is not None}
            memory = {
                name: max(peak - RUNTIME_BYTES.get(one.stored.runtime, 0), part.bytes)
                for name, one in found.items()
                if (peak := one.stored.peak_rss_bytes) is not None
            }
            by_name.append(replace(part, latency_ms=latency or None, memory_on=memory or None))
        return by_name

    def rated(self, parts: Sequence[Part]) -> tuple[Node, ...]:
        """The nodes; one that states no rate gets the median rate of those ``parts`` that were measured on it."""
        return tuple(
            node
            if node.macs_per_s or not (rates := _rates(parts, node.name))
            else replace(node, macs_per_s=median(rates))
            for node in self.nodes
        )


def _newest(measured: Sequence[Measurement], part: Part) -> Measurement | None:
    fitting = [one for one in measured if part.model_files and _model_files(one) == part.model_files]
    return fitting[-1] if fitting else None


def _model_files(one: Measurement) -> frozenset[str]:
    return frozenset(digest for path, digest in one.stored.files.items() if not path.startswith("golden"))


def _rates(parts: Sequence[Part], node: str) -> list[float]:
    """MACs per second of each part that was measured on the node."""
    return [part.macs / ms * 1e3 for part in parts if (ms := (part.latency_ms or {}).get(node))]


def read_fleet(path: Path | str) -> Fleet:
    """The fleet in a TOML file.

    Raises UsageError in one sentence that names the node and the field; UnknownName for a key that there is not, with
    the nearest one; BadArtifact for a damaged profile.
    """
    path = Path(path)
    entries = [_entry(row, index, path) for index, row in enumerate(_written(path), 1)]
    _check_names(entries, path)
    nodes = tuple(Node(one.name, one.memory, one.macs_per_s, one.energy, one.link_mbps) for one in entries)
    return Fleet(path, nodes, {one.name: _profiles(one, path) for one in entries if one.profile is not None})


def _written(path: Path) -> list[dict[str, Any]]:
    """The tables of the file's nodes as they stand there."""
    hint = "write one [[node]] for each device"
    text = read_text(path, "a fleet file", hint=hint)
    try:
        written = parse_toml(text)
    except ValueError as exc:
        raise UsageError(f"{path} is not TOML: {str(exc).splitlines()[0]}", hint=hint) from exc
    for key in written:
        if key != "node":
            raise UnknownName(f"key in {path}", key, ["node"])
    rows = written.get("node")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} lists no node", hint=f"begin each device with [[node]], {EXAMPLE}")
    return rows


def _entry(row: Mapping[str, Any], index: int, path: Path) -> _Entry:
    """One node, checked; errors call it by its name if it has one, else by its number in the file."""
    who = f"node {row['name']!r}" if row.get("name") else f"node {index}"
    for key in row:
        if key not in _Entry.model_fields:
            raise UnknownName(f"key of {who} in {path}", key, _Entry.model_fields)
    try:
        entry = _Entry.model_validate(row)
    except ValidationError as exc:
        raise _refused(exc, who, path) from exc
    if entry.macs_per_s is None and entry.profile is None:
        raise UsageError(
            f"{who} in {path} has neither macs_per_s nor profile, so nothing says how fast it is",
            hint='macs_per_s = "6G", or profile = "FOLDER" with what edgevit profile measured on it',
        )
    return entry


def _refused(exc: ValidationError, who: str, path: Path) -> UsageError:
    first = exc.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return UsageError(f"{who} in {path} has no {key}", hint=EXAMPLE)
    said = first["msg"].removeprefix("Value error, ")
    return UsageError(f"{key} of {who} in {path}: {said}", hint=EXAMPLE)


def _check_names(entries: Sequence[_Entry], path: Path) -> None:
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries, 1):
        if (first := seen.setdefault(entry.name, index)) != index:
            raise UsageError(f"nodes {first} and {index} in {path} have the same name, {entry.name!r}")


def _profiles(entry: _Entry, fleet: Path) -> tuple[Measurement, ...]:
    """The usable measurements that a node's ``profile`` names, the oldest first."""
    path = fleet.parent / str(entry.profile)
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*.json"))
            if file.name not in NOT_A_PROFILE and (file.parent == path or file.parent.name == "profiles")
        ]
    else:
        files = [path] if path.is_file() else []
    if not files:
        what = "holds no profile" if path.is_dir() else "is not there"
        raise UsageError(
            f"profile of node {entry.name!r} in {fleet}: {path} {what}",
            hint="run edgevit profile on the device and copy the artifact's profiles/ folder",
        )
    usable = [one for one in map(read, files) if _usable(one)]
    return tuple(sorted(usable, key=lambda one: (one.measured or "", one.file.name)))


def _usable(one: Measurement) -> bool:
    it = one.stored
    return it.scenario == "single-stream" and it.batch == 1 and it.verdict != "FAILED" and it.p50_ms is not None
