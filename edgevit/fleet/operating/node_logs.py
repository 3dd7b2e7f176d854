"""What the nodes wrote down: ``edgevit fleet logs``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.errors import UnknownName
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.messages import MAX_RECORD, BadMessage, record
from edgevit.fleet.bus.transport import gather
from edgevit.fleet.operating.watch import ASK_S, watching


@dataclass(frozen=True)
class Logs:
    """Log lines of several nodes, the oldest first."""

    entries: tuple[dict[str, Any], ...]

    def record(self) -> list[dict[str, Any]]:
        return list(self.entries)

    def lines(self) -> Iterator[str]:
        for entry in self.entries:
            rest = {key: value for key, value in entry.items() if key not in ("at", "node", "level", "event")}
            said = " ".join(f"{key}={value}" for key, value in rest.items())
            yield f"{str(entry.get('at'))[:23]} {entry.get('node')} {entry.get('level')}: {entry.get('event')} {said}"


def logs(
    link: Link, nodes: Sequence[str] = (), *, lines: int = 100, trace: str | None = None, wait_s: float = 1.0
) -> Logs:
    """The newest ``lines`` of every node, or of these; with ``trace``, only those about one request.

    FleetError when no node is found, UnknownName for a node that is not there.
    """
    asked = json.dumps({"lines": lines} | ({"trace": trace} if trace else {})).encode()
    with watching(link, wait_s) as watch:
        there = [node.node for node in watch.status().nodes if node.alive]
        for node in nodes:
            if node not in there:
                raise UnknownName("node of this fleet", node, there)
        keys = [watch.names.log(node) for node in nodes] or [watch.names.log()]
        expected = 1 if nodes else len(there)
        found = [
            entry
            for key in keys
            for answer in gather(watch.bus, key, meta=asked, timeout_s=ASK_S, expected=expected).good
            for entry in _entries(answer.payload)
        ]
    return Logs(tuple(sorted(found, key=lambda entry: str(entry.get("at")))))


def _entries(payload: bytes) -> Iterator[dict[str, Any]]:
    for line in payload[:MAX_RECORD].splitlines():
        with contextlib.suppress(BadMessage):
            yield record(line)
