"""The fleet's verbs as they are typed: what they take, and what bad input is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgevit.cli import app
from edgevit.errors import UsageError
from edgevit.fleet.bus.link import Link
from edgevit.verbs.links import link_of, seconds

VERBS = (
    "node", "router", "deploy", "undeploy", "drain", "rebalance", "infer", "serve", "enroll", "revoke",
    "fleet status", "fleet nodes", "fleet top", "fleet logs", "fleet simulate", "fleet up",
    "fleet ca init", "fleet ca serve", "fleet ca rotate",
)  # fmt: skip
LINKED = ("infer", "deploy", "undeploy", "drain", "rebalance", "serve", "fleet status", "fleet nodes", "fleet logs")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    ran = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert ran.exit_code == 0
    assert "Usage:" in ran.stdout


@pytest.mark.parametrize("verb", LINKED)
def test_every_verb_that_asks_a_fleet_can_be_told_which(verb: str) -> None:
    shown = CliRunner().invoke(app, [*verb.split(), "--help"]).stdout
    for option in ("--connect", "--identity", "--insecure", "--cluster", "--router-only"):
        assert option in shown


@pytest.mark.parametrize(("text", "found"), [("200ms", 0.2), ("1.5s", 1.5), ("2", 2.0), (" 10 ms", 0.01)])
def test_times_are_milliseconds_or_seconds(text: str, found: float) -> None:
    assert seconds("--deadline", text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "0", "-1s", "200 m", "fast", "1e3s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--deadline"):
        seconds("--deadline", text)


def test_without_options_all_stays_on_this_machine() -> None:
    assert link_of() == Link()
    assert link_of().here


def test_a_host_behind_a_router_is_its_client() -> None:
    assert link_of(connect=["tls/hub:7447"], identity=Path("me"), router_only=True).mode == "client"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["infer", "bundle", "x.png", "--deadline", "soon"], "is not a time"),
        (["infer", "bundle", "x.png", "--where", "moon"], "neither fleet nor embedded"),
        (["node", "--label", "kitchen"], "KEY=VALUE"),
        (["node", "--memory", "lots"], "amount of memory"),
        (["node", "--macs-per-s", "fast"], "MACs per second"),
        (["node", "--name", "a/b"], "cannot be used in a fleet"),
        (["fleet", "status", "--connect", "tcp/10.0.0.1:7447"], "without encryption"),
        (["fleet", "status", "--connect", "tls/10.0.0.1:7447"], "needs an identity"),
        (["enroll", "pi", "--role", "king"], "unknown role"),
        (["router"], "endpoint to listen on"),
        (["profile", "artifact", "--on", "pi", "--fail-if", "p90"], "is not FIGURE>VALUE"),
        (["profile", "artifact", "--on", ","], "names no node"),
        (["profile", "artifact", "--out", "there"], "for results of --on"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    ran = CliRunner().invoke(app, words)
    assert isinstance(ran.exception, UsageError), ran.output
    assert said in str(ran.exception)


def test_the_fleet_to_ask_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    monkeypatch.setenv("EDGEVIT_CONNECT", "tcp/127.0.0.1:1 tcp/10.0.0.1:7447")
    ran = CliRunner().invoke(app, ["fleet", "status"])
    assert "tcp/10.0.0.1:7447 leaves this machine" in str(ran.exception)
