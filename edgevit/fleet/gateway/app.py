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

from edgevit.errors import EdgeVitError, Unsupported, UsageError
from edgevit.fleet.bus.messages import MAX_PAYLOAD
from edgevit.fleet.gateway import oip, schema
from edgevit.fleet.gateway.answering import Answering, Said
from edgevit.fleet.gateway.live import Live
from edgevit.fleet.gateway.metrics import CONTENT_TYPE, Metrics
from edgevit.fleet.operating.watch import Watch
from edgevit.images import ImageError
from edgevit.pages import style
from edgevit.predict import best
from edgevit.registry import version_of

READ_S = 30.0  # for a body to arrive
LIVE_EVERY_S = 0.5
VIEWERS = 64  # dashboards that are open at a time
TOP = 5
TRACE_HEADER = "X-Trace-Id"  # of an answer: what `edgevit fleet logs --trace` finds it by
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
LOG = logging.getLogger("edgevit.gateway")
Headers = dict[str, str]


@dataclass(frozen=True)
class Bounds:
    """What a gateway takes.

    in_flight   requests being worked on; the next one is refused
    body_bytes  of one request
    deadline_s  for an answer; what has not arrived by then is missing
    """

    in_flight: int = 16
    body_bytes: int = MAX_PAYLOAD
    deadline_s: float = 1.0


class Refused(Exception):
    """A request that ends here, with its status and sentence."""

    def __init__(self, status: int, sentence: str, headers: Headers | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Gateway:
    """One model over HTTP: ``app`` is the ASGI application."""

    def __init__(self, model: Answering, *, watch: Watch | None = None, bounds: Bounds | None = None) -> None:
        self.model, self.bounds = model, bounds or Bounds()
        self.live, self.metrics = Live(model, watch), Metrics(watch)
        self.closing = threading.Event()
        self.stop: Callable[[], None] = self.closing.set  # ends the server, once it runs
        self._working = self._viewers = 0
        self._shown, self._taken = "{}", float("-inf")
        self._threads = ThreadPoolExecutor(self.bounds.in_flight, thread_name_prefix="gateway")
        self.app = FastAPI(title="edgevit gateway", version=version_of("edgevit") or "0", docs_url=None, redoc_url=None)
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
            app.post(f"{path}/classify", responses=schema.CLASSIFY, openapi_extra=schema.CLASSIFY_BODY)(self.classify)

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
        version = version_of("edgevit") or "unknown"
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

    async def classify(self, request: Request, name: str, version: str | None = None) -> Response:
        self._known(name, version)
        if not self.model.takes_images:
            raise Refused(400, f"{name} is not an image classifier; send its tensors to infer")

        def work(body: bytes) -> tuple[Said, Response]:
            said = self.model.classify(body, self.bounds.deadline_s, _trace(request))
            return said, JSONResponse(self._classes(said))

        return await self._answer(request, work)

    def _classes(self, said: Said) -> dict[str, Any]:
        scores = said.outputs["logits"][0]
        if not all(map(_finite, scores.tolist())):
            raise oip.BadRequest("the model's output holds NaN or infinity for this image")
        return {
            "model_name": self.model.name,
            "model_version": self.model.version,
            "where": self.model.where,
            "top": [vars(guess) for guess in best(scores, self.model.labels, TOP)],
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
        """Read the body and do the work in a thread, if there is room."""
        with self._slot():
            body = await self._body(request)
            try:
                said, response = await asyncio.get_running_loop().run_in_executor(self._threads, work, body)
            except (oip.BadRequest, UsageError, ImageError, Unsupported) as exc:
                raise self._no(400, "rejected", exc) from exc
            except EdgeVitError as exc:
                raise self._no(503, "failed", exc) from exc
            except Exception as exc:
                LOG.exception("a request failed")
                raise self._no(500, "failed", EdgeVitError("the request failed; the server's log says why")) from exc
        self.metrics.answered(said)
        self.live.answered(said)
        if said.trace:
            response.headers[TRACE_HEADER] = said.trace
        return response

    def _no(self, status: int, kind: str, exc: EdgeVitError) -> Refused:
        self.metrics.failed(kind)
        self.live.failed(kind)
        sentence = f"{exc} ({exc.hint})" if exc.hint and status < 500 else str(exc)
        return Refused(status, sentence, {"Retry-After": "1"} if status == 503 else None)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the requests being worked on; all on the event loop's thread, so no lock."""
        if self._working >= self.bounds.in_flight:
            raise self._no(503, "refused", EdgeVitError(f"{self._working} requests are being worked on already"))
        self._working += 1
        self.metrics.in_flight.set(self._working)
        try:
            yield
        finally:
            self._working -= 1
            self.metrics.in_flight.set(self._working)

    async def _body(self, request: Request) -> bytes:
        """The body; refused as soon as it is known to be too long, or when it does not arrive."""
        limit = self.bounds.body_bytes
        too_long = Refused(413, f"the body is too long; at most {limit} bytes are read", {"Connection": "close"})
        said = request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > limit:
            raise too_long
        pieces, size = [], 0
        try:
            async with asyncio.timeout(READ_S):
                async for piece in request.stream():
                    size += len(piece)
                    if size > limit:
                        raise too_long
                    pieces.append(piece)
        except TimeoutError as exc:
            raise Refused(408, f"the body did not arrive within {READ_S:g} s", {"Connection": "close"}) from exc
        if not size:
            raise self._no(400, "rejected", EdgeVitError("the body is empty"))
        return b"".join(pieces)

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
        if self._viewers >= VIEWERS:
            raise Refused(503, f"{self._viewers} dashboards are open already", {"Retry-After": "10"})
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _stream(self) -> AsyncIterator[str]:
        self._viewers += 1
        try:
            yield "retry: 1000\n\n"
            while not self.closing.is_set():
                yield f"data: {self._now()}\n\n"
                await asyncio.sleep(LIVE_EVERY_S)
        finally:
            self._viewers -= 1

    def _now(self) -> str:
        """The live figures as JSON, made once for all viewers."""
        if time.monotonic() - self._taken > LIVE_EVERY_S / 2:
            self._shown = json.dumps(self.live.snapshot(), separators=(",", ":"), allow_nan=False)
            self._taken = time.monotonic()
        return self._shown

    def close(self) -> None:
        self.closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


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


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


async def _http_error(request: Request, exc: Exception) -> Response:
    status, detail = (exc.status_code, exc.detail) if isinstance(exc, HTTPException) else (500, str(exc))
    headers = exc.headers if isinstance(exc, HTTPException) else None
    return JSONResponse({"error": str(detail)}, status, headers=dict(headers) if headers else None)


async def _refused(request: Request, exc: Exception) -> Response:
    status, headers = (exc.status, exc.headers) if isinstance(exc, Refused) else (500, None)
    return JSONResponse({"error": str(exc)}, status, headers=headers)
