"""The first try: ``fleet up``, a node that is killed and started again, and Ctrl-C, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet.fleet_nodes import edgevit
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

from edgevit.errors import BadArtifact, FleetError, UsageError
from edgevit.fleet.agent.node import available_memory
from edgevit.fleet.asking.infer import Inference, infer_images
from edgevit.fleet.bus.link import Link
from edgevit.fleet.operating.status import status
from edgevit.fleet.operating.up import fleet_up

PARTS = 3


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(edgevit(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def infer(bundle: Path, *more: str) -> tuple[dict, int]:
    """The one record, and the exit code."""
    with running("infer", bundle, bundle / "part-0/golden/0.png", "--deadline", "10s", "--json", *more) as ran:
        out, _ = ran.communicate(timeout=60)
        return json.loads(out)[0], ran.returncode


def here(bundle: Path) -> Inference:
    """The same from this process."""
    (found,) = infer_images(bundle, [bundle / "part-0/golden/0.png"], deadline_s=10.0)
    assert isinstance(found, Inference)
    return found


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """The line on stderr that holds ``words``."""
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} was never said: {said}")


def pid_of(home: Path, name: str) -> int:
    (entry,) = (home / "fleet/here").glob(f"{name}-*.json")
    return int(json.loads(entry.read_text())["pid"])


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_nodes_come_up_one_is_killed_and_comes_back_and_ctrl_c_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("EDGEVIT_HOME", str(home))
    bundle = make_bundle(tmp_path / "bundle", PARTS)
    with running("fleet", "up", bundle, "--nodes", str(PARTS)) as up:
        assert f"edgevit infer {bundle}" in read_until(up, "ready")
        whole = here(bundle)
        assert (whole.where, whole.gathered.answered) == ("fleet", PARTS)
        given = {row.memory_bytes for row in status(Link()).nodes}
        assert len(given) == 1, "they share alike"
        assert 0 < PARTS * given.pop() <= available_memory(), "more than there is was promised"

        pids = [pid_of(home, f"node-{index}") for index in range(1, PARTS + 1)]
        os.kill(pids[1], signal.SIGKILL)
        assert "edgevit node --name node-2" in read_until(up, "node-2 has ended")
        answer = here(bundle)
        (missing,) = answer.gathered.missing
        shown = f"degraded 2/3 (missing: {missing.part}; classes {', '.join(missing.classes)})"
        assert answer.line().endswith(shown)
        record, code = infer(bundle, "--require-all")
        assert (record["answered"], record["degraded"], code) == (PARTS - 1, True, 9)

        with running("node", "--name", "node-2"):
            wait_for(lambda: here(bundle).gathered.answered == PARTS)
        up.send_signal(signal.SIGINT)
        assert up.wait(15) == 0
        wait_for(lambda: all(map(gone, pids)))
    with pytest.raises(FleetError, match="no node serves"):  # this machine has deployed it
        here(bundle)


def test_what_cannot_work_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 replicas"):
        fleet_up(tmp_path, 2, replicas=3)
    with pytest.raises(BadArtifact):
        fleet_up(tmp_path, 2)
