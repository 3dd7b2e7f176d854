"""A router that dies and comes back, and a link between two sites that is cut and heals; mTLS, network namespaces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fleet.laptop import Frame
from fleet.netns import Network, network
from fleet.sites import Sites
from fleet.tiny_fleet import make_bundle

PARTS = {"part-0", "part-1"}


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network(3) as made:
        yield made


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Network) -> Iterator[Sites]:
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path))
    with Sites(tmp_path, net) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("sites") / "bundle", len(PARTS))


def whole(frame: Frame) -> bool:
    return frame.parts.keys() == PARTS


def by(node: str, frame: Frame) -> bool:
    return set(frame.parts.values()) == {node}


def test_when_a_router_dies_nodes_with_a_second_one_carry_on_and_the_others_come_back_with_it(
    sites: Sites, bundle: Path
) -> None:
    first, second, site = 0, 1, 2
    sites.router("first", first)
    sites.node("both", site, first, second)
    sites.node("only", site, first)
    sites.see(first, "both", "only")
    sites.deploy(first, bundle)
    sites.laptop("laptop", site, bundle, first, second, fps=40, deadline_s=2)
    sites.wait_for_frames("laptop", whole)
    sites.router("second", second, first)  # only now, so that all of them are on the first
    sites.see(second, "both", "only")
    sites.kill("first")
    carried_on = sites.wait_for_frames("laptop", partial(by, "both"))
    assert sites.frames("laptop")[-1].live == ["both"]
    sites.router("first", first)
    sites.wait_for_frames("laptop", whole)
    assert all("both" in one.parts.values() for one in sites.frames("laptop", carried_on))
    assert sites.frames("laptop")[-1].live == ["both", "only"]


def test_when_the_link_between_two_sites_is_cut_each_serves_itself_and_they_find_each_other_again(
    sites: Sites, bundle: Path
) -> None:
    """A site is one host: its router, its node with all parts, and its client."""
    here, there = 0, 1
    names = {here: "here", there: "there"}
    sites.router("router-here", here)
    sites.router("router-there", there, here)
    for site, name in names.items():
        sites.node(name, site, site)
    for site in names:
        sites.see(site, *names.values())
    sites.deploy(here, bundle, replicas=2)
    for site, name in names.items():
        sites.laptop(f"laptop-{name}", site, bundle, site, fps=40, deadline_s=2)

    def see(*wanted: str) -> list[float]:
        """Until each laptop sees these, or with none given its own site's node only."""
        return [
            sites.wait_for_frames(f"laptop-{name}", lambda one, name=name: one.live == list(wanted or (name,)))
            for name in names.values()
        ]

    begun = max(see("here", "there"))
    sites.net.cut(there)
    try:
        alone = max(see())
        healed = time.monotonic()
    finally:
        sites.net.heal(there)
    see("here", "there")
    for name in names.values():
        frames = sites.frames(f"laptop-{name}", begun)
        assert all(
            whole(one) and by(name, one) for one in frames if alone <= one.due and one.due + one.ms / 1e3 < healed
        )
        assert sum(not whole(one) for one in frames) <= 2  # one under way when the link went, one when it came back
    sites.kill("here")
    sites.wait_for_frames("laptop-here", lambda one: whole(one) and by("there", one))
