"""``--json`` on every verb: one value, or an object a line where the verb goes on until it is ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet.fleet_nodes import edgevit, free_port
from typer.main import get_command
from typer.testing import CliRunner

from edgevit.cli import app

PAGE = (Path(__file__).parents[2] / "docs/reference/command-line.md").read_text()
PRINTED = PAGE.partition("## Machine-readable output")[2].partition("\n## ")[0]


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*path, name))


LEAVES = dict(leaves(get_command(app)))


@pytest.mark.parametrize("words", sorted(LEAVES), ids=" ".join)
def test_every_verb_takes_json_and_what_it_prints_is_written_down(words: tuple[str, ...]) -> None:
    assert any("--json" in one.opts for one in LEAVES[words].params)
    assert f"`{' '.join(words)}`" in PRINTED


def events(*words: str, until: str, home: Path) -> list[dict[str, Any]]:
    """All that a verb prints which is ended as soon as it told ``until``."""
    environment = {**os.environ, "EDGEVIT_HOME": str(home)}
    ran = subprocess.Popen(edgevit(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    found = []
    try:
        assert ran.stdout
        for line in ran.stdout:
            found.append(json.loads(line))
            if found[-1]["event"] == until:
                ran.send_signal(signal.SIGINT)
    finally:
        ran.kill()
        ran.wait()
    return found


def test_a_router_and_a_node_tell_what_happens_line_by_line(tmp_path: Path) -> None:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    told = events("router", "--listen", endpoint, "--json", until="ready", home=tmp_path)
    assert [one["event"] for one in told] == ["ready", "ended"]
    assert told[0]["listen"] == [endpoint]
    told = events("node", "--name", "n1", "--memory", "1MB", "--json", until="up", home=tmp_path)
    assert told[0]["event"] == "up"
    assert told[0]["memory_bytes"] == 1_000_000
    assert {one["node"] for one in told} == {"n1"}


def test_a_server_tells_its_url(make_artifact, tmp_path: Path) -> None:
    told = events("serve", str(make_artifact()), "--port", "0", "--json", until="ready", home=tmp_path)
    assert told[-1]["event"] == "ready"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/?", told[-1]["url"])


def test_the_fleet_live_is_a_status_a_line(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEVIT_HOME": str(tmp_path)}
    command = edgevit("node", "--name", "n1", "--memory", "1MB", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as node:
        try:
            assert node.stdout
            assert json.loads(node.stdout.readline())["event"] == "up"
            first = events("fleet", "top", "--every", "100ms", "--json", until="status", home=tmp_path)[0]
        finally:
            node.terminate()
    assert (first["event"], first["text"], first["nodes"][0]["node"]) == ("status", "1 node up", "n1")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))

    def run(*words: str) -> Any:
        ran = CliRunner().invoke(app, words)
        assert ran.exit_code == 0, ran.output
        return json.loads(ran.stdout)

    return run


def test_keys_say_what_became_of_them(said) -> None:
    key = "ab" * 32
    assert said("keys", "trust", key, "--name", "lab", "--json") == {"key": key, "name": "lab", "trusted": True}
    assert said("keys", "forget", key, "--json") == {"key": key, "trusted": False}


def test_a_report_is_its_rows_or_what_was_written(said, make_artifact, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(make_artifact())
    assert said("report", folder, "--json") == said("report", folder, "--format", "json")
    assert not (tmp_path / "report.html").exists()
    written = said("report", folder, "--format", "md", "-o", "r.md", "--json")
    assert written == {"written": "r.md", "format": "md", "bytes": (tmp_path / "r.md").stat().st_size}
    assert "contradict" in str(CliRunner().invoke(app, ["report", folder, "--format", "csv", "--json"]).exception)
