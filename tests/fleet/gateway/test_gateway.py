"""The gateway over HTTP: the Open Inference Protocol, images, bounds, metrics; from this process and from a fleet."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from fleet.tiny_fleet import make_bundle
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_for

from edgevit.bundle.embedded import BundleSession, Missing
from edgevit.errors import FleetError, UsageError
from edgevit.fleet.asking.answers import PartTiming
from edgevit.fleet.bus.link import Link
from edgevit.fleet.gateway.answering import Answering, Looked, Said, embedded
from edgevit.fleet.gateway.app import Bounds, Gateway
from edgevit.fleet.gateway.callers import Callers
from edgevit.fleet.gateway.oip import HEADER_LENGTH
from edgevit.fleet.gateway.server import run, serve
from edgevit.images import decode
from edgevit.runtimes.base import open_session
from edgevit.tasks.classify import Classes, best


class Answer:
    """A response that was read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one gateway, each time over a connection of its own."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc

    def __call__(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            return Answer(connection.getresponse())
        finally:
            connection.close()


@contextmanager
def served(model: Answering, callers: Callers | None = None, **bounds: Any) -> Iterator[Client]:
    """A real server in a thread."""
    gateway = Gateway(model, bounds=Bounds(**bounds), callers=callers)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=run, args=(gateway, listening))
        thread.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        try:
            wait_for(lambda: serves(client))
            yield client
        finally:
            gateway.stop()
            thread.join(10)
            gateway.close()
            assert not thread.is_alive()


def serves(ask: Client) -> bool:
    try:
        return ask("GET", "/v2/health/live").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("gateway") / "digits", parts=4)


@pytest.fixture(scope="module")
def ask(bundle: Path) -> Iterator[Client]:
    model = embedded(bundle)
    with served(model, body_bytes=1 << 20) as client:
        yield client
    model.close()


def picture(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def image_rows(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 3, 16, 16)).astype(np.float32)


def body_of(array: np.ndarray, **more: Any) -> dict[str, Any]:
    one = {"name": "image", "shape": list(array.shape), "datatype": "FP32", "data": array.tolist()}
    return {"inputs": [one], **more}


def expected(bundle: Path, array: np.ndarray) -> np.ndarray:
    with BundleSession(bundle) as session:
        return session.answer({"image": array}).logits


# --- the protocol -------------------------------------------------------------------------------------------------


def test_health_and_metadata_are_those_of_the_open_inference_protocol(ask: Client) -> None:
    assert ask("GET", "/v2/health/live").json == {"live": True}
    assert ask("GET", "/v2/health/ready").json == {"ready": True}
    assert ask("GET", "/healthz").json == {"status": "ok"}
    server = ask("GET", "/v2").json
    assert (server["name"], server["extensions"]) == ("edgevit", ["binary_tensor_data"])
    model = ask("GET", "/v2/models/digits").json
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 16, 16]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 8]}]
    assert ask("GET", f"/v2/models/digits/versions/{model['versions'][0]}").json == model
    assert ask("GET", "/v2/models/digits/ready").json == {"name": "digits", "ready": True}


@pytest.mark.parametrize("nested", [True, False])
def test_tensors_in_json_give_the_bundles_own_numbers(ask: Client, bundle: Path, nested: bool) -> None:
    array = image_rows()
    request = body_of(array, id="seven")
    if not nested:
        request["inputs"][0]["data"] = array.ravel().tolist()
    found = ask("POST", "/v2/models/digits/infer", json.dumps(request))
    assert (found.status, found.headers["Content-Type"]) == (200, "application/json")
    (logits,) = found.json["outputs"]
    assert (found.json["id"], found.json["model_name"], logits["shape"]) == ("seven", "digits", [2, 8])
    assert found.json["parameters"]["sub_models"] == 4
    assert np.reshape(logits["data"], (2, 8)) == pytest.approx(expected(bundle, array), abs=1e-6)


