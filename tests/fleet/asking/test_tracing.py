"""Spans of real answers: how they belong together, what they cost nobody who did not ask, and that they go out."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fleet.fleet_nodes import edgevit, nodes, wait_live
from fleet.tiny_fleet import SIDE, make_bundle
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_trace_id, use_span
from PIL import Image

from edgevit.errors import FleetError
from edgevit.fleet.asking import tracing
from edgevit.fleet.asking.session import FleetSession
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.operating.deploy import deploy
from edgevit.fleet.operating.node_logs import logs
from edgevit.registry import pip_line

DEADLINE_S = 10.0
IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two parts on a node each."""
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch, nodes(folder / "home", "pi-1", "pi-2"):
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        wait_live(Link(), "pi-1", "pi-2")
        made = make_bundle(folder / "bundle", parts=2)
        deploy(made)
        yield made


@pytest.fixture
def session(bundle: Path) -> Iterator[FleetSession]:
    reached = reach(bundle, link=Link(), where="fleet")
    assert reached is not None
    yield reached.session
    reached.close()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    spans = tracing.Spans(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_spans", lambda: spans)
    return exporter


def trace_of(span: ReadableSpan) -> str:
    return format_trace_id(span.context.trace_id)


def test_an_answer_is_a_span_with_one_for_each_part_and_the_trace_id_of_the_nodes_logs(
    session: FleetSession, told: InMemorySpanExporter
) -> None:
    answer = session.answer(IMAGE, DEADLINE_S)
    *parts, whole = told.get_finished_spans()
    assert (whole.name, whole.parent) == ("edgevit.answer", None)
    assert whole.attributes == {"edgevit.parts": 2, "edgevit.answered": 2, "edgevit.revision": session.revision}
    assert [span.attributes["edgevit.part"] for span in parts] == ["part-0", "part-1"]
    for span, timing in zip(parts, answer.timings, strict=True):
        assert span.parent == whole.context
        assert span.attributes == {f"edgevit.{name}": value for name, value in timing.record().items()}
        taken_ms = timing.queue_ms + timing.compute_ms + timing.network_ms
        assert (span.end_time - span.start_time) / 1e6 == pytest.approx(taken_ms, abs=1e-3)
    lines = logs(Link(), trace=trace_of(whole)).entries
    assert {(line["event"], line["part"], line["node"]) for line in lines} == {
        ("answered", one.part, one.node) for one in answer.timings
    }


def test_a_trace_id_of_the_caller_is_kept(session: FleetSession, told: InMemorySpanExporter) -> None:
    session.answer(IMAGE, DEADLINE_S, trace="0123456789abcdef" * 2)
    assert {trace_of(span) for span in told.get_finished_spans()} == {"0123456789abcdef" * 2}
    assert logs(Link(), trace="0123456789abcdef" * 2).entries


def test_a_span_that_the_caller_has_open_is_the_parent(session: FleetSession, told: InMemorySpanExporter) -> None:
    outer = TracerProvider().get_tracer("an application").start_span("request")
    with use_span(outer):
        session.answer(IMAGE, DEADLINE_S)
    assert told.get_finished_spans()[-1].parent == outer.get_span_context()


def test_what_failed_is_said_in_the_span(
    session: FleetSession, told: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "revision", "0" * 64)  # nobody has it
    with pytest.raises(FleetError):
        session.answer(IMAGE, 0.2)
    (whole,) = told.get_finished_spans()
    assert whole.status.status_code is StatusCode.ERROR
    assert "no sub-model" in str(whole.status.description)


def test_a_part_that_is_missing_is_a_span_with_the_reason(
    session: FleetSession, told: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = session.wanted
    monkeypatch.setattr(session, "wanted", (first, type(second)("part-9", second.shape)))
    monkeypatch.setattr(session, "classes", {**session.classes, "part-9": ()})
    monkeypatch.setattr(session, "_fused", lambda gathered, rows: np.zeros((rows, 4), np.float32))
    assert session.answer(IMAGE, DEADLINE_S).degraded
    answered, lost, whole = told.get_finished_spans()
    assert answered.status.status_code is StatusCode.UNSET
    assert lost.attributes["edgevit.part"] == "part-9"
    assert (lost.status.status_code, lost.status.description) == (StatusCode.ERROR, "no node has it")
    assert whole.attributes["edgevit.answered"] == 1


ENVIRONMENT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@pytest.mark.parametrize(
    "asked", [{}, {"OTEL_TRACES_EXPORTER": "none", ENVIRONMENT[0]: "http://127.0.0.1:1"}, {"OTEL_SDK_DISABLED": "true"}]
)
def test_nothing_is_imported_where_no_spans_are_wanted(asked: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    code = (
        "import sys\nfrom edgevit.fleet.asking import infer, session, tracing\nassert tracing._spans() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_package_that_is_missing_is_said_once_and_answers_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(tracing, "_NEEDS", ("a-package-that-nobody-has",))
    tracing._spans.cache_clear()
    try:
        assert [tracing._spans() for _ in range(3)] == [None] * 3
    finally:
        tracing._spans.cache_clear()
    (said,) = caplog.records
    assert pip_line("edgevit[otel]") in said.getMessage()


def test_the_command_sends_its_spans_to_a_collector(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *about: object) -> None:
            pass

    picture = tmp_path / "picture.png"
    Image.fromarray(IMAGE).save(picture)
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        command = edgevit("infer", bundle, picture, "--deadline", "10s", "--where", "fleet")
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert ran.returncode == 0, ran.stderr
    assert {path for path, _ in came} == {"/v1/traces"}
    sent = [ExportTraceServiceRequest.FromString(body) for _, body in came]
    resources = [resource for one in sent for resource in one.resource_spans]
    named = {pair.key: pair.value.string_value for one in resources for pair in one.resource.attributes}
    assert named["service.name"] == "edgevit"
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    assert sorted(span.name for span in spans) == ["edgevit.answer", "edgevit.part", "edgevit.part"]
    assert len({span.trace_id for span in spans}) == 1
