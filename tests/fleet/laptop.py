"""A client that asks a deployment for frames at fixed times until it is killed, and says of each what came of it.

    python laptop.py BUNDLE LINK FRAMES_PER_S DEADLINE_S

LINK is a Link as JSON. One frame is asked at a time: what waits for the one before it is late, and counted so.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgevit.errors import FleetError
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names


@dataclass(frozen=True)
class Frame:
    """What came of one frame.

    due    when it was to be asked, on this machine's monotonic clock
    ms     from then until it was answered or given up
    parts  part -> the node that answered it
    live   nodes that this client knows to be there
    """

    due: float
    ms: float
    parts: Mapping[str, str]
    live: list[str]


def laptop(bundle: Path, link: Link, fps: float, deadline_s: float) -> list[str]:
    """The command that runs one."""
    return [sys.executable, __file__, str(bundle), json.dumps(asdict(link), default=str), str(fps), str(deadline_s)]


def frames(said: str) -> list[Frame]:
    """The frames of all that a laptop has said so far."""
    whole = said[: said.rfind("\n") + 1].splitlines()
    return [Frame(**json.loads(line)) for line in whole if line.startswith("{")]


def main() -> None:
    bundle, given, fps, deadline_s = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    identity = Path(given["identity"]) if given["identity"] else None
    reached = reach(bundle, link=Link(**given | {"identity": identity}), where="fleet")
    if reached is None:
        raise SystemExit("it would run in this process")
    names, live = Names(), set[str]()

    def changed(key: str, here: bool) -> None:
        (live.add if here else live.discard)(names.steps(key)[1])

    watching = reached.bus.watch(names.live(), changed)
    height, width = reached.session.takes.preprocess.size  # type: ignore[union-attr]
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    first = time.monotonic()
    for index in itertools.count():
        due = first + index / fps
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            parts = {one.part: one.node for one in reached.session.answer(image, deadline_s).timings}
        except FleetError:
            parts = {}
        frame = Frame(due, (time.monotonic() - due) * 1e3, parts, sorted(live))
        print(json.dumps(asdict(frame)), flush=True)
    del watching


if __name__ == "__main__":
    main()