@pytest.mark.parametrize("all_outputs", [True, False])
def test_tensors_as_bytes_go_both_ways(ask: Client, bundle: Path, all_outputs: bool) -> None:
    array = image_rows(3)
    one = {"name": "image", "shape": [3, 3, 16, 16], "datatype": "FP32"}
    one["parameters"] = {"binary_data_size": array.nbytes}
    request: dict[str, Any] = {"inputs": [one]}
    if all_outputs:
        request["parameters"] = {"binary_data_output": True}
    else:
        request["outputs"] = [{"name": "logits", "parameters": {"binary_data": True}}]
    text = json.dumps(request).encode()
    found = ask("POST", "/v2/models/digits/infer", text + array.tobytes(), {HEADER_LENGTH: str(len(text))})
    assert (found.status, found.headers["Content-Type"]) == (200, "application/octet-stream")
    size = int(found.headers[HEADER_LENGTH])
    (logits,) = json.loads(found.body[:size])["outputs"]
    assert "data" not in logits
    assert logits["parameters"]["binary_data_size"] == len(found.body) - size == 3 * 8 * 4
    assert np.frombuffer(found.body[size:], "<f4").reshape(3, 8) == pytest.approx(expected(bundle, array), abs=1e-6)


def test_an_image_gives_its_classes_and_where_the_time_went(ask: Client, bundle: Path) -> None:
    found = ask("POST", "/v2/models/digits/classify", picture()).json
    with BundleSession(bundle) as session:
        logits = session.answer(session.rows([decode(picture())])).logits[0]
    assert found["top"][0]["index"] == int(logits.argmax())
    assert sum(one["probability"] for one in found["top"]) <= 1
    assert (found["said"], found["degraded"], found["where"]) == ("4/4 sub-models", False, "embedded")
    assert [one["part"] for one in found["timings"]] == ["part-0", "part-1", "part-2", "part-3"]


def test_a_single_artifact_is_served_alike(make_artifact: Callable[..., Path]) -> None:
    model = embedded(make_artifact("lone", batch=(1, 4)))
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with served(model) as ask:
        found = ask("POST", "/v2/models/lone/infer", json.dumps(body_of(array))).json
        labels = [one["label"] for one in ask("POST", "/v2/models/lone/classify", picture()).json["top"]]
        too_many = ask("POST", "/v2/models/lone/infer", json.dumps(body_of(np.repeat(array, 3, axis=0))))
    with open_session(model.session.artifact) as session:  # type: ignore[attr-defined]
        assert np.reshape(found["outputs"][0]["data"], (2, 4)) == pytest.approx(
            session.infer({"image": array})["logits"], abs=1e-6
        )
    assert sorted(labels) == ["ant", "bee", "cat", "dog"]
    assert too_many.status == 400
    model.close()


# --- what is wrong --------------------------------------------------------------------------------------------------

GOOD = {"name": "image", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": [0.0] * 768}
WRONG = {
    "no JSON": b"{",
    "no object": b"[]",
    "nothing": b"",
    "no inputs": {"inputs": []},
    "another input": {"inputs": [GOOD | {"name": "x"}]},
    "an input twice": {"inputs": [GOOD, GOOD]},
    "another dtype": {"inputs": [GOOD | {"datatype": "FP64"}]},
    "another shape": {"inputs": [GOOD | {"shape": [1, 3, 8, 32]}]},
    "a huge shape": {"inputs": [GOOD | {"shape": [1 << 40, 3, 16, 16]}]},
    "no rows": {"inputs": [GOOD | {"shape": [0, 3, 16, 16], "data": []}]},
    "too many rows": {"inputs": [GOOD | {"shape": [65, 3, 16, 16], "data": [0.0] * 65 * 768}]},
    "too few numbers": {"inputs": [GOOD | {"data": [0.0]}]},
    "words": {"inputs": [GOOD | {"data": ["a"] * 768}]},
    "nulls": {"inputs": [GOOD | {"data": [None] * 768}]},
    "ragged": {"inputs": [GOOD | {"data": [[1.0], 2.0]}]},
    "deep": b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": ' + b"[" * 9000 + b"]" * 9000,
    "infinite": {"inputs": [GOOD | {"data": [1e300] * 768}]},
    "no data": {"inputs": [{key: value for key, value in GOOD.items() if key != "data"}]},
    "another output": {"inputs": [GOOD], "outputs": [{"name": "features"}]},
    "bytes that are not there": {"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": 3072}}]},
    "a size that is no number": {"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": "3072"}}]},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_a_400_with_one_sentence(ask: Client, what: str) -> None:
    body = WRONG[what]
    found = ask("POST", "/v2/models/digits/infer", body if isinstance(body, bytes) else json.dumps(body))
    assert found.status == 400, found.body
    assert list(found.json) == ["error"]
    assert "\n" not in found.json["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999", "7", ""])
