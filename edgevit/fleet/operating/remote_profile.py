"""``edgevit profile ARTIFACT --on NODE``: the latency profiler on other devices, and its results back here.

The operator signs an order and serves the artifact's files, and of a data set the images as the model takes them; the
node measures (profiling.py). The result is a file like any other that ``profile`` writes, with the environment of the
device and the operator's names of artifact and data.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import EdgeVitError, FleetError, UnknownName, UsageError
from edgevit.fleet.agent.profiling import Images, JobState, ProfileOrder
from edgevit.fleet.agent.release import Packed, pack
from edgevit.fleet.agent.shipping import Puller
from edgevit.fleet.agent.store import Store
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, parse
from edgevit.fleet.bus.transport import gather
from edgevit.fleet.operating.operator import Operator
from edgevit.profiles.outcomes import Outcome
from edgevit.registry import newer_line
from edgevit.sizes import Sides, as_size

if TYPE_CHECKING:
    from edgevit.profiles.scenarios import Scenario

ASK_S = 2.0  # for a word of the node
EVERY_S = 1.0  # between two questions how far it is
GONE_S = 20.0  # without a word of the node

OnProgress = Callable[[str, Path, str, float | None], None]  # node, artifact, stage, share


def profile_on(
    nodes: Sequence[str],
    artifacts: Sequence[Path | str],
    *,
    link: Link | None = None,
    runtime: str | None = None,
    provider: str | None = None,
    tier: str = "quick",
    threads: int | None = None,
    batch: int | None = None,
    data: str | None = None,
    scenario: Scenario | str = "single-stream",
    layers: bool = False,
    trust: bool = False,
    options: Mapping[str, str] | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    out: Path | None = None,
    on_progress: OnProgress | None = None,
) -> list[Outcome]:
    """Profile ``artifacts`` on ``nodes``, as ``edgevit.profile`` does here: the nodes at the same time, the artifacts
    of each one after another. Of ``data`` the images are sent, as many as ``profiles.crops.write`` takes.

    A bundle stands for its sub-models. Results go to ``ARTIFACT/profiles/…-NODE.json``, or ``out/NODE/``, which a fleet
    file can name as that node's ``profile``. A measurement that fails is a result; FleetError when no node is found,
    UnknownName for one that is not there, and what ``pack`` and ``crops.write`` raise.
    """
    from edgevit.profiles.scenarios import parse_scenario

    if not nodes or not artifacts:
        raise UsageError("nothing is to be profiled", hint="edgevit profile ARTIFACT --on NODE")
    how = parse_scenario(scenario) if isinstance(scenario, str) else scenario
    size = None if image_size is None else as_size(image_size)
    asked = {
        "runtime": runtime, "provider": provider, "tier": tier, "threads": threads, "batch": batch, "data": data,
        "scenario": how.name, "qps": how.qps, "bound_ms": how.bound_ms, "fps": how.fps, "minutes": how.minutes,
        "layers": layers, "trust": trust, "options": dict(options or {}),
        "image_size": None if size is None else str(size),
    }  # fmt: skip
    nodes = tuple(dict.fromkeys(nodes))
    paths = [path for artifact in artifacts for path in _members(Path(artifact))]
    with tempfile.TemporaryDirectory(prefix="edgevit-profiles-") as scratch, Operator.on(link) as operator:
        there = [one.node for one in operator.nodes()]
        for node in nodes:
            if node not in there:
                raise UnknownName("node of this fleet", node, there)
        packed = {path: pack(path) for path in dict.fromkeys(paths)}
        images = _images(packed, data, Path(scratch), size)
        asking = _Asking(operator, Store(Path(scratch) / "blobs"), packed, images, asked, out, on_progress)
        with operator.serving(asking.find), ThreadPoolExecutor(len(nodes)) as threads_:
            try:
                by_node = list(threads_.map(asking.all_on, nodes))
            finally:
                asking.stopped.set()
    return [one for results in by_node for one in results]


def _members(path: Path) -> list[Path]:
    from edgevit.bundle.opened import Bundle, is_bundle

    return [part.path for part in Bundle.open(path).parts()] if is_bundle(path) else [path]


def _images(
    packed: Mapping[Path, Packed], data: str | None, scratch: Path, size: Sides | None
) -> dict[Path, tuple[Images, Path]]:
    """The images that go with each artifact, and where they lie here; none without ``data``."""
    if data is None:
        return {}
    from edgevit.artifact.files import sha256_of
    from edgevit.artifact.opened import Artifact
    from edgevit.profiles import crops

    found = {}
    for number, path in enumerate(packed):
        file = scratch / f"{number}.npz"
        crops.write(Artifact.open(path), data, file, size)
        found[path] = Images(sha256=sha256_of(file), bytes=file.stat().st_size), file
    return found


@dataclass(frozen=True)
class _Asking:
    """What one operator wants measured, and its conversation with each node."""

    operator: Operator
    store: Store
    packed: Mapping[Path, Packed]
    images: Mapping[Path, tuple[Images, Path]]
    asked: Mapping[str, Any]
    out: Path | None
    on_progress: OnProgress | None
    stopped: threading.Event = field(default_factory=threading.Event)

    def find(self, sha256: str) -> Path | bytes | None:
        for one in self.packed.values():
            if (source := one.find(sha256)) is not None:
                return source
        return next((file for said, file in self.images.values() if said.sha256 == sha256), None)

    def all_on(self, node: str) -> list[Outcome]:
        """All artifacts on one node, one after another."""
        results = []
        for path in self.packed:
            try:
                results.append(self._one(node, path))
            except EdgeVitError as exc:
                results.append(Outcome(_subject(node, path), error=exc, node=node))
        return results

    def _one(self, node: str, path: Path) -> Outcome:
        images = self.images[path][0] if path in self.images else None
        order = ProfileOrder.signed(
            **self.asked, node=node, id=secrets.token_hex(8), release=self.packed[path].sha256, artifact=str(path),
            images=images,
        )  # fmt: skip
        heard = time.monotonic()
        while not self.stopped.is_set():
            state = self._ask(order)
            if state is not None:
                heard = time.monotonic()
                if self.on_progress:
                    self.on_progress(node, path, state.stage, state.share)
                if state.state == "failed":
                    raise state.failure.error(node) if state.failure else FleetError(f"{node}: {state.stage}")
                if state.state == "done":
                    return self._fetch(state, node, path)
            elif time.monotonic() - heard > GONE_S:
                raise FleetError(f"{node} says nothing any more", hint="edgevit fleet status says if it is there")
            self.stopped.wait(EVERY_S)
        raise FleetError("stopped")

    def _ask(self, order: ProfileOrder) -> JobState | None:
        """How far the node is; None when it said nothing."""
        key = self.operator.names.order(order.node, "profile")
        reply = gather(self.operator.bus, key, payload=order.encode(), timeout_s=ASK_S)
        for refusal in reply.refusals:
            raise FleetError(f"{order.node} refused: {refusal}")
        for answer in reply.good:
            try:
                state = parse(JobState, answer.payload, MAX_RECORD)
            except BadMessage as exc:
                raise FleetError(f"{order.node} answers what cannot be read: {exc}") from exc
            if (state.id, state.node) == (order.id, order.node):
                return state
        return None

    def _fetch(self, state: JobState, node: str, path: Path) -> Outcome:
        """The result, checked and kept where it belongs."""
        from edgevit.artifact.opened import Artifact
        from edgevit.profiles.stored import read

        if state.result is None:
            raise FleetError(f"{node} has no result")
        pulled = Puller(self.operator.bus, self.operator.names, self.store).pull(state.result, state.bytes)
        it = read(pulled).stored
        if it.lacks():
            raise FleetError(f"{node} runs another edgevit, whose result lacks figures", hint=newer_line())
        if it.files != dict(Artifact.open(path).manifest.files):
            raise FleetError(f"{node} measured another artifact than {path}")
        folder = path / "profiles" if self.out is None else self.out / node
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        name = f"{stamp}-{it.runtime}-{it.tier}-{node}.json"
        kept = folder / (name if self.out is None else f"{path.name}-{name}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pulled, kept)
        except OSError as exc:
            raise UsageError(f"{kept} cannot be written: {exc.strerror}", hint="choose another folder") from exc
        return Outcome(_subject(node, path), it, node=node, saved=kept)


def _subject(node: str, path: Path) -> str:
    return f"{node} {path}"
