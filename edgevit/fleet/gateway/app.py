"""The gateway's routes and their bounds.

Every body is bounded before it is read, every request that is wrong is a 4xx with one sentence in ``{"error": …}``, and
when too many are being worked on the next one is a 503 at once instead of waiting.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from edgevit.errors import EdgeVitError, FleetError, Unsupported, UsageError, one_line
from edgevit.fleet.bus.messages import MAX_PAYLOAD
from edgevit.fleet.gateway import oip, schema
from edgevit.fleet.gateway.answering import Answering, Busy, Looked, Said
from edgevit.fleet.gateway.bodies import Bodies, Gone, Refused, image_in, inflated
from edgevit.fleet.gateway.callers import Callers, Guard
from edgevit.fleet.gateway.live import Live
from edgevit.fleet.gateway.metrics import CONTENT_TYPE, Metrics
from edgevit.fleet.operating.watch import Watch
from edgevit.images import ImageError, encoded
from edgevit.pages import style
from edgevit.registry import own_version

LIVE_EVERY_S = 0.5
TRACE_HEADER = "X-Trace-Id"  # of an answer: what `edgevit fleet logs --trace` finds it by
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
LOG = logging.getLogger("edgevit.gateway")
Headers = dict[str, str]


@dataclass(frozen=True)
class Bounds:
    """What a gateway takes.

    in_flight    requests being worked on; the next one is refused
    body_bytes   of one request
    body_s       for it to arrive
    arriving     bodies that arrive at a time
    deadline_s   for an answer; what has not arrived by then is missing
    viewers      dashboards that are open at a time
    connections  at a time; a process has 1,024 descriptors where nothing else is set
    head_s       for the head of a request to arrive
    unread_s     that an answer may lie unread
    """

    in_flight: int = 16
    body_bytes: int = MAX_PAYLOAD
    body_s: float = 30.0
    arriving: int = 256
    deadline_s: float = 1.0
    viewers: int = 64
    connections: int = 768
    head_s: float = 10.0
    unread_s: float = 30.0


class Gateway:
    """One model over HTTP: ``app`` is the ASGI application."""

    def __init__(
        self,
        model: Answering,
        *,
        watch: Watch | None = None,
        bounds: Bounds | None = None,
        callers: Callers | None = None,
    ) -> None:
        self.model, self.bounds = model, bounds or Bounds()
        self._bodies = Bodies(self.bounds.body_bytes, most=self.bounds.arriving, seconds=self.bounds.body_s)
        self.live, self.metrics = Live(model, watch), Metrics(watch)
        self.closing = threading.Event()
        self.stop: Callable[[], None] = self.closing.set  # ends the server, once it runs
        self._working = self._viewers = 0
        self._shown, self._taken = "{}", float("-inf")
        self._threads = ThreadPoolExecutor(self.bounds.in_flight, thread_name_prefix="gateway")
        self.app = FastAPI(title="edgevit gateway", version=own_version(), docs_url=None, redoc_url=None)
        self.app.add_middleware(Guard, callers=callers or Callers())
        self._routes()

    def _routes(self) -> None:
        app = self.app
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(Refused, _refused)
        app.get("/", include_in_schema=False)(self.page)
        app.get("/events", include_in_schema=False)(self.events)
        app.get("/healthz", responses=schema.HEALTH)(self.healthz)
        app.get("/metrics", include_in_schema=False)(self.prometheus)
        app.get("/v2", responses=schema.SERVER)(self.server)
        app.get("/v2/health/live", responses=schema.HEALTH)(self.is_live)
        app.get("/v2/health/ready", responses=schema.HEALTH)(self.is_ready)
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            app.get(path, responses=schema.MODEL)(self.model_metadata)
            app.get(f"{path}/ready", responses=schema.MODEL_READY)(self.model_ready)
            app.post(f"{path}/infer", responses=schema.INFER, openapi_extra=schema.INFER_BODY)(self.infer)
            app.post(f"{path}/predict", responses=schema.PREDICT, openapi_extra=schema.IMAGE_BODY)(self.predict)
            app.post(f"{path}/classify", responses=schema.CLASSIFY, openapi_extra=schema.IMAGE_BODY)(self.classify)
            app.post(f"{path}/picture", responses=schema.PICTURE, openapi_extra=schema.IMAGE_BODY)(self.picture)

    # --- health and metadata ---------------------------------------------------------------------------------------

    async def healthz(self) -> Response:
        return self._health("status", "ok", "not ready")

    async def is_live(self) -> Response:
        return JSONResponse({"live": True})

    async def is_ready(self) -> Response:
        return self._health("ready", True, False)

    def _health(self, key: str, good: Any, bad: Any) -> Response:
        ready = self.model.ready()
        return JSONResponse({key: good if ready else bad}, 200 if ready else 503)

    async def server(self) -> Response:
        version = own_version()
        return JSONResponse({"name": "edgevit", "version": version, "extensions": ["binary_tensor_data"]})

    async def model_metadata(self, name: str, version: str | None = None) -> Response:
        self._known(name, version)
        return JSONResponse(oip.metadata(self.model))

    async def model_ready(self, name: str, version: str | None = None) -> Response:
        self._known(name, version)
        ready = self.model.ready()
        return JSONResponse({"name": self.model.name, "ready": ready}, 200 if ready else 503)

    def _known(self, name: str, version: str | None) -> None:
        if name != self.model.name:
            raise Refused(404, f"no such model here; this gateway serves {self.model.name}")
        if version not in (None, self.model.version):
            raise Refused(404, f"no such version here; this gateway serves {self.model.version}")

    # --- inference -------------------------------------------------------------------------------------------------

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        self._known(name, version)

        def work(body: bytes) -> tuple[Said, Response]:
            asked = oip.read(body, request.headers.get(oip.HEADER_LENGTH), self.model)
            said = self.model.infer(asked.feeds, self.bounds.deadline_s, _trace(request))
            data, text = oip.write(asked, said, self.model)
            if text is None:
                return said, Response(data, media_type="application/json")
            return said, Response(data, media_type="application/octet-stream", headers={oip.HEADER_LENGTH: str(text)})

        return await self._answer(request, work)

    async def predict(self, request: Request, name: str, version: str | None = None) -> Response:
        self._takes_images(name, version)
        return await self._looked(request, lambda looked: JSONResponse(self._record(looked)))

    async def classify(self, request: Request, name: str, version: str | None = None) -> Response:
        self._takes_images(name, version)
        if self.model.task != "classify":
            raise Refused(400, f"{name} is not an image classifier; send the image to predict")
        return await self._looked(request, lambda looked: JSONResponse(self._record(looked)))

    async def picture(self, request: Request, name: str, version: str | None = None) -> Response:
        self._takes_images(name, version)
        if not self.model.draws:
            raise Refused(400, f"answers of {name} cannot be drawn; send the image to predict")
        return await self._looked(request, _drawn)

    def _takes_images(self, name: str, version: str | None) -> None:
        self._known(name, version)
        if not self.model.takes_images:
            raise Refused(400, f"{name} takes no images; send its tensors to infer")

    async def _looked(self, request: Request, responded: Callable[[Looked], Response]) -> Response:
        def work(body: bytes) -> tuple[Said, Response]:
            image = image_in(body, request.headers.get("content-type"))
            looked = self.model.look(image, self.bounds.deadline_s, _trace(request))
            if looked.answer is None:
                raise oip.BadRequest("the model's output holds NaN or infinity for this image")
            return looked.said, responded(looked)

        return await self._answer(request, work)

    def _record(self, looked: Looked) -> dict[str, Any]:
        said, answer = looked.said, looked.answer
        return {
            "model_name": self.model.name,
            "model_version": self.model.version,
            "where": self.model.where,
            "task": self.model.task,
            **(answer.record() if answer else {}),
            "words": answer.words() if answer else "",
            "parts": said.parts,
            "answered": said.answered,
            "degraded": said.degraded,
            "missing": [one.record() for one in said.missing],
            "said": said.sentence(),
            "latency_ms": said.latency_ms,
            "timings": [
                {name: getattr(one, name) for name in ("part", "node", "queue_ms", "compute_ms", "network_ms")}
                for one in said.timings
            ],
        }

    async def _answer(self, request: Request, work: Callable[[bytes], tuple[Said, Response]]) -> Response:
        """Read the body, then do the work in a thread, if there is room."""
        self._check_room()
        try:
            body = await self._bodies.read(request)
        except Gone:
            self._count("rejected")
            return Response(status_code=499)  # nobody is there to read it
        if not body:
            raise self._no(400, "rejected", "the body is empty")

        def answered() -> tuple[Said, Response]:
            return work(inflated(body, request.headers.get("content-encoding"), self.bounds.body_bytes))

        with self._slot():
            said, response = await self._worked(answered)
        self.metrics.answered(said)
        self.live.answered(said)
        if said.trace:
            response.headers[TRACE_HEADER] = said.trace
        return response

    async def _worked(self, answered: Callable[[], tuple[Said, Response]]) -> tuple[Said, Response]:
        """``answered`` in a thread. What the asker got wrong is told; what went wrong here is told to the log."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, answered)
        except Refused:
            self._count("rejected")
            raise
        except (oip.BadRequest, UsageError, ImageError, Unsupported) as exc:
            raise self._no(400, "rejected", f"{exc} ({exc.hint})" if exc.hint else str(exc)) from exc
        except Busy as exc:
            raise self._no(503, "refused", str(exc)) from exc
        except FleetError as exc:  # its sentences name parts and nodes, and no files
            raise self._no(503, "failed", str(exc)) from exc
        except EdgeVitError as exc:
            LOG.error("a request failed: %s", one_line(exc))
            raise self._no(503, "failed", "the model cannot answer now; the server's log says why") from exc
        except Exception as exc:
            LOG.exception("a request failed")
            raise self._no(500, "failed", "the request failed; the server's log says why") from exc

    def _count(self, kind: str) -> None:
        self.metrics.failed(kind)
        self.live.failed(kind)

    def _no(self, status: int, kind: str, sentence: str) -> Refused:
        self._count(kind)
        return Refused(status, sentence, {"Retry-After": "1"} if status == 503 else None)

    def _check_room(self) -> None:
        if self._working >= self.bounds.in_flight:
            raise self._no(503, "refused", f"{self._working} requests are being worked on already")

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the requests being worked on; all on the event loop's thread, so no lock."""
        self._check_room()
        self._working += 1
        self.metrics.in_flight.set(self._working)
        try:
            yield
        finally:
            self._working -= 1
            self.metrics.in_flight.set(self._working)

    # --- for people and for Prometheus -----------------------------------------------------------------------------

    async def prometheus(self) -> Response:
        text = await asyncio.get_running_loop().run_in_executor(None, self.metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def page(self) -> Response:
        text, policy = dashboard()
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", **SAFE}
        return HTMLResponse(text, headers=headers)

    async def events(self) -> Response:
        """Server-Sent Events: the state of everything, every half second."""
        if self._viewers >= self.bounds.viewers:
            raise Refused(503, f"{self._viewers} dashboards are open already", {"Retry-After": "10"})
        self._viewers += 1  # here, not where the stream begins: of a burst all are asked before one begins
        return Viewing(self._stream(), self._left)

    def _left(self) -> None:
        self._viewers -= 1

    async def _stream(self) -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        while not self.closing.is_set():
            yield f"data: {self._now()}\n\n"
            await asyncio.sleep(LIVE_EVERY_S)

    def _now(self) -> str:
        """The live figures as JSON, made once for all viewers."""
        if time.monotonic() - self._taken > LIVE_EVERY_S / 2:
            self._shown = json.dumps(self.live.snapshot(), separators=(",", ":"), allow_nan=False)
            self._taken = time.monotonic()
        return self._shown

    def close(self) -> None:
        self.closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


class Viewing(StreamingResponse):
    """A stream of events; ``ended`` is called once, however it ends."""

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@cache
def dashboard() -> tuple[str, str]:
    """The page with its style and script in it, and the policy by which the browser runs nothing else and asks nobody
    but this server."""
    here = files("edgevit.fleet.gateway")
    own, script = ((here / f"dashboard.{kind}").read_text("utf-8") for kind in ("css", "js"))
    page = (here / "dashboard.html").read_text("utf-8").replace("$style", style(own)).replace("$script", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page, (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _trace(request: Request) -> str | None:
    """The asker's trace id, of its ``traceparent``."""
    found = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    return found[1] if found else None


def _drawn(looked: Looked) -> Response:
    """The answer as a picture."""
    picture = looked.answer.drawn(looked.pixels) if looked.answer and looked.pixels is not None else None
    if picture is None:
        raise oip.BadRequest("there is nothing to see for this image")
    return Response(encoded(picture), media_type="image/png")


async def _http_error(request: Request, exc: Exception) -> Response:
    status, detail = (exc.status_code, exc.detail) if isinstance(exc, HTTPException) else (500, str(exc))
    headers = exc.headers if isinstance(exc, HTTPException) else None
    return JSONResponse({"error": str(detail)}, status, headers=dict(headers) if headers else None)


async def _refused(request: Request, exc: Exception) -> Response:
    status, headers = (exc.status, exc.headers) if isinstance(exc, Refused) else (500, None)
    return JSONResponse({"error": str(exc)}, status, headers=headers)
