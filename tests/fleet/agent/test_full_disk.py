"""Nodes on a disk that is full: a real one, of a few megabytes, in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet.fleet_nodes import edgevit
from fleet.tiny_fleet import make_bundle
from waiting import wait_for

MB = 1 << 20
SIZE = 100 * MB  # of the disk: little more than a node leaves free of it

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")


class Disk:
    """A file system of its own that holds ``$EDGEVIT_HOME``, and processes that see it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        mount = f"mount -t tmpfs -o size={SIZE} tmpfs {home} && echo up && exec sleep infinity"
        self.keeper = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.keeper.stdout
        if self.keeper.stdout.readline() != "up\n":
            pytest.skip("this kernel, or this user, makes no mount namespaces")
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def seen(self) -> Path:
        """The home, as this process sees it."""
        return Path(f"/proc/{self.keeper.pid}/root{self.home}")

    def command(self, *arguments: object) -> list[str]:
        space = ["nsenter", "-t", str(self.keeper.pid), "-U", "-m", "--preserve-credentials"]
        return [*space, "env", f"EDGEVIT_HOME={self.home}", *edgevit(*arguments)]

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60)

    def start(self, name: str) -> None:
        node = self.command("node", "--name", name, "--memory", "100MB", "--threads", 1)
        self.nodes[name] = subprocess.Popen(node, stderr=subprocess.DEVNULL)

    def kill(self, name: str) -> None:
        node = self.nodes.pop(name)
        node.kill()
        node.wait(20)

    def fill(self, left: int) -> None:
        """Leave so many bytes free."""
        stat = os.statvfs(self.seen)
        with (self.seen / "filler").open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), stat.f_bavail * stat.f_frsize - left)

    def held(self) -> dict[str, str]:
        """part -> its state, of all nodes that answer."""
        ran = self.run("fleet", "status", "--json")
        rows = json.loads(ran.stdout) if ran.returncode == 0 else []
        return {one["part"]: one["state"] for row in rows for one in row["held"]}

    def close(self) -> None:
        for name in list(self.nodes):
            self.kill(name)
        self.keeper.kill()
        self.keeper.communicate()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="ev") as folder:
        made = Disk(Path(folder))
        yield made
        made.close()


@pytest.fixture
def served(disk: Disk, tmp_path: Path) -> Path:
    """A bundle of three parts that a node on the disk serves."""
    bundle = make_bundle(tmp_path / "digits", parts=3)
    disk.start("pi")
    wait_for(lambda: disk.run("fleet", "status").returncode == 0)
    ran = disk.run("deploy", bundle)
    assert ran.returncode == 0, ran.stderr
    return bundle


READY = {f"part-{number}": "ready" for number in range(3)}


def test_on_a_full_disk_a_node_serves_after_a_restart_what_it_held(disk: Disk, served: Path) -> None:
    disk.kill("pi")
    disk.fill(left=0)
    disk.start("pi")
    wait_for(lambda: disk.held() == READY)
    ran = disk.run("infer", served, served / "part-0/golden/0.png", "--where", "fleet", "--deadline", "10s", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)[0]["answered"] == 3


def test_what_is_not_there_keeps_nothing_else_from_being_served_and_is_said(disk: Disk, served: Path) -> None:
    disk.kill("pi")
    model = (served / "part-1/model.onnx").read_bytes()
    for blob in (disk.seen / "fleet/nodes/pi/blobs").iterdir():
        if blob.read_bytes() == model:
            blob.unlink()
    for folder in (disk.seen / "fleet/nodes/pi/parts").glob("*/part-1"):
        (folder / "model.onnx").unlink()
    disk.fill(left=10 * MB)
    disk.start("pi")
    wait_for(lambda: disk.held() == READY | {"part-1": "failed"})
    said = disk.run("fleet", "status").stdout
    assert "digits: 2/3 sub-models, lacks part-1" in said
    assert "pi could not take part-1 of digits: its disk has no room" in said


def test_a_full_disk_can_be_left_by_withdrawing_something(disk: Disk, served: Path) -> None:
    disk.fill(left=0)
    ran = disk.run("undeploy", "digits")
    assert ran.returncode == 0, ran.stderr
    assert disk.held() == {}
    node = disk.seen / "fleet/nodes/pi"
    assert [*(node / "blobs").iterdir(), *(node / "parts").iterdir()] == []
    disk.kill("pi")
    disk.start("pi")
    wait_for(lambda: disk.run("fleet", "status").returncode == 0)
    assert disk.held() == {}, "it is withdrawn over a restart too"


def test_what_a_full_disk_cannot_take_is_refused_in_a_sentence_and_what_ran_runs_on(
    disk: Disk, served: Path, tmp_path: Path
) -> None:
    disk.fill(left=1 * MB)
    ran = disk.run("deploy", make_bundle(tmp_path / "flowers", parts=1, seed=1))
    assert ran.returncode == 9, ran.stderr
    assert "its disk has no room" in ran.stderr
    assert disk.held() == READY
