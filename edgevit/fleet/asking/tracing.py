"""Spans for OpenTelemetry: one for every answer of a fleet, and below it one for every part that was asked.

Where ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_TRACES_EXPORTER=otlp`` is set,
they go out by OTLP over HTTP, in the background; ``OTEL_SDK_DISABLED=true`` and ``OTEL_TRACES_EXPORTER=none`` end that.
Otherwise nothing of OpenTelemetry is imported. A span has the trace id that every node writes into its log, and where
the caller's own code has a span open, it is that one's child.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec

from edgevit import registry
from edgevit.errors import one_line
from edgevit.fleet.asking.answers import FleetAnswer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDS = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")

log = logging.getLogger("edgevit.fleet")
P = ParamSpec("P")


def traced(answer: Callable[P, FleetAnswer]) -> Callable[P, FleetAnswer]:
    """``FleetSession.answer``, each call a span where spans are wanted."""

    @functools.wraps(answer)
    def asked(*args: P.args, **options: P.kwargs) -> FleetAnswer:
        spans = _spans()
        return answer(*args, **options) if spans is None else spans.around(answer, *args, **options)

    return asked


@functools.cache
def _spans() -> Spans | None:
    """What this process's environment asks for, looked at once."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(os.environ.get, ENDPOINTS)) else "none")
    if exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter != "otlp":
        log.warning("OTEL_TRACES_EXPORTER is %s: edgevit sends spans by otlp only", exporter)
        return None
    if missing := registry.absent(_NEEDS):
        install = registry.pip_line("edgevit[otel]")
        log.warning("no spans are sent: %s is not installed: %s", missing[0], install)
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return Spans(BatchSpanProcessor(OTLPSpanExporter()))


class Spans:
    """Makes the spans and hands them to ``processor``."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        given = self._given = ContextVar("trace", default=0)

        class Ids(RandomIdGenerator):
            """The caller's trace id, where there is one."""

            def generate_trace_id(self) -> int:
                return given.get() or super().generate_trace_id()

        service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "edgevit"}
        provider = TracerProvider(resource=Resource.create(service), id_generator=Ids())
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("edgevit", registry.own_version())

    def around(self, answer: Callable[..., FleetAnswer], session: Any, *args: Any, **options: Any) -> FleetAnswer:
        """``answer``'s answer. Without a ``trace`` of its own it gets the span's."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id

        began = time.time_ns()
        span = self._begun(options.get("trace"), began)
        options["trace"] = format_trace_id(span.get_span_context().trace_id)
        try:
            found = answer(session, *args, **options)
            self._tell(span, found, began, SpanKind.CLIENT)
        except Exception as exc:
            span.set_status(Status(StatusCode.ERROR, one_line(exc)))
            raise
        finally:
            span.set_attribute("edgevit.revision", session.revision)
            span.end()
        return found

    def _begun(self, trace: str | None, began: int) -> Span:
        from opentelemetry.context import Context

        token = self._given.set(int(trace or "0", 16))
        try:
            return self._tracer.start_span("edgevit.answer", Context() if trace else None, start_time=began)
        finally:
            self._given.reset(token)

    def _tell(self, span: Span, found: FleetAnswer, began: int, kind: Any) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        span.set_attributes({"edgevit.parts": found.parts, "edgevit.answered": found.answered})
        within = set_span_in_context(span)
        for one in found.timings:
            about = {f"edgevit.{name}": value for name, value in one.record().items()}
            child = self._tracer.start_span("edgevit.part", within, kind, about, start_time=began)
            child.end(began + int((one.queue_ms + one.compute_ms + one.network_ms) * 1e6))
        for lost in found.missing:
            child = self._tracer.start_span("edgevit.part", within, kind, {"edgevit.part": lost.part}, start_time=began)
            child.set_status(Status(StatusCode.ERROR, lost.reason))
            child.end()
