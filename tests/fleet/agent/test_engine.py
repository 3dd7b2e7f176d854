"""The engine behind a real bus: what it answers, refuses and counts, and in which order it comes and goes."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from fleet.tiny_fleet import SIDE, make_bundle, noop_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from waiting import wait_for

from edgevit.artifact.manifest import MANIFEST, Array
from edgevit.errors import BadArtifact, FleetError, ParityFailed, Unsupported, UsageError
from edgevit.fleet.agent import engine as engine_module
from edgevit.fleet.agent.engine import MAX_IMAGE_PIXELS, Engine
from edgevit.fleet.agent.figures import Figures, serve_metrics
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.messages import (
    MAX_ROWS,
    Beat,
    InferMeta,
    PartFigures,
    ReplyMeta,
    Tensor,
    parse,
    tensor_bytes,
    tensor_of,
)
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Bus, Reply, gather
from edgevit.images import Preprocess, decode
from edgevit.profiles import statistics
from edgevit.runtimes.base import open_session

NAMES = Names("engine")
REVISION = "a" * 64
PART = "part-0"
KEY = NAMES.infer(REVISION, PART, "node")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b", 2)


@pytest.fixture(scope="module")
def buses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bus, Bus]]:
    """A node's and a client's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(tmp_path_factory.mktemp("home")))
        node = open_bus(Link(), "node", "node")
        client = open_bus(Link(), "client")
        yield node, client
        client.close()
        node.close()


@pytest.fixture
def make(buses: tuple[Bus, Bus]) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def build(**options: object) -> Engine:
        made.append(Engine(buses[0], NAMES, "node", secrets.token_hex(4), threads=1, **options))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


@pytest.fixture
def serving(make: Callable[..., Engine], client: Bus) -> Callable[..., Engine]:
    """A function that makes an engine which serves a part, as the client knows."""

    def load(folder: Path, **options: object) -> Engine:
        engine, seen = make(**options), {}
        watching = client.watch(NAMES.ready(REVISION, PART, "node", engine._incarnation), seen.__setitem__)
        engine.load("tiny", REVISION, PART, folder, 1000)
        wait_for(lambda: True in seen.values())
        watching.close()
        return engine

    return load


@pytest.fixture
def engine(serving: Callable[..., Engine], bundle: Path) -> Engine:
    return serving(bundle / PART)


@pytest.fixture
def client(buses: tuple[Bus, Bus]) -> Bus:
    return buses[1]


def asked(kind: str, said: Tensor | None = None, left_ms: float = 5000.0, **more: str) -> InferMeta:
    return InferMeta(id=secrets.token_hex(8), kind=kind, tensor=said, left_ms=left_ms, **more)


def ask(client: Bus, payload: bytes, meta: InferMeta | bytes) -> Reply:
    encoded = meta if isinstance(meta, bytes) else meta.encode()
    return gather(client, KEY, payload=payload, meta=encoded, timeout_s=5)


def ask_rows(client: Bus, rows: Array, **options: float) -> Reply:
    said, data = tensor_bytes(rows)
    return ask(client, bytes(data), asked("tensor", said, **options))


def answered(reply: Reply) -> Array:
    (answer,) = reply.good
    return tensor_of(parse(ReplyMeta, answer.meta).tensor, answer.payload)