def test_a_wrong_header_length_is_a_400(ask: Client, length: str) -> None:
    assert ask("POST", "/v2/models/digits/infer", json.dumps({"inputs": [GOOD]}), {HEADER_LENGTH: length}).status == 400


def test_bytes_left_over_are_refused(ask: Client) -> None:
    text = json.dumps({"inputs": [GOOD]}).encode()
    found = ask("POST", "/v2/models/digits/infer", text + b"more", {HEADER_LENGTH: str(len(text))})
    assert found.status == 400
    assert "belong to no input" in found.json["error"]


def test_unknown_models_paths_and_methods_are_404_and_405(ask: Client) -> None:
    assert ask("GET", "/v2/models/cats").status == 404
    assert ask("GET", "/v2/models/digits/versions/9").status == 404
    assert ask("GET", "/nothing").json == {"error": "Not Found"}
    wrong = ask("GET", "/v2/models/digits/infer")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")


def test_a_broken_image_is_a_400(ask: Client) -> None:
    for body in (b"not an image", picture()[:60], b""):
        found = ask("POST", "/v2/models/digits/classify", body)
        assert found.status == 400, found.body
        assert found.json["error"]


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(ask: Client) -> None:
    connection = http.client.HTTPConnection(ask.host, timeout=20)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()  # nothing of the body is sent
    assert Answer(connection.getresponse()).status == 413
    connection.close()
    chunks = http.client.HTTPConnection(ask.host, timeout=20)
    try:
        chunks.request("POST", "/v2/models/digits/infer", iter([b"x" * 65536] * 64), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        assert Answer(chunks.getresponse()).status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server had answered and closed before all was sent
    finally:
        chunks.close()


# --- bounds and what is told --------------------------------------------------------------------------------------


NEW_TRACE = "1" * 32


class Stuck:
    """A model that answers when it is told to, with one part missing."""

    def __init__(self, real: Answering) -> None:
        self._real, self.go, self.asked = real, threading.Event(), threading.Semaphore(0)
        self.fails: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def infer(self, feeds: Mapping[str, np.ndarray], deadline_s: float, trace: str | None = None) -> Said:
        raise NotImplementedError

    def look(self, image: bytes, deadline_s: float, trace: str | None = None) -> Looked:
        self.asked.release()
        self.go.wait(20)
        if self.fails:
            raise self.fails
        gone = (Missing("part-2", ("4", "5"), "gone"),)
        times = tuple(PartTiming(f"part-{i}", f"pi-{i}", 1.0, 2.0, 3.0) for i in (0, 1, 3))
        logits = np.zeros((1, 8), np.float32)
        said = Said({"logits": logits}, 4, gone, 6.5, times, trace or NEW_TRACE)
        return Looked(said, Classes(best(logits[0], None, 5)))


def test_when_too_much_is_under_way_the_next_is_refused_at_once(bundle: Path) -> None:
    model = Stuck(embedded(bundle))
    with served(model, in_flight=2) as ask:
        found: list[Answer] = []
        threads = [
            threading.Thread(target=lambda: found.append(ask("POST", "/v2/models/digits/classify", picture())))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert model.asked.acquire(timeout=20)
        refused = ask("POST", "/v2/models/digits/classify", picture())
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert ask("GET", "/v2/health/live").status == 200
        model.go.set()
        for thread in threads:
            thread.join(20)
        assert [one.status for one in found] == [200, 200]
        assert found[0].json["said"] == "degraded 3/4 (missing: part-2; classes 4, 5)"


def test_a_fleet_that_does_not_answer_is_a_503_and_a_crash_a_500_that_tells_no_secrets(bundle: Path) -> None:
    model = Stuck(embedded(bundle))
    model.go.set()
    with served(model) as ask:
        model.fails = FleetError("no sub-model answered")
        found = ask("POST", "/v2/models/digits/classify", picture())
        assert (found.status, found.json) == (503, {"error": "no sub-model answered"})
        model.fails = RuntimeError("secret")
        found = ask("POST", "/v2/models/digits/classify", picture())
        assert found.status == 500
        assert b"secret" not in found.body


@pytest.mark.parametrize(
    ("sent", "known_by"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", "a" * 32),
        (f"00-{'0' * 32}-{'b' * 16}-01", NEW_TRACE),
        ("no trace", NEW_TRACE),
    ],
)
def test_an_answer_says_its_trace_id_which_is_the_askers_where_it_has_one(
    bundle: Path, sent: str, known_by: str
) -> None:
    model = Stuck(embedded(bundle))
    model.go.set()
    with served(model) as ask:
        found = ask("POST", "/v2/models/digits/classify", picture(), {"traceparent": sent})
        assert found.headers["X-Trace-Id"] == known_by


def test_metrics_can_be_parsed_and_count_what_happened(bundle: Path) -> None:
    model = Stuck(embedded(bundle))
    model.go.set()
    with served(model) as ask:
        for _ in range(3):
            ask("POST", "/v2/models/digits/classify", picture())
        ask("POST", "/v2/models/digits/infer", b"{")
        found = ask("GET", "/metrics")
    families = {one.name: one for one in text_string_to_metric_families(found.body.decode())}
    assert found.headers["Content-Type"].startswith("text/plain; version=0.0.4")

    def value(family: str, name: str, **labels: str) -> float:
        (one,) = [s.value for s in families[family].samples if s.name == name and labels.items() <= s.labels.items()]
        return one

    assert value("edgevit_requests", "edgevit_requests_total", outcome="degraded") == 3
    assert value("edgevit_requests", "edgevit_requests_total", outcome="rejected") == 1
    assert value("edgevit_missing", "edgevit_missing_total", part="part-2") == 3
    assert value("edgevit_compute_seconds", "edgevit_compute_seconds_count", node="pi-0", part="part-0") == 3
    assert value("edgevit_network_seconds", "edgevit_network_seconds_sum", node="pi-1", part="part-1") == pytest.approx(
        0.009
    )
    assert value("edgevit_in_flight", "edgevit_in_flight") == 0


def test_live_figures_come_as_server_sent_events(ask: Client) -> None:
    ask("POST", "/v2/models/digits/classify", picture())
    connection = http.client.HTTPConnection(ask.host, timeout=20)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    line = b""
    while not line.startswith(b"data: "):
        line = response.readline()
    connection.close()
    now = json.loads(line.removeprefix(b"data: "))
    assert (now["model"], now["where"], len(now["parts"])) == ("digits", "embedded", 4)
    assert now["nodes"][0]["parts"][0]["compute_ms"] > 0


def test_the_page_may_ask_only_this_server(ask: Client) -> None:
    found = ask("GET", "/")
    policy = found.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "script-src 'sha256-" in policy
    assert b"http://" not in found.body
    assert b"https://" not in found.body


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_a_usage_error_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70_000):
            with pytest.raises(UsageError, match="port"):
                serve(tmp_path / "nothing", port=port)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_and_ends_cleanly_although_a_dashboard_is_open(bundle: Path, sig: signal.Signals) -> None:
    code = "import sys; from edgevit.fleet.gateway.server import serve; serve(sys.argv[1], port=0, where='embedded')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(bundle)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = next(word for word in said.split() if word.startswith("http://"))
        ask = Client(url)
        wait_for(lambda: serves(ask))
        connection = http.client.HTTPConnection(ask.host, timeout=20)
        connection.request("GET", "/events")
        connection.getresponse().readline()
        process.send_signal(sig)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
        connection.close()
    finally:
        process.kill()
        process.communicate()


def test_without_a_node_the_fleet_that_is_asked_for_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.fleet.asking.where.FIND_S", 0.2)
    with pytest.raises(FleetError, match="no node serves"):
        serve(bundle, port=0, where="fleet", link=Link())
