"""``edgevit serve``: a gateway on a socket until a signal."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from edgevit import registry, render
from edgevit.bundle.opened import opened
from edgevit.errors import UsageError
from edgevit.fleet.asking.where import Where, reach
from edgevit.fleet.bus.link import Link, loopback
from edgevit.fleet.bus.names import Names
from edgevit.fleet.gateway.answering import Answering, FleetModel, embedded
from edgevit.fleet.gateway.callers import Callers, names_of, own_token, token_file
from edgevit.fleet.operating.watch import Watch

if TYPE_CHECKING:
    from edgevit.fleet.gateway.app import Gateway


def serve(
    path: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    link: Link | None = None,
    where: Where | None = None,
    deadline_s: float = 1.0,
    in_flight: int = 16,
    name: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    trust: bool = False,
    private: bool = False,
    allow_hosts: Sequence[str] = (),
    tell: render.Tell = render.tell,
) -> None:
    """Serve a bundle or an artifact over HTTP until Ctrl-C or SIGTERM. ``port`` 0 takes a free one.

    From the fleet where ``where.reach`` finds it, else from this process, with ``runtime``, ``threads`` and ``trust``
    as ``open_session`` takes them. Nothing is encrypted, and whoever reaches ``host`` may use the model unless it is
    ``private``: then, as for the fleet's state always, it takes this user's token (callers.py). Browsers are answered
    under this machine's names and ``allow_hosts``. UsageError where the port is
    taken, MissingDependency, and what ``reach`` and opening the model raise.
    """
    registry.need("the gateway", ("fastapi", "uvicorn", "prometheus-client"), "edgevit[fleet]")
    from edgevit.fleet.gateway.app import Bounds, Gateway

    if not 0 < deadline_s < 600 or not 1 <= in_flight <= 1024:
        raise UsageError("the deadline is 0 to 600 s, and 1 to 1024 requests may be worked on at a time")
    link = link or Link()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(host, port))
        found = opened(path)
        reached = reach(found, link=link, where=where)
        called = name or Path(path).resolve().name
        watch: Watch | None = None
        model: Answering
        if reached is None:
            if where is None:
                tell("embedded", f"no node serves {path}: running it in this process")
            model = embedded(found, name=called, runtime=runtime, threads=threads, trust=trust)
        else:
            model = FleetModel(reached, called)
            watch = Watch(reached.bus, Names(link.cluster))
            stack.callback(watch.close)
        stack.callback(model.close)
        callers = Callers(names_of(host, allow_hosts), own_token(), private)
        bounds = Bounds(in_flight=in_flight, deadline_s=deadline_s)
        gateway = Gateway(model, watch=watch, bounds=bounds, callers=callers)
        stack.callback(gateway.close)
        if not _loopback(host):
            tell(
                "open", f"nothing is encrypted, and whoever reaches {host} can {'ask' if private else 'use this model'}"
            )
        if private or not _loopback(host):
            tell("token", f"what is not for everyone takes the token in {token_file()}", file=str(token_file()))
        url = _url(host, listening)
        listening.listen(128)  # whoever reads the address may ask at once, and waits until the server takes it
        sentence = f"{called} ({model.where}) on {url}   dashboard /   metrics /metrics   Ctrl-C ends it"
        tell("ready", sentence, model=called, where=model.where, url=url)
        run(gateway, listening)


def run(gateway: Gateway, listening: socket.socket) -> None:
    """Serve on an open socket until a signal, and end the streams that are open."""
    import uvicorn

    from edgevit.fleet.gateway.connections import connections

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            gateway.closing.set()
            super().handle_exit(sig, frame)

    bounds = gateway.bounds
    config = uvicorn.Config(
        gateway.app,
        http=connections(most=bounds.connections, head_s=bounds.head_s, unread_s=bounds.unread_s),
        log_level="error",  # a warning for each request that is none: strangers would write the log
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        ws="none",
    )
    server = Server(config)
    gateway.stop = lambda: server.handle_exit(signal.SIGTERM, None)
    with _ending():
        server.run(sockets=[listening])


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more: here that is the end of the work, and no error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A socket on ``host``; UsageError where that cannot be."""
    if not 0 <= port <= 65535:
        raise UsageError(f"there is no port {port}", hint="--port 8080, or 0 for a free one")
    listening = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as exc:
        if listening is not None:
            listening.close()
        said = (exc.strerror or str(exc)).lower()
        raise UsageError(f"cannot listen on {host} port {port}: {said}", hint="--port 0 takes a free one") from exc
    return listening


def _loopback(host: str) -> bool:
    return loopback(f"tcp/{f'[{host}]' if ':' in host else host}:0")


def _url(host: str, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