def photo(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def expected(folder: Path, rows: Array) -> Array:
    with open_session(folder, threads=1) as session:
        return session.infer({"image": rows})["features"]


def preprocess(folder: Path) -> Preprocess:
    return Preprocess.model_validate_json(json.dumps(json.loads((folder / MANIFEST).read_text())["preprocess"]))


def figures(engine: Engine) -> PartFigures:
    (found,) = engine.figures()
    return found


def rows_of(count: int) -> Array:
    return np.random.default_rng(count).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_tensor_is_answered_with_the_features_and_the_questions_id(engine, client, bundle) -> None:
    rows = rows_of(2)
    said, data = tensor_bytes(rows)
    meta = asked("tensor", said)
    (answer,) = ask(client, bytes(data), meta).good
    reply = parse(ReplyMeta, answer.meta)
    assert reply.id == meta.id
    assert reply.queue_ms >= 0
    assert reply.compute_ms > 0
    assert np.array_equal(tensor_of(reply.tensor, answer.payload), expected(bundle / PART, rows))


def test_a_tensor_an_image_and_pixels_give_the_same_features(engine, client, bundle) -> None:
    image = photo()
    steps = preprocess(bundle / PART)
    pixels = steps.crop_pixels(decode(image))
    row = steps(decode(image))[np.newaxis]
    said, data = tensor_bytes(pixels)
    by_tensor = answered(ask_rows(client, row))
    assert np.array_equal(answered(ask(client, image, asked("image"))), by_tensor)
    assert np.array_equal(answered(ask(client, bytes(data), asked("pixels", said))), by_tensor)
    assert np.array_equal(by_tensor, expected(bundle / PART, row))


def test_a_part_that_preprocesses_itself_takes_pixels_as_they_are(serving, client, tmp_path) -> None:
    folder = noop_bundle(tmp_path / "b", 1) / PART
    serving(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    said, data = tensor_bytes(pixels)
    found = answered(ask(client, bytes(data), asked("pixels", said)))
    assert np.array_equal(found[0], pixels.reshape(-1)[:384])
    assert np.array_equal(answered(ask_rows(client, pixels[np.newaxis])), found)


def test_more_rows_than_the_part_takes_at_once_are_answered_in_order(engine, client, bundle) -> None:
    rows = rows_of(19)
    found = answered(ask_rows(client, rows))
    alone = np.concatenate([expected(bundle / PART, rows[index : index + 1]) for index in range(19)])
    assert np.allclose(found, alone, atol=1e-6)


def test_without_features_the_logits_are_the_answer(serving, client, bundle, tmp_path) -> None:
    folder = copied(bundle / PART, tmp_path / "logits")
    change(folder, lambda it: [spec.update(role="tensor") for spec in it["outputs"] if spec["name"] == "features"])
    serving(folder)
    assert answered(ask_rows(client, rows_of(1))).shape == (1, 3)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusals(client: Bus, payload: bytes, meta: InferMeta | bytes) -> str:
    (said,) = ask(client, payload, meta).refusals
    return said


def test_bad_questions_are_refused_in_a_sentence_and_counted(engine, client) -> None:
    row = rows_of(1)
    said, data = tensor_bytes(row)
    short = Tensor(shape=(1, 3, SIDE, SIDE))
    wrong = [
        (b"", b"{}", "id: Field required"),
        (b"", b"not json", "Invalid JSON"),
        (b"", b"x" * 5000, "at most 4096"),
        (bytes(data), asked("tensor"), "no stated shape"),
        (b"123", asked("tensor", short), "3 bytes for a tensor of 3072"),
        (b"", asked("tensor", Tensor(shape=(0, 3, SIDE, SIDE))), "0 rows"),
        (b"1234", asked("tensor", Tensor(shape=())), "no rows"),
        (bytes(4 * (MAX_ROWS + 1)), asked("tensor", Tensor(shape=(MAX_ROWS + 1, 1))), "1 to 64"),
        (bytes(12), asked("tensor", Tensor(shape=(1, 3))), "image must be 1-8×3×16×16"),
        (bytes(data), asked("pixels", said), "pixels must be uint8 16×16×3"),
        (b"no image", asked("image"), "not an image"),
        (b"", asked("image"), "empty"),
    ]
    for payload, meta, sentence in wrong:
        assert sentence in refusals(client, payload, meta)
    assert figures(engine).failed == len(wrong)
    assert figures(engine).answered == 0
    assert answered(ask_rows(client, row)).shape == (1, 8)


def test_a_bomb_of_an_image_is_refused_before_it_is_decoded(engine, client, monkeypatch) -> None:
    stream = io.BytesIO()
    Image.new("1", (MAX_IMAGE_PIXELS // 1000, 1001)).save(stream, "PNG")
    monkeypatch.setattr(engine_module, "decode", lambda _: pytest.fail("decoded"))
    assert len(stream.getvalue()) < 10_000
    assert "at most 16000000" in refusals(client, stream.getvalue(), asked("image"))


def test_an_engine_that_raises_is_a_refusal_and_the_next_question_is_answered(engine, client, monkeypatch) -> None:
    session = engine._parts[REVISION, PART].session
    with monkeypatch.context() as patch:
        patch.setattr(session, "_run", lambda _: 1 / 0)
        (said,) = ask_rows(client, rows_of(1)).refusals
    assert said == "ZeroDivisionError: division by zero"
    assert figures(engine).failed == 1
    assert answered(ask_rows(client, rows_of(1))).shape == (1, 8)


@settings(max_examples=60, deadline=None)
@given(meta=st.binary(max_size=200), payload=st.binary(max_size=200))
def test_nothing_that_is_asked_ends_the_engine(meta: bytes, payload: bytes) -> None:
    question = Asked(meta, payload)
    OFFLINE.take(question)
    assert question.over.wait(5)
    assert question.ends == 1
    assert question.refused


@pytest.fixture
def held_up(engine: Engine, monkeypatch) -> threading.Event:
    """The engine's inferences end only when this is set."""
    go, session = threading.Event(), engine._parts[REVISION, PART].session
    run = session._run
    monkeypatch.setattr(session, "_run", lambda feeds: go.wait(10) and run(feeds))
    return go


class Asking:
    """Questions that are asked at the same time."""

    def __init__(self, client: Bus) -> None:
        self._client = client
        self._threads: list[threading.Thread] = []
        self._replies: list[Reply] = []

    def ask(self, **options: float) -> None:
        def one() -> None:
            self._replies.append(ask_rows(self._client, rows_of(1), **options))

        self._threads.append(threading.Thread(target=one))
        self._threads[-1].start()

    def replies(self) -> list[Reply]:
        for thread in self._threads:
            thread.join()
        return self._replies


def test_a_question_whose_deadline_has_passed_is_not_begun(engine, client, held_up) -> None:
    asking = Asking(client)
    asking.ask()
    wait_for(lambda: figures(engine).queued == 1)
    asking.ask(left_ms=1.0)
    wait_for(lambda: figures(engine).queued == 2)
    time.sleep(0.01)
    held_up.set()
    assert sorted(reply.refusals for reply in asking.replies()) == [(), ("late",)]
    assert (figures(engine).late, figures(engine).answered) == (1, 1)


def test_a_full_queue_refuses_at_once_and_all_others_are_answered(serving, client, bundle, monkeypatch) -> None:
    engine = serving(bundle / PART, queue=2)
    go, session = threading.Event(), engine._parts[REVISION, PART].session
    run = session._run
    monkeypatch.setattr(session, "_run", lambda feeds: go.wait(10) and run(feeds))
    asking = Asking(client)
    for queued in (1, 2, 3):  # one in work, two that wait
        asking.ask()
        wait_for(lambda queued=queued: figures(engine).queued == queued)
    assert [ask_rows(client, rows_of(1)).refusals for _ in range(4)] == [("busy",)] * 4
    go.set()
    assert [len(reply.good) for reply in asking.replies()] == [1, 1, 1]
    assert (figures(engine).busy, figures(engine).answered) == (4, 3)
    wait_for(lambda: figures(engine).queued == 0)
    assert ask_rows(client, rows_of(1)).good


def test_the_queue_is_bounded_in_bytes_too(monkeypatch) -> None:
    offline = Offline(queue=8)
    monkeypatch.setattr(engine_module, "MAX_PAYLOAD", 1000)
    offline.block()
    questions = [Asked(b"{}", bytes(400)) for _ in range(4)]
    for question in questions:
        offline.take(question)
    offline.unblock()
    assert all(question.over.wait(5) for question in questions)
    assert [question.refused == "busy" for question in questions] == [False, False, True, True]


# --- coming and going -------------------------------------------------------------------------------------------------


def test_a_part_answers_as_soon_as_it_is_announced(make, client, bundle) -> None:
    said, data = tensor_bytes(rows_of(1))
    found: list[Reply] = []
    engine = make()
    for _ in range(5):
        seen: dict[str, bool] = {}
        watching = client.watch(NAMES.ready(REVISION, PART), seen.__setitem__)
        loading = threading.Thread(target=engine.load, args=("tiny", REVISION, PART, bundle / PART, 1000))
        loading.start()
        wait_for(lambda seen=seen: True in seen.values())
        found.append(ask(client, bytes(data), asked("tensor", said)))
        loading.join()
        watching.close()
        engine.unload(REVISION, PART)
    assert [len(reply.good) for reply in found] == [1] * 5


def test_unloading_withdraws_the_token_first_and_answers_what_was_asked(engine, client, held_up) -> None:
    gone, asking = threading.Event(), Asking(client)
    watching = client.watch(NAMES.ready(REVISION, PART), lambda _, there: None if there else gone.set())
    for _ in range(2):
        asking.ask()
    wait_for(lambda: figures(engine).queued == 2)
    unloading = threading.Thread(target=engine.unload, args=(REVISION, PART))
    unloading.start()
    assert gone.wait(5)
    held_up.set()
    unloading.join()
    assert [len(reply.good) for reply in asking.replies()] == [1, 1]
    assert engine.held() == ()
    assert ask_rows(client, rows_of(1)).answers == ()
    engine.unload(REVISION, PART)
    watching.close()


@pytest.mark.parametrize("factor", [-1.0, float("nan")], ids=["negated", "NaN"])
def test_a_model_that_does_not_give_its_golden_outputs_is_never_announced(
    make, client, bundle, tmp_path, factor
) -> None:
    """Every hash fits: its builder wrote the manifest of what it is now."""
    folder = tmp_path / PART
    shutil.copytree(bundle / PART, folder)
    model = onnx.load(str(folder / "model.onnx"))
    for one in model.graph.initializer:
        array = numpy_helper.to_array(one)
        if array.dtype == np.float32:
            one.CopyFrom(numpy_helper.from_array((factor * array).astype(np.float32), one.name))
    onnx.save(model, str(folder / "model.onnx"))
    manifest = json.loads((folder / "edgevit.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "edgevit.json").write_text(json.dumps(manifest))
    engine, seen = make(), {}
    with closing(client.watch(NAMES.ready(REVISION, PART, "node", engine._incarnation), seen.__setitem__)):
        with pytest.raises(ParityFailed, match="does not give here what it must"):
            engine.load("tiny", REVISION, PART, folder, 1000)
        time.sleep(0.2)
    assert seen == {}
    assert engine.held() == ()


def test_what_is_held_is_told_while_it_loads_and_after(make, bundle, monkeypatch) -> None:
    engine = make()
    opening, go = threading.Event(), threading.Event()

    def held_up(*given: object, **options: object) -> object:
        opening.set()
        go.wait(5)
        return open_session(*given, **options)

    monkeypatch.setattr(engine_module, "open_session", held_up)
    loading = threading.Thread(target=engine.load, args=("tiny", REVISION, PART, bundle / PART, 1234))
    loading.start()
    assert opening.wait(5)
    assert [(held.part, held.state, held.memory_bytes) for held in engine.held()] == [(PART, "loading", 1234)]
    engine.load("tiny", REVISION, PART, bundle / PART, 1234)  # is under way already
    go.set()
    loading.join()
    assert [(held.deployment, held.state) for held in engine.held()] == [("tiny", "ready")]


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_what_cannot_be_served_is_not_loaded_and_leaves_nothing(make, client, bundle, tmp_path) -> None:
    altered = copied(bundle / PART, tmp_path / "altered")
    (altered / "model.onnx").write_bytes(b"x")
    failed = copied(bundle / PART, tmp_path / "failed")
    change(failed, lambda it: it["parity"].update(status="failed", reason="for the test"))
    engine = make()
    for folder, error in (
        (tmp_path / "nothing", BadArtifact),
        (altered, BadArtifact),
        (failed, ParityFailed),
        (bundle / "fusion", Unsupported),
    ):
        with pytest.raises(error):
            engine.load("tiny", REVISION, PART, folder, 1000)
        assert engine.held() == ()
    assert ask_rows(client, rows_of(1)).answers == ()


def test_closing_withdraws_everything_and_refuses_more(make, client, bundle) -> None:
    engine = make()
    for part in ("part-0", "part-1"):
        engine.load("tiny", REVISION, part, bundle / part, 1000)
    seen: dict[str, bool] = {}
    watching = client.watch(NAMES.ready(REVISION), seen.__setitem__)
    wait_for(lambda: list(seen.values()) == [True, True])
    engine.close()
    wait_for(lambda: list(seen.values()) == [False, False])
    with pytest.raises(FleetError, match="leaving"):
        engine.load("tiny", REVISION, PART, bundle / PART, 1000)
    engine.close()
    watching.close()


def test_closing_refuses_what_it_cannot_wait_for(engine, client, held_up) -> None:
    asking = Asking(client)
    for queued in (1, 2, 3):
        asking.ask()
        wait_for(lambda queued=queued: figures(engine).queued == queued)
    engine.close(drain_s=0.05)
    held_up.set()
    replies = asking.replies()
    assert [reply.refusals for reply in replies].count(("leaving",)) == 2
    assert all(len(reply.answers) == 1 for reply in replies)


# --- figures and the log ----------------------------------------------------------------------------------------------


def test_answers_are_counted_and_timed(engine, client) -> None:
    for _ in range(5):
        ask_rows(client, rows_of(1))
    wait_for(lambda: figures(engine).queued == 0)
    found = figures(engine)
    assert (found.answered, found.busy, found.late, found.failed, found.queued) == (5, 0, 0, 0, 0)
    assert 0 < found.compute_p50_ms <= found.compute_p95_ms
    assert found.queue_p50_ms is not None


def test_a_part_that_cannot_be_announced_is_not_held(bundle) -> None:
    class Mute(Offline):
        def announce(self, _: str) -> Nothing:
            raise FleetError("the session is closed")

    engine = Engine(Mute(), NAMES, "node", "one", threads=1)
    for _ in range(2):
        with pytest.raises(FleetError, match="closed"):
            engine.load("tiny", REVISION, PART, bundle / PART, 1000)
    assert engine.held() == ()
    engine.close()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=256))
def test_the_percentiles_of_a_node_are_those_of_a_profile(compute_ms: list[float]) -> None:
    figures = Figures(REVISION, PART)
    for ms in compute_ms:
        figures.answered(0.0, ms)
    found = figures.record(queued=0)
    assert found.compute_p50_ms == round(statistics.percentile(compute_ms, 0.5).raw, 4)
    assert found.compute_p95_ms == round(statistics.percentile(compute_ms, 0.95).raw, 4)
    assert found.queue_p50_ms == 0


def test_the_median_of_two_answers_lies_between_them() -> None:
    figures = Figures(REVISION, PART)
    figures.answered(0.0, 1.0)
    figures.answered(0.0, 2.0)
    assert figures.record(queued=0).compute_p50_ms == 1.5


def test_a_part_without_answers_has_no_percentiles() -> None:
    assert Figures(REVISION, PART).record(queued=0).compute_p50_ms is None


def test_prometheus_is_told_of_every_part() -> None:
    part = PartFigures(revision=REVISION, part=PART, answered=3, busy=1, compute_p50_ms=2.0)
    beat = Beat(node="node", incarnation="one", seq=1, rss_bytes=5, memory_bytes=7, free_bytes=6, parts=(part,))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match="cannot listen"):
            serve_metrics(address, lambda: beat)
    server = serve_metrics(address, lambda: beat)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
        found = reply.read().decode().splitlines()
    server.close()
    labels = f'node="node",part="{PART}",revision="{REVISION}"'
    assert f"edgevit_part_answers_total{{{labels}}} 3.0" in found
    assert f'edgevit_part_refusals_total{{node="node",part="{PART}",reason="busy",revision="{REVISION}"}} 1.0' in found
    assert (
        f'edgevit_part_compute_seconds{{node="node",part="{PART}",quantile="0.5",revision="{REVISION}"}} 0.002' in found
    )
    assert not any("queue_seconds{" in line for line in found)


def test_a_request_is_found_in_the_log_by_its_trace(serving, client, bundle) -> None:
    stream = io.StringIO()
    log = Log("node", stream)
    serving(bundle / PART, log=log)
    said, data = tensor_bytes(rows_of(1))
    good, bad = "1" * 32, "2" * 32
    ask(client, bytes(data), asked("tensor", said, trace=good))
    ask(client, b"no image", asked("image", trace=bad))
    wait_for(lambda: len(log.newest(trace=good)) == len(log.newest(trace=bad)) == 1)
    log_served = client.serve(NAMES.log("node"), log.serve)
    reply = gather(client, NAMES.log("node"), meta=json.dumps({"trace": bad}).encode(), timeout_s=5)
    (line,) = [json.loads(one) for one in reply.good[0].payload.splitlines()]
    assert (line["node"], line["event"], line["part"], line["trace"]) == ("node", "refused", PART, bad)
    assert gather(client, NAMES.log("node"), meta=b'{"lines": "all"}', timeout_s=5).refusals
    log_served.close()
    log.close()
    written = [json.loads(one) for one in stream.getvalue().splitlines()]
    assert [one["event"] for one in written] == ["ready", "refused"]  # answers stay in memory


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    class Stuck(io.StringIO):
        def write(self, _: str) -> int:
            threading.Event().wait(10)
            return 0

    log = Log("node", Stuck())
    begun = time.monotonic()
    for index in range(5000):
        log.info("line", index=index)
    log.close()
    assert time.monotonic() - begun < 5
    assert log.newest(1)[0]["index"] == 4999


def test_refusals_do_not_fill_a_disk() -> None:
    stream = io.StringIO()
    log = Log("node", stream)
    for _ in range(5000):
        log.refusal("refused")
    wait_for(lambda: bool(stream.getvalue()))
    log.close()
    assert len(stream.getvalue().splitlines()) < 500
    assert len(log.newest(5000)) == 2000


# --- without a bus ----------------------------------------------------------------------------------------------------


class Asked:
    """A question that was asked here."""

    key = KEY

    def __init__(self, meta: bytes, payload: bytes) -> None:
        self.meta, self._payload = meta, payload
        self.ends, self.refused, self.over = 0, "", threading.Event()

    @property
    def size(self) -> int:
        return len(self._payload)

    def payload(self) -> bytes:
        return self._payload

    def answer(self, payload: bytes, meta: bytes = b"{}") -> None:
        pass

    def finish(self) -> None:
        self.ends += 1
        self.over.set()

    def refuse(self, reason: str) -> None:
        self.ends += 1
        self.refused = reason
        self.over.set()


class Nothing:
    def close(self) -> None: ...


class Offline:
    """An engine whose questions are put to it here. Only the network is missing."""

    def __init__(self, queue: int = 8) -> None:
        self._engine: Engine | None = None
        self._queue = queue
        self._free = threading.Event()
        self._free.set()

    def serve(self, _: str, handler: Callable[..., None]) -> Nothing:
        self._handler = handler
        return Nothing()

    def announce(self, _: str) -> Nothing:
        return Nothing()

    def take(self, question: Asked) -> None:
        if self._engine is None:
            self._engine = Engine(self, NAMES, "node", "one", threads=1, queue=self._queue)
            with tempfile.TemporaryDirectory() as folder:
                self._engine.load("tiny", REVISION, PART, make_bundle(Path(folder) / "b", 1) / PART, 1)
        self._handler(question)

    def block(self) -> None:
        """Keep the worker busy until ``unblock``."""
        self._free.clear()
        held = threading.Event()

        class Slow(Asked):
            def payload(self_inner) -> bytes:  # noqa: N805
                held.set()
                self._free.wait(10)
                return b""

        meta = InferMeta(id="0" * 16, kind="image", left_ms=60_000.0).encode()
        self.take(Slow(meta, b""))
        held.wait(5)

    def unblock(self) -> None:
        self._free.set()


OFFLINE = Offline()
