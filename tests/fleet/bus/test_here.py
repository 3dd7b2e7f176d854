"""Who gets to processes that name nobody: this user's, and nobody else's."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fleet.fleet_nodes import free_port
from waiting import wait_for

from edgevit.errors import FleetError
from edgevit.fleet.bus import here, own_secret
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Question, gather

NAMES = Names()
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sockets in folders")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a short name, as a user's is: a socket's path may have some hundred characters."""
    with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
        monkeypatch.setenv("EDGEVIT_HOME", f"{folder}/home")
        yield Path(folder) / "home"


@pytest.fixture
def node() -> Iterator[Bus]:
    with closing(open_bus(Link(), "node", "n1")) as opened:
        opened.serve(NAMES.info("n1"), echo)
        yield opened


def echo(question: Question) -> None:
    question.answer(b"here")
    question.finish()


def endpoint_of(name: str) -> str:
    (entry,) = here.folder().glob(f"{name}-*.json")
    return str(json.loads(entry.read_text())["endpoint"])


@posix
def test_a_process_is_reached_through_a_folder_that_only_its_user_enters(node: Bus) -> None:
    path = Path(endpoint_of("n1").removeprefix(here.UNIX))
    assert stat.S_ISSOCK(path.stat().st_mode)
    where = path.parent.stat()
    assert (stat.S_IMODE(where.st_mode), where.st_uid) == (0o700, os.geteuid())
    with closing(open_bus(Link(), "client")) as client:
        assert gather(client, NAMES.info("n1"), timeout_s=5).good


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_is_refused_by_the_kernel(node: Bus, home: Path) -> None:
    for folder in (home, *home.parents):  # as where a user's home can be entered by everyone
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    path = endpoint_of("n1").removeprefix(here.UNIX)
    assert _connects_as_another_user(path) == "PermissionError"
    assert (home / "fleet" / "here").stat().st_mode & 0o077 == 0


def _connects_as_another_user(path: str) -> str:
    """What becomes of it: the name of an error, or nothing."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(path)
        except OSError as exc:
            os.write(writer, type(exc).__name__.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


@posix
def test_nothing_that_names_nobody_listens_on_a_port(node: Bus) -> None:
    with closing(open_bus(Link(), "client")):
        inodes = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
        table = [
            line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()
        ]
        listening = [row for row in table if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    assert listening == []


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


@posix
def test_a_folder_that_was_open_to_others_is_closed(home: Path) -> None:
    here.folder().mkdir(parents=True)
    here.folder().chmod(0o777)
    with closing(open_bus(Link(), "client")):
        assert stat.S_IMODE(here.folder().stat().st_mode) == 0o700


@posix
@pytest.mark.parametrize("endpoint", ["tcp/127.0.0.1:{port}", "unixsock-stream/{open}/socket"])
def test_an_entry_that_leads_to_where_others_could_listen_is_not_followed(home: Path, endpoint: str) -> None:
    open_folder = home.parent / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    with socket.socket() as listener, closing(here.Entry("first")) as first:
        listener.bind(("127.0.0.1", 0))
        (entry,) = here.folder().glob("first-*.json")
        record = json.loads(entry.read_text())
        record["endpoint"] = endpoint.format(port=listener.getsockname()[1], open=open_folder)
        entry.write_text(json.dumps(record))  # still locked by its writer
        with closing(here.Entry("second")) as second:
            assert second.others() == ()
        assert first.endpoint.startswith(here.UNIX)


@posix
def test_a_home_of_a_long_name_gets_its_sockets_elsewhere_and_as_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / ("long" * 30)))
    with closing(open_bus(Link(), "node", "n1")) as node:
        node.serve(NAMES.info("n1"), echo)
        path = Path(endpoint_of("n1").removeprefix(here.UNIX))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with closing(open_bus(Link(), "client")) as client:
            assert gather(client, NAMES.info("n1"), timeout_s=5).good
    assert not path.parent.exists()


@posix
def test_what_a_killed_process_left_is_removed_by_the_next(home: Path) -> None:
    code = "from edgevit.fleet.bus.here import *; import os; from edgevit.fleet.bus.opening import open_bus\n"
    code += "from edgevit.fleet.bus.link import Link; open_bus(Link(), 'node', 'n1'); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert {path.suffix for path in here.folder().iterdir()} >= {".json", ".sock"}
    with closing(here.Entry("next")) as entry:
        assert entry.others() == ()
    assert list(here.folder().iterdir()) == []


# --- ports without an identity ------------------------------------------------------------------------------------


def test_on_a_loopback_port_only_who_knows_this_users_secret_is_let_in(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"tcp/127.0.0.1:{free_port()}"
    asked: list[bytes] = []
    with closing(open_bus(Link(listen=(where,)), "node", "n1")) as node:
        node.serve(NAMES.info("n1"), lambda one: (asked.append(one.payload()), echo(one)))
        with closing(open_bus(Link(connect=(where,)), "client")) as mine:
            wait_for(lambda: gather(mine, NAMES.info("n1"), payload=b"mine", timeout_s=1).good)
        monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "another"))
        for link in (Link(connect=(where,)), Link(connect=(where,), insecure=True)):
            with closing(open_bus(link, "client")) as stranger:
                time.sleep(1.0)
                assert not gather(stranger, NAMES.info("n1"), payload=b"stranger", timeout_s=0.5).good
    assert set(asked) == {b"mine"}


@posix
def test_the_secret_is_readable_by_nobody_else_and_one_that_is_is_not_used(home: Path) -> None:
    path, password = own_secret.secret()
    assert (stat.S_IMODE(path.stat().st_mode), len(password)) == (0o600, 64)
    assert own_secret.secret() == (path, password)
    path.chmod(0o644)
    with pytest.raises(FleetError, match="others can read it"):
        own_secret.secret()
