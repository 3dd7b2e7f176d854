"""infer, over real nodes that a real deployment is on, and in this process where there are none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fleet.fleet_nodes import edgevit, nodes, wait_live
from fleet.tiny_fleet import SIDE, make_bundle
from PIL import Image

from edgevit.artifact.opened import Artifact
from edgevit.bundle.embedded import BundleSession
from edgevit.bundle.opened import Bundle
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.asking.client import FleetClient
from edgevit.fleet.asking.infer import Inference, infer_images
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.operating.deploy import deploy
from edgevit.fleet.operating.node_logs import logs
from edgevit.prediction.results import Failure

PARTS = 3
DEADLINE_S = 10.0
KEYS = {"image", "top", "where", "parts", "answered", "degraded", "missing", "latency_ms"}


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.bundle = make_bundle(folder / "bundle", PARTS)
        self.images = [folder / "noise.png", folder / "large.jpg", folder / "grey.png"]
        random = np.random.default_rng(3)
        noise = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(self.images[0])
        Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(self.images[1])
        Image.new("L", (20, 20), 90).save(self.images[2])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A bundle on one node for each part, in a home of its own."""
    folder = tmp_path_factory.mktemp("fleet")
    names = [f"node-{index}" for index in range(PARTS)]
    with pytest.MonkeyPatch.context() as patch, nodes(folder / "home", *names):
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        found = Fleet(folder)
        wait_live(Link(), *names)
        deploy(found.bundle)
        yield found


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, and no node."""
    monkeypatch.setenv("EDGEVIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("edgevit.fleet.asking.where.FIND_S", 0.2)
    return make_bundle(tmp_path / "bundle", PARTS)


def test_the_fleet_gives_the_answers_of_the_bundle_in_one_process(fleet: Fleet) -> None:
    here = list(infer_images(fleet.bundle, fleet.images, where="embedded"))
    said: list[str] = []
    there = list(infer_images(fleet.bundle, fleet.images, deadline_s=DEADLINE_S, say=said.append))
    assert said == []
    for one, other in zip(there, here, strict=True):
        assert isinstance(one, Inference)
        assert (one.where, other.where) == ("fleet", "embedded")
        np.testing.assert_allclose(one.gathered.logits, other.gathered.logits, rtol=1e-5, atol=1e-6)
        assert [guess.label for guess in one.top] == [guess.label for guess in other.top]
        record = one.record()
        assert (set(record), set(other.record())) == (KEYS | {"trace"}, KEYS)
        assert (record["parts"], record["answered"], record["degraded"], record["missing"]) == (3, 3, False, [])
        assert one.line().endswith("3/3 sub-models")


def test_tensor_pixels_and_encoded_image_give_the_same_numbers_and_the_smallest_is_sent(fleet: Fleet) -> None:
    reached = reach(fleet.bundle, link=Link(), where="fleet")
    assert reached is not None
    session = reached.session
    pixels = np.asarray(Image.open(fleet.images[0]))
    rows = session.takes.preprocess(pixels)[None]
    flat = fleet.images[2].read_bytes()
    try:
        assert session.takes.load(flat).kind == "image"
        assert session.takes.load(fleet.images[1].read_bytes()).kind == "pixels"
        kinds = {session.takes.load(it).kind: session.answer(it, DEADLINE_S).logits for it in (pixels, rows)}
        assert set(kinds) == {"pixels", "tensor"}
        np.testing.assert_array_equal(kinds["pixels"], kinds["tensor"])
        several = session.answer(np.concatenate([rows] * 5), DEADLINE_S)
        np.testing.assert_allclose(several.logits, np.repeat(kinds["tensor"], 5, axis=0), rtol=1e-5)
        with BundleSession(fleet.bundle) as embedded:
            grey = np.repeat(np.asarray(Image.open(fleet.images[2]))[..., None], 3, axis=2)
            expected = embedded.infer(embedded.rows([grey]))["logits"]
        np.testing.assert_allclose(session.answer(flat, DEADLINE_S).logits, expected, rtol=1e-5)
        for wrong in (np.zeros((4, 4), np.uint8), np.zeros((1, 3, 9, 9), np.float32), rows[:0]):
            with pytest.raises(UsageError):
                session.answer(wrong, DEADLINE_S)
        timings = session.answer(rows, DEADLINE_S).timings
        assert [one.part for one in timings] == list(session.parts)
        assert len({one.node for one in timings}) == PARTS
        assert all(one.compute_ms > 0 and one.network_ms > 0 for one in timings)
    finally:
        reached.close()


def test_the_trace_of_an_answer_finds_it_in_the_log_of_every_node(fleet: Fleet) -> None:
    first, other = (
        one.record()["trace"] for one in infer_images(fleet.bundle, fleet.images[:2], deadline_s=DEADLINE_S)
    )
    assert first != other
    found = logs(Link(), trace=first).record()
    assert [(entry["event"], entry["trace"]) for entry in found] == [("answered", first)] * PARTS
    assert {entry["node"] for entry in found} == {f"node-{index}" for index in range(PARTS)}


def test_a_broken_image_is_one_line_and_the_others_go_on(fleet: Fleet, tmp_path: Path) -> None:
    header = fleet.images[2].read_bytes()
    (tmp_path / "cut.png").write_bytes(header[: len(header) // 2])
    (tmp_path / "text.png").write_text("no image")
    files = [tmp_path / "cut.png", tmp_path / "text.png", tmp_path / "none.png", fleet.images[0]]
    cut, text, none, good = infer_images(fleet.bundle, files, deadline_s=DEADLINE_S)
    for failure in (cut, text, none):
        assert isinstance(failure, Failure)
        assert failure.error.startswith(failure.image)
        assert set(failure.record()) == {"image", "error"}
    assert isinstance(good, Inference)
    assert not good.gathered.degraded


def test_an_unreached_deadline_leaves_nothing_to_fuse_and_is_a_fleet_error(fleet: Fleet) -> None:
    with pytest.raises(FleetError, match="no sub-model"):
        list(infer_images(fleet.bundle, fleet.images[:1], deadline_s=1e-6))


def test_a_degraded_answer_says_what_is_missing_and_require_all_refuses_it_after_it_is_shown(fleet: Fleet) -> None:
    short = make_bundle(fleet.bundle.parent / "short", PARTS, seed=9)
    deploy(short)
    bus = open_bus(Link(), "client")
    client = FleetClient(bus, Names())
    session = FleetSession(short, client)
    try:
        assert len(client.wait(session.revision, session.parts, 10)) == PARTS
        session.wanted = (*session.wanted[:2], type(session.wanted[2])("part-9", session.wanted[2].shape))
        session.classes = {**session.classes, "part-9": ("4", "5")}
        answer = session.answer(fleet.images[0].read_bytes(), DEADLINE_S)
        assert answer.sentence() == "degraded 2/3 (missing: part-9; classes 4, 5)"
        with pytest.raises(FleetError, match="not every sub-model"):
            session.answer(fleet.images[0].read_bytes(), DEADLINE_S, require_all=True)
    finally:
        session.close()
        client.close()
        bus.close()


def test_the_command_prints_records(fleet: Fleet) -> None:
    command = edgevit("infer", fleet.bundle, *fleet.images, "--deadline", "10s", "--json")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [(one["where"], one["answered"]) for one in json.loads(ran.stdout)] == [("fleet", PARTS)] * 3


# --- where ------------------------------------------------------------------------------------------------------------


def test_without_a_node_the_bundle_runs_here_and_says_so(nobody: Path) -> None:
    said: list[str] = []
    (one,) = infer_images(nobody, [nobody / "part-0/golden/0.png"], say=said.append)
    assert isinstance(one, Inference)
    assert (one.where, one.gathered.sentence()) == ("embedded", "3/3 sub-models")
    assert said == [f"no node serves {nobody}: running it in this process"]
    assert list(infer_images(nobody, [], where="embedded", say=said.append)) == []
    assert len(said) == 1


def test_an_artifact_runs_here_too_and_its_answer_holds_its_logits(nobody: Path) -> None:
    part = nobody / "part-1"
    (one,) = infer_images(part, [part / "golden/0.png"], where="embedded")
    assert set(one.record()) == KEYS
    assert one.record()["parts"] == 1
    assert isinstance(one, Inference)
    expected = Artifact.open(part).golden()[1]["logits"][:1]
    np.testing.assert_allclose(one.gathered.logits, expected, rtol=1e-5, atol=1e-6)


def test_a_fleet_that_was_asked_for_or_deployed_to_must_be_there(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = [nobody / "part-0/golden/0.png"]
    with pytest.raises(FleetError, match="no node serves"):
        list(infer_images(nobody, image, where="fleet"))
    with pytest.raises(FleetError, match="no node serves"):
        list(infer_images(nobody, image, link=Link(connect=("tcp/127.0.0.1:1",))))
    home = Path(nobody.parent / "home/fleet")
    home.mkdir(parents=True, exist_ok=True)
    (home / "deployed.json").write_text(json.dumps({Bundle.read(nobody).sha256: {"name": "bundle"}}))
    with pytest.raises(FleetError, match="no node serves"):
        list(infer_images(nobody, image))
    assert list(infer_images(nobody, image, where="embedded"))


def test_what_cannot_be_asked_is_refused_before_anyone_is(nobody: Path) -> None:
    with pytest.raises(UsageError, match="deadline"):
        infer_images(nobody, [], deadline_s=0)
    with pytest.raises(UsageError, match="top"):
        infer_images(nobody, [], top=0)
